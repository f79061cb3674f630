"""DIN, Dice and GAUC against slow transcriptions; histories as rows."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paddlecore.errors import ConfigError, DataError
from paddlecore.sources import data_root
from paddlerec.data import AmazonCtrData
from paddlerec.data.amazon_ctr import special
from paddlerec.data.amazon_files import SOURCE
from paddlerec.layers import Dice
from paddlerec.metrics import GAUC
from paddlerec.models import DIN
from paddlerec.tasks import HistoryCTR

# ------------------------------------------------------------------------------------------------------ model


def test_dice_against_equation_9() -> None:
    torch.manual_seed(0)
    s = torch.randn(50, 3) * torch.tensor([0.1, 1.0, 9.0]) + 2
    layer = Dice(3)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.0, 0.3, -1.0]))
    mean, variance = s.mean(0), s.var(0, correction=0)
    p = 1 / (1 + torch.exp(-(s - mean) / torch.sqrt(variance + 1e-8)))
    torch.testing.assert_close(layer(s).detach(), p * s + (1 - p) * layer.alpha.detach() * s)
    # afterwards the running averages stand for mean and variance
    layer.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    layer.norm.running_var.fill_(4.0)
    p = 1 / (1 + torch.exp(-(s - torch.tensor([1.0, 2.0, 3.0])) / 2))
    torch.testing.assert_close(layer.eval()(s).detach(), p * s + (1 - p) * layer.alpha.detach() * s)


def slow_network(network: nn.Sequential, x: np.ndarray) -> float:
    """One row through linear layers and Dice by its running averages."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            x = layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()
        else:
            mean, variance = layer.norm.running_mean.double().numpy(), layer.norm.running_var.double().numpy()
            p = 1 / (1 + np.exp(-(x - mean) / np.sqrt(variance + 1e-8)))
            x = p * x + (1 - p) * layer.alpha.detach().double().numpy() * x
    return float(x[0])


def slow_din(model: DIN, history: list[tuple[int, int]], item: tuple[int, int], num_items: int) -> float:
    """Equation 3 and the MLP for one row, one item of the history at a time."""
    table = model.fields.table.weight.detach().double().numpy()

    def e(pair: tuple[int, int]) -> np.ndarray:
        return np.concatenate([table[pair[0]], table[num_items + pair[1]]])

    v, user, weights = e(item), np.zeros(2 * table.shape[1]), [1.0 / max(len(history), 1)] * len(history)
    if model.unit is not None:
        weights = [slow_network(model.unit, np.concatenate([e(p), v, e(p) - v, e(p) * v])) for p in history]
    if model.softmax:
        weights = [np.exp(w) / np.exp(weights).sum() for w in weights]
    for weight, pair in zip(weights, history, strict=True):
        user += weight * e(pair)
    return slow_network(model.mlp, np.concatenate([user, v]))


def batch_of(histories: list[list[tuple[int, int]]], items: list[tuple[int, int]], width: int) -> list[torch.Tensor]:
    padded = [h + [(0, 0)] * (width - len(h)) for h in histories]
    ids = torch.tensor(padded, dtype=torch.int64).reshape(len(histories), width, 2)
    return [ids[..., 0], ids[..., 1], *torch.tensor(items).unbind(1)]


HISTORIES = [[(3, 1), (5, 2), (3, 1)], [(1, 0)], [], [(7, 3), (6, 2), (5, 1), (4, 0)]]
ITEMS = [(5, 2), (2, 1), (6, 3), (0, 0)]


@pytest.mark.parametrize("pooling", ["attention", "softmax", "mean"])
def test_din_against_a_slow_transcription_whatever_the_padding(pooling: str) -> None:
    torch.manual_seed(0)
    model = DIN(num_items=8, num_categories=4, dim=3, attention=[5, 4], hidden=[6], pooling=pooling, init_std=1.0)
    for layer in model.modules():
        if isinstance(layer, Dice):
            nn.init.normal_(layer.alpha)
            layer.norm.running_mean.normal_()
            layer.norm.running_var.uniform_(0.5, 2)
    model.eval()
    expected = torch.tensor([slow_din(model, h, i, 8) for h, i in zip(HISTORIES, ITEMS, strict=True)])
    for width in (4, 9):
        batch = batch_of(HISTORIES, ITEMS, width)
        out = model(*batch)
        assert torch.equal(model(*batch, batch[0].flatten().nonzero()[:, 0]), out)  # places that are given
        torch.testing.assert_close(out.detach(), expected.float(), rtol=1e-4, atol=1e-4)
    # nothing but empty histories
    out = model(*batch_of([[], []], ITEMS[:2], 0))
    expected = torch.tensor([slow_din(model, [], i, 8) for i in ITEMS[:2]])
    torch.testing.assert_close(out.detach(), expected.float(), rtol=1e-4, atol=1e-4)


