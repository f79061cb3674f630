"""Detection data: annotations written by hand, all that can be wrong with them, and pictures that are changed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from paddlecore.data import Loader, eval_batches
from paddlecore.errors import DataError
from paddlecv.data import BCCDData, CocoData, FaceMasksData, PennFudanData, VOCData
from paddlecv.data.augment import Colours, crop, mosaic, quarter_turns, scene
from paddlecv.data.detection import DetectionData, drawn
from paddlecv.data.images import captioned, picture_of
from paddlecv.data.pennfudan import held_out
from paddlecv.data.shapes import box_of, draw

SIZE = 64


def prepared(kind: type[DetectionData], **options: Any) -> Any:
    data = kind(**{"source": "toy", "size": SIZE, "batch_size": 4, **options})
    data.prepare()
    return data


# ---------------------------------------------------------------------------------------------------- VOC


def xml(*objects: str, width: int = 40, height: int = 30) -> str:
    size = f"<size>\n<width>{width}</width>\n<height>{height}</height>\n</size>"
    return "\n".join(["<annotation>", size, *objects, "</annotation>"])


def thing(name: str, box: tuple[float, ...], difficult: int = 0) -> str:
    edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>\n<bndbox>{edges}</bndbox></object>"


def voc(folder: Path, train: dict[str, str], val: dict[str, str] | None = None, lists: str = "ImageSets/Main") -> Path:
    """A folder in VOC's layout with an image of 40 x 30 pixels for each annotation."""
    for name in ("Annotations", "JPEGImages", lists):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, given in (("train", train), ("val", val)):
        if given is not None:
            (folder / lists / f"{split}.txt").write_text("\n".join(given) + "\n")
            for name, text in given.items():
                (folder / "Annotations" / f"{name}.xml").write_text(text)
                Image.new("RGB", (40, 30), "gray").save(folder / "JPEGImages" / f"{name}.png")
    return folder


def test_voc_boxes_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    one = xml(thing("cat", (1, 1, 40, 30)), thing("ant", (11, 6, 20, 15), difficult=1), thing("cat", (0, 0, 8, 8)))
    source = voc(tmp_path, {"a": one, "b": xml()}, {"c": xml(thing("cat", (5, 5, 6, 9)))})
    data = prepared(VOCData, source=str(source), flip=0.0)
    assert data.spec == {"num_classes": 2, "labels": ["ant", "cat"]} and data.splits == ("train", "valid")
    (record, empty) = data._records["train"]
    assert record.boxes.tolist() == [[0, 0, 40, 30], [10, 5, 20, 15], [0, 0, 8, 8]] and record.labels.tolist() == [
        2,
        1,
        2,
    ]
    assert record.crowd.tolist() == [False, True, False] and data.clipped == 0
    batch = data.rows("train").fetch(np.array([0, 1]), 0)
    assert batch["labels"].tolist() == [[2, 2], [0, 0]]  # the difficult one is not trained on; the second has none
    assert batch["boxes"][0].tolist() == [[0, 0, 64, 64], pytest.approx([0, 0, 12.8, 8 * 64 / 30])]
    shown = data.rows("valid").fetch(np.array([0]), 0)
    assert shown["true_boxes"].tolist() == [[[4, 4, 6, 9]]] and shown["original"].tolist() == [[30, 40]]
    assert shown["scale"][0].tolist() == pytest.approx([64 / 30, 64 / 40]) and shown["image_id"].tolist() == [0]
    facts = data.describe()
    assert facts["boxes"]["train"] == {"ant": 1, "cat": 2} and facts["pictures without boxes"]["train"] == 1
    assert facts["crowd or difficult"]["train"] == 1 and facts["annotations in no list"] == 0 and json.dumps(facts)


def test_trainval_joins_the_lists_and_leaves_nothing_to_choose_by(tmp_path: Path) -> None:
    source = voc(tmp_path, {"a": xml(thing("cat", (1, 1, 9, 9)))}, {"b": xml()}, lists=".")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    data = prepared(VOCData, source=str(source), train_on="trainval")
    assert data.splits == ("train",) and len(data.rows("train")) == 2
    assert data.spec["labels"] == ["dog", "cat"] and data._records["train"][0].labels.tolist() == [2]


def test_a_box_that_reaches_out_is_cut_and_counted(tmp_path: Path) -> None:
    data = prepared(VOCData, source=str(voc(tmp_path, {"a": xml(thing("cat", (30, 20, 50, 31)))})))
    assert data._records["train"][0].boxes.tolist() == [[29, 19, 40, 30]] and data.clipped == 1


