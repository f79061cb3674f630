"""The small residual networks for CIFAR-10.

He, Zhang, Ren, Sun, 2016, "Deep Residual Learning for Image Recognition", CVPR, section 4.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, mean over the positions, one linear layer.

    The stages have 16, 32, 64 channels on maps of 32, 16, 8 pixels: 6n + 2 layers with weights. Shortcuts are the
    identity; where a stage begins, it takes every second pixel and the new channels are zeros (option A of section 3.3;
    half of them before the old ones and half behind, as in the weights that go around). No parameters are in them.

    Args:
        depth: layers with weights, 6n + 2: 20, 32, 44, 56, 110 in the paper (table 6).
        num_classes: classes, C.
        in_channels: channels of the images.
        dropout: probability that a unit of the mean is dropped; the paper has none.

    Shapes: image [B, in_channels, H, W] float32, 32 pixels wide in the paper -> class scores (logits) [B, C].

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, *, depth: int = 20, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        if depth != 6 * blocks + 2 or blocks < 1:
            raise ValueError(f"depth={depth}: expected 6n + 2, e.g. 20, 32, 44, 56, 110")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(_Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(_Block(16, 32), *(_Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64), *(_Block(64, 64) for _ in range(blocks - 1)))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))  # [B, 16, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, 64, H / 4, W / 4]
        return self.linear(self.dropout(x.mean((2, 3))))


class _Block(nn.Module):
    """x -> relu(shortcut(x) + F(x)), figure 2; the first block of a wider stage has stride 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.stride, self.added = out // channels, out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return torch.relu(x + residual)
