"""Xception as segmentation uses it: aligned, deeper, and with strided convolutions in the place of pools.

Chen, Zhu, Papandreou, Schroff, Adam, 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV, section 3.2 and figure 4; after Chollet, 2017, "Xception", CVPR.
"""

from __future__ import annotations

from torch import Tensor, nn


class Xception65(nn.Module):
    """The modified aligned Xception: entry flow, sixteen middle blocks, exit flow.

    All pools are separable convolutions with a stride, and batch norm and ReLU follow each depthwise convolution too.
    Beyond `output_stride` strides become dilation.

    Args:
        in_channels: channels of the images.
        output_stride: the largest stride, 8, 16 or 32.
        width: multiplier of all channels.
        middle: blocks of the middle flow.

    Attributes:
        strides: 4 and `output_stride`.
        channels: of the two maps, 256 and 2048 times `width`.

    Shapes: image [B, in_channels, H, W] float32 -> maps [B, channels[0], H/4, W/4] (in the second block, before its
    stride: the decoder's low-level features) and [B, channels[1], H/output_stride, W/output_stride].
    """

    def __init__(self, *, in_channels: int = 3, output_stride: int = 16, width: float = 1.0, middle: int = 16) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")

        def scaled(channels: int) -> int:
            return max(4, round(width * channels))

        def stage(stride: int) -> tuple[int, int]:
            """Stride and dilation of a block that would bring the whole to `stride`."""
            return (2, 1) if stride <= output_stride else (1, max(1, stride // output_stride // 2))

        c32, c64, c128, c256, c728 = map(scaled, (32, 64, 128, 256, 728))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, c32, 3, 2, 1, bias=False), nn.BatchNorm2d(c32), nn.ReLU(inplace=True),
            nn.Conv2d(c32, c64, 3, 1, 1, bias=False), nn.BatchNorm2d(c64), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.entry1 = XceptionBlock(c64, (c128,) * 3, *stage(4))
        self.entry2 = XceptionBlock(c128, (c256,) * 3, *stage(8))
        self.entry3 = XceptionBlock(c256, (c728,) * 3, *stage(16))
        rate = max(1, 16 // output_stride)
        self.middle = nn.Sequential(*(XceptionBlock(c728, (c728,) * 3, 1, rate) for _ in range(middle)))
        self.exit1 = XceptionBlock(c728, (c728, scaled(1024), scaled(1024)), *stage(32))
        rate = max(1, 32 // output_stride)
        self.exit2 = nn.Sequential(
            separable(scaled(1024), scaled(1536), 1, rate),
            separable(scaled(1536), scaled(1536), 1, rate),
            separable(scaled(1536), scaled(2048), 1, rate),
        )
        self.strides, self.channels = (4, output_stride), (c256, scaled(2048))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.entry1(self.stem(image))  # [B, 128, H/4, W/4]
        low = self.entry2.convs[:2](x)
        x = self.entry2.convs[2](low) + self.entry2.skip(x)  # [B, 256, H/8, W/8]
        x = self.exit1(self.middle(self.entry3(x)))  # [B, 1024, H/output_stride, W/output_stride]
        return [low, self.exit2(x)]


class XceptionBlock(nn.Module):
    """Three separable convolutions, and a connection around them: [B, channels, H, W] -> [B, outs[2], H/s, W/s].

    The last convolution has the stride. Around goes the map itself, or a 1x1 convolution of it where sizes differ.
    """

    def __init__(self, channels: int, outs: tuple[int, int, int], stride: int, rate: int) -> None:
        super().__init__()
        ins = (channels, *outs)
        self.convs = nn.Sequential(
            *(separable(i, o, stride if n == 2 else 1, rate) for n, (i, o) in enumerate(zip(ins, outs, strict=False)))
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != outs[2]:
            self.skip = nn.Sequential(nn.Conv2d(channels, outs[2], 1, stride, bias=False), nn.BatchNorm2d(outs[2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x) + self.skip(x)


def separable(channels: int, out: int, stride: int = 1, rate: int = 1) -> nn.Sequential:
    """A depthwise 3x3 convolution and a pointwise one, each with batch norm and ReLU; `rate` is its dilation."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, rate, rate, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
