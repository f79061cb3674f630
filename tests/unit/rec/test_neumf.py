"""NeuMF against its equations; ranks among given negatives against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from paddlerec.layers.topk import UNRANKED
from paddlerec.models import NeuMF
from paddlerec.tasks import Candidates
from paddlerec.tasks.candidates import rank_of_first

SIZES = {"num_users": 6, "num_items": 9, "factors": 3, "mlp_dim": 4, "hidden": [5, 2], "init_std": 1.0}


def slow_logit(model: NeuMF, user: int, item: int) -> float:
    """Equations 8 to 12 for one pair."""
    parts = []
    if model.gmf is not None:
        p, q = (model.gmf[k].weight.detach().double().numpy()[i] for k, i in (("user", user), ("item", item)))
        parts += [a * b for a, b in zip(p, q, strict=True)]
    if model.mlp is not None:
        p, q = (model.mlp[k].weight.detach().double().numpy()[i] for k, i in (("user", user), ("item", item)))
        h = np.concatenate([p, q])
        for layer in model.mlp["layers"]:
            if isinstance(layer, nn.Linear):
                h = np.maximum(layer.weight.detach().double().numpy() @ h + layer.bias.detach().double().numpy(), 0.0)
        parts += h.tolist()
    weights = model.output.weight.detach().double()[0].tolist()
    return sum(w * x for w, x in zip(weights, parts, strict=True)) + float(model.output.bias.detach())


@pytest.mark.parametrize("part, hidden", [("fused", [5, 2]), ("gmf", [5, 2]), ("mlp", [5, 2]), ("fused", [])])
def test_model_against_a_slow_transcription(part: str, hidden: list[int]) -> None:
    torch.manual_seed(0)
    model = NeuMF(**{**SIZES, "hidden": hidden}, part=part)
    user, item = torch.randint(0, 6, (3, 4)), torch.randint(0, 9, (3, 4))
    out = model(user, item)
    expected = [
        [slow_logit(model, u, i) for u, i in zip(us, its, strict=True)]
        for us, its in zip(user.tolist(), item.tolist(), strict=True)
    ]
    torch.testing.assert_close(out.detach().double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_a_fused_model_starts_as_the_mean_of_its_parts() -> None:
    torch.manual_seed(0)
    gmf, mlp, fused = (NeuMF(**SIZES, part=part) for part in ("gmf", "mlp", "fused"))
    fused.start_from(gmf, mlp, alpha=0.3)
    user, item = torch.randint(0, 6, (20,)), torch.randint(0, 9, (20,))
    torch.testing.assert_close(fused(user, item), 0.3 * gmf(user, item) + 0.7 * mlp(user, item))
    with pytest.raises(ValueError, match="part"):
        fused.start_from(mlp, gmf)
    with pytest.raises(ValueError, match="part"):
        NeuMF(**SIZES, part="both")


def test_rank_among_candidates_against_a_loop() -> None:
    torch.manual_seed(1)
    candidates = torch.randint(0, 8, (200, 12))
    score = torch.randint(0, 5, (200, 12)).float()  # many ties
    score[:3, 4] = math.nan
    score[3, 0] = math.nan
    expected = []
    for items, scores in zip(candidates.tolist(), score.tolist(), strict=True):
        rank = 0
        for item, s in zip(items[1:], scores[1:], strict=True):
            if item not in (0, items[0]) and not s < scores[0]:
                rank += 1
        expected.append(rank if items[0] else UNRANKED)  # an unknown item is missed, however few the others are
    assert rank_of_first(score, candidates).tolist() == expected


def test_the_item_itself_among_its_negatives_is_no_rival() -> None:
    candidates = torch.tensor([[7, 7, 3, 7, 4, 0]])
    assert rank_of_first(torch.tensor([[0.5, 0.5, 0.9, 0.5, 0.1, 0.8]]), candidates).tolist() == [1]


def test_measures_are_those_of_the_ranks() -> None:
    class Fixed(nn.Module):
        def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            return -(item - user).abs().float()  # the nearer, the better

    task = Candidates(Fixed(), measures=["hr@1", "ndcg@2"])
    batch = {"user": torch.tensor([5, 1]), "candidates": torch.tensor([[5, 1, 2], [3, 2, 9]])}
    prediction, metrics = task.predict(batch), task.metrics()
    task.measure(metrics, prediction, batch)
    assert metrics[0].compute() == {"hr@1": 0.5, "ndcg@2": pytest.approx((1 + 1 / math.log2(3)) / 2)}
    assert [r["item"] for r in task.render(prediction)[1]["items"]] == [2, 3, 9]
    padded = {"user": torch.tensor([1]), "candidates": torch.tensor([[3, 0, 2, 0]])}
    assert [r["item"] for r in task.render(task.predict(padded))[0]["items"]] == [2, 3]
    with pytest.raises(ValueError, match="top"):
        Candidates(Fixed(), top=0)