GOOD = thing("cat", (1, 1, 9, 9))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ((GOOD, thing("cat", (9, 5, 9, 12))), r"a.xml:8: the box 9 5 9 12 of 'cat' has no area"),
        ((thing("cat", (50, 5, 60, 12)),), r"a.xml:6: the box .* lies outside its picture, 40 x 30"),
        ((thing("cat", ("nan", 5, 60, 12)),), r"a.xml:6: .*no area"),
    ],
)
def test_bad_boxes_are_named_by_line_or_skipped_and_counted(tmp_path: Path, objects: Any, message: str) -> None:
    source = str(voc(tmp_path, {"a": xml(*objects), "b": xml(GOOD)}))
    with pytest.raises(DataError, match=message):
        prepared(VOCData, source=source)
    data = prepared(VOCData, source=source, on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data._records["train"][0].boxes) == len(objects) - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(GOOD)[:-30], r"a.xml:\d+: the XML is damaged or cut off"),
        (xml("<object><bndbox/></object>"), r"a.xml:6: an object without a name"),
        (xml("<object><name>x</name></object>"), r"a.xml:6: bndbox/xmin must be a number"),
        ("<annotation></annotation>", r"a.xml:1: size/height must be a number"),
        (xml(GOOD, width=0), "size is 0 x 30"),
        (xml(GOOD, width="nan"), "size is nan x 30"),
        (xml(GOOD, width="inf"), "size is inf x 30"),
        ('<!DOCTYPE x [<!ENTITY y "z">]><x/>', "entities"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(VOCData, source=str(voc(tmp_path, {"a": text})))


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    source = voc(tmp_path, {"a": xml(GOOD), "b": xml(GOOD)})
    (tmp_path / "JPEGImages" / "a.png").unlink()
    with pytest.raises(DataError, match=r"train: 1 of 2 annotated pictures are not there:\n.*JPEGImages/a"):
        prepared(VOCData, source=str(source))
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(DataError, match=r"b.xml: there is no such file, but a list names it"):
        prepared(VOCData, source=str(source))
    with pytest.raises(DataError, match="has no Annotations or annotations.*CocoData"):
        prepared(VOCData, source=str(tmp_path / "JPEGImages"))
    with pytest.raises(DataError, match="has no train.json.*VOCData"):
        prepared(CocoData, source=str(tmp_path))
    with pytest.raises(DataError, match="no such folder"):
        prepared(VOCData, source=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="data.source"):
        prepared(VOCData, source="auto")


def test_a_picture_in_two_lists_is_refused(tmp_path: Path) -> None:
    source = voc(tmp_path, {"a": xml(GOOD)}, {"a": xml(GOOD)})
    with pytest.raises(DataError, match="a is in valid and in train"):
        prepared(VOCData, source=str(source))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16", "gb18030"])
def test_annotations_may_say_their_encoding_and_lists_carry_a_mark(tmp_path: Path, encoding: str) -> None:
    name = "\u72d7" if encoding == "gb18030" else "b\u00e4r"
    source = voc(tmp_path, {"p": xml(thing("a", (1, 1, 9, 9)))}, lists=".")
    text = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n{xml(thing(name, (1, 1, 9, 9)))}'
    (tmp_path / "Annotations/p.xml").write_text(text, encoding=encoding)
    (tmp_path / "train.txt").write_text("p\n", encoding="utf-8-sig")
    (tmp_path / "classes.txt").write_text(f"{name}\n", encoding="utf-8-sig")
    assert prepared(VOCData, source=str(source)).spec["labels"] == [name]


def test_a_picture_that_its_exif_turns_away_from_its_annotation_is_named(tmp_path: Path) -> None:
    source = str(voc(tmp_path, {"p": xml(thing("a", (1, 1, 9, 9)))}))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages/p.png", exif=exif)
    with pytest.raises(DataError, match=r"30 x 40 pixels \(perhaps turned by its EXIF\), its annotation says 40 x 30"):
        prepared(VOCData, source=source).describe()


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    source = str(voc(tmp_path, {"p": xml(thing("a", (1, 1, 9, 9)))}))
    (tmp_path / "JPEGImages/list.txt").write_text("")
    assert prepared(VOCData, source=source).describe()["passed_over"] == {".txt": 1}
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages/p.jpg")
    with pytest.raises(DataError, match=r"JPEGImages has p.jpg and p.png: only one can be p"):
        prepared(VOCData, source=source)


def test_pictures_that_cannot_be_read_are_named_or_left_out(tmp_path: Path) -> None:
    source = voc(tmp_path, {"a": xml(GOOD), "b": xml(GOOD), "c": xml(GOOD, width=41)})
    file = tmp_path / "JPEGImages" / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    data = prepared(VOCData, source=str(source))
    with pytest.raises(DataError, match="b.png: not an image that can be read"):
        data.rows("train").fetch(np.array([1]), 0)
    with pytest.raises(DataError, match="c.png: the picture is 40 x 30 pixels, its annotation says 41 x 30"):
        data.rows("train").fetch(np.array([2]), 0)
    with pytest.raises(DataError, match="b.png"):
        data.describe()
    data = prepared(VOCData, source=str(source), on_bad_row="skip")
    assert data.bad_rows.summary().startswith("skipped 2 bad rows")  # which a run says before it begins
    assert data.describe()["rows"] == {"train": 1} and data.bad_rows.count == 2
    assert data.sample("train", 0)[0].endswith("a.png")
    (tmp_path / "JPEGImages" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="train has no images that can be used"):
        prepared(VOCData, source=str(source), on_bad_row="skip")


# ---------------------------------------------------------------------------------------------------- classes


def test_classes_that_do_not_agree_are_refused_with_a_table(tmp_path: Path) -> None:
    source = str(voc(tmp_path, {"a": xml(GOOD)}, {"b": xml(thing("dog", (1, 1, 9, 9)))}))
    with pytest.raises(DataError, match=r"train and of valid do not agree\n *number +train +valid\n *1 +cat +dog"):
        prepared(VOCData, source=source)
    with pytest.raises(DataError, match=r"data.classes and of train do not agree(.|\n)*1 +bird +cat"):
        prepared(VOCData, source=source, classes=["bird", "dog"])
    assert prepared(VOCData, source=source, classes=["dog", "cat"]).spec["labels"] == ["dog", "cat"]
    (tmp_path / "classes.txt").write_text("bird\ndog\n")
    with pytest.raises(DataError, match="the data's list and of train do not agree"):
        prepared(VOCData, source=source)
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(DataError, match="two classes have the same name among cat, dog, cat"):
        prepared(VOCData, source=source)
    (tmp_path / "classes.txt").unlink()
    data = VOCData(source=source, classes=["dog", "cat"])
    data.restore({"labels": ["cat", "dog"]})  # of given weights
    with pytest.raises(DataError, match=r"the weights and of the data do not agree(.|\n)*1 +cat +dog"):
        data.prepare()
    data = VOCData(source=source)
    data.restore({"labels": ["dog", "bird", "cat"]})  # the data may lack some of them
    data.prepare()
    assert data.state() == {"labels": ["dog", "bird", "cat"]} and data._records["train"][0].labels.tolist() == [3]


def test_data_without_any_box_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no boxes in the training pictures"):
        prepared(VOCData, source=str(voc(tmp_path / "voc", {"a": xml()})))
    with pytest.raises(DataError, match="no boxes in the training pictures"):  # its classes have names all the same
        prepared(CocoData, source=str(coco(tmp_path / "coco", [])))
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(DataError, match="train has no images"):
        prepared(VOCData, source=str(tmp_path / "voc"))


# ---------------------------------------------------------------------------------------------------- COCO

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
POLYGON = [[10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]]


def coco(folder: Path, annotations: list[Any], split: str = "train", file: str = "train.json", **more: Any) -> Path:
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "gray").save(folder / split / "a.jpg")
    images = [{"id": 42, "file_name": "a.jpg", "width": 40, "height": 30}]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **more}
    (folder / file).write_text(json.dumps(content))
    return folder