def test_a_table_is_not_what_din_learns_from() -> None:
    task = HistoryCTR(DIN(num_items=4, num_categories=3))
    with pytest.raises(ConfigError, match="needs history_category, item, category in a batch, as AmazonCtrData"):
        task({"ids": torch.ones(2, 1, dtype=torch.int32), "history": torch.ones(2, 1, dtype=torch.int64)})


def test_padding_does_not_reach_the_statistics_of_dice() -> None:
    outs = []
    for width in (4, 9):
        torch.manual_seed(0)
        model = DIN(num_items=8, num_categories=4, dim=3, init_std=1.0)
        outs.append(model(*batch_of(HISTORIES, ITEMS, width)))
    torch.testing.assert_close(*outs)
    with pytest.raises(ValueError, match="pooling"):
        DIN(num_items=8, num_categories=4, pooling="sum")


# ------------------------------------------------------------------------------------------------------ metric


def slow_gauc(scores: np.ndarray, labels: np.ndarray, users: np.ndarray) -> tuple[float, int]:
    from sklearn.metrics import roc_auc_score

    total = weight = left = 0.0
    for user in np.unique(users):
        mine = users == user
        if len(np.unique(labels[mine])) < 2:
            left += 1
            continue
        total += mine.sum() * roc_auc_score(labels[mine], scores[mine])
        weight += mine.sum()
    return total / weight, int(left)


def test_gauc_against_scikit_learn_user_by_user() -> None:
    random = np.random.default_rng(0)
    users = random.integers(-5, 60, 800)
    labels = random.integers(0, 2, 800)
    scores = random.integers(0, 6, 800).astype(np.float32)  # many ties
    metric = GAUC()
    for part in np.array_split(np.arange(800), 7):
        metric.update(*(torch.from_numpy(x[part]) for x in (scores, labels, users)))
    value, left = slow_gauc(scores, labels, users)
    assert metric.compute() == {"gauc": pytest.approx(value, abs=1e-12)} and metric.left_out == left
    few = GAUC()
    few.update(torch.tensor([0.1, 0.7, 0.2, 0.9]), torch.tensor([0, 1, 1, 1]), torch.tensor([3, 3, 4, 4]))
    assert few.compute() == {"gauc": 1.0} and few.left_out == 1


@pytest.mark.parametrize(
    "scores, labels, why",
    [([], [], "no row"), ([0.5], [1], "none of 1 users"), ([0.5, float("nan")], [1, 0], "NaN")],
)
def test_gauc_that_is_not_defined(scores: list[float], labels: list[int], why: str) -> None:
    metric = GAUC()
    metric.update(torch.tensor(scores), torch.tensor(labels), torch.zeros(len(labels)))
    with pytest.warns(RuntimeWarning, match=why):
        assert np.isnan(metric.compute()["gauc"])
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), torch.zeros(2))
        assert metric.compute() == {"gauc": 1.0}


# ------------------------------------------------------------------------------------------------------ data


def write(folder: Path, lines: str, attributes: dict[str, Any] | None = None) -> AmazonCtrData:
    (folder / "sequences.txt").write_text(lines)
    text = json.dumps(attributes or {"1": [1, 2], "2": [1, 2], "3": [1, 3], "4": [], "6": [1, 2, 3]})
    (folder / "attributes.json.gz").write_bytes(gzip.compress(text.encode()))
    return AmazonCtrData(source=str(folder), min_items=2, max_length=2)


