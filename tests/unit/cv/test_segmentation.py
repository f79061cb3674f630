"""Masks in folders and tables, and what can be wrong with them; the loss as sums; mIoU against its definition."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from paddlecore.errors import ConfigError, DataError
from paddlecv.data import CamVidData, CityscapesData, SegmentationData
from paddlecv.data.cityscapes import LABEL_IDS
from paddlecv.data.segmentation import decode_runs, palette, read_mask
from paddlecv.metrics.segmentation import MeanIoU
from paddlecv.tasks import Segmentation

# ---------------------------------------------------------------------------------------------------- own files


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)
    return path


def own_folder(folder: Path, images: int = 3) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for i in range(images):
            size = (20 + 4 * i, 24)
            write(folder / split / "images" / f"{i}.jpg", random.integers(0, 256, (*size, 3), dtype=np.uint8))
            write(folder / split / "masks" / f"{i}.png", random.choice([0, 1, 2, 255], size).astype(np.uint8))
    (folder / "classes.txt").write_text("road\ncar\ntree\n")
    return folder


def own(folder: Path, **options: object) -> SegmentationData:
    data = SegmentationData(source=str(folder), crop=(16, 16), **options)  # type: ignore[arg-type]
    data.prepare()
    return data


def test_own_images_of_several_sizes_keep_them(tmp_path: Path) -> None:
    data = own(own_folder(tmp_path))
    assert data.spec["labels"] == ["road", "car", "tree"]
    batch = data.rows("test").fetch(np.arange(3), 0)
    assert batch["size"].tolist() == [[20, 24], [24, 24], [28, 24]]
    assert batch["image"].shape == (3, 3, 28, 24)
    assert (batch["mask"][0, 20:] == 255).all() and (batch["image"][0, :, 20:] == 0).all()
    np.testing.assert_array_equal(batch["mask"][1, :24], np.array(Image.open(tmp_path / "test/masks/1.png")))
    pixels = np.concatenate([np.array(Image.open(p)).ravel() for p in (tmp_path / "train/masks").iterdir()])
    shares = np.bincount(pixels[pixels < 255], minlength=3) / (pixels < 255).sum()
    assert data.spec["class_frequency"] == pytest.approx(shares)


def test_refuses_means_and_deviations_without_meaning() -> None:
    for options in ({"mean": [0.5]}, {"deviation": [0, 1, 1]}):
        with pytest.raises(ValueError, match="three numbers each, deviations above 0"):
            SegmentationData(source="toy", **options)


def test_a_table_names_the_same_files(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "a")
    lines = [f"train/images/{i}.jpg,train/masks/{i}.png" for i in range(3)]
    (folder / "train.csv").write_text("\n".join(["image,mask", *lines]))
    (folder / "valid.csv").write_text("\n".join(["image,mask", "valid/images/0.jpg,valid/masks/none.png"]))
    with pytest.raises(DataError, match=r"valid.csv:2: there is no file .*none.png"):
        own(folder)
    (folder / "valid.csv").write_text("\n".join(["mask,image", "valid/masks/1.png,valid/images/1.jpg"]))
    assert len(own(folder).rows("valid")) == 1


WRONG = {
    "16 bits": (
        np.zeros((20, 24), np.uint16),
        "0.png:1: a mask has class ids of 8 bits in one channel, this has 16 bits",
    ),
    "colours": (np.zeros((20, 24, 3), np.uint8), r"0.png:1: a mask has class ids .* this has colours \(RGB\)"),
    "size": (np.zeros((24, 20), np.uint8), "0.png:1: is 20 x 24 pixels, its image 0.jpg 24 x 20"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mask_that_cannot_be_used_is_named_or_skipped(kind: str, tmp_path: Path) -> None:
    pixels, message = WRONG[kind]
    folder = own_folder(tmp_path)
    write(folder / "train/masks/0.png", pixels)
    with pytest.raises(DataError, match=message):
        own(folder)
    data = own(folder, on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data.rows("train")) == 2
    assert data.rows("train").fetch(np.arange(2), 0)["image"].shape == (2, 3, 16, 16)


def test_masks_are_stored_without_loss_and_may_not_lie_on_their_side(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    mask, image = folder / "train/masks/0.png", folder / "train/images/0.jpg"
    whole = mask.read_bytes()
    Image.open(mask).save(mask, "JPEG")  # whatever its name says
    with pytest.raises(DataError, match=r"0.png:1: a mask is stored without loss \(.*\), this is JPEG"):
        own(folder)
    mask.write_bytes(whole)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(image).save(image, exif=exif)
    with pytest.raises(DataError, match=r"0.png:1: is 24 x 20 .*0.jpg 20 x 24 \(perhaps turned by its EXIF\)"):
        own(folder)
    Image.open(mask).rotate(-90, expand=True).save(mask)
    assert own(folder).rows("train").fetch(np.arange(1), 0)["image"].shape == (1, 3, 16, 16)
    Image.open(image).save(image.with_suffix(".tif"), exif=exif)
    image.unlink()
    assert own(folder).rows("train").fetch(np.arange(1), 0)["image"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ids_of_grey_masks_of_few_bits_are_as_stored(bits: int, tmp_path: Path) -> None:
    ids = np.arange(2**bits, dtype=np.uint8)[None]
    path = tmp_path / "mask.png"
    palette_of_few = Image.fromarray(ids).convert("P")
    palette_of_few.putdata(ids.ravel().tolist())
    palette_of_few.save(path, bits=bits)
    np.testing.assert_array_equal(read_mask(path), ids)
    content = bytearray(path.read_bytes())
    content[25] = 0  # the same pixels as grey
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert Image.open(path).mode in ("1", "L")
    np.testing.assert_array_equal(read_mask(path), ids)


def test_training_masks_without_any_class_are_refused(tmp_path: Path) -> None:
    folder = own_folder(tmp_path, 1)
    write(folder / "train/masks/0.png", np.full((20, 24), 255, np.uint8))
    with pytest.raises(DataError, match="the training masks are all void"):
        own(folder)


def test_an_unknown_id_is_refused_with_a_table(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    write(folder / "valid/masks/0.png", np.full((20, 24), 7, np.uint8))
    with pytest.raises(DataError) as error:
        own(folder)
    assert "neither a class nor void: 7" in str(error.value)
    row = next(line for line in str(error.value).splitlines() if line.split()[0] == "7")
    assert row.split() == ["7", "?", "0", "480", "0"]
    data = own(folder, void=[7])
    assert (data.rows("valid").fetch(np.arange(1), 0)["mask"] == 255).all()


def test_class_names_that_differ_are_shown_side_by_side(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    (folder / "valid/classes.txt").write_text("road\ntree\ncar\n")
    with pytest.raises(DataError) as error:
        own(folder)
    assert "id  classes.txt  valid/classes.txt" in str(error.value) and "1   car          tree" in str(error.value)
    (folder / "valid/classes.txt").unlink()
    with pytest.raises(DataError, match="data.classes"):
        own(folder, classes=["road", "car"])


def test_ids_follow_the_names_of_given_weights(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    data = SegmentationData(source=str(folder), crop=None)
    data.restore({"labels": ["sky", "tree", "car", "road"], "class_frequency": None})
    data.prepare()
    mask = data.rows("valid").fetch(np.arange(1), 0)["mask"][0].numpy()
    raw = np.array(Image.open(folder / "valid/masks/0.png"))
    np.testing.assert_array_equal(mask, np.array([3, 2, 1, *[255] * 253])[raw])
    data = SegmentationData(source=str(folder))
    data.restore({"labels": ["sky", "car"]})
    with pytest.raises(DataError, match="classes that the weights do not know"):
        data.prepare()


def test_an_image_without_mask_is_named(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    (folder / "test/masks/2.png").unlink()
    with pytest.raises(DataError, match=r"images has 2, but .*masks has nothing of that name"):
        own(folder)


def test_other_files_are_counted_and_two_of_one_name_refused(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    (folder / "train/images/Thumbs.db").write_bytes(b"")
    assert own(folder).describe()["passed_over"] == {".db": 1}
    (folder / "train/masks/0.bmp").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks has 0.bmp and 0.png: only one can be 0"):
        own(folder)


def test_val_is_valid_and_what_is_empty_or_no_text_is_named(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    (folder / "valid").rename(folder / "val")
    assert own(folder).splits == ("train", "valid", "test")
    (folder / "valid").mkdir()
    with pytest.raises(DataError, match=r"more than one valid: \S+/valid and \S+/val; keep one"):
        own(folder)
    (folder / "valid").rmdir()
    (folder / "test.csv").write_text("image,mask\n")
    with pytest.raises(DataError, match="test has no images"):
        own(folder)
    (folder / "test.csv").write_bytes("image,mask\nä,b\n".encode("latin-1"))
    with pytest.raises(DataError, match="test.csv cannot be read as a table"):
        own(folder)
    (folder / "test.csv").unlink()
    (folder / "classes.txt").write_bytes("straße\ncar\ntree\n".encode("latin-1"))
    with pytest.raises(DataError, match="classes.txt cannot be read"):
        own(folder)


def test_skip_leaves_out_an_image_that_is_cut_off(tmp_path: Path) -> None:
    image = own_folder(tmp_path) / "train/images/1.jpg"
    image.write_bytes(image.read_bytes()[:700])
    with pytest.raises(DataError, match="1.jpg: not an image that can be read"):
        own(tmp_path).describe()  # what check-data shows
    data = own(tmp_path, on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data.rows("train")) == 2
    assert data.rows("train").fetch(np.arange(2), 0)["image"].shape[0] == 2


def test_a_palette_is_read_as_ids(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(ids, "P")
    image.putpalette([v for colour in palette(12) for v in colour])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)


def test_camvid_and_cityscapes_in_their_own_folders(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / "camvid" / split / "a.png", np.zeros((8, 8, 3), np.uint8))
        write(tmp_path / "camvid" / f"{split}annot" / "a.png", np.arange(64, dtype=np.uint8).reshape(8, 8) % 12)
    data = CamVidData(source=str(tmp_path / "camvid"), crop=None)
    data.prepare()
    assert data.spec["num_classes"] == 11
    mask = data.rows("test").fetch(np.arange(1), 0)["mask"]
    assert mask.flatten()[:13].tolist() == [*range(11), 255, 0]
    with pytest.raises(DataError, match=r"classes of its own, which data.classes cannot change\n.*\n *0 +road +sky"):
        CamVidData(source=str(tmp_path / "camvid"), classes=["road", "sky"]).prepare()
    for split in ("train", "val"):
        write(tmp_path / "city/leftImg8bit" / split / "ulm/ulm_1_leftImg8bit.png", np.zeros((4, 10, 3), np.uint8))
        ids = np.arange(40, dtype=np.uint8).reshape(4, 10) % 34
        write(tmp_path / "city/gtFine" / split / "ulm/ulm_1_gtFine_labelIds.png", ids)
    data = CityscapesData(source=str(tmp_path / "city"), crop=None)
    data.prepare()
    mask = data.rows("valid").fetch(np.arange(1), 0)["mask"].flatten()
    assert data.spec["num_classes"] == 19 and data.spec["class_frequency"] is None and data.splits == ("train", "valid")
    assert [mask[i].item() for i in LABEL_IDS] == list(range(19)) and mask[0] == 255 and (mask[:34] < 255).sum() == 19
    assert data.describe()["pixels"]["valid"]["road"] == pytest.approx(1 / 19, abs=1e-6)  # reads all masks
    wrong = tmp_path / "city/gtFine/val/ulm/ulm_1_gtFine_labelIds.png"
    write(wrong, np.full((4, 10), 77, np.uint8))
    with pytest.raises(DataError, match="masks have ids that are neither a class nor void: 77"):
        data.describe()


def test_colours_and_mirror_before_enlarging_are_the_same_as_behind_it() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    image = tv_tensors.Image(torch.stack([2 * y + 60, 2 * x + 30, y + x + 40]).to(torch.uint8))
    mask = tv_tensors.Mask(((y // 8 + x // 8) % 3).to(torch.uint8))
    data = SegmentationData(source="toy", crop=(48, 64), scale=(2, 2), jitter=0.3)
    for seed in range(6):
        torch.manual_seed(seed)
        pixels, classes = data._augment(image, mask)
        torch.manual_seed(seed)
        torch.rand(())  # the factor
        expected = (image, mask)
        jitter = v2.ColorJitter(0.3, 0.3, 0.3)
        for step in (v2.RandomCrop((24, 32)), v2.Resize((48, 64)), v2.RandomHorizontalFlip(), jitter):
            expected = step(*expected)
        assert torch.equal(classes, expected[1]) and pixels.shape == expected[0].shape
        away = (pixels.float() - expected[0].float()).abs()
        assert away.max() <= 6 and away.mean() < 1.5  # three changes cut fractions off, at other places


@pytest.mark.parametrize("factor", [0.7, 1.45, 2.3])
def test_a_scaled_mask_lies_where_its_image_does(factor: float) -> None:
    """Between two classes a bilinear image passes its middle where the mask changes."""
    data = SegmentationData(source="toy", crop=(64, 64), scale=(factor, factor), flip=False)
    mask = torch.zeros(120, 120, dtype=torch.uint8)
    mask[:, torch.arange(120) // 9 % 2 == 1] = 1
    image = (255 * mask).expand(3, -1, -1).contiguous()
    seen, moved = data._augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert seen.shape == (3, 64, 64) and moved.shape == (64, 64)
    wrong = (seen[0].as_subclass(Tensor) > 127) != (moved.as_subclass(Tensor) == 1)
    assert wrong.float().mean() < 0.02


def test_augmentation_knows_no_batch_and_moves_the_mask_along() -> None:
    data = SegmentationData(source="toy", crop=(40, 48), jitter=0.2)
    data.prepare()
    rows = data.rows("train")
    a, b = rows.fetch(np.array([3, 5, 7]), 2), rows.fetch(np.array([7]), 2)
    assert torch.equal(a["image"][2], b["image"][0]) and torch.equal(a["mask"][2], b["mask"][0])
    assert not torch.equal(a["image"][2], rows.fetch(np.array([7]), 3)["image"][0])
    plain = SegmentationData(source="toy", crop=(48, 48), scale=(1, 1), flip=True)
    plain.prepare()
    batch = plain.rows("train").fetch(np.arange(16), 1)
    colours = torch.tensor(palette(4)).float()  # each class has its colour, with noise over it
    seen = batch["image"] * torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
    seen = (seen + 255 * torch.tensor([0.485, 0.456, 0.406])[:, None, None] - 35) / 0.7
    nearest = (seen[:, None] - colours[None, :, :, None, None]).square().sum(2).argmin(1)
    known = batch["mask"] != 255
    assert (nearest == batch["mask"])[known].float().mean() > 0.98


# ---------------------------------------------------------------------------------------------------- task


class Fixed(nn.Module):
    """Gives what it was given."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        chosen = tuple(o[: len(image)] for o in self.outputs)
        return chosen if len(chosen) > 1 else chosen[0]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (2, 8, 12), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    return {"image": torch.randn(2, 3, 8, 12, generator=generator), "mask": mask}