def item(ident: int = 5, box: Any = (10, 5, 10, 10), **more: Any) -> dict[str, Any]:
    return {"id": ident, "image_id": 42, "category_id": 7, "bbox": box, **more}


def test_a_picture_in_two_splits_of_coco_is_refused(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        coco(tmp_path / "coco", [item()], split, f"{split}.json")
    assert len(prepared(CocoData, source=str(tmp_path / "coco")).rows("valid")) == 1  # another picture of that name
    for split in ("train", "valid"):
        coco(tmp_path / "one", [item()], "images", f"{split}.json")
    with pytest.raises(DataError, match=r"one/images/a.jpg is in \S+/train.json and in \S+/valid.json; a picture is"):
        prepared(CocoData, source=str(tmp_path / "one"))


def test_two_lists_or_files_of_one_split_are_refused(tmp_path: Path) -> None:
    source = voc(tmp_path / "voc", {"a": xml(thing("cat", (1, 1, 9, 9)))}, {"b": xml()})
    (source / "ImageSets/Main/valid.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"more than one valid: \S+/valid.txt and \S+/val.txt; keep one"):
        prepared(VOCData, source=str(source))
    for split, file in (
        ("train", "train.json"),
        ("valid", "valid.json"),
        ("val", "annotations/instances_val2017.json"),
    ):
        coco(tmp_path / "coco", [item()], split, file)
    with pytest.raises(DataError, match=r"more than one valid: \S+/valid.json and \S+/instances_val2017.json; keep"):
        prepared(CocoData, source=str(tmp_path / "coco"))


@pytest.mark.parametrize(
    ("split", "file"),
    [("train", "train.json"), ("train2017", "annotations/instances_train2017.json"), ("images", "train.json"),
     ("train", "train/_annotations.coco.json")],
)  # fmt: skip
def test_coco_layouts(tmp_path: Path, split: str, file: str) -> None:
    data = prepared(CocoData, source=str(coco(tmp_path, [item(), item(6, iscrowd=1)], split, file)))
    assert data.spec["labels"] == ["cat", "dog"]  # by rising id
    (record,) = data._records["train"]
    assert record.boxes.tolist() == [[10, 5, 20, 15]] * 2 and record.labels.tolist() == [2, 2]
    assert record.crowd.tolist() == [False, True] and record.path == tmp_path / split / "a.jpg"
    assert data.rows("train").fetch(np.array([0]), 0)["labels"].tolist() == [[2]]
    assert json.dumps(data.describe())


def test_coco_masks_are_polygons_or_run_lengths(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40), np.uint8)
    pixels[5:15, 10:20] = 1
    column_major = pixels.T.flatten()
    edges = np.flatnonzero(np.diff(column_major)) + 1
    counts = np.diff(np.concatenate([[0], edges, [1200]])).tolist()
    runs = {"size": [30, 40], "counts": counts}
    from pycocotools import mask as api

    packed = api.encode(np.asfortranarray(pixels))
    packed = {"size": [30, 40], "counts": packed["counts"].decode()}
    given = [item(1, segmentation=POLYGON), item(2, segmentation=runs), item(3, segmentation=packed)]
    source = str(coco(tmp_path, given))
    data = prepared(CocoData, source=source, masks=True, resize="fit", size=60, max_size=80, flip=0.0)
    batch = data.rows("train").fetch(np.array([0]), 0)
    assert batch["image"].shape == (1, 3, 64, 96) and batch["masks"].shape == (1, 3, 64, 96)
    expected = torch.zeros(64, 96)
    expected[10:30, 20:40] = 1
    for mask in batch["masks"][0]:
        assert (mask != expected).float().mean() < 0.01
    raw, answer = data.sample("train", 0)
    assert json.dumps(answer) and data.picture(raw, answer).size == (40, 30)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (item(box=[1, 2, 0, 4]), r"train.json, annotation:5: the box .* has no area"),
        (item(box=[50, 2, 4, 4]), r"annotation:5: .* outside"),
        (item(box=[1, 2, 3]), r"annotation:5: needs image_id"),
        (item(image_id=1), r"annotation:5: its image_id 1 is not in the file"),
        (item(category_id=1), r"annotation:5: its category_id 1 is not in the file"),
        ("text", r"annotation:number 1: needs image_id"),
        (item(segmentation=[[1, 2]]), r"annotation:5: its segmentation .*three points"),
        (item(segmentation={"size": [1, 2], "counts": [2]}), r"annotation:5: its segmentation .*its size"),
        (item(segmentation={"size": [30, 40], "counts": [2]}), r"annotation:5: its segmentation .*add up"),
        (item(segmentation={"size": [30, 40], "counts": [-5, 1205]}), r"annotation:5: its segmentation .*add up"),
        (item(segmentation={"size": [30, 40], "counts": "zzzz!!"}), r"annotation:5: its segmentation .*RLE"),
        (item(segmentation={"size": [30, 40], "counts": 5}), r"annotation:5: its segmentation"),
        (item(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), r"annotation:5: its segmentation .*each two numbers"),
        (item(segmentation=[[float("nan")] * 6]), r"annotation:5: its segmentation .*not finite"),
        (item(segmentation=[[1e30, 1, 5, 5, 7, 7]]), r"annotation:5: its segmentation .*far outside"),
        (item(category_id=float("inf")), r"annotation:5: needs image_id"),
        (item(iscrowd="yes"), r"annotation:5: needs image_id"),
        (item(), r"annotation:5: its segmentation cannot be used \(there is none\)"),
    ],
)
def test_bad_annotations_are_named_by_id(tmp_path: Path, annotation: Any, message: str) -> None:
    source = str(coco(tmp_path, [item(4, segmentation=POLYGON), annotation]))
    with pytest.raises(DataError, match=message):
        prepared(CocoData, source=source, masks=True)
    data = prepared(CocoData, source=source, masks=True, on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data._records["train"][0].names) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"categories": [{"id": 1}]}, "each of categories needs an id and a name"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "same id"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "same name"),
        ({"images": [{"id": 1}]}, r"images\[0\] needs id, file_name"),
        ({"categories": [{"id": float("inf"), "name": "a"}]}, "each of categories needs an id and a name"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}] * 2}, "two images have the id 1"),
        (
            {"images": [{"id": i, "file_name": "a.jpg", "width": 40, "height": 30} for i in (1, 2)]},
            "are the file a.jpg",
        ),
        ({"images": [{"id": 1, "file_name": 5, "width": 40, "height": 30}]}, r"images\[0\] needs .*file_name is 5"),
        (
            {"images": [{"id": 1, "file_name": "a.jpg", "width": 10**9, "height": 10**9}]},
            r"images\[0\] needs .*its size is 1000000000 x 1000000000",
        ),
        ({"images": None}, "is an object with the lists .* no images here"),
        ({"categories": {}}, "is an object with the lists .* no categories here"),
    ],
)
def test_broken_coco_files_are_named(tmp_path: Path, more: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(CocoData, source=str(coco(tmp_path, [], **more)))


def test_coco_numbers_may_be_text(tmp_path: Path) -> None:
    images = [{"id": "42", "file_name": "a.jpg", "width": 40, "height": 30}]
    given = [item(4, image_id="42", category_id="7", iscrowd="0"), item(5, iscrowd="1")]
    (record,) = prepared(CocoData, source=str(coco(tmp_path, given, images=images)))._records["train"]
    assert record.labels.tolist() == [2, 2] and record.crowd.tolist() == [False, True]


def test_coco_ids_may_be_of_any_size(tmp_path: Path) -> None:
    ids = [2**53, 2**53 + 1, 10**30]  # of some tools a hash, or a time: the metric's float64 would take two for one
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in ids]
    source = coco(tmp_path, [item(n, image_id=i) for n, i in enumerate(ids)], images=images)
    for i in ids:
        Image.new("RGB", (40, 30), "gray").save(tmp_path / "train" / f"{i}.jpg")
    data = prepared(CocoData, source=str(source))
    batch = data._collate([data._evaluation(data._records["train"], row) for row in range(3)])
    assert batch["image_id"].tolist() == [0, 1, 2] and batch["true_labels"].tolist() == [[2]] * 3


