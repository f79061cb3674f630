"""CIFAR-10's files and their damage, the split, and augmentation of a whole batch against one image at a time."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paddlecore.errors import DataError
from paddlecv.data import CIFAR10Data
from paddlecv.data.cifar10 import NAMES, _archived, _held_out, cropped, read_archive, read_binary
from paddlecv.data.images import DEVIATION, MEAN


def test_cropped_equals_padding_and_cutting_one_image_at_a_time() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)
    draws = random.random((40, 3), dtype=np.float32)
    found = cropped(images, draws, pad=2, flip=True)
    for image, (down, right, mirrored), out in zip(images, draws, found, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        y, x = int(down * 5), int(right * 5)
        cut = padded[:, y : y + 6, x : x + 5]
        np.testing.assert_array_equal(out, cut[:, :, ::-1] if mirrored >= 0.5 else cut)
    np.testing.assert_array_equal(cropped(images, draws, pad=0, flip=False), images)


def toy(**options: object) -> CIFAR10Data:
    data = CIFAR10Data(source="toy", **options)  # type: ignore[arg-type]
    data.prepare()
    return data


def test_an_image_depends_on_seed_epoch_and_row_alone() -> None:
    rows = toy().rows("train")
    whole = rows.fetch(np.arange(50), 3)
    assert torch.equal(rows.fetch(np.array([7, 3]), 3)["image"], whole["image"][[7, 3]])
    assert not torch.equal(rows.fetch(np.arange(50), 4)["image"], whole["image"])
    assert not torch.equal(toy(seed=2).rows("train").fetch(np.arange(50), 3)["image"], whole["image"])
    still = toy(pad=0, flip=False).rows("train")
    expected = (still.images[:5] / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(DEVIATION, (3, 1, 1))
    np.testing.assert_allclose(still.fetch(np.arange(5), 0)["image"], expected, atol=1e-5)
    assert whole["image"].dtype == torch.float32 and whole["label"].dtype == torch.int64


def test_every_25th_image_of_a_class_is_for_validation() -> None:
    labels = np.array([0, 1] * 60)
    found = _held_out(np.arange(120), labels)
    assert found["valid"][0].tolist() == [48, 49, 98, 99]
    assert sorted([*found["train"][0], *found["valid"][0]]) == list(range(120))


def binary(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = random.integers(0, 256, (60, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(60) % 10
        records.tofile(folder / name)
    return folder


def test_the_binary_version_is_read(tmp_path: Path) -> None:
    data = CIFAR10Data(source=str(binary(tmp_path)))
    data.prepare()
    assert {split: len(data.rows(split)) for split in data.splits} == {"train": 290, "valid": 10, "test": 60}
    assert data.spec == {"num_classes": 10, "in_channels": 3, "labels": list(NAMES)}
    record = np.fromfile(tmp_path / "test_batch.bin", np.uint8)[:3073]
    np.testing.assert_array_equal(data.rows("test").images[0].reshape(-1), record[1:])
    path = tmp_path / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"test_batch.bin, byte {60 * 3073 - 1}: the file ends within a record"):
        data.prepare()
    path.write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match="byte 3073: label 10 is not 0 to 9"):
        read_binary(path)
    path.unlink()
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match="data_batch_2.bin cannot be read"):
        binary_without = CIFAR10Data(source=str(tmp_path))
        (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
        binary_without.prepare()


def packed(path: Path, images: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as file:
        for name, content in images.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def png(level: int, size: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_archives_are_read_by_class_and_name(tmp_path: Path) -> None:
    order = {"t/dog/1.png": png(3), "t/cat/2.png": png(2), "t/cat/1.png": png(1)}
    images, labels = read_archive(packed(tmp_path / "a.tar.xz", order))
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3] and labels.tolist() == [3, 3, 5]


@pytest.mark.parametrize(
    ("images", "message"),
    [({"t/cow/1.png": png(1)}, "is not <split>/<class>/<image>"), ({"t/cat/1.png": png(1, 8)}, "has .8, 8. pixels"),
     ({"t/cat/1.png": b"x"}, "is damaged"), ({}, "holds no images")],
)  # fmt: skip
def test_other_archives_are_refused(images: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_archive(packed(tmp_path / "a.tar.xz", images))


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.xz", {f"t/cat/{i}.png": png(i) for i in range(50)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        read_archive(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(40)])
def test_decoded_images_are_kept_and_damaged_ones_made_again(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "test.tar.xz", {"t/cat/1.png": png(1)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _archived(path)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(content)
    assert _archived(path)[1].tolist() == [3] and kept.read_bytes() == whole


def test_own_folders_are_scaled_and_cut_to_a_square(tmp_path: Path) -> None:
    for split, count in (("train", 50), ("test", 2)):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (80, 40), (200, 100, 0)).save(tmp_path / split / name / f"{i:02}.png")
    data = CIFAR10Data(source=str(tmp_path))
    data.prepare()
    assert {s: len(data.rows(s)) for s in data.splits} == {"train": 96, "valid": 4, "test": 4}
    batch = data.encode(str(tmp_path / "test" / "a" / "00.png"))
    assert batch["image"].shape == (1, 3, 32, 32) and torch.equal(
        batch["image"], data.rows("test").fetch(np.array([0]), 0)["image"]
    )
    raw, truth = data.sample("test", 3)
    assert truth == {"label": "b"} and data.picture(raw, truth).width >= 160
    for raw in data.examples():
        assert data.encode(json.loads(json.dumps(raw)))["image"].shape == (1, 3, 32, 32)


def test_the_real_files() -> None:
    root = os.environ.get("PADDLE_DATA")
    if not root or not (Path(root) / "cv/cifar10_jpeg").is_dir():
        pytest.skip("PADDLE_DATA has no cv/cifar10_jpeg")
    data = CIFAR10Data()
    data.prepare()
    assert data.describe()["rows"] == {"train": 48_000, "valid": 2_000, "test": 10_000}
    assert all(set(counts.values()) in ({4800}, {200}, {1000}) for counts in data.describe()["classes"].values())
