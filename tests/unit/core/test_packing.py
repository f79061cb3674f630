"""Weights in few bits, against plain loops."""

from __future__ import annotations

import pytest
import torch

from paddlecore import packing
from paddlecore.errors import CheckpointError


@pytest.mark.parametrize("bits", packing.BITS)
def test_bytes_are_the_integers_written_one_after_another(bits: int) -> None:
    half = 2 ** (bits - 1)
    integers = torch.randint(-half, half, (37,), generator=torch.Generator().manual_seed(bits))
    integers[:2] = torch.tensor([-half, half - 1])
    text = "".join(f"{int(i) + half:0{bits}b}" for i in integers)
    text += "0" * (-len(text) % 8)
    expected = [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]
    content = packing._to_bytes(integers.short(), bits)
    assert content.tolist() == expected
    assert packing._from_bytes(content, bits, 37).tolist() == integers.tolist()


@pytest.mark.parametrize("bits", packing.BITS)
def test_each_number_is_the_nearest_multiple_of_its_rows_scale(bits: int) -> None:
    weight = (
        torch.randn(64, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 2, 64)[:, None, None, None]
    )
    packed = packing.pack({"w": weight}, bits)
    assert set(packed) == {f"w@{bits}", "w@scale", "w@shape"}
    assert packed[f"w@{bits}"].numel() == weight.numel() * bits // 8
    read = packing.unpack(packed, "here")["w"]
    assert read.shape == weight.shape and read.dtype == torch.float32
    top = 2 ** (bits - 1) - 1
    for row, found, scale in zip(weight.flatten(1), read.flatten(1), packed["w@scale"].tolist(), strict=True):
        for number, other in zip(row.tolist(), found.tolist(), strict=True):
            assert abs(other - max(-top, min(top, round(number / scale))) * scale) <= 1e-5 * abs(number)
    # the signal beside the error: 6 dB a bit, of a normal distribution that is cut off where that is best
    ratio = 10 * (weight.flatten(1).square().sum(1) / (weight - read).flatten(1).square().sum(1)).log10()
    assert ratio.mean() > 6.02 * bits - 5.2


def test_the_scale_has_the_least_squared_error_of_those_tried() -> None:
    rows = torch.randn(5, 100, generator=torch.Generator().manual_seed(1))
    integers, scale = packing._rounded(rows, 4)
    for row, kept, step in zip(rows, integers, scale.tolist(), strict=True):
        error = float((kept * step - row).square().sum())
        for share in torch.linspace(1, 0.4, 25).tolist():
            other = float((row.abs().max() * share / 7).half())
            assert error <= float(((row / other).round().clamp(-7, 7) * other - row).square().sum()) + 1e-4


def test_zeros_stay_zeros_and_small_tensors_are_halved() -> None:
    sparse = torch.randn(100, 64, generator=torch.Generator().manual_seed(2))
    sparse[3] = 0
    sparse[:, ::2] = 0
    tensors = {"sparse": sparse, "bias": torch.rand(5000), "thin": torch.rand(4096, 8), "seen": torch.tensor(3)}
    packed = packing.pack(tensors, 6)
    read = packing.unpack(packed, "here")
    assert read.keys() == tensors.keys()
    assert not read["sparse"][3].any() and not read["sparse"][:, ::2].any()
    assert read["bias"].dtype == read["thin"].dtype == torch.float16 and read["seen"] == 3


def test_names_of_other_programs_are_left_alone() -> None:
    tensors = {"a@b": torch.ones(2), "@": torch.ones(1), "plain": torch.ones(3)}
    assert packing.unpack(tensors, "here").keys() == tensors.keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("w@scale"),
        lambda parts: parts.pop("w@shape"),
        lambda parts: parts.update({"w@5": parts["w@5"][:-1]}),
        lambda parts: parts.update({"w@5": parts["w@5"].short()}),
        lambda parts: parts.update({"w@99": parts.pop("w@5")}),
        lambda parts: parts.update({"w@scale": parts["w@scale"][:7]}),
        lambda parts: parts.update({"w@shape": torch.tensor([-64, -128])}),
        lambda parts: parts.update({"w@shape": torch.tensor(0.5)}),
    ],
)
def test_parts_that_do_not_belong_together_are_named(change) -> None:  # type: ignore[no-untyped-def]
    parts = packing.pack({"w": torch.ones(64, 128)}, 5)
    change(parts)
    with pytest.raises(CheckpointError, match="weights.safetensors: the parts of w do not belong together"):
        packing.unpack(parts, "weights.safetensors")
