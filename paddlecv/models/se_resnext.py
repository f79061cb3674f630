"""SE-ResNeXt: residual networks of grouped convolutions whose channels are weighed by what the whole map shows.

Hu, Shen, Sun, 2018, "Squeeze-and-Excitation Networks", CVPR, section 3 and table 1; ResNeXt: Xie, Girshick, Dollar, Tu,
He, 2017, "Aggregated Residual Transformations for Deep Neural Networks", CVPR, table 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import SqueezeExcitation

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks of the four stages, by depth."""


class SEResNeXt(ResNet):
    """ResNeXt 32x4d with a squeeze-and-excitation behind each block's last convolution (figure 3).

    Tensors have the names of timm's `seresnext50_32x4d` and `seresnext101_32x4d`.

    Args:
        depth: 50 or 101.
        num_classes: classes, C.
        in_channels: channels of the images.

    Shapes: image [B, in_channels, H, W] float32 -> class scores (logits) [B, C].

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, *, depth: int = 50, num_classes: int = 1000, in_channels: int = 3) -> None:
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth}: expected {', '.join(map(str, BLOCKS))}")
        super().__init__(_Block, list(BLOCKS[depth]), num_classes, groups=32, width_per_group=4)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")


class _Block(Bottleneck):
    """x -> relu(shortcut(x) + excited(F(x))), with r = 16 channels a hidden unit of the excitation (section 3.2)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        channels = self.conv3.out_channels
        self.se = SqueezeExcitation(channels, channels // 16)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.se(self.bn3(self.conv3(residual)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(shortcut + residual)