def test_the_loss_is_the_sum_over_pixels_that_are_not_void(batch: dict[str, Tensor]) -> None:
    logits = torch.randn(2, 3, 8, 12)
    output = Segmentation(Fixed(logits), 3)(batch)
    expected = 0.0
    for b, y, x in (batch["mask"] != 255).nonzero().tolist():
        expected -= float(logits[b, :, y, x].log_softmax(0)[batch["mask"][b, y, x]])
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-5)
    assert output.weight == (batch["mask"] != 255).sum()


def test_auxiliary_losses_stand_for_all_pixels_and_halves_for_the_whole(batch: dict[str, Tensor]) -> None:
    outputs = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 2, 3)
    for options in ({}, {"hard_pixels": 0.25}, {"label_smoothing": 0.1}):
        task = Segmentation(Fixed(*outputs), 3, auxiliary_weights=[0.4], **options)
        whole = task(batch)
        parts = []
        for row in range(2):
            task.model = Fixed(*(o[row : row + 1] for o in outputs))
            parts.append(task({k: v[row : row + 1] for k, v in batch.items()}))
        assert float(whole.loss_sum) == pytest.approx(sum(float(p.loss_sum) for p in parts), rel=1e-5)
    small = batch["mask"][:, 2::4, 2::4]  # the pixel nearest to the middle of each 4 x 4
    expected = 16 * nn.functional.cross_entropy(outputs[1], small, ignore_index=255, reduction="sum")
    main = Segmentation(Fixed(outputs[0]), 3)(batch).loss_sum
    both = Segmentation(Fixed(*outputs), 3, auxiliary_weights=[0.4])(batch).loss_sum
    assert float(both - main) == pytest.approx(0.4 * float(expected), rel=1e-4)
    with pytest.raises(ConfigError, match="auxiliary_weights"):
        Segmentation(Fixed(*outputs), 3)(batch)


