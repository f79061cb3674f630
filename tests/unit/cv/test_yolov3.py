"""YOLOv3 against loops over places, and the parameter counts of the paper's network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from paddlecv.models import YOLOv3
from paddlecv.models.yolov3 import STRIDES, Darknet53, assign

GRIDS = ((8, 8), (4, 4), (2, 2))
PRIORS = (
    (6.0, 8.0),
    (10.0, 8.0),
    (12.0, 14.0),
    (16.0, 20.0),
    (24.0, 16.0),
    (24.0, 28.0),
    (32.0, 40.0),
    (48.0, 32.0),
    (56.0, 56.0),
)
BOXES = torch.tensor(
    [
        [[4.0, 4.0, 12.0, 11.0], [20.0, 10.0, 44.0, 38.0], [22.0, 12.0, 42.0, 37.0], [0.0, 0.0, 64.0, 60.0]],
        [[50.0, 50.0, 64.0, 64.0], [0.0] * 4, [0.0] * 4, [0.0] * 4],
    ]
)
LABELS = torch.tensor([[1, 2, 3, 2], [3, 0, 0, 0]])


def small(**options: object) -> YOLOv3:
    torch.manual_seed(0)
    return YOLOv3(num_classes=3, width=0.125, neck_width=0.0625, anchors=PRIORS, **options)  # type: ignore[arg-type]


def places() -> list[tuple[int, int, int, int, int]]:
    """(number, level, row, column, prior) of all places, in the order of the predictions."""
    found = []
    for level, (rows, columns) in enumerate(GRIDS):
        for row in range(rows):
            for column in range(columns):
                found += [(len(found) + k, level, row, column, 3 * level + k) for k in range(3)]
    return found


def owners(boxes: Tensor, labels: Tensor) -> dict[int, int]:
    """{place: box} of one image, by the definition."""
    found = {}
    for g in range(len(boxes)):
        if labels[g] == 0:
            continue
        x1, y1, x2, y2 = boxes[g].tolist()
        w, h = x2 - x1, y2 - y1
        shared = [min(w, pw) * min(h, ph) for pw, ph in PRIORS]
        iou = [s / (w * h + pw * ph - s) for s, (pw, ph) in zip(shared, PRIORS, strict=True)]
        prior = iou.index(max(iou))
        stride = STRIDES[prior // 3]
        row, column = int((y1 + y2) / 2 / stride), int((x1 + x2) / 2 / stride)
        place = next(n for n, level, r, c, p in places() if (r, c, p) == (row, column, prior))
        found[place] = g
    return found


def test_a_box_belongs_to_the_prior_of_its_shape_at_its_cell() -> None:
    owner = assign(BOXES, LABELS, GRIDS, PRIORS)
    assert owner.shape == (2, 3 * (64 + 16 + 4))
    for b in range(2):
        expected = owners(BOXES[b], LABELS[b])
        assert {n: int(owner[b, n]) for n in range(owner.shape[1]) if owner[b, n] >= 0} == expected
    assert 1 not in owner[0].tolist() and 2 in owner[0].tolist()  # both have the same place
    edge = assign(torch.tensor([[[60.0, 60.0, 68.0, 68.0]]]), torch.ones(1, 1, dtype=torch.int64), GRIDS, PRIORS)
    assert (edge >= 0).sum() == 1  # a centre on the far border is in the last cell
    assert (assign(BOXES[:, :0], LABELS[:, :0], GRIDS, PRIORS) == -1).all()


@pytest.mark.parametrize("box_loss", ["squared", "giou", "ciou"])
@torch.no_grad()
def test_losses_and_boxes_equal_loops_over_places(box_loss: str) -> None:
    model = small(box_loss=box_loss, box_weight=2.0, ignore_iou=0.3).eval()
    for head in model.heads:
        torch.nn.init.normal_(head[1].weight, std=0.5)
    image = torch.randn(2, 3, 64, 64)
    maps = [m.view(2, 3, 8, *m.shape[2:]).double() for m in model._maps(image)]
    sums = dict.fromkeys(("object", "class", "box"), 0.0)
    ignored = 0
    for b in range(2):
        true, owner = BOXES[b][LABELS[b] > 0].double(), owners(BOXES[b], LABELS[b])
        for n, level, row, column, prior in places():
            t = maps[level][b, prior % 3, :, row, column]
            s, (pw, ph) = STRIDES[level], PRIORS[prior]
            x, y = (float(t[0].sigmoid()) + column) * s, (float(t[1].sigmoid()) + row) * s
            w, h = pw * math.exp(t[2]), ph * math.exp(t[3])
            found = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dtype=torch.float64)
            there = float(t[4].sigmoid())
            if n not in owner:
                if float(box_iou(found[None], true).max()) > 0.3:
                    ignored += 1
                else:
                    sums["object"] -= math.log(1 - there)
                continue
            sums["object"] -= math.log(there)
            box, label = true[owner[n]], int(LABELS[b, owner[n]])
            for c in range(3):
                p = float(t[5 + c].sigmoid())
                sums["class"] -= math.log(p if c + 1 == label else 1 - p)
            if box_loss == "squared":
                x1, y1, x2, y2 = box.tolist()
                want = (
                    (x1 + x2) / 2 / s - column,
                    (y1 + y2) / 2 / s - row,
                    math.log((x2 - x1) / pw),
                    math.log((y2 - y1) / ph),
                )
                have = (float(t[0].sigmoid()), float(t[1].sigmoid()), float(t[2]), float(t[3]))
                share = (x2 - x1) * (y2 - y1) / 64**2
                sums["box"] += 2 * (2 - share) * sum((i - j) ** 2 for i, j in zip(want, have, strict=True))
            else:
                loss = complete_box_iou_loss if box_loss == "ciou" else generalized_box_iou_loss
                sums["box"] += 2 * float(loss(found, box))
    assert ignored > 0
    losses = model(image, torch.full((2, 2), 64), {"boxes": BOXES, "labels": LABELS})
    assert int(losses.weight) == 2
    for name, value in sums.items():
        assert float(losses.sums[name]) == pytest.approx(value, rel=1e-4), name


def test_gradients_are_finite_and_padding_changes_nothing() -> None:
    model = small(box_loss="ciou").eval()
    image, size = torch.randn(2, 3, 64, 64), torch.full((2, 2), 64)
    losses = model(image, size, {"boxes": BOXES, "labels": LABELS})
    sum(losses.sums.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    short = model(image[1:], size[1:], {"boxes": BOXES[1:, :1], "labels": LABELS[1:, :1]})
    padded = model(image[1:], size[1:], {"boxes": BOXES[1:], "labels": LABELS[1:]})
    for name, value in short.sums.items():
        torch.testing.assert_close(padded.sums[name], value)
    empty = model(image, size, {"boxes": BOXES[:, :0], "labels": LABELS[:, :0]})
    assert empty.sums["object"] > 0 and not empty.sums["class"] and not empty.sums["box"]


@pytest.mark.parametrize("box_loss", ["giou", "ciou"])
def test_places_whose_box_has_no_height_left_give_no_nan(box_loss: str) -> None:
    model = small(box_loss=box_loss).eval()
    image, size, target = torch.randn(2, 3, 64, 64), torch.full((2, 2), 64), {"boxes": BOXES, "labels": LABELS}
    with torch.no_grad():  # all but the places of the two largest boxes
        for head in model.heads[:2]:
            head[1].bias.view(3, -1)[:, 2:4] = -30
    model(image[:, :], size, {name: value[:, 3:] for name, value in target.items()}).sums["box"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_detections_are_object_times_class_within_the_image() -> None:
    model = small().eval()
    found = model(torch.randn(1, 3, 64, 64), torch.tensor([[40, 48]]))
    assert found.boxes[..., 0::2].max() <= 48 and found.boxes[..., 1::2].max() <= 40
    assert (found.scores.diff(dim=1) <= 0).all() and 0 < found.scores.max() < 0.02  # at first nearly nothing is there


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Darknet53().parameters()) == 41_609_928 - 1025 * 1000  # less the classifier
        assert sum(p.numel() for p in YOLOv3(num_classes=80).parameters()) == 61_949_149


def test_on_another_trunk() -> None:
    model = YOLOv3(num_classes=2, architecture="mobilenet_v1", width=0.25, neck_width=0.0625)
    grids = [m.shape[2:] for m in model._maps(torch.randn(1, 3, 64, 96))]
    assert grids == [(8, 12), (4, 6), (2, 3)]


def test_refuses_options_without_meaning() -> None:
    with pytest.raises(ValueError, match="nine pairs"):
        YOLOv3(num_classes=2, anchors=[[1, 2]])
    with pytest.raises(ValueError, match="box_loss"):
        YOLOv3(num_classes=2, box_loss="l2")  # type: ignore[arg-type]
