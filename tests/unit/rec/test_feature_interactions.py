"""FM, Wide & Deep, DeepCTR, DCN, DCN-V2 and xDeepFM against slow transcriptions of their equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paddlerec.models import DCN, FM, DCNv2, DeepCTR, DeepFM, WideDeep, XDeepFM
from paddlerec.models.dcn import CrossNet
from paddlerec.models.dcn_v2 import CrossLayer, LowRankCrossLayer
from paddlerec.models.xdeepfm import CIN, _Interaction

SIZES = [5, 1, 9, 3]
MODELS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (FM, {}),
    (WideDeep, {"hidden": [6], "crosses": [[0, 2], [3, 1, 0]]}),
    (DeepCTR, {"hidden": [6, 5]}),
    (DCN, {"hidden": [6]}),
    (DCN, {"hidden": []}),
    (DCNv2, {"hidden": [6]}),
    (DCNv2, {"hidden": [6], "structure": "stacked", "rank": 2}),
    (DCNv2, {"hidden": [6], "rank": 2, "experts": 3}),
    (XDeepFM, {"hidden": [6], "cin": [4, 3]}),
]


def inputs(rows: int = 6, num_dense: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    ids = torch.stack([torch.randint(0, size, (rows,)) for size in SIZES], 1)
    return ids, torch.randn(rows, num_dense)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def rows_of(model: Any, ids: Tensor) -> np.ndarray:
    """[B, F, columns] what the table holds for these ids, field by field."""
    table = array(model.fields.table.weight)
    starts = np.cumsum([0, *SIZES[:-1]])
    return np.stack([table[starts + row] for row in ids.numpy()])


def deep(layers: nn.Module, x: np.ndarray) -> np.ndarray:
    """Linear layers with ReLU after all of them that the module has a ReLU for."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            x = array(layer.weight) @ x + array(layer.bias)
        elif isinstance(layer, nn.ReLU):
            x = np.maximum(x, 0)
    return x


def slow_crosses(model: WideDeep, ids: list[int]) -> float:
    """The weight of each cross product whose combinations are all kept."""
    weight, start, total = array(model.cross_table.table.weight)[:, 0], 0, 0.0
    for fields in model.crosses:
        grid = np.arange(np.prod([SIZES[f] for f in fields])).reshape([SIZES[f] for f in fields])
        total += weight[start + grid[tuple(ids[f] for f in fields)]]
        start += grid.size
    return total