def test_hard_pixels_are_the_worst_ones_of_each_image(batch: dict[str, Tensor]) -> None:
    logits = torch.randn(2, 3, 8, 12)
    found = Segmentation(Fixed(logits), 3, hard_pixels=0.25, hard_probability=1e-9)(batch).loss_sum
    expected = 0.0
    for row in range(2):
        loss = nn.functional.cross_entropy(
            logits[row : row + 1], batch["mask"][row : row + 1], reduction="none", ignore_index=255
        )
        loss = loss[batch["mask"][row : row + 1] != 255].sort(descending=True).values
        expected += float(loss[: len(loss) // 4 + 1].mean() * len(loss))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    everything = Segmentation(Fixed(logits), 3, hard_pixels=0.01, hard_probability=1 - 1e-7)(batch).loss_sum
    assert float(everything) == pytest.approx(float(Segmentation(Fixed(logits), 3)(batch).loss_sum), rel=1e-5)


def test_class_weights_are_as_published_with_a_mean_of_one() -> None:
    share = [0.7, 0.2, 0.1, 0.0]
    model = nn.Identity()
    enet = Segmentation(model, 4, class_frequency=share, class_weights="enet").class_weights
    ratio = math.log(1.02 + 0.7) / math.log(1.02 + 0.1)
    assert float(enet[2] / enet[0]) == pytest.approx(ratio, rel=1e-5) and enet[3] == enet[2]
    median = Segmentation(model, 4, class_frequency=share, class_weights="median").class_weights
    assert float(median[2] / median[0]) == pytest.approx(7, rel=1e-5)
    for weights in (enet, median):
        assert float((weights * torch.tensor(share)).sum()) == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="data.count"):
        Segmentation(model, 4, class_weights="enet")


def test_padding_changes_no_prediction() -> None:
    class Whole(nn.Module):  # looks at the mean of the whole image
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([image - image.mean((2, 3), keepdim=True), image[:, :1] * 0], 1)

    task = Segmentation(Whole(), 4)
    image = torch.randn(1, 3, 6, 8)
    alone = task.predict({"image": image})
    padded = torch.zeros(2, 3, 10, 9)
    padded[0, :, :6, :8] = image[0]
    beside = task.predict({"image": padded, "size": torch.tensor([[6, 8], [10, 9]])})
    assert torch.equal(beside["mask"][0, :6, :8], alone["mask"][0])
    assert (beside["mask"][0, 6:] == 255).all()


def test_flips_and_scales_average_probabilities() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 5, 3, padding=1)
    image = torch.randn(2, 3, 8, 8)
    mask = Segmentation(model, 5, flip=True).predict({"image": image})["mask"]
    expected = model(image).softmax(1) + model(image.flip(3)).flip(3).softmax(1)
    assert torch.equal(mask, expected.argmax(1))
    twice = Segmentation(model, 5, flip=True, scales=[1.0, 0.5]).predict({"image": image})["mask"]
    assert twice.shape == (2, 8, 8)


