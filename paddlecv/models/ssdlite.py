"""SSDlite: SSD with depthwise separable convolutions in heads and added layers, on a light trunk.

Sandler, Howard, Zhu, Zhmoginov, Chen, 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR, section
6.2; on MobileNetV3: Howard et al., 2019, "Searching for MobileNetV3", ICCV, section 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from paddlecv.models.backbones import Backbone
from paddlecv.models.ssd import SSD


class SSDlite(SSD):
    """SSD on a light trunk.

    By default torchvision's `ssdlite320_mobilenet_v3_large`, by names, shapes and outputs (whose own images are RGB of
    -1..1, 320 pixels wide): the expanded input of MobileNetV3's last stage, its last layer, and four maps more.

    Args:
        num_classes: classes without background, C.
        architecture: mobilenet_v3_large; or any name of `Backbone`, then the maps are those of its `strides`, and its
            weights stand under `backbone.body`.
        strides: pixels of the image per pixel of the trunk's maps, for other trunks than MobileNetV3.
        width: multiplier of the channels of trunk and added layers, where the trunk has one.
        ratios: of the default boxes of each map; as many maps are made.
        scales: sides of the default boxes of each map, and one more; in shares of the image.
        match_iou: overlap from which a default box is positive; the best of each true box always is.
        negatives: negatives for each positive that count in the loss.
        min_score: detections of this probability or less are left out.
        max_iou: of two detections of a class that overlap by more, the better one stays.
        candidates: detections of a class that go into this comparison.
        keep: detections of an image.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str = "mobilenet_v3_large",
        strides: Sequence[int] = (16, 32),
        width: float = 1.0,
        ratios: Sequence[Sequence[float]] = ((2, 3),) * 6,
        scales: Sequence[float] = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
        match_iou: float = 0.5,
        negatives: float = 3.0,
        min_score: float = 0.001,
        max_iou: float = 0.55,
        candidates: int = 300,
        keep: int = 300,
    ) -> None:
        trunk: LiteTrunk
        if architecture == "mobilenet_v3_large":
            trunk = MobileNetV3Trunk(maps=len(ratios), width=width)
        else:
            trunk = BackboneTrunk(architecture=architecture, strides=strides, maps=len(ratios), width=width)
        super().__init__(
            trunk,
            trunk.channels,
            _predict,
            num_classes=num_classes,
            ratios=ratios,
            scales=scales,
            match_iou=match_iou,
            negatives=negatives,
            min_score=min_score,
            max_iou=max_iou,
            candidates=candidates,
            keep=keep,
        )


class LiteTrunk(nn.Module):
    """Maps of a trunk, and the added layers that make smaller ones of the last: `extra`.

    Attributes:
        channels: of each map.
    """

    def add_layers(self, channels: Sequence[int], maps: int, width: float) -> None:
        if not len(channels) <= maps <= len(channels) + 4:
            raise ValueError(f"the trunk has {len(channels)} maps and four can be added, got ratios of {maps}")
        added = [max(16, int(c * width)) for c in (512, 256, 256, 128)[: maps - len(channels)]]
        self.channels = (*channels, *added)
        self.extra = nn.ModuleList(
            _shrink(inputs, outputs) for inputs, outputs in zip([channels[-1], *added], added, strict=False)
        )
        self.extra.apply(_normal)

    def trunk(self, image: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.trunk(image)
        for block in self.extra:
            maps.append(block(maps[-1]))
        return maps


class MobileNetV3Trunk(LiteTrunk):
    """MobileNetV3-Large whose last layers have half the channels (paper's table 6): image -> maps, strides from 16."""

    def __init__(self, *, maps: int = 6, width: float = 1.0) -> None:
        super().__init__()
        net = mobilenet_v3_large(norm_layer=_norm, reduced_tail=True, width_mult=width).features
        net.apply(_normal)
        last = net[13]  # the block that goes from stride 16 to 32
        self.features = nn.Sequential(nn.Sequential(*net[:13], last.block[0]), nn.Sequential(last.block[1:], *net[14:]))
        self.add_layers([last.block[0].out_channels, net[-1].out_channels], maps, width)

    def trunk(self, image: Tensor) -> list[Tensor]:
        fine = self.features[0](image)
        return [fine, self.features[1](fine)]


class BackboneTrunk(LiteTrunk):
    """Any `Backbone`: image -> maps of its strides, and smaller ones."""

    def __init__(self, *, architecture: str, strides: Sequence[int], maps: int, width: float = 1.0) -> None:
        super().__init__()
        self.body = Backbone(architecture=architecture, features_only=True, strides=strides, width=width)
        self.add_layers(self.body.channels, maps, width)

    def trunk(self, image: Tensor) -> list[Tensor]:
        return list(self.body(image))


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.03)


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A pointwise or, with a larger kernel, a depthwise convolution with norm and ReLU6."""
    groups = inputs if kernel > 1 else 1
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, _norm(outputs), nn.ReLU6(inplace=True))


def _shrink(inputs: int, outputs: int) -> nn.Sequential:
    """A map of half the size."""
    half = outputs // 2
    return nn.Sequential(_layer(inputs, half, 1), _layer(half, half, 3, stride=2), _layer(half, outputs, 1))


def _predict(channels: int, outputs: int) -> nn.Module:
    block = nn.Sequential(_layer(channels, channels, 3), nn.Conv2d(channels, outputs, 1))
    block.apply(_normal)
    return block


def _normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.03)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
