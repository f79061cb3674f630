"""Translation: a sentence in one language, the same in another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlenlp.layers.beam_search import Hypotheses, alignment, beam_search, check_sampling, check_search, sample
from paddlenlp.layers.int8 import quantised
from paddlenlp.layers.smoothing import token_losses
from paddlenlp.metrics import Bleu, ChrF, Perplexity

_SOLID = ("ja", "th", "lo", "km", "my")  # languages whose words are written without spaces between, beside Chinese
SPACE = "\u2581"  # sentencepiece's mark of a space; each word begins with one


class Translation(Task):
    """Cross-entropy of the target's tokens, with label smoothing, and beam search.

    A step counts target tokens, the end token included. Perplexity by piece, of the loss without smoothing, selects the
    checkpoint: it is cheap. That by word, of what stands between spaces, compares models with other pieces. BLEU and
    chrF need translations; they are measured where a batch has `reference`, which data modules give for the test
    split, and for validation where they are asked to.

    Batch: source [B, S] int64 with the end token; target [B, T] int64 from the start token to the end token; both
    padded on the right; optionally reference, B texts, and prefix [B, P] int64, what translations begin with.
    Prediction: tokens [B, n, L] int64, score [B, n] float32; with `attention` also source [B, S] and attention
    [B, L, S] float32, of the best translation; empty for a batch that has a target and no reference.

    Args:
        model: see `paddlenlp.models.Transformer`; in training it gives `features(source, target)` and `output`.
        vocabulary: pieces by their ids, for texts.
        bos_id: start token.
        eos_id: end token.
        unknown_id: the piece that stands for what the vocabulary lacks; never produced.
        pad_id: padding.
        target_language: of the translations, for the tokenisers of BLEU; what follows it, as in zh-CN, is passed over.
        lower: texts are in lower case, so scores are too.
        label_smoothing: share of the target that is spread evenly over the vocabulary, in training.
        beam: hypotheses that are followed.
        length_penalty: see `beam_search`.
        gnmt: see `beam_search`.
        coverage_penalty: see `beam_search`.
        max_ratio: most tokens of a translation as a multiple of the source's, plus `max_extra`.
        max_extra: see `max_ratio`.
        nbest: translations that `render` lists.
        tokenize: sacrebleu's tokeniser for the metric `sacrebleu`: 13a, zh, char, ...; None = zh or char for languages
            that are written without spaces (zh; ja, th, lo, km, my), else 13a.
        attention: `render` says where the model looked for each token of the best translation (of a Transformer, the
            mean over the heads of its last layer); it costs going through that translation once more.
        int8: translations are made with the linear layers in 8-bit integers (weights by output channel, activations by
            tensor and anew each time, so a translation may change with what is beside it in a batch); on a CPU only.
            Losses and perplexity stay as they are.
        temperature: above 0, no beam is searched, but `nbest` translations of each sentence are drawn; see `sample`.
        top_k: see `sample`.
        top_p: see `sample`.
        sample_seed: of what is drawn: for one sentence the same, whatever else is translated.
    """

    starts: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        vocabulary: list[str],
        bos_id: int,
        eos_id: int,
        unknown_id: int,
        pad_id: int = 0,
        target_language: str = "en",
        lower: bool = False,
        label_smoothing: float = 0.1,
        beam: int = 5,
        length_penalty: float = 1.0,
        gnmt: bool = False,
        coverage_penalty: float = 0.0,
        max_ratio: float = 1.5,
        max_extra: int = 10,
        nbest: int = 1,
        tokenize: str | None = None,
        attention: bool = False,
        int8: bool = False,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        sample_seed: int = 1,
    ) -> None:
        super().__init__(model)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        check_search(beam, length_penalty, coverage_penalty, max_ratio, max_extra)
        if temperature:
            check_sampling(temperature, top_k, top_p)
        elif top_k is not None or top_p is not None:
            raise ValueError("task.top_k and task.top_p are of drawn translations: give task.temperature above 0, too")
        if nbest < 1 or (nbest > beam and not temperature):
            raise ValueError(f"task.nbest must be 1 to task.beam={beam}, got {nbest}")
        self.vocabulary, self.pad_id, self.eos_id = vocabulary, pad_id, eos_id
        starts = [piece.startswith(SPACE) or i == eos_id for i, piece in enumerate(vocabulary)]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)  # [V] bool: a word, or the end
        self.target_language, self.lower = re.split("[-_]", target_language.lower())[0], lower
        self.tokenize = tokenize or (
            "zh" if self.target_language == "zh" else "char" if self.target_language in _SOLID else "13a"
        )
        if tokenize is not None:
            Bleu(tokenize=tokenize)  # refuses an unknown one before anything is trained
        self.label_smoothing, self.nbest, self.attention = label_smoothing, nbest, attention
        self.int8 = int8
        self.drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self.sample_seed = sample_seed
        self._small: tuple[nn.Module, list[int]] | None = None  # the model in int8, and the weights it was made of
        self.search = {
            "bos_id": bos_id,
            "eos_id": eos_id,
            "pad_id": pad_id,
            "banned": (unknown_id,),
            "beam": beam,
            "length_penalty": length_penalty,
            "gnmt": gnmt,
            "coverage_penalty": coverage_penalty,
            "max_ratio": max_ratio,
            "max_extra": max_extra,
        }

    def _loss(self, batch: Batch, smoothing: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over the target tokens: the loss and -log P; and how many there are."""
        given, wanted = batch["target"][:, :-1], batch["target"][:, 1:]
        features = self.model.features(batch["source"], given)  # type: ignore[operator]
        return token_losses(self.model.output, features, wanted, self.pad_id, smoothing)  # type: ignore[arg-type]

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        loss, nll, tokens = self._loss(batch, self.label_smoothing)
        return StepOutput(loss, tokens, {"nll": nll})

    def predict(self, batch: Batch) -> Prediction:
        if "target" in batch and "reference" not in batch:
            return {}
        if not self.int8:
            return self._translate(self.model, batch)
        if batch["source"].device.type != "cpu":
            raise ConfigError("task.int8=true is for a CPU; give device=cpu")
        with torch.autocast("cpu", enabled=False):  # products of integers take float32
            return self._translate(self._in_int8(), batch)

    def _in_int8(self) -> nn.Module:
        """A copy of the model with linear layers in int8, made anew when weights have changed."""
        versions = [p._version for p in self.model.parameters()]
        if self._small is None or self._small[1] != versions:
            self._small = quantised(self.model).eval(), versions
        return self._small[0]

    def _translate(self, model: nn.Module, batch: Batch) -> Prediction:
        source, prefix = batch["source"], batch.get("prefix")
        if self.drawn["temperature"]:
            found = self._sample(model, source, prefix)
        else:
            found = beam_search(model, source, prefix=prefix, **self.search)  # type: ignore[arg-type]
        prediction = {"tokens": found.tokens, "score": found.scores}
        if self.attention:
            shares = alignment(model, source, found.tokens[:, 0], bos_id=self.search["bos_id"])  # type: ignore[arg-type]
            prediction |= {"source": source, "attention": shares}
        return prediction

    def _sample(self, model: nn.Module, source: torch.Tensor, prefix: torch.Tensor | None) -> Hypotheses:
        """`nbest` drawn translations of each source, the most probable first."""
        options = {
            k: v for k, v in self.search.items() if k not in ("beam", "length_penalty", "gnmt", "coverage_penalty")
        }
        many = [None if x is None else x.repeat_interleave(self.nbest, 0) for x in (source, prefix)]
        generators = [torch.Generator(source.device).manual_seed(self.sample_seed) for _ in source]
        each = [generator for generator in generators for _ in range(self.nbest)]  # those of a sentence draw in turn
        found = sample(model, many[0], prefix=many[1], generators=each, **options, **self.drawn)  # type: ignore[arg-type]
        scores, order = found.scores.view(-1, self.nbest).sort(1, descending=True)
        tokens = found.tokens.view(len(source), self.nbest, -1)
        return Hypotheses(tokens.gather(1, order[:, :, None].expand_as(tokens)), scores, scores)

    def metrics(self) -> list[Metric]:
        return [
            Perplexity(),
            Perplexity("word", "perplexity_word"),
            Bleu("bleu_tok_lc", "moses", self.target_language, lowercase=True),
            Bleu("sacrebleu", self.tokenize, self.target_language, lowercase=self.lower),
            ChrF(lowercase=self.lower),
        ]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        _, nll, tokens = self._loss(batch, 0.0)
        metrics[0].update(nll, tokens)
        metrics[1].update(nll, self.starts[batch["target"][:, 1:]].sum())
        if prediction:
            texts, references = [self.text(best[0]) for best in prediction["tokens"].tolist()], batch["reference"]
            if self.lower:  # before they are parted: the moses tokeniser looks at the case of words
                references = [text.lower() for text in references]
            for metric in metrics[2:]:
                metric.update(texts, references)

    def text(self, tokens: Sequence[int]) -> str:
        """A sentence's tokens as text, up to the end token."""
        ids = list(tokens)
        end = ids.index(self.eos_id) if self.eos_id in ids else len(ids)
        return pieces_to_text([self.vocabulary[i] for i in ids[:end] if i != self.pad_id])

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """translations: the `nbest` best as {text, score}, best first.

        attention, if asked for: {source: pieces, target: pieces of the best, weights: for each target piece the shares
        of the source pieces}, end tokens included.
        """
        rows: list[dict[str, Any]] = []
        for tokens, scores in zip(prediction["tokens"].tolist(), prediction["score"].tolist(), strict=True):
            best = [(t, s) for t, s in zip(tokens, scores, strict=True) if s > -torch.inf][: self.nbest]
            rows.append({"translations": [{"text": self.text(t), "score": round(s, 4)} for t, s in best]})
        if "attention" in prediction:
            best, sources = prediction["tokens"][:, 0].tolist(), prediction["source"].tolist()
            for row, *looked in zip(rows, sources, best, prediction["attention"], strict=True):
                row["attention"] = self._looked(*looked)
        return rows

    def _looked(self, source: list[int], target: list[int], shares: torch.Tensor) -> dict[str, Any]:
        pieces = [[self.vocabulary[i] for i in side if i != self.pad_id] for side in (source, target)]
        weights = shares[: len(pieces[1]), : len(pieces[0])].tolist()
        return {
            "source": pieces[0],
            "target": pieces[1],
            "weights": [[round(w, 4) for w in line] for line in weights],
        }


def pieces_to_text(pieces: list[str]) -> str:
    """Sentencepiece's pieces as text: joined, the mark `SPACE` a space, runs of byte pieces such as <0xF0> as UTF-8."""
    text = bytearray()
    for piece in pieces:
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            text.append(int(piece[3:5], 16))
        else:
            text += piece.encode()
    return text.decode(errors="replace").replace(SPACE, " ").strip()