def test_damaged_json_is_named_by_line(tmp_path: Path) -> None:
    coco(tmp_path, [item()])
    whole = (tmp_path / "train.json").read_bytes()
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + whole)  # the mark of Windows' editors is no damage
    assert len(prepared(CocoData, source=str(tmp_path)).rows("train")) == 1
    (tmp_path / "train.json").write_text('{"images": [\n\n{]}')
    with pytest.raises(DataError, match=r"train.json:3: the JSON is damaged or cut off"):
        prepared(CocoData, source=str(tmp_path))


def test_splits_with_other_categories_are_refused_with_a_table(tmp_path: Path) -> None:
    coco(tmp_path, [item()])
    coco(tmp_path, [], "val", "val.json", categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}])
    with pytest.raises(DataError, match=r"do not agree(.|\n)*dog \(id 7\) +cow \(id 7\)"):
        prepared(CocoData, source=str(tmp_path))


# ---------------------------------------------------------------------------------------------------- id images


def test_pictures_of_object_numbers(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    numbers = np.zeros((30, 40), np.uint8)
    numbers[2:10, 3:7], numbers[20:, 30:] = 1, 4
    for i in range(9):
        Image.new("RGB", (40, 30), "gray").save(tmp_path / "images" / f"p{i}.png")
        Image.fromarray(numbers).save(tmp_path / "masks" / f"p{i}_mask.png")
    data = prepared(PennFudanData, source=str(tmp_path), masks=True, label="cell", flip=0.0)
    assert data.spec["labels"] == ["cell"] and {s: len(data.rows(s)) for s in data.splits} == {
        "train": 5, "valid": 1, "test": 3,
    }  # fmt: skip
    assert data._records["train"][0].boxes.tolist() == [[3, 2, 7, 10], [30, 20, 40, 30]]
    batch = data.rows("train").fetch(np.array([0]), 0)
    for mask, box in zip(batch["masks"][0], batch["boxes"][0], strict=True):
        assert np.abs(np.array(box_of(mask.numpy())) - box.numpy()).max() <= 1
    for split, names in (("train", "p0\np1\n"), ("val", "p2\n"), ("test", "p1\n")):
        (tmp_path / f"{split}.txt").write_text(names)
    with pytest.raises(DataError, match="p1 is in test and in train"):
        prepared(PennFudanData, source=str(tmp_path))
    (tmp_path / "test.txt").unlink()
    data = prepared(PennFudanData, source=str(tmp_path))
    assert {s: len(data.rows(s)) for s in data.splits} == {"train": 2, "valid": 1}
    (tmp_path / "train.txt").unlink()
    with pytest.raises(DataError, match="lists of names, but no train.txt"):
        prepared(PennFudanData, source=str(tmp_path))
    (tmp_path / "val.txt").unlink()
    (tmp_path / "masks" / "p8_mask.png").write_bytes(b"")
    with pytest.raises(DataError, match="p8_mask.png: not an image"):
        prepared(PennFudanData, source=str(tmp_path))
    for image, kind, message in (
        (Image.fromarray(numbers), "JPEG", r"p8_mask.png: a mask is stored without loss \(.*\), this is JPEG"),
        (
            Image.fromarray(numbers / np.float32(3)),
            "TIFF",
            "p8_mask.png: a mask has one whole number a pixel, .*float32",
        ),
    ):
        image.save(tmp_path / "masks" / "p8_mask.png", kind)
        with pytest.raises(DataError, match=message):
            prepared(PennFudanData, source=str(tmp_path))


def test_data_without_masks_cannot_give_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no masks"):
        prepared(VOCData, source=str(voc(tmp_path, {"a": xml(GOOD)})), masks=True)


def test_published_splits_depend_on_names_alone() -> None:
    parts = held_out([str(i) for i in range(34)], (0, 3, 7, 10, 14), 17, 6)
    assert parts["test"] == [str(i) for i in (0, 3, 7, 10, 14, 17, 20, 24, 27, 31)] and len(parts["valid"]) == 4
    assert sorted(sum(parts.values(), []), key=int) == [str(i) for i in range(34)]


# ---------------------------------------------------------------------------------------------------- augmentation

ALL = {
    "flip": 0.5, "flip_vertical": 0.5, "turns": True, "zoom_out": 0.5, "iou_crop": 0.5, "jitter": [0.5, 1.5],
    "photometric": 0.5, "masks": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"resize": "stretch", "mosaic": 0.5}, {"resize": "letterbox", "mosaic": 0.5}, {"resize": "fit"}]
)
def test_boxes_stay_inside_and_around_their_masks(options: dict[str, Any]) -> None:
    data = prepared(CocoData, **ALL, **options)
    seen = 0
    for epoch in range(2):
        batch = data.rows("train").fetch(np.arange(40), epoch)
        height, width = batch["image"].shape[2:]
        assert batch["masks"].shape[2:] == (height, width) and batch["image"].dtype == torch.float32
        for i in range(40):
            h, w = batch["size"][i].tolist()
            assert (
                h <= height
                and w <= width
                and not batch["image"][i, :, h:].any()
                and not batch["image"][i, :, :, w:].any()
            )
            for box, label, mask in zip(batch["boxes"][i], batch["labels"][i], batch["masks"][i], strict=True):
                if label == 0:
                    assert not box.any() and not mask.any()
                    continue
                x1, y1, x2, y2 = box.tolist()
                assert 0 <= x1 < x2 <= w and 0 <= y1 < y2 <= h
                if mask.sum() > 30:
                    # the visible part of a cut or covered object may be smaller than its box, never larger; a pixel
                    # of the mask may have been made several wide
                    found = np.array(box_of(mask.numpy()))
                    assert (found[:2] >= [x1 - 3, y1 - 3]).all() and (found[2:] <= [x2 + 3, y2 + 3]).all()
                    seen += 1
    assert seen > 60


