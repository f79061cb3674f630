"""Faster and Mask R-CNN against torchvision's, from the same weights: detections, masks and losses."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import _utils as reference
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.transforms.functional import normalize

from paddlecore.errors import DataError
from paddlecv.data.images import DEVIATION, MEAN
from paddlecv.layers.sampling import balanced_sample, random_keys
from paddlecv.models import FasterRCNN, MaskRCNN

HIGH, WIDE = 64, 96


def theirs(kind: str, **options: object) -> nn.Module:
    """torchvision's detector on a ResNet-18, 3 classes and background, with weights that find something."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    model = getattr(torchvision.models.detection, kind)(backbone, 4, min_size=HIGH, max_size=WIDE, **options)
    for name, weight in model.named_parameters():
        if name.endswith(("cls_logits.weight", "bbox_pred.weight", "cls_score.weight")):
            nn.init.normal_(weight, std=0.05)
    for name, value in model.named_buffers():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            value.uniform_(0.9, 1.1)
    return model


def small(model: type[FasterRCNN], **options: object) -> FasterRCNN:
    return model(num_classes=3, architecture="resnet18", **options)


def pictures(number: int) -> Tensor:
    return torch.rand(number, 3, HIGH, WIDE, generator=torch.Generator().manual_seed(1))


def target(number: int) -> dict[str, Tensor]:
    """One to three boxes an image, padded to 3."""
    boxes = torch.tensor([[4.0, 6, 40, 50], [30, 10, 90, 60], [50, 30, 70, 44]]).repeat(number, 1, 1)
    labels = torch.tensor([2, 1, 3]).repeat(number, 1)
    labels[1:, 2] = 0
    masks = torch.zeros(number, 3, HIGH, WIDE, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes[0].int().tolist()):
        masks[:, i, y1 + 3 : y2, x1 : x2 - 4] = 1
    draw = torch.arange(number) * 123_456_789_012_345
    return {"boxes": boxes * (labels > 0)[..., None], "labels": labels, "masks": masks, "draw": draw}