def test_rows_are_the_items_after_their_histories(tmp_path: Path) -> None:
    data = write(tmp_path, "7 1 2 3 4 5\n8 2 1 6\n9 3 6\n4 5\n")
    data.prepare()
    # attribute 3 has two items, 2 three and 1 four: the rarest that two share
    assert data.spec == {"num_items": 7, "num_categories": 3}
    assert data._categories.tolist() == [0, 1, 1, 2, 0, 0, 2]
    rows = {split: data.rows(split) for split in data.splits}
    train = rows["train"].fetch(np.arange(len(rows["train"])), 0)
    assert train["history"][::2].tolist() == [[1, 0], [1, 2], [3, 0]]
    assert train["item"][::2].tolist() == [2, 3, 6] and train["user"][::2].tolist() == [1, 1, 3]
    assert train["history_category"][::2].tolist() == [[1, 0], [1, 1], [2, 0]]
    assert train["label"].tolist() == [1, 0] * 3
    valid, test = (rows[s].fetch(np.arange(len(rows[s])), 0) for s in ("valid", "test"))
    assert valid["history"].tolist()[::2] == [[2, 3], [2, 0]] and valid["item"].tolist()[::2] == [4, 1]
    assert test["history"].tolist()[::2] == [[3, 4], [2, 1]] and test["item"].tolist()[::2] == [5, 6]
    for epoch in range(20):
        one = rows["train"].fetch(np.arange(6), epoch)
        assert set(one["item"][1:4:2].tolist()) <= {4, 5, 6}  # user 1 has 1, 2, 3 in the training part
        again = rows["test"].fetch(np.arange(4), epoch)
        assert torch.equal(again["item"], test["item"]) and int(again["item"][1]) == 6
    assert len({tuple(rows["train"].fetch(np.arange(6), e)["item"].tolist()) for e in range(20)}) > 3


def test_bad_lines_items_and_raw_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sequences\.txt:2: expected"):
        write(tmp_path, "1 1 2 3 4\n2 x\n").prepare()
    with pytest.raises(DataError, match="no user has"):
        write(tmp_path, "1 1\n2 2 3\n").prepare()
    data = write(tmp_path, "1 1 2 3 4\n2 2 3 5 1\n")
    with pytest.raises(DataError, match="not known yet"):
        _ = data.spec
    data.prepare()
    fresh = AmazonCtrData(max_length=2)
    fresh.restore(json.loads(json.dumps(data.state())))
    assert fresh.spec == data.spec
    encoded = fresh.encode('{"history": [1, 99, 2, 3], "item": 77}')
    assert encoded["history"].tolist() == [[2, 3]] and encoded["item"].tolist() == [0]
    assert fresh.encode({"history": [], "item": 3})["history"].shape == (1, 0)
    for raw in (
        {"history": [1]},
        {"history": "1", "item": 2},
        {"history": [1.5], "item": 2},
        "[1]",
        {"history": [1], "item": True},
    ):
        with pytest.raises(DataError):
            fresh.encode(raw)
    fresh.source = data.source
    fresh.restore({"categories": [0, 1, 1]})
    with pytest.raises(DataError, match="item 5 is unknown"):
        fresh.prepare()
    (tmp_path / "clicks.csv").write_text("label,item,viewed\n")
    with pytest.raises(DataError, match=r"is for DeepCTR, not DIN: copy recipe rec/deepfm_table"):
        AmazonCtrData(source=str(tmp_path / "clicks.csv")).prepare()
    (tmp_path / "attributes.json.gz").unlink()
    with pytest.raises(DataError, match=r"no attributes\.json"):
        data.prepare()


def test_the_most_special_attribute() -> None:
    found = {1: [5, 9], 2: [5, 9], 3: [5, 8], 4: [8, 5], 6: []}
    assert special(found, 6, 2).tolist() == [0, 2, 2, 1, 1, 0, 0]
    assert special(found, 6, 4).tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert special(found, 6, 9).tolist() == [0] * 7


def test_beauty_has_the_published_numbers() -> None:
    root = data_root()
    if root is None or not (root / SOURCE.folder / "Beauty.txt.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    data = AmazonCtrData()
    data.prepare()
    assert {s: len(data.rows(s)) for s in data.splits} == {
        "train": 2 * (198_502 - 3 * 22_363),
        "valid": 2 * 22_363,
        "test": 2 * 22_363,
    }
    assert data.spec["num_items"] == 12_102
    assert int(data.rows("train").fetch(np.arange(2000), 0)["history"].ne(0).sum(1).min()) >= 1