def test_a_picture_is_the_same_beside_any_others_and_in_any_worker() -> None:
    data = prepared(CocoData, **ALL, mosaic=0.5)
    rows = data.rows("train")
    whole = rows.fetch(np.array([3, 9, 5]), 1)
    alone = rows.fetch(np.array([9]), 1)
    assert torch.equal(whole["image"][1], alone["image"][0]) and whole["draw"][1] == alone["draw"][0]
    count = int((alone["labels"] > 0).sum())
    assert torch.equal(whole["boxes"][1, :count], alone["boxes"][0, :count]) and not whole["labels"][1, count:].any()
    assert not torch.equal(rows.fetch(np.array([9]), 2)["image"], alone["image"])
    assert not torch.equal(
        prepared(CocoData, **ALL, seed=2).rows("train").fetch(np.array([9]), 1)["draw"], alone["draw"]
    )
    batches = []
    for workers in (0, 2):
        with contextlib.closing(Loader(rows, data.plan(rows), workers=workers).stream(0, 0)) as stream:
            batches.append([next(stream)[0] for _ in range(3)])
    for here, there in zip(*batches, strict=True):
        assert here is not None and there is not None and here.keys() == there.keys()
        assert here.pop("true_masks") == there.pop("true_masks")
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_evaluation_changes_nothing_but_the_size() -> None:
    data = prepared(CocoData, **ALL)
    (batch,) = eval_batches(data.rows("test"), 16)
    again = data.rows("test").fetch(np.arange(16), 5)
    assert torch.equal(batch["image"], again["image"]) and "draw" not in batch and "masks" not in batch
    scaled = batch["true_boxes"] * batch["scale"].flip(1).repeat(1, 2)[:, None]
    assert torch.allclose(scaled, batch["boxes"]) and len(batch["true_masks"]) == 16
    assert all(
        len(runs) == int((labels > 0).sum())
        for runs, labels in zip(batch["true_masks"], batch["true_labels"], strict=True)
    )


