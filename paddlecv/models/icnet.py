"""ICNet: a cascade of three resolutions, the lowest with the deep network.

Zhao, Qi, Shen, Shi, Jia, 2018, "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", ECCV.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from paddlecv.layers.dilation import dilate
from paddlecv.models.mobilenet_v1 import MobileNetV1

STAGES = ((3, 32, 1, 1), (4, 64, 2, 1), (6, 128, 1, 2), (3, 256, 1, 4))
"""Blocks, inner channels after compression to one half, stride and dilation of conv2 to conv5: PSPNet's ResNet-50."""


class ICNet(nn.Module):
    """The image cascade network on a PSPNet with ResNet-50, in the form that was published after compression.

    Section 4.1 and figure 2: the half-size image goes through conv1 to conv3_1; the quarter-size branch shares these
    weights and what they computed, its conv3_1 being that of the half-size image at half the size; conv3_2 to conv5 and
    the pyramid pooling (whose maps are added up) run on this branch only, at 1/32. The full-size image has three
    convolutions of stride 2. Two cascade feature fusions (section 4.2) join 1/32 with 1/16 and that with 1/8.
    Compression (section 4.4) has kept one half of all kernels: `width`.

    A classifier is a 1x1 convolution, and interpolation is linear as well and leaves a constant as it is, so the two
    may change places: scores are computed on the small map and then enlarged, which is 4 times less work. Half of a
    size is rounded up, so images of any size will do.

    While training, the classifiers of cascade label guidance (section 4.3) give logits too; the paper weights their
    losses 0.4 (1/8) and 0.16 (1/16).

    Args:
        num_classes: classes, C.
        in_channels: channels of the images.
        width: share of PSPNet's kernels that is kept.
        trunk: `resnet50`, the paper's, or `mobilenet_v1`, whose features of stride 8 and of the end have as many
            channels: for want of ImageNet weights of a halved ResNet, it can start from published ones.

    Shapes: image [B, in_channels, H, W] float32 -> logits [B, C, H/4, W/4]; in training a tuple of these,
    [B, C, H/8, W/8] and [B, C, H/16, W/16]. Sizes are rounded up.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: float = 0.5, trunk: str = "resnet50") -> None:
        super().__init__()
        if trunk not in ("resnet50", "mobilenet_v1"):
            raise ValueError(f"trunk must be resnet50 or mobilenet_v1, got {trunk!r}")

        def kept(channels: int) -> int:  # of a number that is given for one half
            return max(4, round(2 * width * channels))

        high = [kept(32), kept(32), kept(64)]
        self.high = nn.Sequential(  # conv1_sub1 to conv3_sub1, at 1/2, 1/4 and 1/8
            *(ConvNorm(i, o, 3, stride=2) for i, o in zip([in_channels, *high], high, strict=False))
        )
        if trunk == "resnet50":
            self.backbone: HalvedResNet | DilatedMobileNet = HalvedResNet(in_channels, kept)
        else:
            self.backbone = DilatedMobileNet(in_channels, 2 * width)
        middle, low = self.backbone.channels
        self.pyramid = PyramidPooling(low, kept(256))
        self.fuse_low = CascadeFeatureFusion(kept(256), middle, kept(128))
        self.fuse_high = CascadeFeatureFusion(kept(128), kept(64), kept(128))
        self.classifier = nn.Conv2d(kept(128), num_classes, 1)
        self.guides = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in (kept(128), kept(256)))
        for part in (self.high, self.pyramid, self.fuse_low, self.fuse_high):
            _initialise(part)
        for classifier in (self.classifier, *self.guides):
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        high = self.high(image)  # [B, 64, H/8, W/8]
        middle = self.backbone.shared(half(image))  # [B, 256, H/16, W/16]
        low = self.pyramid(self.backbone.low(half(middle)))  # [B, 256, H/32, W/32]
        low_middle = self.fuse_low(low, middle)  # [B, 128, H/16, W/16]
        fused = self.fuse_high(low_middle, high)  # [B, 128, H/8, W/8]
        logits = enlarged(self.classifier(fused), half_size(half_size(image.shape[2:])))
        if not self.training:
            return logits
        guided = [
            enlarged(guide(small), large.shape[2:])
            for guide, small, large in zip(self.guides, (low_middle, low), (high, middle), strict=True)
        ]
        return logits, guided[0], guided[1]


class HalvedResNet(nn.Module):
    """PSPNet's ResNet-50 with `kept(c)` kernels where half of them are c."""

    def __init__(self, in_channels: int, kept: Callable[[int], int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(  # conv1
            ConvNorm(in_channels, kept(32), 3, stride=2),
            ConvNorm(kept(32), kept(32), 3),
            ConvNorm(kept(32), kept(64), 3),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, channels = [], kept(64)
        for number, inner, stride, dilation in STAGES:
            blocks.append(Bottleneck(channels, kept(inner), stride, dilation))
            channels = 4 * kept(inner)
            blocks += [Bottleneck(channels, kept(inner), 1, dilation) for _ in range(number - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.channels = (4 * kept(64), channels)
        _initialise(self)

    def shared(self, image: Tensor) -> Tensor:
        """Up to conv3_1: [B, in_channels, H, W] -> [B, 256, H/8, W/8]."""
        return self.blocks[:4](self.stem(image))

    def low(self, middle: Tensor) -> Tensor:
        """From conv3_2 to conv5_3: [B, 256, h, w] -> [B, 1024, h, w]."""
        return self.blocks[4:](middle)


class DilatedMobileNet(nn.Module):
    """MobileNetV1's layers under its own names, dilated where they would go beyond a stride of 8."""

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        self.features = MobileNetV1(in_channels=in_channels, width=width).features
        dilate(self.features, 8)
        middle, low = (self.features[place][3] for place in (5, -1))  # type: ignore[index]
        self.channels = (middle.out_channels, low.out_channels)

    def shared(self, image: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, 256, H/8, W/8]."""
        return self.features[:6](image)

    def low(self, middle: Tensor) -> Tensor:
        """[B, 256, h, w] -> [B, 1024, h, w]."""
        return self.features[6:](middle)


def _initialise(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):  # each block starts as the identity, so that its depth costs nothing
            nn.init.zeros_(module.increase.norm.weight)


class ConvNorm(nn.Module):
    """Convolution, batch norm, optional ReLU: [B, in, H, W] -> [B, out, H/stride, W/stride], rounded up."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu_(x) if self.relu else x


class Bottleneck(nn.Module):
    """ResNet's bottleneck as PSPNet has it: the stride in the first convolution, and dilation.

    [B, channels, H, W] -> [B, 4 inner, H/stride, W/stride].
    """

    def __init__(self, channels: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, inner, 1, stride)
        self.conv = ConvNorm(inner, inner, 3, dilation=dilation)
        self.increase = ConvNorm(inner, 4 * inner, 1, relu=False)
        same = channels == 4 * inner and stride == 1
        self.project = nn.Identity() if same else ConvNorm(channels, 4 * inner, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.increase(self.conv(self.reduce(x))) + self.project(x))


class PyramidPooling(nn.Module):
    """PSPNet's pyramid in its light form: means over 1, 4, 9 and 36 parts of the map, enlarged and added to it, then
    one 1x1 convolution: [B, channels, h, w] -> [B, out, h, w].
    """

    def __init__(self, channels: int, out: int, parts: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.parts = parts
        self.conv = ConvNorm(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for n in self.parts:
            total = total + enlarged(F.adaptive_avg_pool2d(x, n), x.shape[2:])
        return self.conv(total)


class CascadeFeatureFusion(nn.Module):
    """Section 4.2, figure 3: the smaller map is enlarged twice and goes through a dilated 3x3 convolution, the larger
    one through a 1x1 convolution; their sum, rectified.

    [B, small, h/2, w/2], [B, large, h, w] -> [B, out, h, w].
    """

    def __init__(self, small: int, large: int, out: int) -> None:
        super().__init__()
        self.small = ConvNorm(small, out, 3, dilation=2, relu=False)
        self.large = ConvNorm(large, out, 1, relu=False)

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        return F.relu_(self.small(enlarged(small, large.shape[2:])) + self.large(large))


def half_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Half of each side, rounded up."""
    return tuple((side + 1) // 2 for side in size)


def half(maps: Tensor) -> Tensor:
    """Half the size, bilinear, which is the mean of four pixels where the size is even."""
    if maps.shape[2] % 2 == 0 and maps.shape[3] % 2 == 0:
        return F.avg_pool2d(maps, 2)
    return enlarged(maps, half_size(maps.shape[2:]))


def enlarged(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation to `size`."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