@pytest.mark.parametrize(("kind", "model"), [("FasterRCNN", FasterRCNN), ("MaskRCNN", MaskRCNN)])
def test_detects_what_torchvision_detects_from_its_weights(kind: str, model: type[FasterRCNN]) -> None:
    other = theirs(kind).eval()
    ours = small(model).eval()
    ours.load_state_dict(other.state_dict())  # strict: the names are the same
    images = pictures(2)
    smaller = images[1, :, :48, :80]  # is padded by torchvision, and here by hand
    padded = normalize(images, MEAN, DEVIATION)
    padded[1, :, 48:], padded[1, :, :, 80:] = 0, 0
    other.transform.min_size, other.transform.fixed_size = (HIGH,), None
    other.transform.resize = lambda image, wanted=None: (image, wanted)
    with torch.no_grad():
        expected = other([images[0], smaller])
        found = ours(padded, torch.tensor([[HIGH, WIDE], [48, 80]]))
    for i, (e, size) in enumerate(zip(expected, ((HIGH, WIDE), (48, 80)), strict=True)):
        n = len(e["boxes"])
        assert n > 3 and int((found.labels[i] > 0).sum()) == n
        assert torch.equal(found.labels[i, :n], e["labels"])
        torch.testing.assert_close(found.boxes[i, :n], e["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.scores[i, :n], e["scores"], atol=1e-4, rtol=0)
        assert not found.scores[i, n:].any() and not found.boxes[i, n:].any()
        if found.masks is not None:
            masks = paste_masks_in_image(found.masks[i, :n, None], found.boxes[i, :n], size)
            torch.testing.assert_close(masks, e["masks"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "model"), [("fasterrcnn", FasterRCNN), ("maskrcnn", MaskRCNN)])
def test_the_default_has_the_weights_of_torchvisions_published_files(kind: str, model: type[FasterRCNN]) -> None:
    with torch.device("meta"):
        ours = model(num_classes=90).state_dict()
        other = getattr(torchvision.models.detection, f"{kind}_resnet50_fpn")(weights=None, weights_backbone=None)
    theirs = {k: v.shape for k, v in other.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in ours.items()} == theirs


def test_files_of_2019_with_the_names_of_then_load() -> None:
    """torchvision's COCO files have no `.0` of the later blocks in their names."""
    ours = small(MaskRCNN)
    renamed = {}
    for name, value in ours.state_dict().items():
        name = re.sub(
            r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        )
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)
        renamed[name] = torch.full_like(value, 0.25)
    assert renamed.keys() != ours.state_dict().keys()
    ours.load_state_dict(renamed)
    assert all(bool((value == 0.25).all()) for value in ours.state_dict().values())


@pytest.mark.parametrize(("kind", "model"), [("FasterRCNN", FasterRCNN), ("MaskRCNN", MaskRCNN)])
def test_losses_are_torchvisions_of_each_image_added_up(kind: str, model: type[FasterRCNN]) -> None:
    """With so many samples that all are taken, and proposals the same, nothing is random."""
    many = 10_000
    limits = {"rpn_post_nms_top_n_train": 50, "rpn_batch_size_per_image": many, "box_batch_size_per_image": many}
    other = theirs(kind, **limits).train()
    ours = small(model, proposals=(50, 50), anchor_samples=many, samples=many).train()
    ours.load_state_dict(other.state_dict())
    images, wanted = pictures(2), target(2)
    out = ours(normalize(images, MEAN, DEVIATION), torch.tensor([[HIGH, WIDE]] * 2), wanted)
    assert int(out.weight) == 2
    names = {"objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}
    names |= {"class": "loss_classifier", "box": "loss_box_reg", "mask": "loss_mask"}
    total: dict[str, Tensor] = {}
    for image, boxes, labels, masks in zip(images, *(wanted[k] for k in ("boxes", "labels", "masks")), strict=True):
        there = labels > 0
        truth = {"boxes": boxes[there], "labels": labels[there], "masks": masks[there]}
        for name, value in other([image], [truth]).items():
            total[name] = total.get(name, torch.zeros(())) + value
    assert {names[k] for k in out.sums} == total.keys()
    for name, value in out.sums.items():
        torch.testing.assert_close(value, total[names[name]], rtol=1e-4, atol=1e-6)


def test_an_image_has_the_same_loss_in_any_batch() -> None:
    """Also one without any box, which has background to learn and no objects."""
    torch.manual_seed(0)
    model = small(MaskRCNN, proposals=(40, 40), anchor_samples=32, samples=16).train()
    images, wanted, size = pictures(3), target(3), torch.tensor([[HIGH, WIDE]] * 3)
    wanted["labels"][2], wanted["boxes"][2] = 0, 0
    whole = model(images, size, wanted).sums
    parts = [model(images[i : i + 1], size[:1], {k: v[i : i + 1] for k, v in wanted.items()}).sums for i in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(value, sum(p[name] for p in parts), rtol=1e-4, atol=1e-6)
    for name in ("rpn_box", "box", "mask"):
        assert float(parts[2][name].detach()) == 0
    sum(whole.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_frozen_norms_and_anchor_sizes() -> None:
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small(FasterRCNN).modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in small(FasterRCNN, frozen_norm=False).modules())
    with pytest.raises(ValueError, match="4 strides give 5 maps"):
        small(FasterRCNN, anchor_sizes=((32,),) * 4)
    with pytest.raises(ValueError, match="as many sizes"):
        small(FasterRCNN, anchor_sizes=((32,), (32, 64), (64,), (64,), (64,)))


def test_random_keys_are_spread_and_depend_on_nothing_else() -> None:
    draw, index = torch.tensor([1, 2]), torch.arange(5000).expand(2, -1)
    keys = random_keys(draw, index)
    assert keys.min() >= 0 and keys.max() < 2**62
    assert len(keys.unique()) == keys.numel()
    assert torch.equal(random_keys(draw[1:], index[1:, 7:9]), keys[1:, 7:9])
    share = keys.double() / 2**62
    assert torch.allclose(share.mean(1), torch.tensor(0.5, dtype=torch.double), atol=0.02)
    assert abs(float(torch.corrcoef(share)[0, 1])) < 0.05
    # the generator's definition, in Python's integers
    state, mask = (1 + 0x9E3779B97F4A7C15 * 8) % 2**64, 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
    assert int(keys[0, 7]) == (state ^ (state >> 31)) >> 2


@pytest.mark.parametrize(
    ("positive", "negative", "expected"), [(30, 60, (8, 24)), (3, 60, (3, 29)), (30, 5, (8, 5)), (0, 4, (0, 4))]
)
def test_balanced_sample_counts_as_torchvision_and_is_random(
    positive: int, negative: int, expected: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    label = torch.cat([torch.ones(positive), torch.zeros(negative), -torch.ones(10)]).long()
    label = torch.stack([label[torch.randperm(len(label))] for _ in range(2)])
    key = random_keys(torch.tensor([5, 6]), torch.arange(label.shape[1]).expand_as(label))
    place, used = balanced_sample(label, key, samples=32, fraction=0.25)
    counts = reference.BalancedPositiveNegativeSampler(32, 0.25)(list(label))
    for row in range(2):
        chosen = label[row, place[row, used[row]]]
        assert (int((chosen == 1).sum()), int((chosen == 0).sum())) == expected
        assert expected == tuple(int(c[row].sum()) for c in counts)
        assert chosen.tolist() == sorted(chosen.tolist(), reverse=True)
        assert len(place[row, used[row]].unique()) == sum(expected)
        for value, count in zip((1, 0), expected, strict=True):
            largest = key[row].where(label[row] == value, -1).topk(count).indices
            assert set(largest.tolist()) == set(place[row, used[row]][chosen == value].tolist())


def test_mask_rcnn_says_that_it_needs_masks() -> None:
    given = {name: value for name, value in target(1).items() if name != "masks"}
    with pytest.raises(DataError, match="set data.masks=true"):
        small(MaskRCNN)(pictures(1), torch.tensor([[HIGH, WIDE]]), given)


def test_mask_rcnn_takes_a_batch_without_boxes_and_refuses_masks_of_other_boxes() -> None:
    model, size, given = small(MaskRCNN), torch.tensor([[HIGH, WIDE]]), target(1)
    empty = {name: value if name == "draw" else value[:, :0] for name, value in given.items()}
    assert float(model(pictures(1), size, empty).sums["mask"].detach()) == 0
    with pytest.raises(DataError, match=r"masks \(1, 0, .* are not one for each of labels \(1, 3\)"):
        model(pictures(1), size, {**given, "masks": empty["masks"]})


def test_without_draws_torchs_generator_chooses_what_is_trained() -> None:
    model, size = small(FasterRCNN, anchor_samples=16), torch.tensor([[HIGH, WIDE]])
    given = {name: value for name, value in target(1).items() if name != "draw"}
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(model(pictures(1), size, given).sums["objectness"].detach()))
    assert losses[0] == losses[1] != losses[2]


def test_sides_that_would_part_anchors_from_their_places_are_refused() -> None:
    with pytest.raises(DataError, match=r"images of \(64, 100\): sides must be multiples of 32"):
        small(FasterRCNN).eval()(torch.zeros(1, 3, 64, 100), torch.tensor([[64, 100]]))
