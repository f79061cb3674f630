"""RoIAlign by rows against torchvision's operator: values, gradients and the choice of the level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from paddlecv.layers.roi_align import RoIAlign, pyramid_level

STRIDES = (4, 8, 16, 32)


def maps_and_boxes(height: int = 96, width: int = 128, channels: int = 5) -> tuple[list[Tensor], Tensor]:
    """Maps of two images, and boxes of all sizes, some reaching out of the image, some without area."""
    torch.manual_seed(0)
    maps = [torch.randn(2, channels, height // s, width // s, requires_grad=True) for s in STRIDES]
    corner = torch.rand(2, 40, 2) * torch.tensor([width, height]) - 10
    side = torch.cat([torch.rand(2, 20, 2) * 40, torch.rand(2, 20, 2) * 150], 1)
    boxes = torch.cat([corner, corner + side], -1)
    boxes[0, :3] = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 9], [0, 0, width, height]])
    return maps, boxes


@pytest.mark.parametrize(("size", "sampling", "last"), [(7, 2, False), (14, 2, True), (3, 1, False), (2, 4, True)])
def test_equals_torchvision(size: int, sampling: int, last: bool) -> None:
    maps, boxes = maps_and_boxes()
    given = [m.contiguous(memory_format=torch.channels_last) if last else m for m in maps]
    ours = RoIAlign(output_size=size, sampling=sampling, strides=STRIDES, canonical=60)(given, boxes)
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], size, sampling, canonical_scale=60)
    theirs = reference(dict(zip("0123", maps, strict=True)), list(boxes), [(96, 128)] * 2)
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)
    gradient = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, maps, gradient), torch.autograd.grad(theirs, maps, gradient), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_any_device_but_the_cpu_takes_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    align = RoIAlign(output_size=4, strides=STRIDES)
    monkeypatch.setattr(align, "_by_operator", lambda *given: {value.device.type for value in given[1:]})
    maps, boxes = maps_and_boxes()
    assert align([m.to("meta") for m in maps], boxes.to("meta")) == {"meta"}


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_the_path_of_other_devices_is_the_same(dtype: torch.dtype, rounding: float) -> None:
    maps, boxes = maps_and_boxes()
    maps = [m.to(dtype) for m in maps]
    align = RoIAlign(output_size=4, strides=STRIDES, canonical=60)
    level = pyramid_level(boxes, STRIDES, 60).flatten()
    image = torch.arange(2).repeat_interleave(40)
    assert len(level.unique()) == 4
    torch.testing.assert_close(
        align._by_operator(maps, boxes.flatten(0, 1), level, image), align(maps, boxes), atol=3e-5, rtol=rounding
    )


def test_half_precision_maps_are_summed_in_full() -> None:
    maps, boxes = maps_and_boxes()
    align = RoIAlign(output_size=4, strides=STRIDES)
    half = align([m.bfloat16() for m in maps], boxes)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, align([m.bfloat16().float() for m in maps], boxes).bfloat16())


def test_level_of_a_box() -> None:
    """Lin et al., section 4.2: a box of 224 pixels is read at stride 16, one half as large at 8."""
    sides = torch.tensor([1.0, 60, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], -1)
    assert pyramid_level(boxes, STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pyramid_level(boxes, (8, 16), canonical=112).tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_refuses_sizes_and_maps_that_do_not_fit() -> None:
    maps, boxes = maps_and_boxes()
    with pytest.raises(ValueError, match="must be positive"):
        RoIAlign(output_size=0)
    for strides in ((), (4, 16), (6, 12), (8, 4)):
        with pytest.raises(ValueError, match="strides must be powers of two, each twice the one before, got"):
            RoIAlign(output_size=2, strides=strides)
    with pytest.raises(ValueError, match=r"4 maps for strides \(4, 8\)"):
        RoIAlign(output_size=2, strides=(4, 8))(maps, boxes)
