"""The detection task with a detector that answers what it is told, and its metric against other implementations."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paddlecore.errors import DataError
from paddlecv.layers.detection import DetectionLosses, Detections
from paddlecv.metrics import DetectionAP
from paddlecv.metrics.detection import voc_ap
from paddlecv.tasks import Detection
from paddlecv.tasks.detection import mirrored, mirrored_image


class Told(nn.Module):
    """Its answers are given; its losses are the sums of what it is shown."""

    def __init__(self, *answers: Detections) -> None:
        super().__init__()
        self.answers = list(answers)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor, size: Tensor, target: dict[str, Tensor] | None = None) -> Any:
        self.seen.append(image)
        if target is None:
            return self.answers[(len(self.seen) - 1) % len(self.answers)]
        boxes = target["boxes"].sum()
        return DetectionLosses({"box": boxes, "class": 2 * boxes}, torch.tensor(len(image)))


def answer(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(torch.tensor([boxes]).float(), torch.tensor([scores]), torch.tensor([labels]))


def batch(**more: Any) -> dict[str, Any]:
    return {
        "image": torch.rand(1, 3, 64, 96),
        "size": torch.tensor([[60, 80]]),
        "scale": torch.tensor([[0.5, 2.0]]),
        "original": torch.tensor([[120, 40]]),
        "true_boxes": torch.tensor([[[5.0, 20.0, 20.0, 60.0], [0.0, 0.0, 10.0, 10.0]]]),
        "true_labels": torch.tensor([[1, 2]]),
        "crowd": torch.tensor([[False, False]]),
        "image_id": torch.tensor([7]),
        **more,
    }


def test_losses_are_added_up_and_each_is_logged() -> None:
    out = Detection(Told(), labels=["a"])(batch(boxes=torch.ones(1, 2, 4), labels=torch.ones(1, 2), draw=torch.ones(1)))
    assert float(out.loss_sum) == 24 and int(out.weight) == 1
    assert {k: float(v) for k, v in out.logs.items()} == {"box": 8, "class": 16}


def test_answers_are_in_pixels_of_the_original_and_cut_to_it() -> None:
    found = answer([[10, 10, 40, 30], [0, 0, 90, 62], [0, 0, 0, 0]], [0.9, 0.3, 0.0], [1, 2, 0])
    task = Detection(Told(found), labels=["cat", "dog"], score_threshold=0.5)
    prediction = task.predict(batch())
    assert prediction["boxes"][0].tolist() == [[5, 20, 20, 60], [0, 0, 40, 120], [0, 0, 0, 0]]
    rows = task.render(prediction)
    assert rows == [{"objects": [{"label": "cat", "score": 0.9, "box": [5, 20, 20, 60]}]}]
    assert json.dumps(rows)
    assert task.row_errors(prediction, batch()).tolist() == [1.0]  # the second box is missed
    assert Detection(Told(found), labels=["cat"], max_detections=1).predict(batch())["scores"].shape == (1, 1)


def test_row_errors_count_each_box_once_and_no_crowds() -> None:
    found = answer([[10, 10, 40, 30], [10, 10, 40, 30], [0, 0, 20, 5]], [0.9, 0.8, 0.7], [1, 1, 2])
    task = Detection(Told(found), labels=["cat", "dog"])
    assert task.row_errors(task.predict(batch()), batch()).tolist() == [1.0]  # the second answer
    crowd = batch(crowd=torch.tensor([[True, False]]))
    assert task.row_errors(task.predict(crowd), crowd).tolist() == [0.0]


def test_mirror_image_is_within_what_is_not_filling_and_undone() -> None:
    image, size = torch.rand(2, 3, 4, 6), torch.tensor([[4, 5], [3, 6]])
    flipped = mirrored_image(image, size, 1)
    assert torch.equal(flipped[0, ..., :5], image[0, ..., :5].flip(2))
    assert torch.equal(flipped[0, ..., 5], image[0, ..., 5]) and torch.equal(flipped[1], image[1].flip(2))
    assert mirrored(answer([[1, 0, 2, 4]], [0.5], [1]), size[:1], 1).boxes.tolist() == [[[3, 0, 4, 4]]]
    flipped = mirrored_image(image, size, 0)
    assert torch.equal(flipped[0], image[0].flip(1)) and torch.equal(flipped[1, :, :3], image[1, :, :3].flip(1))
    assert torch.equal(flipped[1, :, 3], image[1, :, 3])
    assert mirrored(answer([[1, 0, 2, 3]], [0.5], [1]), size[:1], 0).boxes.tolist() == [[[1, 1, 2, 4]]]


def test_looks_are_joined_to_means() -> None:
    plain = answer([[10, 10, 40, 30], [50, 0, 60, 10], [0, 0, 0, 0]], [0.6, 0.4, 0.0], [1, 2, 0])
    # seen in the mirror: the first one, shifted by 3; another; the second one, of another class
    other = answer([[43, 10, 73, 30], [0, 20, 10, 40], [20, 0, 30, 10]], [0.2, 0.5, 0.1], [1, 2, 1])
    prediction = Detection(Told(plain, other), labels=["a", "b"], flip=True).predict(batch())
    assert prediction["labels"][0].tolist()[:4] == [1, 2, 2, 1]
    assert prediction["scores"][0].tolist() == pytest.approx([0.4, 0.25, 0.2, 0.05, 0, 0])
    assert prediction["boxes"][0, 0].tolist() == pytest.approx([(0.75 * 10 + 0.25 * 7) / 2, 20, (30 + 9.25) / 2, 60])


def test_four_looks_at_the_same_find_the_same() -> None:
    size = torch.tensor([[60, 80]])
    found = answer([[10, 10, 40, 30], [50, 40, 60, 50]], [0.6, 0.4], [1, 2])
    wide, tall = mirrored(found, size, 1), mirrored(found, size, 0)
    model = Told(found, tall, wide, mirrored(wide, size, 0))
    prediction = Detection(model, labels=["a", "b"], flip=True, flip_vertical=True).predict(batch())
    plain = Detection(Told(found), labels=["a", "b"]).predict(batch())
    assert len(model.seen) == 4
    for name in ("boxes", "scores", "labels"):
        assert torch.allclose(prediction[name][:, :2].float(), plain[name].float())
    assert not prediction["scores"][:, 2:].any() and not prediction["labels"][:, 2:].any()


def test_looks_at_several_sizes_are_joined() -> None:
    """The same box at three sizes, once with another score; what one size alone shows keeps a third of its score."""
    plain = answer([[10, 10, 40, 30], [0, 0, 0, 0]], [0.6, 0.0], [1, 0])
    twice = answer([[20, 20, 80, 60], [100, 0, 120, 20]], [0.3, 0.3], [1, 2])  # 128 x 192
    half = answer([[10, 10, 40, 30], [0, 0, 0, 0]], [0.3, 0.0], [1, 0])
    half.boxes[0, 0] *= torch.tensor([64 / 96, 0.5, 64 / 96, 0.5])  # 32 x 64: sides are multiples of 32
    model = Told(plain, twice, half)
    prediction = Detection(model, labels=["a", "b"], scales=[1.0, 2.0, 0.6]).predict(batch())
    assert [tuple(image.shape[2:]) for image in model.seen] == [(64, 96), (128, 192), (32, 64)]
    assert prediction["scores"][0, :2].tolist() == pytest.approx([0.4, 0.1])
    assert prediction["labels"][0, :2].tolist() == [1, 2]
    assert prediction["boxes"][0, 0].tolist() == pytest.approx([5, 20, 20, 60])
    one = Detection(Told(twice), labels=["a", "b"], scales=[2.0]).predict(batch())
    assert one["boxes"][0, 0].tolist() == pytest.approx([5, 20, 20, 60]) and one["scores"].shape == (1, 2)


def test_masks_are_pasted_into_the_picture_and_measured() -> None:
    half = torch.zeros(1, 2, 28, 28)
    half[0, 0, :, :14] = 1.0  # the left half of its box
    found = answer([[10, 10, 40, 30], [0, 0, 0, 0]], [0.9, 0.0], [1, 0])._replace(masks=half)
    task = Detection(Told(found), labels=["cat"], masks=True, metric="mask_ap")
    prediction = task.predict(batch())
    (mask,) = prediction["masks"][0]
    from pycocotools import mask as coco

    pixels = coco.decode([mask])[..., 0]
    assert pixels.shape == (120, 40)
    rows, columns = np.nonzero(pixels)
    assert (rows.min(), rows.max()) == (20, 59) and columns.min() == 5 and columns.max() in (11, 12)
    assert json.dumps(task.render(prediction))
    metrics = task.metrics()
    truth = batch(true_boxes=prediction["boxes"], true_labels=prediction["labels"], true_masks=prediction["masks"])
    task.measure(metrics, prediction, truth)
    assert metrics[0].compute() == {"mask_ap": 1.0, "map50": 1.0, "ap": 1.0, "map50/cat": 1.0}


def test_says_who_gives_no_masks() -> None:
    found = answer([[10, 10, 40, 30]], [0.9], [1])
    task = Detection(Told(found), labels=["cat"], masks=True)
    with pytest.raises(DataError, match=r"the data \(data.masks=true\) must give masks"):
        task.measure(task.metrics(), task.predict(batch()), batch())
    with pytest.raises(DataError, match="the model must give masks"):
        task.measure(task.metrics(), task.predict(batch()), batch(true_masks=[[]]))


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 2},
        {"max_detections": 0},
        {"flip_vertical": True, "masks": True},
        {"metric": "mask_ap"},
        {"scales": [1.0, 1.5], "masks": True},
        {"scales": [0.0]},
    ],
)
def test_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="task."):
        Detection(Told(), labels=["a"], **options)


# ---------------------------------------------------------------------------------------------------- the metric


def scenes(seed: int, pictures: int = 12, classes: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Random boxes, and answers that are some of them, moved, and others; some boxes are crowds."""
    random = np.random.default_rng(seed)
    g, k = 6, 9
    corner = random.uniform(0, 200, (pictures, g, 2))
    true = np.concatenate([corner, corner + random.uniform(5, 150, (pictures, g, 2))], 2)
    labels = random.integers(0, classes + 1, (pictures, g))
    which = random.integers(0, g, (pictures, k))
    found = np.take_along_axis(true, which[..., None], 1) + random.normal(0, 6, (pictures, k, 4))
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2] + 1)
    guess = np.take_along_axis(labels, which, 1)
    guess = np.where(random.random((pictures, k)) < 0.2, random.integers(0, classes + 1, (pictures, k)), guess)
    scores = -np.sort(-random.random((pictures, k)).round(2), 1) + 0.0
    return (
        {"boxes": torch.tensor(found), "scores": torch.tensor(scores), "labels": torch.tensor(guess)},
        {
            "boxes": torch.tensor(true),
            "labels": torch.tensor(labels),
            "crowd": torch.tensor(random.random((pictures, g)) < 0.15),
        },
        torch.arange(pictures),
    )