def test_a_rendered_mask_is_read_back_and_drawn(tmp_path: Path) -> None:
    data = SegmentationData(source="toy")
    data.prepare()
    raw, truth = data.sample("valid", 2)
    mask = data.rows("valid").fetch(np.array([2]), 0)["mask"]
    assert torch.equal(decode_runs(truth["mask"]), mask[0])
    task = Segmentation(nn.Identity(), 4, labels=data.spec["labels"])
    known = mask.clamp(max=3)
    rendered = task.render({"mask": known, "size": torch.tensor([[64, 64]])})[0]
    assert json.dumps(rendered) and sum(rendered["shares"].values()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(decode_runs(rendered["mask"]), known[0])
    picture = data.picture(json.dumps(raw), rendered)
    assert picture.size == (64, 64)
    assert data.encode({"image": raw})["size"].tolist() == [[64, 64]]
    with pytest.raises(DataError, match="rows of"):
        data.encode([[1, 2]])


# ---------------------------------------------------------------------------------------------------- metric


def test_miou_is_that_of_the_definition_and_of_torchmetrics() -> None:
    torch.manual_seed(0)
    prediction, truth = torch.randint(0, 4, (3, 9, 7)), torch.randint(0, 4, (3, 9, 7))
    truth[truth == 3] = 2  # class 3 is predicted only; class 4 is nowhere
    truth[torch.rand(truth.shape) < 0.2] = 255
    metric = MeanIoU(5, list("abcde"), per_class=True)
    for p, t in zip(prediction, truth, strict=True):
        metric.update(p, t)
    known = truth != 255
    iou = []
    for c in range(4):
        both = ((prediction == c) & (truth == c) & known).sum()
        iou.append(float(both / (((prediction == c) | (truth == c)) & known).sum()))
    found = metric.compute()
    assert found["miou"] == pytest.approx(sum(iou) / 4)
    assert [found[f"iou/{c}"] for c in "abcd"] == pytest.approx(iou) and math.isnan(found["iou/e"])
    assert found["pixel_acc"] == pytest.approx(float((prediction == truth)[known].float().mean()))
    assert metric.figure() is not None and MeanIoU(3).figure() is None
    torchmetrics = pytest.importorskip("torchmetrics")
    oracle = torchmetrics.JaccardIndex("multiclass", num_classes=5, ignore_index=255, average="none")
    assert [found[f"iou/{c}"] for c in "abcd"] == pytest.approx(oracle(prediction, truth)[:4].tolist())


def test_rows_are_ranked_by_the_share_that_is_wrong(batch: dict[str, Tensor]) -> None:
    task = Segmentation(nn.Identity(), 3)
    mask = batch["mask"].clone()
    mask[0][mask[0] == 1] = 2
    errors = task.row_errors({"mask": mask}, batch)
    assert errors[1] == 0
    assert float(errors[0]) == pytest.approx(float((batch["mask"][0] == 1).sum() / (batch["mask"][0] != 255).sum()))
