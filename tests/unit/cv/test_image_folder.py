"""Own photographs: folders and tables, classes that must agree, damage, crops that know no batch, and the cache."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paddlecore.data import Loader, Plan
from paddlecore.errors import DataError
from paddlecv.data import ImageFolderData, MNISTData
from paddlecv.data.image_folder import class_images, toy_images
from paddlecv.data.images import DEVIATION, MEAN, image_size, open_image

SMALL = {"size": 24, "resize": 32}


def write(path: Path, level: int = 100, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level // 2, 255 - level)).save(path)
    return path


def folder_of(folder: Path, counts: dict[str, int], ending: str = "png") -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write(folder / name / f"{i:02}.{ending}", 10 * i + 5 * number)
    return folder


def prepared(source: Path | str, **options: object) -> ImageFolderData:
    data = ImageFolderData(source=str(source), **{**SMALL, **options})  # type: ignore[arg-type]
    data.prepare()
    return data


def counts(data: ImageFolderData) -> dict[str, dict[str, int]]:
    return data.describe()["classes"]


# ----------------------------------------------------------------------------------------------------------- layout


def test_folders_of_classes_are_split_by_tens(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path, {"cat": 10, "dog": 21}))
    assert counts(data) == {
        "train": {"cat": 8, "dog": 17}, "valid": {"cat": 1, "dog": 2}, "test": {"cat": 1, "dog": 2},
    }  # fmt: skip
    assert data.spec == {"num_classes": 2, "in_channels": 3, "labels": ["cat", "dog"]}
    assert data.sample("valid", 0) == (str(tmp_path / "cat" / "08.png"), {"label": "cat"})


def test_splits_are_taken_as_they_are_and_val_is_valid(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"a": 3, "b": 2})
    folder_of(tmp_path / "val", {"a": 1, "b": 0})
    data = prepared(tmp_path)
    assert data.splits == ("train", "valid") and counts(data)["valid"] == {"a": 1, "b": 0}
    folder_of(tmp_path / "valid", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"more than one valid: \S+/valid and \S+/val; keep one"):
        prepared(tmp_path)


def test_without_valid_every_so_manyth_image_of_a_class_is_held_out(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"a": 7, "b": 6})
    folder_of(tmp_path / "test", {"a": 1, "b": 1})
    found = class_images(tmp_path, 3)
    assert [[p.stem for p in found["valid"][name]] for name in "ab"] == [["02", "05"], ["02", "05"]]
    assert list(class_images(tmp_path, 0)) == ["train", "test"]


def test_tables_name_paths_and_labels(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "photos" / f"{i}.jpg")
    (tmp_path / "train.csv").write_text("label,path\ncat,photos/0.jpg\ndog,photos/1.jpg\ndog,photos/2.jpg\n")
    (tmp_path / "valid.csv").write_text("path,label\nphotos/3.jpg,dog\n")
    data = prepared(tmp_path)
    assert counts(data) == {"train": {"cat": 1, "dog": 2}, "valid": {"cat": 0, "dog": 1}}
    (tmp_path / "valid.csv").write_text("path,label\nphotos/3.jpg,dgo\n")
    with pytest.raises(DataError, match=r"valid.csv has classes that train has not; did you mean 'dog'"):
        prepared(tmp_path)
    (tmp_path / "valid.csv").write_text("path,label\nphotos/3.jpg\n")
    with pytest.raises(DataError, match=r"valid.csv:2: the path or the label is empty"):
        prepared(tmp_path)
    (tmp_path / "valid.csv").write_text("path,label\nphotos/3.jpg,dog\nphotos/4.jpg,dog\n")
    with pytest.raises(DataError, match=r"valid.csv:3: there is no file \S+photos/4.jpg"):
        prepared(tmp_path)
    assert counts(prepared(tmp_path, on_bad_row="skip"))["valid"] == {"cat": 0, "dog": 1}
    (tmp_path / "valid.csv").write_text("file,label\n")
    with pytest.raises(DataError, match=r"valid.csv:1: no column 'path'; it has file, label"):
        prepared(tmp_path)
    (tmp_path / "valid.csv").write_text("path,label\nphotos/0.jpg,dog\n")
    with pytest.raises(DataError, match=r"valid.csv:2: photos/0.jpg stands in train.csv:2 already"):
        prepared(tmp_path)
    (tmp_path / "valid.csv").write_bytes("path,label\nphotos/ä.jpg,dog\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"valid.csv cannot be read as a table of UTF-8 text"):
        prepared(tmp_path)
    (tmp_path / "valid.csv").write_text("\ufeffpath , label\nphotos/3.jpg, dog\n", encoding="utf-8")
    assert counts(prepared(tmp_path))["valid"] == {"cat": 0, "dog": 1}
    (tmp_path / "valid.csv").rename(tmp_path / "val.csv")
    assert counts(prepared(tmp_path))["valid"] == {"cat": 0, "dog": 1}
    (tmp_path / "valid.csv").touch()
    with pytest.raises(DataError, match=r"more than one valid: \S+/val.csv and \S+/valid.csv; keep one"):
        prepared(tmp_path)


def test_a_table_of_training_rows_alone_is_split(tmp_path: Path) -> None:
    folder_of(tmp_path / "all", {"a": 10, "b": 10})
    with open(tmp_path / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([f"all/{name}/{i:02}.png", name] for name in "ba" for i in range(10))
    assert counts(prepared(tmp_path)) == {s: {"a": n, "b": n} for s, n in (("train", 8), ("valid", 1), ("test", 1))}


# ---------------------------------------------------------------------------------------------------------- refusals


def test_classes_of_the_splits_must_agree_and_a_table_shows_both(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"apple": 2, "pear": 2})
    folder_of(tmp_path / "valid", {"aple": 1, "pear": 1})
    with pytest.raises(DataError) as error:
        prepared(tmp_path)
    assert str(error.value).splitlines()[1:] == [
        "  class  train  valid", "  aple   -      1", "  apple  2      -", "  pear   2      1",
    ]  # fmt: skip


def test_classes_must_be_those_of_weights_and_options(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 10, "b": 10})
    data = prepared(tmp_path, classes=["b", "a"])
    assert data.spec["labels"] == ["b", "a"] and data.rows("valid").fetch(np.arange(2), 0)["label"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"class +data +expected\n +b +yes +-\n +c +- +yes\n +a +yes +yes"):
        prepared(tmp_path, classes=["a", "c"])
    other = ImageFolderData(source=str(tmp_path), classes=["a", "b"])
    with pytest.raises(DataError, match="do not know"):
        other.restore({"labels": ["a", "c"]})
    other.restore(json.loads(json.dumps(data.state())))
    assert other.spec["labels"] == ["b", "a"]  # the order of the weights


@pytest.mark.parametrize("cache", [0, 100])
def test_an_image_that_cannot_be_read_is_a_bad_row(cache: float, tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 10, "b": 10})
    bad = tmp_path / "a" / "03.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match="03.png:1: not an image that can be read"):
        prepared(tmp_path, cache=cache)
    data = prepared(tmp_path, cache=cache, on_bad_row="skip")
    assert data.bad_rows.count == 1 and counts(data)["train"] == {"a": 7, "b": 8}
    assert data.rows("train").fetch(np.arange(15), 0)["label"].tolist() == [0] * 7 + [1] * 8
    for name in "ab":  # the only ones of validation
        (tmp_path / name / "08.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="valid has no images that can be used"):
        prepared(tmp_path, cache=cache, on_bad_row="skip")


def test_files_that_are_no_images_are_passed_over_and_counted_but_not_folders(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"a": 3, "b": 3})
    folder_of(tmp_path / "val", {"a": 1, "b": 1})
    (tmp_path / "validation").mkdir()
    for name in ("Thumbs.db", "b.HEIC", "c.heic", ".DS_Store", "._0.jpg"):
        (tmp_path / "train" / "a" / name).write_bytes(b"no image")
    data = prepared(tmp_path)
    assert counts(data)["train"] == {"a": 3, "b": 3}
    assert data.describe()["passed_over"] == {".db": 1, ".heic": 2, "validation": 1}
    assert data.bad_rows.summary() == (
        "passed over what is not of these data by its name: .db 1, .heic 2, validation 1"
    )
    (tmp_path / "train" / "a" / "more").mkdir()
    with pytest.raises(DataError, match="more: a class's folder holds images, not folders"):
        prepared(tmp_path)


def test_an_image_of_any_mode_is_read_as_rgb_of_8_bits(tmp_path: Path) -> None:
    colour = Image.new("RGB", (12, 8), (200, 60, 30))
    colour.paste((10, 20, 240), (0, 0, 4, 8))
    left, right = (10, 20, 240), (200, 60, 30)
    clear = colour.convert("RGBA")
    clear.putpixel((11, 7), (255, 255, 255, 0))
    indexed = colour.quantize(4)
    grey = Image.fromarray(np.array([[0, 128, 255]], np.uint16).repeat(8, 0).repeat(4, 1) * 257)
    saved = {
        "cmyk.jpg": (colour.convert("CMYK"), left, right), "alpha.png": (clear, left, right),
        "indexed.png": (indexed, left, right), "deep.png": (grey, (0,) * 3, (255,) * 3),
        "grey.png": (Image.new("LA", (12, 8), (90, 255)), (90,) * 3, (90,) * 3),
        "bits.bmp": (Image.new("1", (12, 8), 1), (255,) * 3, (255,) * 3),
    }  # fmt: skip
    for name, (image, first, last) in saved.items():
        image.save(tmp_path / name, **({"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}))
        found = open_image(tmp_path / name)
        assert (found.mode, found.size) == ("RGB", (12, 8))
        np.testing.assert_allclose([found.getpixel((1, 1)), found.getpixel((10, 1))], [first, last], atol=4)
    assert open_image(tmp_path / "alpha.png").getpixel((11, 7)) == (0, 0, 0)
    index = indexed.getpixel((0, 0))
    indexed.save(tmp_path / "clear.png", transparency=index)
    assert open_image(tmp_path / "clear.png").getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_an_image_is_set_upright_as_its_exif_says(ending: str, tmp_path: Path) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # one corner, so that no two of the eight look alike
    upright[:8, 8:16] = 120
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }  # fmt: skip
    path = tmp_path / f"a.{ending}"
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").save(path, exif=exif, quality=100)
        found = np.asarray(open_image(path))[..., 0].astype(int)
        assert abs(found - upright).max() < 40 and image_size(path) == (24, 16)


def test_other_faults_of_exif_keep_no_image_from_being_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = 6, 40  # turned; a width
    content = io.BytesIO()
    Image.new("RGB", (12, 8)).save(content, "JPEG", exif=exif)
    width = b"\x01\x00\x00\x04\x00\x00\x00\x01"  # tag 0x0100, a whole number, one of them
    assert content.getvalue().count(width) == 1
    (tmp_path / "a.jpg").write_bytes(content.getvalue().replace(width, b"\x01\x00\x00\x02" + width[4:]))  # now text
    assert open_image(tmp_path / "a.jpg").size == (8, 12)


def test_an_image_of_fractions_is_refused_rather_than_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.9, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="a.tif: not an image that can be read .its pixels are floating-point"):
        open_image(tmp_path / "a.tif")


def test_a_cut_off_image_is_found_when_it_is_read_to_its_end(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 10, "b": 10}, "jpg")
    bad = write(tmp_path / "b" / "08.jpg", size=(400, 300))
    bad.write_bytes(bad.read_bytes()[:1000])
    data = prepared(tmp_path, on_bad_row="skip")
    assert data.bad_rows.count == 1 and counts(data)["valid"] == {"a": 1, "b": 0}
    unkept = prepared(tmp_path, cache=0)
    with pytest.raises(DataError, match="08.jpg: not an image that can be read"):
        unkept.rows("valid").fetch(np.arange(2), 0)
    with pytest.raises(DataError, match="08.jpg:1: not an image that can be read"):
        unkept.describe()  # what check-data shows
    data = prepared(tmp_path, cache=0, on_bad_row="skip")
    assert data.bad_rows.count == 1 and data.rows("valid").fetch(np.arange(1), 0)["label"].tolist() == [0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"a": 10}, "at least two classes"),
        ({"a": 5, "b": 5}, "valid has no images .* too few"),
        ({}, "at least two classes"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(made: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        prepared(folder_of(tmp_path, made))
    with pytest.raises(DataError, match="there is no such folder"):
        prepared(tmp_path / "missing")
    with pytest.raises(DataError, match="name your folder"):
        prepared("auto")


@pytest.mark.parametrize(
    "options",
    [{"size": 40}, {"size": 0}, {"area": [0.5, 0.2]}, {"area": [0.0, 1.0]}, {"jitter": 1.0}, {"deviation": [1, 1, 0]},
     {"holdout": 1}, {"classes": ["a", "a"]}],
)  # fmt: skip
def test_refuses_options_without_meaning(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="data."):
        ImageFolderData(**{**SMALL, **options})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ images


def test_evaluation_takes_the_middle_of_the_resized_image(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(10):
            path = write(tmp_path / name / f"{i}.png", 0, (64, 32))
            image = Image.open(path).convert("RGB")
            image.paste((250, 120, 30), (20, 4, 44, 28))  # exactly what a crop of 24 pixels leaves
            image.save(path)
    data = prepared(tmp_path)
    batch = data.rows("valid").fetch(np.arange(2), 0)
    assert batch["image"].shape == (2, 3, 24, 24) and batch["image"].dtype == torch.float32
    expected = (np.array([250, 120, 30]) / 255 - MEAN) / DEVIATION
    np.testing.assert_allclose(batch["image"][1], np.broadcast_to(expected[:, None, None], (3, 24, 24)), atol=1e-5)
    assert torch.equal(data.encode(str(tmp_path / "a" / "8.png"))["image"], batch["image"][:1])


def test_a_crop_depends_on_seed_epoch_and_row_alone_and_not_on_the_cache(tmp_path: Path) -> None:
    for name in "ab":
        for i, pixels in enumerate(toy_images(10, 1)[0]):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data, read = prepared(tmp_path, jitter=0.3), prepared(tmp_path, jitter=0.3, cache=0)
    rows = data.rows("train")
    whole = rows.fetch(np.arange(16), 3)["image"]
    assert torch.equal(read.rows("train").fetch(np.arange(16), 3)["image"], whole)
    assert torch.equal(rows.fetch(np.array([9, 2]), 3)["image"], whole[[9, 2]])
    assert not torch.equal(rows.fetch(np.arange(16), 4)["image"], whole)
    assert not torch.equal(prepared(tmp_path, jitter=0.3, seed=2).rows("train").fetch(np.arange(16), 3)["image"], whole)
    stream = Loader(rows, Plan(16, 16, shuffle=False), workers=1).stream(3, 0)
    assert torch.equal(next(stream)[0]["image"], whole)
    stream.close()


def test_training_images_are_cropped_and_mirrored() -> None:
    plain = prepared("toy", area=[1.0, 1.0], flip=False).rows("train")
    flipped = prepared("toy", area=[1.0, 1.0]).rows("train")
    a, b = plain.fetch(np.arange(64), 0)["image"], flipped.fetch(np.arange(64), 0)["image"]
    same, mirrored = ((a == b).flatten(1).all(1), (a == b.flip(3)).flatten(1).all(1))
    assert 10 < same.sum() < 54
    assert (same | mirrored).float().mean() > 0.8  # where the proportions that were drawn did not fit, a crop differs


def test_raw_inputs_of_every_kind_and_pictures(tmp_path: Path) -> None:
    data = prepared("toy")
    path = write(tmp_path / "a.png", 120, (32, 32))
    rows = np.array(Image.open(path)).tolist()
    inputs = [path, str(path), rows, json.dumps(rows), {"image": str(path)}, json.dumps({"image": rows})]
    for raw in inputs:
        assert torch.equal(data.encode(raw)["image"], data.encode(path)["image"])
    wrong = [None, 7, [], [[1, 2, 3]], [[[1, 2]]], [[[1, 2, 300]]], {"picture": 1}, "{", "missing.png"]
    for raw in [*wrong, "data:image/png;base64,é"]:
        with pytest.raises(DataError):
            data.encode(raw)
    for raw in data.examples():
        assert data.encode(json.loads(json.dumps(raw)))["image"].shape == (1, 3, 24, 24)
    raw, truth = data.sample("test", 1)
    assert truth == {"label": "ring"}
    answer = {"label": "ring", "probability": {"ring": 0.75, "disc": 0.25}}
    drawn, plain = data.picture(raw, answer), data.picture(path, truth)
    assert drawn.mode == "RGB" and min(drawn.width, plain.width) >= 160 and plain.height > 160


def test_labels_travel_in_the_state() -> None:
    data, other = prepared("toy"), ImageFolderData()
    with pytest.raises(DataError, match="no class names yet"):
        other.spec  # noqa: B018
    other.restore(json.loads(json.dumps(data.state())))
    assert other.spec == data.spec and data.fingerprint() == ""


def test_pixels_of_an_image_scaled_to_1_are_refused_for_they_would_be_black() -> None:
    for data, shape in ((ImageFolderData(source="toy"), (4, 4, 3)), (MNISTData(source="toy"), (28, 28))):
        assert data.encode(np.ones(shape))["image"].isfinite().all()  # a black image has such numbers too
        with pytest.raises(DataError, match="numbers from 0 to 1, and expected from 0 to 255"):
            data.encode(np.full(shape, 0.5))
