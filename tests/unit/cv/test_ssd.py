"""SSD and SSDlite against torchvision's with the same weights, and against loops over default boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from paddlecore.errors import DataError
from paddlecv import load_pretrained
from paddlecv.layers.detection import encode_boxes
from paddlecv.layers.fold import fold_batch_norm
from paddlecv.models import SSD300, SSDlite
from paddlecv.models.ssd import CODING, SSD, VGGTrunk

SMALL = dict(ratios=[[2], [2, 3], [2, 3]], scales=[0.1, 0.2, 0.4, 0.6])
BOXES = torch.tensor(
    [
        [[10.0, 10.0, 40.0, 50.0], [30.0, 5.0, 60.0, 60.0], [33.0, 8.0, 60.0, 60.0]],
        [[0.0, 0.0, 20.0, 20.0]] + [[0.0] * 4] * 2,
    ]
)
LABELS = torch.tensor([[2, 1, 3], [3, 0, 0]])


def small(**options: object) -> SSD:
    torch.manual_seed(0)
    return SSDlite(num_classes=3, architecture="mobilenet_v1", strides=[8, 16], width=0.25, **{**SMALL, **options})


@pytest.mark.parametrize(
    ("ours", "theirs", "side"),
    [(SSD300, ssd300_vgg16, 300), (SSDlite, ssdlite320_mobilenet_v3_large, 320)],
    ids=["ssd300", "ssdlite"],
)
def test_a_file_of_torchvision_gives_the_same_outputs(
    ours: type[SSD], theirs: object, side: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    peer = theirs(weights=None, weights_backbone=None, num_classes=4, image_mean=[0.0] * 3, image_std=[1.0] * 3)  # type: ignore[operator]
    for module in peer.modules():  # no two boxes shall have the same score
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    model = ours(num_classes=3)
    load_pretrained(model, tmp_path / "peer.safetensors", strict=True)
    peer.eval(), model.eval()
    image = torch.randn(1, 3, side, side)
    target = {"boxes": BOXES[:1] * 5, "labels": LABELS[:1]}
    with torch.no_grad():
        expected = peer(list(image))[0]
        found = model(image, torch.tensor([[side, side]]))
        count = len(expected["scores"])
        assert found.scores.shape == (1, count) and count > 20
        torch.testing.assert_close(found.scores[0], expected["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes[0], expected["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(found.labels[0], expected["labels"])
        losses = model(image, torch.tensor([[side, side]]), target)
        peer.train()
        for module in peer.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.eval()
        theirs_losses = peer(list(image), [{"boxes": BOXES[0] * 5, "labels": LABELS[0]}])
    for ours_name, name in (("class", "classification"), ("box", "bbox_regression")):
        torch.testing.assert_close(losses.sums[ours_name] / losses.weight, theirs_losses[name], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_loss_equals_loops_over_default_boxes() -> None:
    model = small().eval()
    image = torch.randn(2, 3, 64, 64)
    maps = model.backbone(image)
    anchors = model.default_boxes(maps, image)
    scores, codes = (model.head[part](maps).double() for part in ("classification_head", "regression_head"))
    found = model(image, torch.full((2, 2), 64), {"boxes": BOXES, "labels": LABELS})
    class_sum = box_sum = positives = 0.0
    for b in range(2):
        true, labels = BOXES[b][LABELS[b] > 0], LABELS[b][LABELS[b] > 0]
        iou = box_iou(true, anchors)
        matched = {n: int(iou[:, n].argmax()) for n in range(len(anchors)) if iou[:, n].max() >= 0.5}
        matched |= {int(iou[g].argmax()): g for g in range(len(true))}
        loss = [
            F.cross_entropy(scores[b, n], labels[matched[n]] if n in matched else torch.tensor(0))
            for n in range(len(anchors))
        ]
        hard = sorted((float(loss[n]) for n in range(len(anchors)) if n not in matched), reverse=True)
        class_sum += sum(float(loss[n]) for n in matched) + sum(hard[: 3 * len(matched)])
        for n, g in matched.items():
            code = encode_boxes(true[g].double(), anchors[n].double(), CODING)
            box_sum += float(F.smooth_l1_loss(codes[b, n], code, reduction="sum"))
        positives += len(matched)
    assert int(found.weight) == positives
    assert float(found.sums["class"]) == pytest.approx(class_sum, rel=1e-5)
    assert float(found.sums["box"]) == pytest.approx(box_sum, rel=1e-5)


def test_an_image_without_boxes_adds_nothing_and_padding_changes_nothing() -> None:
    model = small().eval()
    image, size = torch.randn(2, 3, 64, 64), torch.full((2, 2), 64)
    both = model(image, size, {"boxes": BOXES, "labels": LABELS * torch.tensor([[1], [0]])})
    one = model(image[:1], size[:1], {"boxes": BOXES[:1], "labels": LABELS[:1]})
    assert both.weight == one.weight > 0
    for name, value in one.sums.items():
        torch.testing.assert_close(both.sums[name], value)
    none = model(image, size, {"boxes": BOXES[:, :0], "labels": LABELS[:, :0]})
    assert none.weight == 0 and not any(none.sums.values())


def test_default_boxes_by_hand() -> None:
    model = small(ratios=[[2], [2]], scales=[0.25, 0.5, 1.0])
    image = torch.zeros(1, 3, 32, 64)
    anchors = model.default_boxes([torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 2, 4)], image).view(-1, 4, 4)
    assert anchors.shape[0] == 4 * 8 + 2 * 4
    place = anchors[1 * 8 + 2]  # row 1, column 2 of the first map: centre (20, 12)
    shapes = [(0.25, 0.25), (0.125**0.5, 0.125**0.5), (0.25 * 2**0.5, 0.25 / 2**0.5), (0.25 / 2**0.5, 0.25 * 2**0.5)]
    for box, (w, h) in zip(place, shapes, strict=True):
        expected = [20 - 32 * w, 12 - 16 * h, 20 + 32 * w, 12 + 16 * h]
        torch.testing.assert_close(box, torch.tensor(expected))


def test_detections_lie_within_each_image() -> None:
    model = small().eval()
    found = model(torch.randn(2, 3, 64, 64), torch.tensor([[64, 64], [40, 48]]))
    assert (found.boxes[1, :, 0::2] <= 48).all() and (found.boxes[1, :, 1::2] <= 40).all()
    assert (found.scores.diff(dim=1) <= 0).all() and found.labels.max() <= 3


def test_folded_norms_find_the_same() -> None:
    model = small(ratios=[[2], [2]], scales=[0.1, 0.2, 0.4]).train()
    image, size = torch.randn(4, 3, 64, 64), torch.full((4, 2), 64)
    with torch.no_grad():
        model(image, size)  # statistics
    folded = fold_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    expected, found = model.eval()(image, size), folded(image, size)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_narrow_ssd300_of_few_maps(batch_norm: bool) -> None:
    torch.manual_seed(0)
    model = SSD300(num_classes=3, width=0.125, batch_norm=batch_norm, steps=None, **SMALL)  # type: ignore[arg-type]
    losses = model(torch.randn(2, 3, 64, 64), torch.full((2, 2), 64), {"boxes": BOXES, "labels": LABELS})
    sum(losses.sums.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.parameters())
    found: list[Tensor] = model.backbone(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in found] == [8, 4, 2]
    torch.testing.assert_close(found[0].norm(dim=1), torch.full((1, 8, 8), 20.0))
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == batch_norm


@pytest.mark.parametrize(("maps", "smallest"), [(2, 12), (4, 12), (5, 140), (6, 268)])
def test_the_smallest_image_of_so_many_maps(maps: int, smallest: int) -> None:
    trunk = VGGTrunk(maps=maps, width=0.01).eval()
    assert [*trunk(torch.zeros(1, 3, smallest, smallest + 1))[-1].shape[2:]] == [1, 1]
    with pytest.raises(DataError, match=f"sides of {smallest} pixels or more"):
        trunk(torch.zeros(1, 3, 300, smallest - 1))


def test_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="as many ratios"):
        small(scales=[0.1, 0.2])
    with pytest.raises(ValueError, match="two to six maps"):
        SSD300(num_classes=1, ratios=[[2]] * 7)
    with pytest.raises(ValueError, match="four can be added"):
        small(ratios=[[2]] * 7)
    with pytest.raises(ValueError, match="as many steps"):
        SSD300(num_classes=1, width=0.1, steps=[8])