def test_a_changed_picture_is_measured_as_it_is() -> None:
    batch = prepared(CocoData, **ALL).rows("train").fetch(np.arange(6), 0)
    assert torch.equal(batch["true_boxes"], batch["boxes"]) and torch.equal(batch["true_labels"], batch["labels"])
    assert torch.equal(batch["original"], batch["size"]) and (batch["scale"] == 1).all()
    assert batch["image_id"].tolist() == list(range(6)) and len(batch["true_masks"]) == 6


def shape_scene(key: int = 5) -> Any:
    pixels, boxes, names, masks = draw(CocoData.toy, 40, 60, key)
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return scene(image, torch.from_numpy(boxes), torch.arange(len(names)) + 1, torch.from_numpy(masks))


def test_quarter_turns_are_turns() -> None:
    start = shape_scene()
    turned = quarter_turns(start, 1)
    assert turned["image"].shape == (3, 60, 40)
    for mask, box in zip(turned["masks"], turned["boxes"], strict=True):
        assert list(box_of(mask.numpy())) == box.tolist()
    for turns in (1, 2, 3):
        back = quarter_turns(quarter_turns(start, turns), 4 - turns)
        assert all(torch.equal(back[name], start[name]) for name in start)
    assert quarter_turns(start, 4) is start


def test_crop_keeps_boxes_whose_centre_is_inside() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    boxes = torch.tensor([[2.0, 2.0, 8.0, 8.0], [8.0, 8.0, 18.0, 18.0], [0.0, 0.0, 4.0, 4.0]])
    found = crop(scene(image, boxes, torch.tensor([1, 2, 3])), 4, 4, 8, 8)
    assert found["labels"].tolist() == [1] and found["boxes"].tolist() == [[0, 0, 4, 4]]
    assert found["image"].shape == (3, 8, 8)