def coco_by_pycocotools(found: dict[str, Any], true: dict[str, Any], ids: Tensor, classes: int) -> float:
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kind = "segm" if "masks" in found else "bbox"

    def annotations(given: dict[str, Any], extra: str, key: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for i in ids.tolist():
            masks = iter(given.get("masks", [[]] * len(ids))[i])
            for label, box, value in zip(given["labels"][i], given["boxes"][i].tolist(), given[extra][i], strict=True):
                if label:
                    x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
                    row: dict[str, Any] = {"image_id": i, "category_id": int(label)}
                    if kind == "segm":
                        row["segmentation"] = next(masks)
                        row["area"] = int(mask.area(row["segmentation"]))
                    else:
                        row |= {"bbox": [x, y, w, h], "area": w * h}
                    rows.append({**row, key: value.item() if key == "score" else int(value), "id": len(rows) + 1})
        return rows

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, "height": 60, "width": 80} for i in ids.tolist()],
            "categories": [{"id": i + 1} for i in range(classes)],
            "annotations": annotations(true, "crowd", "iscrowd"),
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(annotations(found, "scores", "score")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_pycocotools_in_any_number_of_parts(seed: int) -> None:
    found, true, ids = scenes(seed)
    metric = DetectionAP(["a", "b", "c"])
    for part in (slice(0, 5), slice(5, 6), slice(6, None)):
        metric.update({k: v[part] for k, v in found.items()}, {k: v[part] for k, v in true.items()}, ids[part])
    result = metric.compute()
    assert list(result) == ["map50", "ap", "map50/a", "map50/b", "map50/c"] == list(metric.goals)
    assert result["ap"] == pytest.approx(coco_by_pycocotools(found, true, ids, 3), abs=1e-12)
    assert result["map50"] == pytest.approx(np.mean([result[f"map50/{n}"] for n in "abc"]))
    assert 0 < result["ap"] < result["map50"] < 1
    lines = metric.figure().axes[0].lines
    assert [line.get_label() for line in lines] == [f"{name} {result[f'map50/{name}']:.3f}" for name in "abc"]


def test_mask_ap_equals_pycocotools() -> None:
    from pycocotools import mask

    random = np.random.default_rng(5)
    found, true, ids = scenes(5, pictures=6, classes=2)

    def runs(labels: Tensor, boxes: Tensor) -> list[list[dict[str, Any]]]:
        """Ellipses in the boxes, in pictures of 60 x 80, of those that have a label."""
        y, x = np.mgrid[:60, :80]
        pictures = []
        for label, box in zip(labels, (boxes / 4).numpy(), strict=True):
            shapes = []
            for x1, y1, x2, y2 in box[(label > 0).numpy()]:
                sides = max(x2 - x1, 8.0) / 2, max(y2 - y1, 8.0) / 2
                inside = ((x - (x1 + x2) / 2) / sides[0]) ** 2 + ((y - (y1 + y2) / 2) / sides[1]) ** 2 < 1
                inside[:, random.integers(80)] = False  # in two pieces, perhaps
                shapes.append(mask.encode(np.asfortranarray(inside.astype(np.uint8))))
            pictures.append(shapes)
        return pictures

    found["masks"], true["masks"] = (runs(given["labels"], given["boxes"]) for given in (found, true))
    metric = DetectionAP(["a", "b"], masks=True)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update({k: v[part] for k, v in found.items()}, {k: v[part] for k, v in true.items()}, ids[part])
    result = metric.compute()
    assert result["mask_ap"] == pytest.approx(coco_by_pycocotools(found, true, ids, 2), abs=1e-12)
    assert 0 < result["mask_ap"] < 1


def brute_force(found: np.ndarray, true: np.ndarray) -> float:
    """VOC's definition once more, point by point, without anything shared."""
    wanted = sum(1 for t in true if not t[2])
    taken: set[int] = set()
    curve = []
    right = wrong = 0
    for image, _, _, *box in sorted(found.tolist(), key=lambda row: -row[2]):
        best, match = 0.0, None
        for j, t in enumerate(true.tolist()):
            if t[0] != image:
                continue
            w = max(0.0, min(box[2], t[5]) - max(box[0], t[3]))
            h = max(0.0, min(box[3], t[6]) - max(box[1], t[4]))
            union = (box[2] - box[0]) * (box[3] - box[1]) + (t[5] - t[3]) * (t[6] - t[4]) - w * h
            if w * h / union > best:
                best, match = w * h / union, j
        if best >= 0.5 and match is not None and true[match][2]:
            continue
        if best >= 0.5 and match not in taken:
            assert match is not None
            taken.add(match)
            right += 1
        else:
            wrong += 1
        curve.append((right / wanted, right / (right + wrong)))
    area, last = 0.0, 0.0
    for recall, _ in curve:
        area += (recall - last) * max((p for r, p in curve if r >= recall), default=0.0)
        last = recall
    return area


@pytest.mark.parametrize("seed", range(5))
def test_map50_equals_the_definition(seed: int) -> None:
    found, true, ids = scenes(100 + seed, pictures=5, classes=1)
    metric = DetectionAP(["a"])
    metric.update(found, true, ids)
    rows = metric.cat("found").numpy(), metric.cat("true").numpy()
    assert metric.compute()["map50"] == pytest.approx(brute_force(*rows), abs=1e-12)
    assert voc_ap(*rows) == metric.compute()["map50"]


def test_so_many_of_a_picture_and_class_count_in_each_number() -> None:
    found, true, ids = scenes(3)
    few, trimmed = DetectionAP(["a", "b", "c"], max_detections=1), DetectionAP(["a", "b", "c"])
    few.update(found, true, ids)
    better = (found["labels"][:, :, None] == found["labels"][:, None]).tril(-1).any(2)  # scores fall along a row
    best = {**found, "labels": found["labels"].masked_fill(better, 0)}
    trimmed.update(best, true, ids)
    assert few.compute() == trimmed.compute()
    assert few.compute()["ap"] == pytest.approx(coco_by_pycocotools(best, true, ids, 3), abs=1e-12)


def test_equal_scores_are_ranked_alike_whatever_the_order_of_the_pictures() -> None:
    found, true, ids = scenes(7, pictures=8)
    found["scores"] = (4 * found["scores"]).ceil() / 4  # as those of half precision: many are the same
    whole = DetectionAP(["a", "b", "c"])
    whole.update(found, true, ids)
    ranks = DetectionAP(["a", "b", "c"])  # gathered from two, which had turns of two pictures
    for part in ([0, 1, 4, 5], [2, 3, 6, 7]):
        ranks.update({k: v[part] for k, v in found.items()}, {k: v[part] for k, v in true.items()}, ids[part])
    assert whole.compute() == ranks.compute()


def test_what_the_metric_says_of_nothing() -> None:
    nothing = torch.zeros(2, 1, dtype=torch.int64)
    empty = {"boxes": torch.zeros(2, 1, 4), "scores": torch.zeros(2, 1), "labels": nothing}
    truth = {"boxes": torch.ones(2, 1, 4), "labels": nothing, "crowd": nothing.bool()}
    metric = DetectionAP(["a", "b"])
    assert all(np.isnan(v) for v in metric.compute().values())
    metric.update(empty, truth, torch.arange(2))
    assert all(np.isnan(v) for v in metric.compute().values())  # no boxes at all: nothing to find
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0]]).expand(2, 1, 4)
    metric.reset()
    metric.update(empty, {"boxes": boxes, "labels": torch.tensor([[1], [0]]), "crowd": nothing.bool()}, torch.arange(2))
    result = metric.compute()
    assert result["map50"] == result["ap"] == result["map50/a"] == 0 and np.isnan(result["map50/b"])


def test_masks_that_do_not_fit_the_boxes_are_refused() -> None:
    found, true, ids = scenes(0, pictures=1)
    with pytest.raises(ValueError, match="masks"):
        DetectionAP(["a", "b", "c"], masks=True).update({**found, "masks": [[]]}, true, ids)
