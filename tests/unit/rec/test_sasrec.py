"""SASRec against a slow transcription of its equations, one history at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from paddlerec.models import SASRec

HISTORIES = [[3, 5, 3, 7], [4], [9, 8, 7, 9, 8, 6], []]


def padded(histories: list[list[int]], width: int = 0) -> Tensor:
    width = max(width, *map(len, histories))
    return torch.tensor([h + [0] * (width - len(h)) for h in histories])


def model(**sizes: int | str) -> SASRec:
    torch.manual_seed(0)
    made = SASRec(**{"num_items": 10, "max_len": 6, "dim": 8, "blocks": 2, "heads": 2, **sizes}).eval()
    for parameter in made.parameters():  # norms and biases, too, are to be seen
        nn.init.normal_(parameter, std=0.5)
    return made


def slow(sasrec: SASRec, history: list[int], heads: int, form: str) -> Tensor:
    """Equations 1 to 5 in float64, one state and one head at a time: [n, d]."""
    w = {name: p.detach().double() for name, p in sasrec.named_parameters()}
    dim, n = w["items.weight"].shape[1], len(history)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        return centred / torch.sqrt(centred.square().mean() + 1e-8) * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = [
        w["items.weight"][i] * math.sqrt(dim) + w["places.weight"][sasrec.max_len - n + place]
        for place, i in enumerate(history)
    ]
    for b in range(len(sasrec.blocks)):
        block = f"blocks.{b}"
        normed = [norm(v, f"{block}.attention_norm") for v in x]
        queries, keys, values = (
            [w[f"{block}.{part}.weight"] @ v + w.get(f"{block}.{part}.bias", 0.0) for v in normed]
            for part in ("queries", "keys", "values")
        )
        after = []
        for t in range(n):
            heads_read = []
            for h in range(heads):
                own = slice(h * dim // heads, (h + 1) * dim // heads)
                energy = torch.stack([queries[t][own] @ keys[s][own] / math.sqrt(dim / heads) for s in range(t + 1)])
                share = energy.softmax(0)
                heads_read.append(sum(share[s] * values[s][own] for s in range(t + 1)))
            y = (normed if form == "code" else x)[t] + torch.cat(heads_read)
            read = norm(y, f"{block}.network_norm")
            y = read if form == "code" else y
            hidden = torch.relu(w[f"{block}.network.0.weight"] @ read + w[f"{block}.network.0.bias"])
            after.append(y + w[f"{block}.network.3.weight"] @ hidden + w[f"{block}.network.3.bias"])
        x = after
    return torch.stack([norm(v, "norm") for v in x])


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("heads", [1, 2])
def test_against_a_slow_transcription(heads: int, form: str) -> None:
    sasrec = model(heads=heads, form=form)
    states, last = sasrec(padded(HISTORIES)), sasrec.encode(padded(HISTORIES))
    for row, history in enumerate(HISTORIES):
        if history:
            expected = slow(sasrec, history, heads, form)
            torch.testing.assert_close(states[row, : len(history)].double(), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(last[row].double(), expected[-1], rtol=1e-4, atol=1e-5)


def test_the_form_code_drops_what_is_attended_to_and_not_what_was_read() -> None:
    first = model(form="code").blocks[0].train()
    first.network.eval()  # only attention drops
    x = torch.randn(1, 4, 8)
    # the first place attends to itself alone: all of a head's value, doubled, or none of it
    normed = first.attention_norm(x)[0, 0]
    read = first.values(normed).view(2, 4)
    seen = set()
    for _ in range(40):
        out = first(x)[0, 0]
        for kept in ((0, 0), (0, 2), (2, 0), (2, 2)):
            y = first.network_norm(normed + (read * torch.tensor(kept)[:, None]).flatten())
            if torch.allclose(out, y + first.network(y), atol=1e-5):
                seen.add(kept)
                break
        else:
            raise AssertionError("neither dropped nor doubled")
    assert len(seen) == 4


def test_no_state_sees_a_later_item() -> None:
    sasrec = model()
    history = torch.randint(1, 10, (4, 6))
    states = sasrec(history)
    for place in range(6):
        changed = history.clone()
        changed[:, place:] = 1 + changed[:, place:] % 9
        torch.testing.assert_close(sasrec(changed)[:, :place], states[:, :place])
        assert not torch.allclose(sasrec(changed)[:, place], states[:, place])


def test_padding_changes_nothing() -> None:
    sasrec = model()
    narrow, wide = sasrec(padded(HISTORIES[:2])), sasrec(padded(HISTORIES[:2], 6))
    torch.testing.assert_close(wide[:, :4][padded(HISTORIES[:2]) > 0], narrow[padded(HISTORIES[:2]) > 0])
    torch.testing.assert_close(sasrec.encode(padded(HISTORIES, 30)), sasrec.encode(padded(HISTORIES)))


def test_of_long_histories_the_latest_items_count() -> None:
    sasrec = model()
    long = [[1, 2, 3, 4, 5, 6, 7, 8], [4, 5]]
    torch.testing.assert_close(sasrec.encode(padded(long)), sasrec.encode(padded([[3, 4, 5, 6, 7, 8], [4, 5]])))
    with pytest.raises(ValueError, match="max_len=6"):
        sasrec(padded(long))


def test_an_empty_history_is_one_item_0() -> None:
    sasrec = model()
    states = sasrec.encode(torch.zeros(2, 3, dtype=torch.int64))
    assert states.isfinite().all() and torch.equal(states[0], states[1])


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=3"):
        SASRec(num_items=5, dim=8, heads=3)
    with pytest.raises(ValueError, match="paper or code"):
        SASRec(num_items=5, dim=8, form="torch")