def test_changes_of_colour_keep_the_order_of_channels() -> None:
    image = torch.tensor([200, 100, 20], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8)
    found = scene(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for seed in range(20):
        torch.manual_seed(seed)
        r, g, b = Colours(p=1.0)(found)["image"][:, 0, 0].tolist()
        assert r > g > b and (r, g, b) != (200, 100, 20)


def test_mosaic_shows_parts_of_four() -> None:
    scenes = []
    for value in range(1, 5):
        image = torch.full((3, 32, 32), value, dtype=torch.uint8)
        scenes.append(scene(image, torch.tensor([[0.0, 0.0, 32.0, 32.0]]), torch.tensor([value])))
    torch.manual_seed(3)
    found = mosaic(scenes, 32)
    assert found["image"].shape == (3, 32, 32) and set(found["image"].unique().tolist()) <= {1, 2, 3, 4}
    for box, label in zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True):
        x1, y1, x2, y2 = (int(v) for v in box)
        assert (found["image"][:, y1:y2, x1:x2] == label).all()


# ---------------------------------------------------------------------------------------------------- one input, toy


def test_one_input_is_a_path_text_or_a_dict(tmp_path: Path) -> None:
    data = prepared(BCCDData, resize="letterbox")
    text = data.examples()[0]
    raw, answer = data.sample("test", 0)
    assert raw.startswith("data:image/png;base64,") and {o["label"] for o in answer["objects"]} <= {
        "RBC",
        "WBC",
        "Platelets",
    }
    picture = data.picture(raw, {"objects": [{**o, "score": 0.5} for o in answer["objects"]]})
    assert picture.size == (SIZE * 4 // 3, SIZE)
    assert data.picture(raw, {"objects": []}).tobytes() != picture.tobytes()
    path = tmp_path / "a.png"
    picture_of(text).save(path)
    inputs = [text, str(path), path, {"image": str(path)}, json.dumps({"image": text}), Image.open(path)]
    batches = [data.encode(raw) for raw in inputs]
    assert all(torch.equal(batches[0]["image"], batch["image"]) for batch in batches)
    assert batches[0]["image"].shape == (1, 3, 64, 64) and batches[0]["size"].tolist() == [[48, 64]]
    for bad, message in (
        ("nowhere.png", "no such file"), ({"x": 1}, "got the keys"), (3, "expected the path"), ("{", "neither a path"),
        ("data:image/png;base64,!!", "base64"), ("data:image/png;base64,aGFsbG8=", "base64"),
        (Image.new("F", (4, 4)), "floating-point"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            data.encode(bad)


def test_names_are_drawn_in_their_letters_and_in_the_scale_of_the_picture() -> None:
    def shown(name: str, side: int) -> Image.Image:
        found = {"label": name, "box": [side / 2, side / 2, side * 0.9, side * 0.9]}
        return drawn(torch.full((3, side, side), 200, dtype=torch.uint8), [found], [name])

    assert shown("\u00fc", 96).tobytes() != shown("\u0436", 96).tobytes()  # none of them is an empty box
    plain = Image.new("RGB", (200, 50))
    assert captioned(plain, ["\u00fc"]).tobytes() != captioned(plain, ["\u0436"]).tobytes()
    small, large = (np.asarray(shown("a", side).convert("L")) for side in (320, 3200))
    assert (large > 250).sum() > 30 * (small > 250).sum() > 0  # the letters are white


def test_one_input_equals_the_row_of_an_evaluation() -> None:
    data = prepared(CocoData, resize="fit")
    batch = data.rows("test").fetch(np.array([2]), 0)
    alone = data.encode(data.sample("test", 2)[0])
    assert all(torch.equal(alone[name], batch[name]) for name in alone)


@pytest.mark.parametrize("kind", [BCCDData, CocoData, FaceMasksData, PennFudanData, VOCData])
def test_toy_data_are_the_same_each_time(kind: type[DetectionData]) -> None:
    one, two = (prepared(kind).rows("test").fetch(np.arange(4), 0) for _ in range(2))
    assert torch.equal(one["image"], two["image"]) and torch.equal(one["boxes"], two["boxes"])
    assert one["labels"].max() <= len(kind.toy) and one["labels"].max() > 0


def test_own_pictures_in_the_place_of_blood_cells(tmp_path: Path) -> None:
    cells = voc(tmp_path / "cells", {"a": xml(thing("WBC", (1, 1, 9, 9)))}, {"b": xml()})
    assert prepared(BCCDData, source=str(cells)).spec["labels"] == ["RBC", "WBC", "Platelets"]  # its own order
    pets = voc(tmp_path / "pets", {"a": xml(thing("dog", (1, 1, 9, 9)), thing("cat", (1, 1, 9, 9)))}, {"b": xml()})
    assert prepared(BCCDData, source=str(pets)).spec["labels"] == ["cat", "dog"]
    data = BCCDData(source=str(pets))
    data.restore({"labels": ["RBC", "WBC", "Platelets"]})
    with pytest.raises(DataError, match="the weights and of train do not agree"):
        data.prepare()


def test_own_faces_may_lie_in_folders_of_vocs_names(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(DataError, match="faces has no Annotations or annotations"):
        prepared(FaceMasksData, source=str(tmp_path / "faces"))
    with pytest.raises(DataError, match="none: there is no such folder"):
        prepared(FaceMasksData, source=str(tmp_path / "none"))
    voc(tmp_path / "faces", {name: xml(thing("with_mask", (1, 1, 9, 9))) for name in "abcdefghijkl"})
    (tmp_path / "faces/ImageSets/Main/train.txt").unlink()
    data = prepared(FaceMasksData, source=str(tmp_path / "faces"))
    assert {split: len(data.rows(split)) for split in data.splits} == {"train": 8, "valid": 1, "test": 3}


def test_two_classes_of_faces() -> None:
    assert prepared(FaceMasksData, merge=False).spec["labels"] == ["with_mask", "without_mask"]
    assert prepared(FaceMasksData).spec["labels"] == ["face"]


@pytest.mark.parametrize(
    "options",
    [{"resize": "crop"}, {"size": 16}, {"max_size": 40}, {"flip": 1.5}, {"jitter": [2, 1]}, {"classes": []},
     {"mosaic": 0.5, "resize": "fit"}, {"train_on": "test"}, {"mean": [0.5]}, {"deviation": [0, 1, 1]}],
)  # fmt: skip
def test_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="data."):
        BCCDData(**{"source": "toy", "size": SIZE, **options})
