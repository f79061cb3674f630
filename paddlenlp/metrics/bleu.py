"""BLEU and chrF of translations, by the sacrebleu library (Post, 2018, "A Call for Clarity in Reporting BLEU")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from paddlecore.metric import Metric
from paddlecore.sources import offline

# as the Moses scripts normalise punctuation
_NORMAL = str.maketrans(
    {"„": '"', "“": '"', "”": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "‚": "'", "´": "'", "`": "'", "–": "-",
     "…": "...", "\u00a0": " "}
)  # fmt: skip


def moses_tokenize(text: str, language: str = "en") -> list[str]:
    """Tokens by the rules of the Moses scripts normalize-punctuation and tokenizer (no aggressive splitting).

    Any character but letters, digits, spaces and . ' , - is a token; commas are, unless between digits; a full stop is
    at the end of the sentence, and inside it unless a lower-case word follows or the word has other stops (z.b.);
    apostrophes go with what follows (English), what precedes (French, Italian) or stand alone. The scripts' lists of
    abbreviations are left out, and so are their rules for a stop after one letter or number and before a quote: of the
    1 000 lower-case test sentences of Multi30k one in each of German, English and French is parted otherwise.
    """
    text = re.sub(r"\s+", " ", text.translate(_NORMAL)).strip()
    text = re.sub(r"([^\w\s.',-]|_)", r" \1 ", text)
    text = re.sub(r"\.{2,}", lambda m: f" {m[0]} ", text)
    text = re.sub(r"(?<!\d),|,(?!\d)", " , ", text)
    if language == "en":
        text = re.sub(r"(?<![^\W_])'|'(?![^\W\d_])", " ' ", text)
        text = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])|(?<=\d)'(?=s)", " '", text)  # the 1950's, too
    elif language in ("fr", "it"):
        text = re.sub(r"(?<![^\W\d_])'|'(?![^\W\d_])", " ' ", text)
        text = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])", "' ", text)
    else:
        text = text.replace("'", " ' ")
    words = text.split()
    tokens = []
    for i, word in enumerate(words):
        body = word[:-1]
        if not word.endswith(".") or not body.strip("."):
            tokens.append(word)
        elif "." in body and re.search(r"[^\W\d_]", body):
            tokens.append(word)  # an abbreviation such as z.b.
        elif i + 1 < len(words) and words[i + 1][:1].islower():
            tokens.append(word)
        else:
            tokens += [body, "."]
    return tokens


class Bleu(Metric):
    """Corpus BLEU (Papineni et al., 2002), 0 to 100. States: ten counts.

    Nothing is reported where nothing was translated, so that validation by perplexity alone shows no BLEU.

    Args:
        name: of the number.
        tokenize: a tokeniser of sacrebleu (13a, zh, char, ...), or `moses` = `moses_tokenize`, as in papers on
            Multi30k.
        language: of the translations, for `moses`.
        lowercase: compare lower-case texts.

    Raises:
        ValueError: there is no such tokeniser, or it needs a model that cannot be fetched.
    """

    counts: Tensor

    def __init__(
        self, name: str = "sacrebleu", tokenize: str = "13a", language: str = "en", lowercase: bool = False
    ) -> None:
        from sacrebleu.metrics import BLEU

        super().__init__()
        if tokenize not in (known := ("moses", *BLEU.TOKENIZERS)):
            raise ValueError(f"tokenize must be one of {', '.join(sorted(known))}; got {tokenize!r}")
        self.language, self.moses = language, tokenize == "moses"
        if offline() and (lacking := _not_fetched(tokenize)):
            raise ValueError(
                f"tokenize={tokenize}: sacrebleu would fetch {lacking}, and PADDLE_OFFLINE is set; 13a, intl, zh and "
                "char need no model"
            )
        try:
            self._bleu = BLEU(lowercase=lowercase, tokenize="none" if self.moses else tokenize, force=True)
        except OSError as error:
            raise ValueError(
                f"tokenize={tokenize}: sacrebleu cannot fetch its model ({error}); 13a, intl, zh and char have none"
            ) from None
        self._bleu.corpus_score(["a"], [["a"]])  # the library has no signature before it has seen a reference
        self.goals = {name: "max"}
        self.signature = f"{name}|{self._bleu.get_signature()}" + (f"|moses {language}" if self.moses else "")
        self.add_state("counts", torch.zeros(10, dtype=torch.float64))

    def update(self, translations: Sequence[str], references: Sequence[str]) -> None:
        """Texts, detokenised; one reference each."""
        if self.moses:
            translations, references = (
                [" ".join(moses_tokenize(text, self.language)) for text in texts]
                for texts in (translations, references)
            )
        score = self._bleu.corpus_score(list(translations), [list(references)])
        self.counts += torch.tensor([score.sys_len, score.ref_len, *score.counts, *score.totals], dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        if not self.counts[1]:
            return {}
        length, reference, *rest = (int(n) for n in self.counts)
        score = self._bleu.compute_bleu(
            correct=rest[:4], total=rest[4:], sys_len=length, ref_len=reference, smooth_method="exp"
        )
        return {name: score.score for name in self.goals}


def _not_fetched(tokenize: str) -> str | None:
    """The file of a tokeniser's model that sacrebleu has not fetched yet; None if it has, or there is none."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    if tokenize not in SPM_MODELS:
        return None
    path = Path(SACREBLEU_DIR) / "models" / SPM_MODELS[tokenize]["url"].rpartition("/")[2]
    return None if path.is_file() else str(path)


class ChrF(Metric):
    """Corpus chrF (Popović, 2015), 0 to 100: F score of character n-grams up to 6, recall counted twice. States: 18
    counts. Nothing is reported where nothing was translated.

    Args:
        name: of the number.
        lowercase: compare lower-case texts.
    """

    counts: Tensor

    def __init__(self, name: str = "chrf", lowercase: bool = False) -> None:
        from sacrebleu.metrics import CHRF

        super().__init__()
        self._chrf = CHRF(lowercase=lowercase)
        self._chrf.corpus_score(["a"], [["a"]])
        self.goals = {name: "max"}
        self.signature = f"{name}|{self._chrf.get_signature()}"
        self.add_state("counts", torch.zeros(18, dtype=torch.float64))

    def update(self, translations: Sequence[str], references: Sequence[str]) -> None:
        """Texts, detokenised; one reference each."""
        # the library gives no counts but by this method of its base class; a test holds the sum against corpus_score
        rows = self._chrf._extract_corpus_statistics(list(translations), [list(references)])
        self.counts += torch.tensor(rows, dtype=torch.float64).sum(0)

    def compute(self) -> dict[str, float]:
        if not self.counts.any():
            return {}
        score = self._chrf._aggregate_and_compute([[int(n) for n in self.counts]])
        return {name: score.score for name in self.goals}
