"""Products by oneDNN are torch's, and so are their gradients; what falls back to torch's own layer."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import get_gradient_edge

from paddlecore.linear import Linear


@pytest.mark.parametrize(("given", "out"), [(64, 160), (160, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_torchs_layer_and_has_its_gradients(given: int, out: int, bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(given, out, bias), torch.nn.Linear(given, out, bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 50, given, requires_grad=True)
    y = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()  # not in one piece
    results = []
    for layer, value in ((ours, x), (ours, y), (theirs, x.detach().clone().requires_grad_())):
        layer.zero_grad()
        product = layer(value)
        (product**2).sum().backward()
        results.append([product.detach(), value.grad, *(p.grad for p in layer.parameters())])
    for result in results[:2]:
        for a, b in zip(result, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), results[2][0], rtol=1e-5, atol=1e-5)


def test_small_products_other_widths_are_torchs() -> None:
    layer, x = Linear(64, 256), torch.randn(100, 64)

    def operator(y: torch.Tensor) -> str:
        return get_gradient_edge(y).node.name()

    assert operator(layer(x)) == "_ProductBackward"
    assert operator(layer(x[:4])) == "AddmmBackward0"
    wide = Linear(4096, 256)
    wide(torch.ones(4096)).sum().backward()  # one row alone, [in] -> [out]
    assert wide.weight.grad is not None and wide.weight.grad.eq(1).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_an_exported_layer_takes_any_number_of_rows() -> None:
    layer = torch.nn.Sequential(Linear(64, 256)).eval()
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(layer, (torch.randn(4, 64),), dynamic_shapes=({0: rows},)).module()
    for number in (3, 100):  # below and above the size from which on oneDNN's product is taken
        x = torch.randn(number, 64)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-4, atol=1e-4)
