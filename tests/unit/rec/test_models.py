"""DeepFM and LR against slow transcriptions of their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paddlecore.linear import Linear
from paddlerec.layers import FieldTable, fm_pooling, mlp
from paddlerec.models import LR, DeepFM

SIZES = [5, 1, 9, 3]


def inputs(rows: int = 6, num_dense: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.stack([torch.randint(0, size, (rows,)) for size in SIZES], 1)
    return ids, torch.randn(rows, num_dense)


def test_field_table_gives_each_field_its_own_rows() -> None:
    table = FieldTable(SIZES, 3, init_std=1.0)
    ids, _ = inputs()
    out = table(ids)
    assert out.shape == (6, 4, 3)
    for row in range(6):
        for field in range(4):
            expected = table.table.weight[sum(SIZES[:field]) + int(ids[row, field])]
            assert torch.equal(out[row, field], expected)
    assert torch.equal(table(ids.int()), out)
    assert "offsets" not in table.state_dict()


@pytest.mark.parametrize("sizes, dim", [([], 4), ([3, 0], 4), ([3], 0)])
def test_field_table_refuses_sizes_that_make_no_table(sizes: list[int], dim: int) -> None:
    with pytest.raises(ValueError):
        FieldTable(sizes, dim)


def test_fm_identity_against_the_double_loop() -> None:
    torch.manual_seed(0)
    v = torch.randn(5, 7, 4, dtype=torch.float64)  # [B, fields, dim]
    pairs = sum((v[:, i] * v[:, j]).sum(-1) for i in range(7) for j in range(i + 1, 7))
    torch.testing.assert_close(fm_pooling(v.sum(1), v.square().sum((1, 2))), pairs)


def slow_deepfm(model: DeepFM, ids: list[int], x: list[float]) -> float:
    """Equations 1 to 4 of the paper for one row, one product at a time."""
    table = model.fields.table.weight.detach().double().numpy()
    dim = table.shape[1] - 1
    rows = [table[sum(SIZES[:f]) + i] for f, i in enumerate(ids)]
    logit = float(model.bias.detach()) + sum(float(r[dim]) for r in rows)
    vectors = [r[:dim] for r in rows]
    if model.dense is not None:
        logit += sum(float(w) * value for w, value in zip(model.dense.weight[0].tolist(), x, strict=True))
        vectors += [v * value for v, value in zip(model.dense_embedding.detach().double().numpy(), x, strict=True)]
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            logit += float(sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True)))
    if model.deep is not None:
        h = np.concatenate([*(r[:dim] for r in rows), x])
        layers = [m for m in model.deep.modules() if isinstance(m, nn.Linear)]
        for place, layer in enumerate(layers):
            h = layer.weight.detach().double().numpy() @ h + layer.bias.detach().double().numpy()
            if place < len(layers) - 1:
                h = np.maximum(h, 0.0)
        logit += float(h[0])
    return logit


@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("hidden", [[], [5, 3]])
def test_deepfm_against_a_slow_transcription(num_dense: int, hidden: list[int]) -> None:
    ids, dense = inputs(num_dense=num_dense)
    model = DeepFM(vocab_sizes=SIZES, num_dense=num_dense, dim=4, hidden=hidden, init_std=1.0)
    with torch.no_grad():
        model.bias.fill_(0.7)
    out = model(ids, dense if num_dense else None)
    assert out.shape == (6,)
    expected = [slow_deepfm(model, i, x) for i, x in zip(ids.tolist(), dense.tolist(), strict=True)]
    torch.testing.assert_close(out.detach().double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_deepfm_gradient_reaches_every_parameter() -> None:
    ids, dense = inputs()
    model = DeepFM(vocab_sizes=SIZES, num_dense=2, dim=4, hidden=[8, 8], batch_norm=True, init_std=0.5)
    model(ids, dense).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_lr_is_a_sum_of_weights() -> None:
    ids, dense = inputs()
    model = LR(vocab_sizes=SIZES, num_dense=2, init_std=1.0)
    with torch.no_grad():
        model.bias.fill_(-0.3)
    weight = model.fields.table.weight.detach()[:, 0]
    starts = [0, 5, 6, 15]
    expected = [
        -0.3
        + sum(float(weight[s + i]) for s, i in zip(starts, row, strict=True))
        + float(model.dense.weight.detach()[0] @ x)
        for row, x in zip(ids.tolist(), dense, strict=True)
    ]
    torch.testing.assert_close(model(ids, dense).detach(), torch.tensor(expected))
    assert LR(vocab_sizes=SIZES)(ids).shape == (6,)


@pytest.mark.parametrize("kind", [DeepFM, LR])
def test_dense_features_are_neither_dropped_nor_missed(kind: type[DeepFM] | type[LR]) -> None:
    ids, dense = inputs()
    with pytest.raises(ValueError, match="num_dense"):
        kind(vocab_sizes=SIZES)(ids, dense)
    with pytest.raises(ValueError, match="num_dense"):
        kind(vocab_sizes=SIZES, num_dense=2)(ids)


def test_mlp_order_and_initialisation() -> None:
    torch.manual_seed(0)
    layers = mlp([300, 200, 100], dropout=0.3, batch_norm=True)
    # Glorot and Bengio, 2010, equation 12: variance 2 / (inputs + outputs)
    one = [Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in layers] == one + one
    assert float(layers[0].weight.detach().std()) == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    plain = mlp([3, 2])
    assert [type(layer) for layer in plain] == [Linear, nn.ReLU]
    assert float(plain[0].bias.detach().abs().sum()) == 0.0
