"""DeepLabv3+: atrous spatial pyramid pooling on a dilated trunk, and a small decoder.

Chen, Zhu, Papandreou, Schroff, Adam, 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddlecv.models.backbones import Backbone
from paddlecv.models.xception import Xception65, separable


class DeepLabV3Plus(nn.Module):
    """Figure 2: the trunk's last map goes through ASPP, is enlarged, joins the trunk's map of stride 4 (reduced to few
    channels), and two separable 3x3 convolutions refine both.

    Args:
        num_classes: classes, C.
        in_channels: channels of the images.
        architecture: the trunk: `xception65`, or a name that `Backbone` knows with a map of stride 4 (`resnet50`,
            `resnet101`, `mobilenet_v1`, `mobilenet_v2`, ...).
        output_stride: of the trunk's last map, 8 or 16; stages that would go beyond are dilated (section 3.1).
        channels: of ASPP and decoder.
        low_channels: of the map of stride 4 after its reduction (table 1: 48).
        dropout: probability that a channel's value is dropped after ASPP.
        width: multiplier of the trunk's channels (MobileNets, Xception).

    Shapes: image [B, in_channels, H, W] float32 -> logits [B, C, H/4, W/4], rounded as the trunk does.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        architecture: str = "xception65",
        output_stride: int = 16,
        channels: int = 256,
        low_channels: int = 48,
        dropout: float = 0.1,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")
        self.backbone = _trunk(architecture, in_channels, output_stride, width)
        low, high = self.backbone.channels
        self.aspp = ASPP(high, channels, tuple(rate * 16 // output_stride for rate in (6, 12, 18)), dropout)
        self.reduce = _conv_norm(low, low_channels)
        self.decoder = nn.Sequential(separable(channels + low_channels, channels), separable(channels, channels))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for part in (self.aspp, self.reduce, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        low, high = self.backbone(image)  # [B, *, H/4, W/4], [B, *, H/output_stride, W/output_stride]
        x = F.interpolate(self.aspp(high), low.shape[2:], mode="bilinear", align_corners=False)
        x = self.decoder(torch.cat([x, self.reduce(low)], 1))  # [B, channels, H/4, W/4]
        return self.classifier(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.1; Chen et al., 2017, "Rethinking Atrous Convolution for Semantic Image
    Segmentation", section 3.3): a 1x1 convolution, separable 3x3 ones of several dilations, and the mean of the whole
    map, side by side, then joined by a 1x1 convolution: [B, channels, h, w] -> [B, out, h, w].
    """

    def __init__(self, channels: int, out: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.point = _conv_norm(channels, out)
        self.atrous = nn.ModuleList(separable(channels, out, rate=rate) for rate in rates)
        self.pool = _conv_norm(channels, out)
        self.join = _conv_norm((len(rates) + 2) * out, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.dropout(self.join(torch.cat([self.point(x), *(conv(x) for conv in self.atrous), whole], 1)))


def _conv_norm(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _trunk(architecture: str, in_channels: int, output_stride: int, width: float) -> Backbone | Xception65:
    """A trunk that gives its maps of stride 4 and `output_stride`."""
    if architecture == "xception65":
        return Xception65(in_channels=in_channels, output_stride=output_stride, width=width)
    return Backbone(
        architecture=architecture,
        in_channels=in_channels,
        features_only=True,
        strides=(4, 32),
        output_stride=output_stride,
        width=width,
    )
