"""Inception-v4.

Szegedy, Ioffe, Vanhoucke, Alemi, 2017, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI; figures 3 to 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d  # convolution, batch norm (eps 1e-3), ReLU


class InceptionV4(nn.Module):
    """Figure 9: stem, four blocks A on 35 x 35, seven B on 17 x 17, three C on 8 x 8 (sizes for images of 299 pixels).

    Tensors have the names of timm's `inception_v4`. The published weights take pixels scaled to -1..1.

    Args:
        num_classes: classes, C.
        in_channels: channels of the images.
        dropout: probability that a unit of the mean is dropped; the paper keeps 0.8 of them.

    Shapes: image [B, in_channels, H, W] float32, at least 75 pixels -> class scores (logits) [B, C].
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(in_channels, 32, 3, stride=2),  # figure 3, the stem
            _conv(32, 32, 3),
            _conv(32, 64, 3, padding=1),
            _Branches(maxpool=nn.MaxPool2d(3, stride=2), conv=_conv(64, 96, 3, stride=2)),
            _Branches(
                branch0=nn.Sequential(_conv(160, 64, 1), _conv(64, 96, 3)),
                branch1=nn.Sequential(_conv(160, 64, 1), _wide(64, 64, 7), _high(64, 64, 7), _conv(64, 96, 3)),
            ),
            _Branches(conv=_conv(192, 192, 3, stride=2), maxpool=nn.MaxPool2d(3, stride=2)),
            *(_block_a() for _ in range(4)),
            _Branches(  # figure 7 with k, l, m, n = 192, 224, 256, 384
                branch0=_conv(384, 384, 3, stride=2),
                branch1=nn.Sequential(_conv(384, 192, 1), _conv(192, 224, 3, padding=1), _conv(224, 256, 3, stride=2)),
                branch2=nn.MaxPool2d(3, stride=2),
            ),
            *(_block_b() for _ in range(7)),
            _Branches(  # figure 8
                branch0=nn.Sequential(_conv(1024, 192, 1), _conv(192, 192, 3, stride=2)),
                branch1=nn.Sequential(
                    _conv(1024, 256, 1), _wide(256, 256, 7), _high(256, 320, 7), _conv(320, 320, 3, stride=2)
                ),
                branch2=nn.MaxPool2d(3, stride=2),
            ),
            *(_BlockC() for _ in range(3)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1536, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = self.avgpool(self.features(image)).flatten(1)  # [B, 1536]
        return self.last_linear(self.dropout(x))


class _Branches(nn.Module):
    """Modules on the same input, their maps one behind the other."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def _block_a() -> nn.Module:
    """Figure 4: 384 channels to 384."""
    return _Branches(
        branch0=_conv(384, 96, 1),
        branch1=nn.Sequential(_conv(384, 64, 1), _conv(64, 96, 3, padding=1)),
        branch2=nn.Sequential(_conv(384, 64, 1), _conv(64, 96, 3, padding=1), _conv(96, 96, 3, padding=1)),
        branch3=nn.Sequential(_mean(), _conv(384, 96, 1)),
    )


def _block_b() -> nn.Module:
    """Figure 5: 1024 channels to 1024."""
    return _Branches(
        branch0=_conv(1024, 384, 1),
        branch1=nn.Sequential(_conv(1024, 192, 1), _wide(192, 224, 7), _high(224, 256, 7)),
        branch2=nn.Sequential(
            _conv(1024, 192, 1), _high(192, 192, 7), _wide(192, 224, 7), _high(224, 224, 7), _wide(224, 256, 7)
        ),
        branch3=nn.Sequential(_mean(), _conv(1024, 128, 1)),
    )


class _BlockC(nn.Module):
    """Figure 6: 1536 channels to 1536."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = _conv(1536, 256, 1)
        self.branch1_0 = _conv(1536, 384, 1)
        self.branch1_1a, self.branch1_1b = _wide(384, 256, 3), _high(384, 256, 3)
        self.branch2_0, self.branch2_1, self.branch2_2 = _conv(1536, 384, 1), _high(384, 448, 3), _wide(448, 512, 3)
        self.branch2_3a, self.branch2_3b = _wide(512, 256, 3), _high(512, 256, 3)
        self.branch3 = nn.Sequential(_mean(), _conv(1536, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1_0(x)
        two = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        maps = [self.branch0(x), self.branch1_1a(one), self.branch1_1b(one)]
        maps += [self.branch2_3a(two), self.branch2_3b(two), self.branch3(x)]
        return torch.cat(maps, 1)


def _conv(channels: int, out: int, kernel: int, **options: Any) -> nn.Module:
    return BasicConv2d(channels, out, kernel_size=kernel, **options)


def _wide(channels: int, out: int, kernel: int) -> nn.Module:
    return BasicConv2d(channels, out, kernel_size=(1, kernel), padding=(0, kernel // 2))


def _high(channels: int, out: int, kernel: int) -> nn.Module:
    return BasicConv2d(channels, out, kernel_size=(kernel, 1), padding=(kernel // 2, 0))


def _mean() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
