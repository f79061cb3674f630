"""Beam search against exhaustive search; batched = one by one; penalties, prefixes, lengths; sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from paddlenlp.layers.beam_search import alignment, beam_search, cut, sample
from paddlenlp.models import RNNAttention, Transformer

BOS, EOS, PAD = 2, 3, 0
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
Net = Transformer | RNNAttention
SOURCE = torch.tensor([[5, 4, 5, 3], [4, 3, 0, 0], [5, 5, 3, 0]])


def model(vocab_size: int = 7, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    net = Transformer(vocab_size=vocab_size, dim=8, heads=2, hidden=8, encoder_layers=1, decoder_layers=2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return net.eval()


def log_prob(net: Net, source: Tensor, sentence: tuple[int, ...]) -> float:
    given = torch.tensor([[BOS, *sentence[:-1]]])
    with torch.no_grad():
        scores = net(source[None], given).log_softmax(2)[0]
    return sum(float(scores[t, token]) for t, token in enumerate(sentence))


def exhaustive(net: Net, source: Tensor, most: int, power: float, gnmt: bool) -> list[tuple[float, list[int]]]:
    """Every sentence of up to `most` tokens with its score, best first."""
    found = []
    for length in range(1, most + 1):
        for body in itertools.product([1, 4, 5, 6], repeat=length - 1):
            score = log_prob(net, source, (*body, EOS)) / ((5 + length) / 6 if gnmt else length) ** power
            found.append((score, [*body, EOS]))
    return sorted(found, reverse=True)


def sentence(tokens: Tensor) -> list[int]:
    return [t for t in tokens.tolist() if t != PAD]


def recurrent() -> RNNAttention:
    torch.manual_seed(0)
    net = RNNAttention(vocab_size=7, dim=8, attention="luong_concat", cell="lstm")
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return net.eval()


@pytest.mark.parametrize("make", [model, recurrent])
@pytest.mark.parametrize(("power", "gnmt"), [(0.0, False), (1.0, False), (0.6, True)])
def test_a_wide_beam_finds_what_exhaustive_search_finds(make: Callable[[], Net], power: float, gnmt: bool) -> None:
    net = make()
    options = {"beam": 90, "length_penalty": power, "gnmt": gnmt, "max_ratio": 0.0, "max_extra": 4}
    found = beam_search(net, SOURCE, **IDS, **options)
    for row, source in enumerate(SOURCE):
        wanted = exhaustive(net, source[source != PAD], 4, power, gnmt)
        assert len(wanted) == 85
        for place, (score, tokens) in enumerate(wanted[:20]):
            assert float(found.scores[row, place]) == pytest.approx(score, abs=1e-5)
            assert sentence(found.tokens[row, place]) == tokens
        assert found.scores[row].isfinite().sum() == 85  # and no sentence twice


def plainly(
    net: Net, source: Tensor, most: int, options: dict[str, Any], prefix: list[int]
) -> list[tuple[float, list[int]]]:
    """Beam search by its rules, for one sentence and without a cache: all that it finds with the scores, best first."""
    beam, power = options["beam"], options["length_penalty"]
    live, done = [(0.0, list[int]())], []
    for length in range(1, most + 1):
        grown = []
        for log_p, tokens in live:
            with torch.no_grad():
                step = net(source[None], torch.tensor([[BOS, *tokens]]))[0, -1].log_softmax(0)
            allowed = prefix[length - 1 : length] or ([EOS] if length == most else [1, *range(EOS, len(step))])
            grown += [(log_p + float(step[token]), [*tokens, token]) for token in allowed]
        grown = sorted(grown, reverse=True)[: 2 * beam]
        for log_p, tokens in grown[:beam]:
            if tokens[-1] == EOS:
                looked = alignment(net, source[None], torch.tensor([tokens]), bos_id=BOS)[0].sum(0)
                lack = options["coverage_penalty"] * float(looked.clamp(max=1).log().sum())
                done.append((log_p / ((5 + length) / 6 if options["gnmt"] else length) ** power + lack, tokens))
        live = [(log_p, tokens) for log_p, tokens in grown if tokens[-1] != EOS][:beam]
        if len(done) >= beam or not live:
            break
    return sorted(done, reverse=True)[:beam]


@pytest.mark.parametrize("make", [model, recurrent])
@pytest.mark.parametrize(("beam", "power", "gnmt", "coverage"), [(2, 1.5, False, 0.0), (3, 0.6, True, 0.4)])
def test_a_narrow_beam_follows_its_rules(
    make: Callable[[], Net], beam: int, power: float, gnmt: bool, coverage: float
) -> None:
    """In a batch of sentences with and without a prefix, which end at different times."""
    net, given = make(), [[5], [], [6, 4, 1]]
    options = {"beam": beam, "length_penalty": power, "gnmt": gnmt, "coverage_penalty": coverage}
    prefix = torch.tensor([row + [PAD] * (3 - len(row)) for row in given])
    found = beam_search(net, SOURCE, **IDS, **options, max_ratio=1.0, max_extra=2, prefix=prefix)  # type: ignore[arg-type]
    for row, source in enumerate(SOURCE):
        source = source[source != PAD]
        wanted = plainly(net, source, max(len(source) + 2, len(given[row]) + 1), options, given[row])
        assert [sentence(tokens) for tokens in found.tokens[row, : len(wanted)]] == [tokens for _, tokens in wanted]
        assert found.scores[row, : len(wanted)].tolist() == pytest.approx([score for score, _ in wanted], abs=1e-5)
        assert not found.scores[row, len(wanted) :].isfinite().any()


def test_log_probs_are_those_of_the_model() -> None:
    net = model()
    found = beam_search(net, SOURCE, **IDS, beam=3)
    for row, source in enumerate(SOURCE):
        for tokens, value in zip(found.tokens[row], found.log_probs[row], strict=True):
            wanted = log_prob(net, source[source != PAD], tuple(sentence(tokens)))
            assert float(value) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_batched_is_one_by_one(beam: int) -> None:
    net = model(30, seed=1)
    torch.manual_seed(5)
    source = torch.randint(4, 30, (9, 8))
    for row, length in enumerate([8, 1, 5, 3, 8, 2, 7, 4, 6]):
        source[row, length:] = PAD
    whole = beam_search(net, source, **IDS, beam=beam)
    for row in range(9):
        alone = beam_search(net, source[row : row + 1, : int((source[row] != PAD).sum())], **IDS, beam=beam)
        torch.testing.assert_close(whole.scores[row], alone.scores[0], atol=1e-5, rtol=1e-5)
        # two whose scores differ in the last digit may change places
        assert sorted(map(sentence, whole.tokens[row])) == sorted(map(sentence, alone.tokens[0]))


def test_a_beam_of_one_is_greedy() -> None:
    net = model(30)
    found = beam_search(net, SOURCE, **IDS, beam=1)
    for row, source in enumerate(SOURCE):
        tokens = [BOS]
        for _ in range(len(sentence(found.tokens[row, 0])) - 1):
            with torch.no_grad():
                logits = net(source[source != PAD][None], torch.tensor([tokens]))[0, -1]
            logits[[PAD, BOS]] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert sentence(found.tokens[row, 0])[:-1] == tokens[1:]


def test_no_translation_is_longer_than_allowed_and_all_end() -> None:
    found = beam_search(model(30), SOURCE, **IDS, beam=4, max_ratio=1.0, max_extra=1)
    for row, most in enumerate([5, 3, 4]):
        for tokens in found.tokens[row][found.scores[row].isfinite()]:
            assert len(sentence(tokens)) <= most
            assert sentence(tokens)[-1] == EOS


def test_a_prefix_is_kept_and_counts() -> None:
    net = model(30)
    prefix = torch.tensor([[7, 9], [8, 0], [0, 0]])
    found = beam_search(net, SOURCE, **IDS, beam=3, prefix=prefix)
    free = beam_search(net, SOURCE, **IDS, beam=3)
    for tokens in found.tokens[0]:
        assert sentence(tokens)[:2] == [7, 9]
    assert all(sentence(tokens)[0] == 8 for tokens in found.tokens[1])
    assert torch.equal(found.scores[2], free.scores[2])
    assert float(found.log_probs[0, 0]) == pytest.approx(
        log_prob(net, SOURCE[0], tuple(sentence(found.tokens[0, 0]))), abs=1e-5
    )


def test_a_prefix_may_hold_what_is_banned_elsewhere() -> None:
    """Without that there would be no translation at all."""
    net, prefix = model(30), torch.tensor([[1], [0], [8]])
    for found in (
        beam_search(net, SOURCE, **IDS, beam=3, prefix=prefix, banned=(1,)),
        sample(net, SOURCE, **IDS, prefix=prefix, banned=(1,)),
    ):
        assert found.scores.isfinite().all() and found.tokens[0, 0, 0] == 1 and not (found.tokens[..., 1:] == 1).any()
        wanted = log_prob(net, SOURCE[0], tuple(sentence(found.tokens[0, 0])))
        assert float(found.log_probs[0, 0]) == pytest.approx(wanted, abs=1e-4)


def test_banned_tokens_do_not_come() -> None:
    found = beam_search(model(), SOURCE, **IDS, beam=5, banned=(1, 4))
    assert not (found.tokens == 4).any()
    assert not (found.tokens == 1).any()


@dataclass
class _State:
    attention: Tensor | None
    rows: Tensor
    length: int = 0


class Scripted:
    """A model of two hypotheses, 5 and 6, of equal probability that looks at the source as it is told."""

    looks = {5: [0.5, 0.5], 6: [1.0, 0.0]}

    def start(self, source: Tensor, *, attention: bool = False) -> _State:
        return _State(torch.zeros(len(source), 2), torch.arange(len(source)))

    def step(self, tokens: Tensor, state: _State) -> tuple[Tensor, _State]:
        logits = torch.full((len(tokens), 7), -50.0)
        if state.length == 0:
            logits[:, 5:] = 0.0
        else:
            logits[:, EOS] = 0.0
        state.attention = torch.tensor([self.looks.get(t, [0.0, 0.0]) for t in tokens.tolist()])
        state.length += 1
        return logits, state

    def reorder(self, state: _State, index: Tensor) -> _State:
        return state


def test_the_coverage_penalty_is_that_of_gnmt() -> None:
    found = beam_search(Scripted(), torch.tensor([[4, 3]]), **IDS, beam=2, length_penalty=0.0, coverage_penalty=0.2)
    assert found.tokens[0, :, 0].tolist() == [5, 6]  # the one that has looked at all of the source
    base = math.log(0.5)
    assert found.scores[0].tolist() == pytest.approx(
        [base + 0.2 * 2 * math.log(0.5), base + 0.2 * math.log(1e-9)], rel=1e-5
    )


def test_the_alignment_of_a_transformer_is_the_attention_of_its_last_layer() -> None:
    net = model()
    tokens = torch.tensor([[4, 5, 6, 3], [6, 3, 0, 0], [5, 5, 4, 3]])
    shares = alignment(net, SOURCE, tokens, bos_id=BOS)
    caught: list[Tensor] = []
    cross = net.decoder[-1].cross
    cross.q.register_forward_hook(lambda module, given, out: caught.append(out))
    with torch.no_grad():
        memory, visible = net.encode(SOURCE)
        net.features(SOURCE, torch.cat([torch.full((3, 1), BOS), tokens[:, :-1]], 1))
        keys = cross.kv(memory)[..., :8]
    wanted = torch.zeros(3, 4, 4)
    for head in (slice(0, 4), slice(4, 8)):
        scores = caught[0][..., head] @ keys[..., head].transpose(1, 2) / 2.0  # sqrt(d / H)
        wanted += scores.masked_fill(~visible[:, 0], -torch.inf).softmax(2) / 2
    torch.testing.assert_close(shares, wanted)


@pytest.mark.parametrize("kind", ["bahdanau", "luong_general"])
def test_the_alignment_of_a_recurrent_network_is_what_it_looked_at(kind: str) -> None:
    torch.manual_seed(0)
    net = RNNAttention(vocab_size=7, dim=8, attention=kind).eval()
    tokens = torch.tensor([[4, 5, 6, 3], [6, 3, 0, 0], [5, 5, 4, 3]])
    shares = alignment(net, SOURCE, tokens, bos_id=BOS)
    torch.testing.assert_close(shares.sum(2), torch.ones(3, 4))
    assert float(shares[1, :, 2:].abs().max()) == 0  # padding
    alone = alignment(net, SOURCE[1:2, :2], tokens[1:2, :2], bos_id=BOS)
    torch.testing.assert_close(alone, shares[1:2, :2, :2])
    found = beam_search(net, SOURCE, **IDS, beam=1, coverage_penalty=0.5)  # its score is made of the same shares
    again = alignment(net, SOURCE, found.tokens[:, 0], bos_id=BOS)
    for row, source in enumerate(SOURCE):
        line = sentence(found.tokens[row, 0])
        lack = again[row, : len(line), source != PAD].sum(0).clamp(max=1.0).log().sum()
        wanted = found.log_probs[row, 0] / len(line) + 0.5 * lack
        assert float(found.scores[row, 0]) == pytest.approx(float(wanted), abs=1e-5)


def test_cut_leaves_the_best_k_and_the_nucleus() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert cut(logits, 2, None).isfinite().tolist() == [[False, True, False, True]]
    assert cut(logits, None, 0.4).isfinite().tolist() == [[False, True, False, False]]
    assert cut(logits, None, 0.41).isfinite().tolist() == [[False, True, False, True]]
    assert cut(logits, None, 1.0).isfinite().all()
    assert cut(logits, 9, 1e-9).isfinite().tolist() == [[False, True, False, False]]
    for k in (1, 2):  # also where all are equal
        assert int(cut(torch.zeros(1, 4), k, None).isfinite().sum()) == k


def test_samples_follow_the_distribution() -> None:
    """Chi-square of the first token over 4000 draws: at a temperature, of the three best, of a nucleus."""
    net = model(10)
    with torch.no_grad():
        logits = net(SOURCE[:1], torch.tensor([[BOS]]))[0, 0]
    logits[[PAD, BOS]] = -torch.inf
    for options in ({"temperature": 1.7}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 0.8, "top_k": 6, "top_p": 0.9}):
        chances = (logits / options.get("temperature", 1.0)).softmax(0)
        kept = chances.argsort(descending=True)[: int(options.get("top_k", 10))].tolist()
        total = float(chances[kept].sum())
        while float(chances[kept[:-1]].sum()) / total >= options.get("top_p", 1.1):  # the fewest that reach it
            kept.pop()
        chances = torch.zeros(10).index_copy(0, torch.tensor(kept), chances[kept] / chances[kept].sum())
        assert 1 < int((chances > 0).sum()) < 9 or "top_p" not in options
        torch.manual_seed(1)
        drawn = sample(net, SOURCE[:1].expand(4000, -1), **IDS, **options)  # type: ignore[arg-type]
        counts = torch.bincount(drawn.tokens[:, 0, 0], minlength=10)
        assert not counts[chances == 0].any()
        chances, counts = chances[chances > 0], counts[chances > 0]
        expected = 4000 * chances
        chi = float(((counts - expected).square() / expected).sum())
        assert chi < len(chances) - 1 + 4 * (2 * len(chances)) ** 0.5
        score = log_prob(net, SOURCE[0], tuple(sentence(drawn.tokens[0, 0])))
        assert float(drawn.scores[0, 0]) == pytest.approx(score, abs=1e-4)


def test_samples_end_and_begin_as_told() -> None:
    prefix = torch.tensor([[7], [0], [8]])
    drawn = sample(model(30), SOURCE, **IDS, prefix=prefix, max_ratio=1.0, max_extra=1)
    rows = [sentence(tokens[0]) for tokens in drawn.tokens]
    assert rows[0][0] == 7
    assert rows[2][0] == 8
    for row, most in zip(rows, [5, 3, 4], strict=True):
        assert len(row) <= most
        assert row[-1] == EOS


def test_draws_begin_behind_a_prefix_whatever_else_is_in_the_batch() -> None:
    """A long one costs its steps alone, and takes nothing from its generator."""
    net, prefix = model(30), torch.tensor([[7, 9, 7, 9, 7, 9], [8, 0, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0]])

    def generators(count: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(3) for _ in range(count)]

    options = {**IDS, "max_ratio": 0.0, "max_extra": 9}
    together = sample(net, SOURCE, prefix=prefix, generators=generators(3), **options)
    for row, length in enumerate((6, 1, 2)):
        source, given = SOURCE[row : row + 1], prefix[row : row + 1, :length]
        one = sample(net, source, prefix=given, generators=generators(1), **options)
        wanted = sentence(one.tokens[0, 0])
        assert wanted[:length] == prefix[row, :length].tolist()
        assert sentence(together.tokens[row, 0]) == wanted