@pytest.mark.parametrize("num_dense", [0, 2])
def test_fm_is_the_double_loop_and_deepfm_without_its_deep_network(num_dense: int) -> None:
    ids, dense = inputs(num_dense=num_dense)
    model = FM(vocab_sizes=SIZES, num_dense=num_dense, dim=4, init_std=1.0)
    with torch.no_grad():
        model.bias.fill_(0.7)
    out = model(ids, dense if num_dense else None).detach()
    for row, (cells, x) in enumerate(zip(rows_of(model, ids), dense.tolist(), strict=True)):
        features = [(cell[:4], cell[4], 1.0) for cell in cells]
        if num_dense:
            weights = array(model.dense.weight)[0]
            features += list(zip(array(model.dense_embedding), weights, x, strict=True))
        expected = 0.7 + sum(w * value for _, w, value in features)
        for i, (v, _, value) in enumerate(features):
            expected += sum(float(v @ other) * value * its for other, _, its in features[i + 1 :])
        assert float(out[row]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    twin = DeepFM(vocab_sizes=SIZES, num_dense=num_dense, dim=4, hidden=[])
    twin.load_state_dict(model.state_dict())  # the names are the same
    torch.testing.assert_close(twin(ids, dense if num_dense else None).detach(), out)
    # one bias, a weight and a vector for each feature: sec. III
    assert count(model) == 1 + (sum(SIZES) + num_dense) * (1 + 4)


@pytest.mark.parametrize("num_dense", [0, 2])
def test_wide_deep_and_deepctr_are_their_sums(num_dense: int) -> None:
    ids, dense = inputs(num_dense=num_dense)
    given = dense if num_dense else None
    sizes: dict[str, Any] = {"vocab_sizes": SIZES, "num_dense": num_dense, "dim": 4, "init_std": 1.0}
    plain = DeepCTR(hidden=[5, 3], **sizes)
    wide = WideDeep(hidden=[5, 3], crosses=[[0, 2], [3, 1, 0]], **sizes)
    assert count(wide) - count(plain) == sum(SIZES) + num_dense + 5 * 9 + 3 * 1 * 5
    for row in range(len(ids)):
        x = np.concatenate([rows_of(plain, ids)[row].ravel(), array(dense[row])])
        assert float(plain(ids, given)[row].detach()) == pytest.approx(float(deep(plain.deep, x)[0]), rel=1e-4)
        cells = rows_of(wide, ids)[row]
        x = np.concatenate([cells[:, :4].ravel(), array(dense[row])])
        expected = deep(wide.deep, x)[0] + cells[:, 4].sum() + slow_crosses(wide, ids[row].tolist())
        if num_dense:
            expected += array(wide.dense.weight)[0] @ array(dense[row])
        assert float(wide(ids, given)[row].detach()) == pytest.approx(float(expected), rel=1e-4)


def test_a_history_of_deepctr_is_the_mean_of_the_vectors_of_its_field() -> None:
    ids, dense = inputs()
    torch.manual_seed(2)
    model = DeepCTR(
        vocab_sizes=SIZES, num_dense=2, history_fields={"seen": 2, "liked": 0}, dim=4, hidden=[5], init_std=1.0
    )
    given = {"seen": torch.randint(0, SIZES[2], (len(ids), 3)), "liked": torch.randint(0, SIZES[0], (len(ids), 2))}
    given["seen"][0] = 0  # an empty one
    out, plain = model(ids, dense, given), model.eval()(ids, dense, given)
    torch.testing.assert_close(out, plain)  # with a gradient and without
    table, first = array(model.fields.table.weight), model.fields.offsets.tolist()
    for row, cells in enumerate(rows_of(model, ids)):
        parts = [cells.ravel()]
        for name, field in (("seen", 2), ("liked", 0)):
            known = [first[field] + i for i in given[name][row].tolist() if i]
            parts.append(table[known].mean(0) if known else np.zeros(4))
        expected = deep(model.deep, np.concatenate([*parts, array(dense[row])]))[0]
        assert float(out[row].detach()) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="histories must have seen, liked"):
        model(ids, dense, {"seen": given["seen"]})


def test_large_cross_products_are_hashed_evenly() -> None:
    model = WideDeep(vocab_sizes=[300, 200], dim=1, hidden=[1], crosses=[[0, 1]], cross_rows=64)
    grid = torch.cartesian_prod(torch.arange(300), torch.arange(200))
    cross = model.cross_ids(grid.int())[:, 0]
    assert int(cross.min()) >= 0 and int(cross.max()) < 64
    observed = torch.bincount(cross, minlength=64).double()
    chi_square = float(((observed - len(grid) / 64) ** 2 / (len(grid) / 64)).sum())
    assert chi_square < 108  # 63 degrees of freedom: the upper 0.0004
    assert torch.equal(model.cross_ids(grid), model.cross_ids(grid.int()))


@pytest.mark.parametrize("crosses", [[[0]], [[0, 0]], [[0, 9]], [[-1, 0]]])
def test_crosses_that_are_none_are_refused(crosses: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="a cross needs"):
        WideDeep(vocab_sizes=SIZES, crosses=crosses)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_cross_network_against_its_equation(layers: int) -> None:
    torch.manual_seed(0)
    net = CrossNet(7, layers)
    nn.init.normal_(net.bias)
    start = torch.randn(4, 7)
    for x0, out in zip(array(start), array(net(start)), strict=True):
        x = x0
        for w, b in zip(array(net.weight), array(net.bias), strict=True):
            x = np.outer(x0, x) @ w + b + x
        np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-4)
    assert count(net) == 7 * layers * 2  # sec. 2.2
    # gradients, too: the same sum in the paper's own order
    net.double()
    x0 = x = start.double().requires_grad_()
    for w, b in zip(net.weight, net.bias, strict=True):
        x = x0 * (x @ w).unsqueeze(1) + b + x
    wanted = torch.autograd.grad(x.square().sum(), [x0, *net.parameters()])
    given = torch.autograd.grad(net(x0).square().sum(), [x0, *net.parameters()])
    torch.testing.assert_close(given, wanted)


