"""Words split into pieces another way each time they are read: a regulariser for small corpora."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from paddlecore.data import mix, ranges

VARIANTS = 16  # of each word; a word that is met once an epoch has another split in most epochs


class WordSplits:
    """`VARIANTS` ways to split each word into pieces, by BPE-dropout (Provilkov et al., 2020, section 3, algorithm 1).

    Each merge that BPE would make is left out with probability `dropout`. Merges never cross the start of a word, so
    that the splits of a text are those of its words. They are drawn once, here, and then picked: what a batch holds
    depends on no state but a number for each word.

    Args:
        processor: a sentencepiece model of kind bpe.
        words: different ones, normalised; word i has the number i. After them come two without variants:
        marks: pieces that stand alone, such as the end of a sentence; their numbers follow those of the words.
        dropout: probability that a merge is left out.
        seed: of the draws.
    """

    def __init__(self, processor: Any, words: list[str], marks: tuple[int, ...], dropout: float, seed: int) -> None:
        drawn: list[list[int]] = []

        def draw() -> None:
            import sentencepiece

            # sentencepiece seeds the generator of a thread when that thread first draws, and never again
            sentencepiece.set_random_generator_seed(mix(seed) & 0x7FFFFFFF)
            for word in words:
                for _ in range(VARIANTS):
                    drawn.append(processor.encode(word, enable_sampling=True, nbest_size=-1, alpha=dropout))

        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        drawn += [[mark] for mark in marks for _ in range(VARIANTS)]
        self._offsets = np.cumsum([0, *map(len, drawn)])
        self._pieces = np.fromiter((piece for split in drawn for piece in split), np.int32, int(self._offsets[-1]))

    def pick(self, words: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of words one after the other [t] int32, and how many each has [n] int64.

        Args:
            words: [n] int, their numbers.
            draws: [n] float in [0, 1), which of its splits each gets.
        """
        starts, counts = self._chosen(words, draws)
        return self._pieces[ranges(starts, starts + counts)[1]], counts

    def count(self, words: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """[n] int64, how many pieces `pick` would give each word."""
        return self._chosen(words, draws)[1]

    def _chosen(self, words: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        split = words.astype(np.int64) * VARIANTS + (draws * VARIANTS).astype(np.int64)
        return self._offsets[split], self._offsets[split + 1] - self._offsets[split]
