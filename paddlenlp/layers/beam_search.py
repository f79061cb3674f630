"""Decoding: beam search, greedy (a beam of one) and sampling, batched, over any model that goes token by token.

Such a model has `start(source) -> state`, `step(tokens, state) -> logits, state`, `reorder(state, index) -> state`;
see `paddlenlp.models.Transformer`. Hypotheses that are finished take no place in the beam, and sentences whose search
is over leave the batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Stepwise(Protocol):
    """A model that decodes token by token. `state.attention` [N, S] says where the last step looked, if asked for."""

    def start(self, source: Tensor, *, attention: bool = False) -> Any: ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def reorder(self, state: Any, index: Tensor) -> Any: ...


def check_search(beam: int, length_penalty: float, coverage_penalty: float, max_ratio: float, max_extra: int) -> None:
    """
    Raises:
        ValueError: an option of `beam_search` is out of its range.
    """
    for name, value, low, high in (
        ("beam", beam, 1, math.inf),
        ("length_penalty", length_penalty, -10, 10),  # beyond that length^a leaves float32's range
        ("coverage_penalty", coverage_penalty, 0, 1000),
        ("max_ratio", max_ratio, 0, 1000),
        ("max_extra", max_extra, 1, math.inf),
    ):
        if not low <= value <= high:
            most = f" and at most {high}" if high < math.inf else ""
            raise ValueError(f"{name} must be at least {low}{most}, got {value}")


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """
    Raises:
        ValueError: an option of `sample` is out of its range.
    """
    if not 1e-30 <= temperature < math.inf:  # divided by less, all log-probabilities would be infinite
        raise ValueError(
            f"temperature must be above 0, 1e-30 at least, and finite, got {temperature}; top_k=1 takes the most "
            "probable tokens"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or null for all tokens, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


@dataclass
class Hypotheses:
    """The n best of each source, best first; where there are fewer, a score of -inf."""

    tokens: Tensor  # [B, n, L] int64 with the end token, without the start token, padded
    scores: Tensor  # [B, n] float32: what they are ranked by
    log_probs: Tensor  # [B, n] float32: log-probability of the whole sentence


@torch.no_grad()
def beam_search(
    model: Stepwise,
    source: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    beam: int = 5,
    length_penalty: float = 1.0,
    gnmt: bool = False,
    coverage_penalty: float = 0.0,
    max_ratio: float = 1.5,
    max_extra: int = 10,
    prefix: Tensor | None = None,
    banned: Sequence[int] = (),
) -> Hypotheses:
    """The best translations found by a beam.

    A hypothesis scores log P / length^a; with `gnmt`, log P / ((5 + length) / 6)^a (Wu et al., 2016, "Google's Neural
    Machine Translation System", eq. 14). The length counts the end token. The coverage penalty b adds
    b x sum over source tokens of log(min(sum of the attention they got, 1)) (the same), when a hypothesis is finished.

    A search is over when `beam` hypotheses were finished, or at its greatest length, where the end token is forced.

    Args:
        model: in evaluation mode.
        source: [B, S] int64, padded on the right.
        bos_id: start token; never produced, unless it is the end token as well.
        eos_id: end token.
        pad_id: padding; never produced.
        beam: hypotheses that are followed, and given back; 1 = greedy.
        length_penalty: a; 0 = the log-probability itself.
        gnmt: which of the two forms.
        coverage_penalty: b; 0 = none, and attention is not asked for.
        max_ratio: most tokens of a translation, as a multiple of the source's ...
        max_extra: ... plus this many; the end token counts.
        prefix: [B, P] int64, padded on the right: tokens that each translation has to begin with.
        banned: further tokens that are never produced, unless a prefix has them.

    Memory: scores of B x beam x vocabulary float32, a few times.

    Raises:
        ValueError: an option is out of its range.
    """
    check_search(beam, length_penalty, coverage_penalty, max_ratio, max_extra)
    device, count = source.device, len(source)
    most = ((source != pad_id).sum(1) * max_ratio).long() + max_extra  # [B] tokens, the end token included
    if prefix is not None:
        most = most.maximum((prefix != pad_id).sum(1) + 1)
    room, least = int(most.max()), int(most.min())
    found = Hypotheses(
        torch.full((count, beam, room), pad_id, device=device),
        torch.full((count, beam), -torch.inf, device=device),
        torch.full((count, beam), -torch.inf, device=device),
    )
    never = torch.tensor(sorted({pad_id, bos_id, *banned} - {eos_id}), device=device)

    # of the sentences that are still searched, B of them with K hypotheses each
    where = torch.arange(count, device=device)  # [B] their places in `found`
    tokens = found.tokens[:, :1].clone()  # [B, K, L]
    log_probs = torch.zeros(count, 1, device=device)  # [B, K]
    finished = torch.zeros(count, dtype=torch.int64, device=device)  # [B]
    state = model.start(source, attention=coverage_penalty > 0)
    coverage = torch.zeros(*source.shape, device=device)[:, None] if coverage_penalty > 0 else None  # [B, K, S]
    last = torch.full((count,), bos_id, device=device)

    for length in range(1, room + 1):
        logits, state = model.step(last, state)  # [B K, V]
        width = log_probs.shape[1]
        step = logits.float().log_softmax(1).view(len(where), width, -1)  # [B, K, V]
        given = prefix[where, length - 1] if prefix is not None and length <= prefix.shape[1] else None  # [B]
        kept = None if given is None else step.gather(2, given[:, None, None].expand(-1, width, 1))  # [B, K, 1]
        step[:, :, never] = -torch.inf
        if length >= least:
            _force(step, most[where] <= length, eos_id)
        if given is not None and kept is not None:
            _force_tokens(step, given, kept, pad_id)
        total = step.add_(log_probs[:, :, None]).flatten(1)  # [B, K V]
        best, place = _largest(total, min(2 * beam, total.shape[1]))  # half of them may end
        parent, token = place // step.shape[2], place % step.shape[2]  # [B, C] each
        ends = token == eos_id

        # hypotheses that end, among the first `beam`: into `found`, if they are among its best
        top = slice(0, beam)
        if bool(ends[:, top].any()):
            scores = best[:, top] / (((5 + length) / 6 if gnmt else length) ** length_penalty)
            if coverage is not None:
                seen = coverage + state.attention.float().view_as(coverage)  # [B, K, S]
                lack = seen.clamp(1e-9, 1.0).log().masked_fill((source[where] == pad_id)[:, None], 0.0).sum(2)
                scores = scores + coverage_penalty * lack.gather(1, parent[:, top])
            scores = scores.masked_fill(~ends[:, top], -torch.inf)
            ended = tokens.gather(1, parent[:, top, None].expand(-1, -1, room)).clone()  # [B, <= beam, L]
            ended[:, :, length - 1] = eos_id
            _keep(found, where, ended, scores, best[:, top])
            finished += scores.isfinite().sum(1)

        # the best of those that go on; where there are too few, some of no probability
        go_on, order = best.masked_fill(ends, -torch.inf).topk(min(beam, best.shape[1]), 1)
        parent, token = parent.gather(1, order), token.gather(1, order)
        alive = (finished < beam) & (most[where] > length) & go_on[:, 0].isfinite()  # [B]
        left = int(alive.sum())
        if not left:
            break
        if left < len(where):
            go_on, parent, token = go_on[alive], parent[alive], token[alive]
            where, finished = where[alive], finished[alive]
            least = int(most[where].min())
        rows = alive.nonzero() * width + parent  # [B', K']: rows of the step before
        tokens = tokens.flatten(0, 1)[rows]
        tokens[:, :, length - 1] = token
        if coverage is not None:
            coverage = (coverage + state.attention.float().view_as(coverage)).flatten(0, 1)[rows]
        log_probs, last = go_on, token.flatten()
        state = model.reorder(state, rows)
    return found


@torch.no_grad()
def alignment(model: Stepwise, source: Tensor, tokens: Tensor, *, bos_id: int) -> Tensor:
    """Where the model looked for each token of given translations: shares of the source's tokens.

    Args:
        model: in evaluation mode.
        source: [B, S] int64, padded on the right.
        tokens: [B, L] int64 as in `Hypotheses`: with the end token, without the start token, padded.
        bos_id: start token.

    Returns:
        [B, L, S] float32; a line sums to 1 over the source's tokens, the end token included. Lines of padding mean
        nothing.
    """
    state = model.start(source, attention=True)
    given = torch.cat([torch.full_like(tokens[:, :1], bos_id), tokens[:, :-1]], 1)
    shares = []
    for last in given.unbind(1):
        _, state = model.step(last, state)
        shares.append(state.attention.float())
    return torch.stack(shares, 1)


def _largest(scores: Tensor, count: int, width: int = 64) -> tuple[Tensor, Tensor]:
    """`scores.topk(count, 1)` of [B, n], n large: only the `count` stretches of `width` with the highest peaks have to
    be looked through."""
    whole = scores.shape[1] // width * width
    if whole <= count * width:
        return scores.topk(count, 1)
    peaks = scores[:, :whole].unflatten(1, (-1, width)).amax(2)
    places = torch.arange(scores.shape[1], device=scores.device)
    stretches = places[:whole].view(-1, width)[peaks.topk(count, 1).indices]  # [B, count, width]
    places = torch.cat([stretches.flatten(1), places[whole:].expand(len(scores), -1)], 1)
    best, at = scores.gather(1, places).topk(count, 1)
    return best, places.gather(1, at)


def _force(step: Tensor, now: Tensor, token: int) -> None:
    """Where `now` [B], leave only `token` in step [B, K, V]."""
    kept = step[:, :, token].clone()
    step.masked_fill_(now[:, None, None], -torch.inf)[:, :, token] = kept


def _force_tokens(step: Tensor, tokens: Tensor, kept: Tensor, pad_id: int) -> None:
    """Leave only token b of `tokens` [B] in step [B, K, V], with the value `kept` [B, K, 1], where it is no padding."""
    forced = tokens != pad_id
    step.masked_fill_(forced[:, None, None], -torch.inf)
    rows = forced.nonzero()[:, 0]
    step[rows, :, tokens[rows]] = kept[rows, :, 0]


def _keep(found: Hypotheses, where: Tensor, tokens: Tensor, scores: Tensor, log_probs: Tensor) -> None:
    """Put candidates [B, C, L] of the sentences `where` [B] among the best found, if they are."""
    beam = found.scores.shape[1]
    scores, order = torch.cat([found.scores[where], scores], 1).sort(dim=1, descending=True, stable=True)
    order = order[:, :beam]
    found.scores[where] = scores[:, :beam]
    found.log_probs[where] = torch.cat([found.log_probs[where], log_probs], 1).gather(1, order)
    both = torch.cat([found.tokens[where], tokens], 1)
    found.tokens[where] = both.gather(1, order[:, :, None].expand(-1, -1, both.shape[2]))


@torch.no_grad()
def sample(
    model: Stepwise,
    source: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    max_ratio: float = 1.5,
    max_extra: int = 10,
    prefix: Tensor | None = None,
    banned: Sequence[int] = (),
    generators: Sequence[torch.Generator] | None = None,
) -> Hypotheses:
    """One translation of each source, drawn token by token.

    A token is drawn from the distribution at `temperature`, cut to the `top_k` most probable tokens and to the fewest
    whose probabilities reach `top_p` (Holtzman et al., 2020, "The Curious Case of Neural Text Degeneration", section
    3.1). Scores are log-probabilities by the model itself, before any of that. With `generators`, one for each source,
    what is drawn for one does not depend on the others. Other arguments: see `beam_search`. Within a prefix nothing is
    drawn, and an end token there ends nothing.

    Raises:
        ValueError: an option is out of its range.
    """
    check_sampling(temperature, top_k, top_p)
    check_search(1, 0.0, 0.0, max_ratio, max_extra)
    device, count = source.device, len(source)
    most = ((source != pad_id).sum(1) * max_ratio).long() + max_extra
    if prefix is not None:
        most = most.maximum((prefix != pad_id).sum(1) + 1)
    tokens = torch.full((count, int(most.max())), pad_id, device=device)
    log_probs = torch.zeros(count, device=device)
    never = torch.tensor(sorted({pad_id, bos_id, *banned} - {eos_id}), device=device)
    where = torch.arange(count, device=device)
    state, last = model.start(source), torch.full((count,), bos_id, device=device)
    for length in range(1, tokens.shape[1] + 1):
        logits, state = model.step(last, state)
        step = logits.float().log_softmax(1)  # [B, V]
        if prefix is not None and length <= prefix.shape[1]:
            last = prefix[where, length - 1]
        else:
            last = torch.full_like(where, pad_id)
        beyond = last == pad_id  # [B] its prefix: only there is something drawn
        rows = beyond.nonzero()[:, 0]
        if len(rows):
            chances = cut(step[rows].index_fill_(1, never, -torch.inf) / temperature, top_k, top_p).softmax(1)
            last[rows] = _drawn(chances, None if generators is None else [generators[i] for i in where[rows].tolist()])
            last = torch.where(most[where] <= length, eos_id, last)
        tokens[where, length - 1] = last
        log_probs[where] += step.gather(1, last[:, None])[:, 0]
        alive = ((last != eos_id) | ~beyond) & (most[where] > length)
        if not bool(alive.any()):
            break
        where, last = where[alive], last[alive]
        state = model.reorder(state, alive.nonzero())
    return Hypotheses(tokens[:, None], log_probs[:, None], log_probs[:, None].clone())


def _drawn(chances: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """[B] one place of each row of [B, V] probabilities."""
    if generators is None:
        return torch.multinomial(chances, 1)[:, 0]
    pairs = zip(chances, generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in pairs])


def cut(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """[B, V] with -inf at all but the `top_k` largest, no more where some are equal, and the nucleus of `top_p`; the
    largest always stays."""
    if top_k is not None and top_k < logits.shape[1]:
        best, places = logits.topk(top_k, 1)
        logits = torch.full_like(logits, -torch.inf).scatter_(1, places, best)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(1, descending=True)
        share = ordered.softmax(1)
        beyond = share.cumsum(1) - share >= top_p  # those before it reach top_p already
        logits = logits.masked_fill(beyond.gather(1, order.argsort(1)), -torch.inf)
    return logits