def test_whole_matrix_cross_layer_against_its_equation() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(5)
    nn.init.normal_(layer.linear.bias)
    start, x = torch.randn(3, 5), torch.randn(3, 5)
    weight, bias, out = array(layer.linear.weight), array(layer.linear.bias), array(layer(start, x))
    for row in range(3):
        for i in range(5):
            inner = bias[i] + sum(weight[i, j] * float(x[row, j]) for j in range(5))
            assert out[row, i] == pytest.approx(float(start[row, i]) * inner + float(x[row, i]), rel=1e-4, abs=1e-5)
    assert count(layer) == 5 * 5 + 5


@pytest.mark.parametrize("experts", [1, 3])
def test_low_rank_cross_layers_against_their_equations(experts: int) -> None:
    torch.manual_seed(0)
    layer = LowRankCrossLayer(5, 2, experts)
    nn.init.normal_(layer.bias)
    start, x = torch.randn(4, 5), torch.randn(4, 5)
    out, bias = array(layer(start, x)), array(layer.bias)
    for row in range(4):
        x0, xl = array(start[row]), array(x[row])
        gate = np.ones(1)
        if layer.gate is not None:
            gate = np.exp(array(layer.gate.weight) @ xl)
            gate /= gate.sum()
        expected = xl
        for expert in range(experts):
            h = array(layer.down)[expert].T @ xl  # V' x
            if layer.inner is not None:
                h = np.tanh(array(layer.inner)[expert].T @ np.tanh(h))
            expected = expected + gate[expert] * (x0 * (array(layer.up)[expert].T @ h + bias))
        np.testing.assert_allclose(out[row], expected, rtol=1e-4, atol=1e-5)
    assert count(layer) == experts * 2 * 5 * 2 + 5 + (experts * (2 * 2 + 5) if experts > 1 else 0)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_deep_networks_stand_beside_or_behind_the_cross_layers(structure: str) -> None:
    ids, dense = inputs()
    model = DCNv2(vocab_sizes=SIZES, num_dense=2, dim=3, hidden=[6, 4], structure=structure, init_std=1.0)
    x0 = torch.from_numpy(np.concatenate([rows_of(model, ids).reshape(6, -1), array(dense)], 1)).float()
    x = x0
    for layer in model.cross:
        x = layer(x0, x)
    for row in range(6):
        h = deep(model.deep, array(x0[row] if structure == "parallel" else x[row]))
        h = np.concatenate([array(x[row]), h]) if structure == "parallel" else h
        expected = float((array(model.out.weight) @ h + array(model.out.bias))[0])
        assert float(model(ids, dense)[row].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_dcn_is_linear_in_both_outputs() -> None:
    ids, dense = inputs()
    model = DCN(vocab_sizes=SIZES, num_dense=2, dim=3, hidden=[6, 4], init_std=1.0)
    x0 = np.concatenate([rows_of(model, ids).reshape(6, -1), array(dense)], 1)
    for row in range(6):
        x = x0[row]
        for w in array(model.cross.weight):
            x = x0[row] * (x @ w) + x
        h = np.concatenate([x, deep(model.deep, x0[row])])
        expected = float((array(model.out.weight) @ h + array(model.out.bias))[0])
        assert float(model(ids, dense)[row].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def naive_cin(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Equations 6 and 7 with a loop for each index; x [B, m, D]."""
    below, pooled = x, []
    for weight in weights:
        maps = []
        for h in range(weight.shape[0]):
            terms = [
                weight[h, i, j] * below[:, i] * x[:, j] for i in range(weight.shape[1]) for j in range(weight.shape[2])
            ]
            maps.append(torch.stack(terms).sum(0))
        below = torch.stack(maps, 1)
        pooled.append(below.sum(2))
    return torch.cat(pooled, 1)


@pytest.mark.parametrize("maps", [[1], [3], [4, 2, 3]])
def test_cin_against_its_equations(maps: list[int]) -> None:
    torch.manual_seed(0)
    net = CIN(5, maps).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)  # [B, m, D]
    weights = list(net.weights)
    wanted, given = naive_cin(x, weights), net(x.transpose(1, 2))
    assert given.shape == (3, sum(maps))
    torch.testing.assert_close(given, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(given.square().sum(), [x, *weights]),
        torch.autograd.grad(wanted.square().sum(), [x, *weights]),
    )
    # sum of H_k (1 + H_{k-1} m), the output weights among them: sec. 3.2.1
    below = [5, *maps[:-1]]
    assert count(net) + sum(maps) == sum(h * (1 + b * 5) for h, b in zip(maps, below, strict=True))


def test_cin_in_pieces_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(11, n, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    weight = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr("paddlerec.models.xdeepfm._rows", lambda *_: 4)
    assert torch.autograd.gradcheck(_Interaction.apply, (left, right, weight))


def test_xdeepfm_is_the_sum_of_its_parts() -> None:
    ids, dense = inputs()
    model = XDeepFM(vocab_sizes=SIZES, num_dense=2, dim=3, cin=[4, 2], hidden=[6], init_std=1.0)
    for row, cells in enumerate(rows_of(model, ids)):
        own = array(dense[row])
        vectors = np.concatenate([cells[:, :3], array(model.dense_embedding) * own[:, None]])
        cin = naive_cin(torch.from_numpy(vectors)[None], [w.detach().double() for w in model.cin.weights])
        expected = deep(model.deep, np.concatenate([cells[:, :3].ravel(), own]))[0]
        expected += cells[:, 3].sum() + array(model.dense.weight)[0] @ own
        expected += float(array(model.cin_out.weight)[0] @ array(cin)[0])
        assert float(model(ids, dense)[row].detach()) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("kind", "sizes"), MODELS)
def test_gradient_reaches_every_parameter(kind: type[nn.Module], sizes: dict[str, Any]) -> None:
    ids, dense = inputs()
    model = kind(vocab_sizes=SIZES, num_dense=2, dim=4, init_std=0.5, **sizes)
    model(ids, dense).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("kind", "sizes"), MODELS)
def test_dense_features_are_neither_dropped_nor_missed(kind: type[nn.Module], sizes: dict[str, Any]) -> None:
    ids, dense = inputs()
    with pytest.raises(ValueError, match="num_dense"):
        kind(vocab_sizes=SIZES, **sizes)(ids, dense)
    with pytest.raises(ValueError, match="num_dense"):
        kind(vocab_sizes=SIZES, num_dense=2, **sizes)(ids)


@pytest.mark.parametrize(("kind", "sizes"), MODELS)
def test_bf16_autocast_trains(kind: type[nn.Module], sizes: dict[str, Any]) -> None:
    ids, dense = inputs()
    model = kind(vocab_sizes=SIZES, num_dense=2, dim=4, init_std=0.5, **sizes)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, dense)
    torch.testing.assert_close(out.float(), model(ids, dense), rtol=0.05, atol=0.1)
    out.float().sum().backward()


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(DCN, {"cross_layers": 0}), (DCNv2, {"structure": "both"}), (DCNv2, {"experts": 2}), (XDeepFM, {"cin": []})],
)
def test_sizes_that_make_no_model_are_refused(kind: type[nn.Module], sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least|structure|experts"):
        kind(vocab_sizes=SIZES, **sizes)


def test_parameter_counts_of_the_published_runs() -> None:
    """BARS logs the parameters of each run on Frappe: of 5389 ids, and with biases before batch norm and in the CIN."""
    vocab, rows = [5380, *[1] * 9], 5389
    deep: dict[str, Any] = {"hidden": [400, 400, 400], "batch_norm": True}
    before_norm, cin_bias = 3 * 400, 64
    runs = [
        (FM(vocab_sizes=vocab, dim=10), 59_280),
        (WideDeep(vocab_sizes=vocab, dim=10, **deep), 423_280 - before_norm),
        (DCN(vocab_sizes=vocab, dim=10, cross_layers=3, **deep), 418_591 - before_norm),
        (DCNv2(vocab_sizes=vocab, dim=10, cross_layers=4, **deep), 458_391 - before_norm),
        (XDeepFM(vocab_sizes=vocab, dim=10, cin=[64], **deep), 429_809 - before_norm - cin_bias - 1),
    ]
    assert sum(vocab) == rows
    for model, published in runs:
        assert count(model) == published, type(model).__name__
