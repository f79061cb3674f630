"""Parts of detectors against torchvision's, and against loops over boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.ops import box_iou

from paddlecv.layers import detection as d
from paddlecv.models import FasterRCNN


def boxes(count: int, side: float = 40.0, seed: int = 0, batch: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count,) if batch is None else (batch, count)
    corner = torch.rand(*shape, 2, generator=generator) * side
    return torch.cat([corner, corner + 2 + torch.rand(*shape, 2, generator=generator) * side / 2], -1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_coding_equals_torchvision_and_inverts(weights: tuple[float, float, float, float]) -> None:
    coder = BoxCoder(weights)
    there, anchors = boxes(50), boxes(50, seed=1)
    codes = d.encode_boxes(there, anchors, weights)
    torch.testing.assert_close(codes, coder.encode_single(there, anchors))
    torch.testing.assert_close(d.decode_boxes(codes, anchors, weights), there, rtol=1e-5, atol=1e-4)
    wild = 20 * torch.randn(50, 4)
    torch.testing.assert_close(d.decode_boxes(wild, anchors, weights), coder.decode_single(wild, anchors))
    batched = d.encode_boxes(there.view(5, 10, 4), anchors[:10], weights)
    torch.testing.assert_close(batched[0], codes[:10])


@pytest.mark.parametrize(("rescue", "high", "low"), [("none", 0.5, 0.5), ("one", 0.5, 0.5), ("ties", 0.5, 0.3)])
def test_matching_equals_torchvision_on_each_image(rescue: str, high: float, low: float) -> None:
    reference = {
        "none": Matcher(high, low),
        "one": SSDMatcher(high),
        "ties": Matcher(high, low, allow_low_quality_matches=True),
    }[rescue]
    side = torch.arange(0, 48, 8.0)
    y, x = torch.meshgrid(side, side, indexing="ij")
    grid = torch.stack([x, y, x + 12, y + 12], -1).view(-1, 4)
    anchors = torch.cat([grid, grid + torch.tensor([0, 0, 8, 0]), grid + 0.0])  # the last third are ties of the first
    there, labels = boxes(6, batch=8), torch.ones(8, 6, dtype=torch.int64)
    labels[2, 3:] = 0
    there[2, 3:] = 0
    labels[3] = 0
    found = d.match_anchors(there, labels, anchors, high=high, low=low, rescue=rescue)
    for image in range(8):
        count = int((labels[image] > 0).sum())
        if count:
            expected = reference(box_iou(there[image, :count], anchors))
            assert torch.equal(found[image], expected)
        else:
            assert (found[image] == d.BACKGROUND).all()
    per_image = d.match_anchors(there, labels, anchors.expand(8, -1, -1), high=high, low=low, rescue=rescue)
    assert torch.equal(per_image, found)


@pytest.mark.parametrize("rescue", ["none", "one", "ties"])
def test_a_box_that_no_anchor_touches_takes_none(rescue: str) -> None:
    far = torch.tensor([[[900.0, 900.0, 920.0, 920.0]]])
    found = d.match_anchors(far, torch.ones(1, 1, dtype=torch.int64), boxes(7), high=0.5, low=0.5, rescue=rescue)
    assert (found == d.BACKGROUND).all()
    none = d.match_anchors(far[:, :0], torch.ones(1, 0, dtype=torch.int64), boxes(7), high=0.5, low=0.5, rescue=rescue)
    assert torch.equal(none, found)


def test_targets_of_anchors_without_a_box_are_background() -> None:
    there, labels = boxes(2, batch=1), torch.tensor([[4, 7]])
    box, label = d.matched_targets(torch.tensor([[1, d.BETWEEN, 0, d.BACKGROUND]]), there, labels)
    assert label.tolist() == [[7, 0, 4, 0]]
    assert torch.equal(box[0, [0, 2]], there[0, [1, 0]])
    assert torch.isfinite(d.encode_boxes(box, boxes(4))).all()
    box, label = d.matched_targets(torch.full((1, 3), d.BACKGROUND), there[:, :0], labels[:, :0])
    assert label.tolist() == [[0, 0, 0]] and box.shape == (1, 3, 4)


def test_boxes_are_cut_to_their_own_image() -> None:
    wide = torch.tensor([-5.0, -5.0, 90.0, 90.0]).expand(2, 1, 4)
    cut = d.clip_boxes(wide, torch.tensor([[20, 30], [64, 50]]))
    assert cut.tolist() == [[[0, 0, 30, 20]], [[0, 0, 50, 64]]]


def test_tensors_made_once_serve_training_after_inference_mode_and_export() -> None:
    grids, sizes = ((3, 5),), ((16,),)

    class Shift(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.sum() * d.pyramid_anchors(grids, (24, 40), sizes, (1.0,), image.device)

    exported = torch.export.export(Shift(), (torch.ones(2, 2),)).module()
    with torch.inference_mode():
        first = Shift()(torch.ones(2, 2))
    assert torch.equal(exported(torch.ones(2, 2)), first)
    image = torch.ones(2, 2, requires_grad=True)
    (Shift()(image) * image.mean()).sum().backward()
    kept = d.pyramid_anchors(grids, (24, 40), sizes, (1.0,), image.device)
    assert type(kept) is Tensor and kept is d.pyramid_anchors(grids, (24, 40), sizes, (1.0,), image.device)


def slowly(boxes: Tensor, scores: Tensor, max_iou: float) -> list[int]:
    """Greedy suppression of one class by the definition: numbers of the boxes that stay."""
    left, kept = scores.argsort(descending=True).tolist(), []
    while left:
        first, *left = left
        kept.append(first)
        left = [other for other in left if box_iou(boxes[first : first + 1], boxes[other : other + 1])[0, 0] <= max_iou]
    return kept


@pytest.mark.parametrize(("keep", "max_iou"), [(30, 0.4), (9, 0.02), (4, 0.1)])  # all, more and more, the best few
def test_suppression_equals_its_definition(keep: int, max_iou: float) -> None:
    torch.manual_seed(0)
    there, probability = boxes(60, batch=3), torch.rand(3, 60, 4)
    probability[2] = 0
    probability[1, 5:] = 0  # one image with few
    found = d.suppress(*d.best_of_each_class(there, probability, 20), min_score=0.3, max_iou=max_iou, keep=keep)
    for image in range(3):
        expected = []
        for label in range(1, 5):
            scores = probability[image, :, label - 1]
            best = scores.argsort(descending=True)[:20]
            best = best[scores[best] > 0.3]
            kept = best[slowly(there[image, best], scores[best], max_iou)]
            expected += [(float(scores[i]), label, *there[image, i].tolist()) for i in kept]
        expected.sort(reverse=True)
        expected = expected[:keep]
        count = int((found.labels[image] > 0).sum())
        ours = torch.cat([found.scores[image, :, None], found.labels[image, :, None], found.boxes[image]], 1)
        assert count == len(expected)
        torch.testing.assert_close(ours[:count], torch.tensor(expected).view(-1, 6))
        assert not ours[count:].any()
    assert found.labels.shape[1] == keep and found.labels.dtype == torch.int64


def test_nothing_found_is_one_column_of_padding() -> None:
    found = d.suppress(
        *d.best_of_each_class(boxes(5, batch=2), torch.zeros(2, 5, 3), 9), min_score=0, max_iou=1, keep=9
    )
    assert found.boxes.shape == (2, 1, 4) and not found.labels.any()
    none = d.suppress(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).long(), min_score=0, max_iou=1, keep=9)
    assert none.boxes.shape == (2, 1, 4) and not none.labels.any()


def test_pictures_in_which_nothing_is_proposed_have_no_detections() -> None:
    torch.manual_seed(0)
    model = FasterRCNN(
        num_classes=2, architecture="mobilenet_v2", strides=(16, 32), channels=8, box_width=8, frozen_norm=False,
        anchor_sizes=((32,), (64,), (96,)), candidates=(9, 9), proposals=(9, 9),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias[:] = 1e5  # all of them lie outside
        found = model(torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]]))
    assert found.boxes.shape == (1, 1, 4) and not found.labels.any()
