"""MNIST's files and their damage, own image folders, inputs of every kind, and augmentation that knows no batch."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paddlecore.data import Loader, Plan, eval_batches
from paddlecore.errors import DataError
from paddlecv.data import MNISTData
from paddlecv.data.images import as_text
from paddlecv.data.mnist import DEVIATION, MEAN, ImageRows, grey, moved, read_idx

# ---------------------------------------------------------------------------------------------------- idx files


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def idx_folder(folder: Path, train: int = 24, test: int = 3) -> Path:
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))  # not packed: that is read too
    return folder


def test_reads_what_was_written(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(values))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(values)))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name, (28, 28)), values)


GOOD = idx(np.zeros((2, 28, 28)))
DAMAGE = {
    "magic": (b"\x00\x00\x09\x03" + GOOD[4:], "byte 0: expected the magic number 00000803, found 00000903"),
    "labels": (idx(np.zeros(2)), "byte 0: expected the magic number 00000803"),
    "header": (GOOD[:10], "byte 10: the file ends within its header of 16 bytes"),
    "empty": (b"", "byte 0: the file ends within its header"),
    "width": (idx(np.zeros((2, 28, 27))), "byte 12: dimension 3 must be 28, found 27"),
    "none": (idx(np.zeros((0, 28, 28))), "byte 4: the file has no entries"),
    "short": (GOOD[:-1], f"byte {len(GOOD) - 1}: the file ends; its header declares {len(GOOD)} bytes"),
    "long": (GOOD + b"x", f"byte {len(GOOD)}: the file goes on"),
    "vast": (GOOD[:4] + b"\xff" * 4 + GOOD[8:], f"byte {len(GOOD)}: the file ends"),  # nothing of that size is made
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_named_by_file_and_byte(kind: str, packed: bool, tmp_path: Path) -> None:
    content, message = DAMAGE[kind]
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError) as error:
        read_idx(path, (28, 28))
    assert str(error.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize("cut", [5, 200, -4])
def test_a_cut_off_gzip_file_is_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    noise = np.random.default_rng(0).integers(0, 256, (2, 28, 28))
    path.write_bytes(gzip.compress(idx(noise))[:cut])
    with pytest.raises(DataError, match=r"images.gz, byte \d+: the file (is damaged|ends)"):
        read_idx(path, (28, 28))


def test_other_content_than_the_published_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    with pytest.raises(DataError, match="not the published file"):
        read_idx(tmp_path / "a", (28, 28), "0" * 64)


def test_every_twelfth_row_is_for_validation_whatever_the_seed(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    for seed in (1, 2):
        data = MNISTData(source=str(tmp_path), seed=seed)
        data.prepare()
        assert {split: len(data.rows(split)) for split in data.splits} == {"train": 22, "valid": 2, "test": 3}
        assert data.rows("valid").labels.tolist() == [1, 3]  # rows 11 and 23
        assert data.spec == {"num_classes": 10, "in_channels": 1, "labels": [str(i) for i in range(10)]}


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(4)))
    with pytest.raises(DataError, match="has 3 images, .*t10k-labels-idx1-ubyte 4 labels"):
        MNISTData(source=str(tmp_path)).prepare()
    labels.write_bytes(idx(np.array([0, 1, 10])))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte, byte 10: label 10 is not 0 to 9"):
        MNISTData(source=str(tmp_path)).prepare()
    labels.unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        MNISTData(source=str(tmp_path)).prepare()


def test_the_real_files() -> None:
    root = os.environ.get("PADDLE_DATA")
    if not root or not (Path(root) / "cv/mnist").is_dir():
        pytest.skip("PADDLE_DATA has no cv/mnist")
    data = MNISTData()
    data.prepare()
    assert data.describe()["rows"] == {"train": 55_000, "valid": 5_000, "test": 10_000}
    train, test = data.rows("train"), data.rows("test")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = sum(np.bincount(rows.images.reshape(-1), minlength=256) for rows in (train, data.rows("valid")))
    share, level = counts / counts.sum(), np.arange(256) / 255
    mean = (share * level).sum()
    assert mean == pytest.approx(MEAN, abs=5e-5)
    assert ((share * level**2).sum() - mean**2) ** 0.5 == pytest.approx(DEVIATION, abs=5e-5)
    assert data.fingerprint()


# ---------------------------------------------------------------------------------------------------- augmentation


def slowly_moved(image: np.ndarray, draw: np.ndarray, shift: float, rotate: float, scale: float) -> np.ndarray:
    """One pixel at a time: find where it comes from, and take the four there by their shares."""
    high, wide = image.shape
    angle = 2 * math.atan(math.tan(math.radians(rotate) / 2) * draw[2])
    size = 1 + scale * draw[3]
    out = np.zeros((high, wide))
    for i in range(high):
        for j in range(wide):
            y, x = i - (high - 1) / 2 - shift * draw[1], j - (wide - 1) / 2 - shift * draw[0]
            u = (math.cos(angle) * x + math.sin(angle) * y) / size + (wide - 1) / 2
            v = (math.cos(angle) * y - math.sin(angle) * x) / size + (high - 1) / 2
            for r in (math.floor(v), math.floor(v) + 1):
                for c in (math.floor(u), math.floor(u) + 1):
                    if 0 <= r < high and 0 <= c < wide:
                        out[i, j] += image[r, c] * (1 - abs(v - r)) * (1 - abs(u - c))
    return out


def test_moved_equals_a_loop_over_pixels() -> None:
    random = np.random.default_rng(0)
    image = random.random((3, 28, 28), dtype=np.float32)
    draws = np.array([[0, 0, 0, 0], [0.7, -0.3, 0.9, -0.8], [-1, 1, -1, 1]], dtype=np.float32)
    found = moved(torch.from_numpy(image), draws, shift=3.0, rotate=20.0, scale=0.2).numpy()
    for i in range(3):
        np.testing.assert_allclose(found[i], slowly_moved(image[i], draws[i], 3.0, 20.0, 0.2), atol=2e-5)
    np.testing.assert_allclose(found[0], image[0], atol=1e-5)


def toy(**options: object) -> MNISTData:
    data = MNISTData(source="toy", **options)  # type: ignore[arg-type]
    data.prepare()
    return data


def test_an_image_depends_on_seed_epoch_and_row_alone() -> None:
    rows = toy().rows("train")
    whole = rows.fetch(np.arange(67), 3)["image"]
    for size in (1, 2, 5, 33):
        for start in range(0, 60, size):
            some = np.arange(start, start + size)
            assert torch.equal(rows.fetch(some, 3)["image"], whole[some])
    shuffled = np.random.default_rng(0).permutation(67)
    assert torch.equal(rows.fetch(shuffled, 3)["image"], whole[shuffled])
    assert not torch.equal(rows.fetch(np.arange(67), 4)["image"], whole)
    assert not torch.equal(toy(seed=2).rows("train").fetch(np.arange(67), 3)["image"], whole)


def test_workers_make_the_same_images() -> None:
    rows = toy().rows("train")
    runs = []
    for workers in (0, 2):
        batches = Loader(rows, Plan(len(rows), 600, seed=1), workers=workers).stream(1, 2)
        runs.append([next(batches)[0] for _ in range(3)])  # over the end of an epoch
        batches.close()
    for here, there in zip(*runs, strict=True):
        assert torch.equal(here["image"], there["image"]) and torch.equal(here["label"], there["label"])


def test_only_training_images_are_moved() -> None:
    data = toy()
    for split, changed in (("train", True), ("valid", False), ("test", False)):
        rows = data.rows(split)
        batch = next(iter(eval_batches(rows, 16)))
        assert batch["image"].shape == (16, 1, 28, 28) and batch["image"].dtype == torch.float32
        assert batch["label"].dtype == torch.int64
        plain = (rows.images[:16] / 255 - MEAN) / DEVIATION
        assert np.allclose(batch["image"][:, 0], plain, atol=1e-5) != changed
    still = toy(shift=0, rotate=0, scale=0).rows("train")
    np.testing.assert_allclose(
        still.fetch(np.arange(9), 0)["image"][:, 0], (still.images[:9] / 255 - MEAN) / DEVIATION, atol=1e-5
    )


@pytest.mark.parametrize("options", [{"shift": -1.0}, {"shift": 14.0}, {"rotate": 180.0}, {"scale": 1.0}])
def test_refuses_movements_without_meaning(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(options))} must be"):
        MNISTData(**options)


# ---------------------------------------------------------------------------------------------------- own images


def image_folder(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (28, 28), 10 * i).save(folder / name / f"{i:02d}.png")
    return folder


def test_a_folder_of_classes_is_split_by_the_order_of_names(tmp_path: Path) -> None:
    data = MNISTData(source=str(image_folder(tmp_path, {"dog": 20, "cat": 10})))
    data.prepare()
    assert data.spec["labels"] == ["cat", "dog"]
    assert data.describe()["classes"] == {
        "train": {"cat": 8, "dog": 16}, "valid": {"cat": 1, "dog": 2}, "test": {"cat": 1, "dog": 2},
    }  # fmt: skip
    assert data.rows("valid").images[:, 0, 0].tolist() == [80, 80, 180]
    assert data.rows("test").images[:, 0, 0].tolist() == [90, 90, 190]


def test_a_folder_of_splits_is_taken_as_it_is(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", {"a": 2, "b": 3})
    image_folder(tmp_path / "valid", {"a": 1, "b": 0})
    data = MNISTData(source=str(tmp_path))
    data.prepare()
    assert data.splits == ("train", "valid")
    assert data.describe()["classes"] == {"train": {"a": 2, "b": 3}, "valid": {"a": 1, "b": 0}}


def test_class_names_must_agree(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", {"apple": 2, "pear": 2})
    image_folder(tmp_path / "valid", {"aple": 1, "pear": 1})
    with pytest.raises(
        DataError, match=r"classes of train and valid differ.*\n.*train +valid\n +aple +- +1\n +apple +2 +-\n"
    ):
        MNISTData(source=str(tmp_path)).prepare()


def test_classes_that_the_weights_do_not_know_are_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, {"zebra": 10, "apple": 10})
    data = MNISTData(source=str(tmp_path))
    data.restore({"labels": ["zebra", "apple", "pear"]})
    data.prepare()
    assert data.spec["labels"] == ["zebra", "apple", "pear"]  # the order of the weights
    assert data.rows("valid").labels.tolist() == [1, 0]
    other = MNISTData(source=str(tmp_path))
    other.restore({"labels": ["apple", "zebras"]})
    with pytest.raises(DataError, match=r"data.classes\) do not know; did you mean 'zebras'"):
        other.prepare()


def test_an_image_that_cannot_be_read_is_a_bad_row(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 11, "b": 10})
    bad = tmp_path / "a" / "03.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match="03.png:1: not an image that can be read"):
        MNISTData(source=str(tmp_path)).prepare()
    data = MNISTData(source=str(tmp_path), on_bad_row="skip")
    data.prepare()
    assert data.bad_rows.count == 1 and data.describe()["classes"]["train"] == {"a": 8, "b": 8}
    (tmp_path / "a" / "notes.txt").write_text("")
    data = MNISTData(source=str(tmp_path), on_bad_row="skip")
    data.prepare()
    assert data.describe()["passed_over"] == {".txt": 1}


@pytest.mark.parametrize(
    ("counts", "message"),
    [({"a": 10}, "at least two classes"), ({"a": 5, "b": 5}, "valid has no images"), ({}, "at least two classes")],
)
def test_a_folder_that_cannot_be_used_says_why(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        MNISTData(source=str(image_folder(tmp_path, counts))).prepare()
    with pytest.raises(DataError, match="there is no such folder"):
        MNISTData(source=str(tmp_path / "missing")).prepare()


# ---------------------------------------------------------------------------------------------------- one image


def saved(folder: Path, pixels: np.ndarray, mode: str | None = None, name: str = "a.png", **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(folder / name, **options)
    return folder / name


def test_grey_takes_colour_alpha_depth_size_and_exif(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    plain = random.integers(0, 256, (28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(grey(saved(tmp_path, plain)), plain)

    colour = random.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    luma = colour @ [0.299, 0.587, 0.114]
    assert abs(grey(saved(tmp_path, colour)) - luma).max() <= 1

    alpha = random.integers(0, 256, (28, 28, 1), dtype=np.uint8)
    over_black = luma * alpha[..., 0] / 255
    assert abs(grey(saved(tmp_path, np.concatenate([colour, alpha], 2))) - over_black).max() <= 2

    deep = (plain.astype(np.uint16) * 257).astype(np.uint16)
    np.testing.assert_array_equal(grey(saved(tmp_path, deep)), plain)

    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    turned = grey(saved(tmp_path, plain, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    path = saved(tmp_path, plain, name="a.tif", exif=exif)  # which Pillow turns by itself, once it reads the pixels
    for raw in (path, Image.open(path)):
        np.testing.assert_array_equal(grey(raw), np.rot90(plain, -1))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="cannot be used"):
        grey(Image.open(path))

    wide = np.full((28, 56), 200, np.uint8)  # twice as wide as high: half as high once it fits, black above and below
    found = grey(saved(tmp_path, wide, name="a.jpg"))
    assert found.shape == (28, 28) and (found[:7] == 0).all() and (found[-7:] == 0).all()
    assert abs(found[7:21].astype(int) - 200).max() <= 2


def test_encode_takes_a_path_a_list_or_json(tmp_path: Path) -> None:
    data, pixels = MNISTData(), np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    path = saved(tmp_path, pixels)
    rows = pixels.tolist()
    inputs = [path, str(path), rows, json.dumps(rows), {"image": str(path)}, json.dumps({"image": rows})]
    inputs += [Image.open(path), Image.fromarray(pixels).convert("RGBA"), {"image": as_text(Image.open(path))}]
    for raw in inputs:
        image = data.encode(raw)["image"]
        assert image.shape == (1, 1, 28, 28) and image.dtype == torch.float32
        np.testing.assert_allclose(image[0, 0], (pixels / 255 - MEAN) / DEVIATION, atol=1e-5)


NOT_IMAGES = [
    [[0] * 28] * 27, [[0] * 28] * 27 + [[0] * 27], [[256] + [0] * 27] * 28, [[-1] + [0] * 27] * 28,
    [[float("nan")] + [0] * 27] * 28, [["x"] * 28] * 28, None, 7, {"picture": "a.png"}, "[1, 2", "[" * 100_000,
    "missing.png",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NOT_IMAGES)))
def test_encode_refuses_what_is_no_image(number: int) -> None:
    with pytest.raises(DataError):
        MNISTData().encode(NOT_IMAGES[number])


@pytest.mark.parametrize("content", [b"", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n" + bytes(40), b"hello"])
def test_encode_refuses_a_file_that_is_no_png_or_jpeg(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="a.png: not an image that can be read"):
        MNISTData().encode(str(tmp_path / "a.png"))


def test_state_goes_through_json_and_examples_need_no_files() -> None:
    data = toy()
    other = MNISTData()
    with pytest.raises(DataError, match="no class names yet"):
        other.spec  # noqa: B018
    other.restore(json.loads(json.dumps(data.state())))
    assert other.spec == data.spec
    for raw in other.examples():
        assert torch.equal(other.encode(raw)["image"], data.encode(json.dumps(raw))["image"])


def test_toy_rows_are_the_same_each_time_and_of_all_classes() -> None:
    first, second = toy(), toy(seed=5)
    for split in first.splits:
        assert isinstance(first.rows(split), ImageRows)
        np.testing.assert_array_equal(first.rows(split).images, second.rows(split).images)
        assert set(first.rows(split).labels) == set(range(10))
    assert first.fingerprint() == ""
