"""ResNet-vd: residual networks with a deep stem and shortcuts that look at every pixel.

He, Zhang, Zhang, Zhang, Xie, Li, 2019, "Bag of Tricks for Image Classification with Convolutional Neural Networks",
CVPR, section 4.2; the networks themselves: He, Zhang, Ren, Sun, 2016, CVPR.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of the four stages, by the layers with weights of the network that it was made from."""


class ResNetVd(ResNet):
    """A ResNet with the three changes of figure 2, together ResNet-D.

    B: a block that halves the map does so in its 3x3 convolution (torchvision's ResNets have this already). C: three
    3x3 convolutions are the stem instead of one of 7x7. D: a shortcut that halves the map takes the mean of 2x2 pixels
    and then a 1x1 convolution, which with stride 2 would not see three quarters of them.

    Tensors have the names of timm's `resnet18d` ... `resnet152d`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: classes, C.
        in_channels: channels of the images.

    Shapes: image [B, in_channels, H, W] float32 -> class scores (logits) [B, C].

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, *, depth: int = 50, num_classes: int = 1000, in_channels: int = 3) -> None:
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth}: expected {', '.join(map(str, BLOCKS))}")
        super().__init__(Bottleneck if depth >= 50 else BasicBlock, list(BLOCKS[depth]), num_classes)
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
        )
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            block = stage[0]
            if block.downsample is not None:
                convolution, norm = block.downsample
                halving = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if block.stride > 1 else None
                convolution.stride = (1, 1)
                block.downsample = nn.Sequential(halving or nn.Identity(), convolution, norm)
        for module in self.conv1:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
