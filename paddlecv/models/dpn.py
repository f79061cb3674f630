"""Dual path networks: each block adds to some channels, as a residual network, and appends others, as a dense one.

Chen, Li, Xiao, Jin, Yan, Feng, 2017, "Dual Path Networks", NeurIPS; section 4 and table 1.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

SIZES = {
    68: (10, 32, 128, (3, 4, 12, 3), (16, 32, 32, 64)),
    92: (64, 32, 96, (3, 4, 20, 3), (16, 32, 24, 128)),
    98: (96, 40, 160, (3, 6, 20, 3), (16, 32, 32, 128)),
    107: (128, 50, 200, (4, 8, 20, 3), (20, 64, 64, 128)),
    131: (128, 40, 160, (4, 8, 28, 3), (16, 32, 32, 128)),
}
"""By depth: channels of the stem, groups, width of the first stage's 3x3 convolutions, blocks of the four stages, and
the channels that each of their blocks appends (table 1; 68 and 107 are the authors', published with their code)."""


class DPN(nn.Module):
    """A stem, four stages of dual path blocks, a last norm and ReLU, mean over the positions, class scores.

    Every convolution behind the stem has its batch norm and ReLU before it. Tensors have the names and shapes of
    timm's `dpn68` ... `dpn131` (the class scores are a 1x1 convolution); their weights want RGB of 0..255 less (124,
    117, 104), divided by 59.88.

    Args:
        depth: 68, 92, 98, 107 or 131.
        num_classes: classes, C.
        in_channels: channels of the images.
        dropout: probability that a channel of the mean is dropped; the paper has none.

    Shapes: image [B, in_channels, H, W] float32 -> class scores (logits) [B, C].

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, *, depth: int = 92, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if depth not in SIZES:
            raise ValueError(f"depth={depth}: expected {', '.join(map(str, SIZES))}")
        stem, groups, width, blocks, appended = SIZES[depth]
        small = depth == 68
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1_1"] = _Stem(in_channels, stem, 3 if small else 7)
        layers["conv1_pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        channels = stem
        for stage in range(4):
            residual = (64 if small else 256) * 2**stage
            for block in range(blocks[stage]):
                stride = 2 if stage and not block else 1
                layers[f"conv{stage + 2}_{block + 1}"] = made = _Block(
                    channels, width * 2**stage, residual, appended[stage], groups, stride, projected=not block
                )
                channels = made.out_channels
        layers["conv5_bn_ac"] = _Norm(channels)
        self.features = nn.Sequential(layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        x = self.avgpool(self.features(image))  # [B, channels, 1, 1]
        return self.classifier(self.dropout(x)).flatten(1)


class _Block(nn.Module):
    """Figure 2 (d), eq. 6 to 9: three convolutions; of what they give, the first channels are added, the rest appended.

    The map [B, channels, H, W] -> [B, residual + dense, ...] holds the path that is added to first. Where a stage
    begins, a projection gives both paths: `residual` channels and two blocks' worth of dense ones.
    """

    def __init__(
        self, channels: int, width: int, residual: int, appended: int, groups: int, stride: int, *, projected: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.out_channels = (residual + 2 * appended if projected else channels) + appended
        self.projection = f"c1x1_w_s{stride}" if projected else None
        if self.projection:
            self.add_module(self.projection, _Conv(channels, residual + 2 * appended, 1, stride))
        self.c1x1_a = _Conv(channels, width, 1)
        self.c3x3_b = _Conv(width, width, 3, stride, groups)
        self.c1x1_c = _Conv(width, residual + appended, 1)

    def forward(self, x: Tensor) -> Tensor:
        path = getattr(self, self.projection)(x) if self.projection else x
        new = self.c1x1_c(self.c3x3_b(self.c1x1_a(x)))
        r = self.residual
        return torch.cat([path[:, :r] + new[:, :r], path[:, r:], new[:, r:]], 1)


class _Norm(nn.Module):
    """Batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(x))


class _Conv(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.bn(x)))


class _Stem(nn.Module):
    """Convolution of stride 2, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))
