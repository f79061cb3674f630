"""RetinaNet against torchvision's with the same weights, and its loss on batches against single images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn

from paddlecv import load_pretrained
from paddlecv.models import RetinaNet

BOXES = torch.tensor([[[10.0, 10.0, 50.0, 60.0], [40.0, 5.0, 95.0, 90.0]], [[0.0, 0.0, 30.0, 30.0], [0.0] * 4]])
LABELS = torch.tensor([[2, 1], [3, 0]])


def test_a_file_of_torchvision_gives_the_same_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=96,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    for module in peer.head.modules():  # no two boxes shall have the same score
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for part in (peer.head.classification_head.cls_logits, peer.head.regression_head.bbox_reg):
        with torch.no_grad():
            part.weight.mul_(0.02)
    with torch.no_grad():
        peer.head.classification_head.cls_logits.bias.view(-1, 4)[:, 0] = -100  # torchvision looks at it, too
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    model = RetinaNet(num_classes=3, min_score=0.012)
    load_pretrained(model, tmp_path / "peer.safetensors", strict=True)
    peer.score_thresh = 0.012
    peer.eval(), model.eval()
    image, size = torch.randn(1, 3, 96, 128), torch.tensor([[96, 128]])
    with torch.no_grad():
        expected, found = peer(list(image))[0], model(image, size)
        assert found.scores.shape == (1, len(expected["scores"])) and len(expected["scores"]) > 20
        torch.testing.assert_close(found.scores[0], expected["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes[0], expected["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(found.labels[0], expected["labels"])
        losses = model(image, size, {"boxes": BOXES[:1], "labels": LABELS[:1]})
        peer.train()
        for module in peer.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        theirs = peer(list(image), [{"boxes": BOXES[0], "labels": LABELS[0]}])
    for ours, name in (("class", "classification"), ("box", "bbox_regression")):
        torch.testing.assert_close(losses.sums[ours] / losses.weight, theirs[name], rtol=1e-5, atol=1e-5)


def test_a_batch_is_the_sum_of_its_images_on_a_small_trunk() -> None:
    torch.manual_seed(0)
    sizes = [16, 32, 48, 64, 96]
    model = RetinaNet(num_classes=3, architecture="mobilenet_v1", width=0.25, channels=16, anchor_sizes=sizes).eval()
    image, size = torch.randn(2, 3, 96, 96), torch.full((2, 2), 96)
    both = model(image, size, {"boxes": BOXES, "labels": LABELS})
    ones = [
        model(image[i : i + 1], size[:1], {"boxes": BOXES[i : i + 1], "labels": LABELS[i : i + 1]}) for i in range(2)
    ]
    assert both.weight == ones[0].weight + ones[1].weight > 0
    for name, value in both.sums.items():
        torch.testing.assert_close(value, ones[0].sums[name] + ones[1].sums[name])
    sum(both.sums.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert not model(image, size).labels.any()  # at first every class has a probability of 0.01
    none = model(image, size, {"boxes": BOXES[:, :0], "labels": LABELS[:, :0]})
    assert none.weight == 0 and none.sums["class"] > 0 and none.sums["box"] == 0


def test_says_how_many_sizes_it_needs() -> None:
    with pytest.raises(ValueError, match="five numbers"):
        RetinaNet(num_classes=3, anchor_sizes=[32])
