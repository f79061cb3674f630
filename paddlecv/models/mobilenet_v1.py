"""MobileNetV1: depthwise separable convolutions.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, 2017, "MobileNets: Efficient Convolutional Neural
Networks for Mobile Vision Applications", arXiv:1704.04861, table 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""(output channels, stride) of the depthwise separable blocks, table 1."""

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
TENSORFLOW = (
    # (pattern of a variable's name in TF-slim or in Keras, ours, axes: TensorFlow's kernels are [H, W, in, out])
    (r"MobilenetV1/Conv2d_0/weights|conv1/kernel", "features.0.0.weight", (3, 2, 0, 1)),
    (r"MobilenetV1/Conv2d_(\d+)_depthwise/depthwise_weights", r"features.\1.0.weight", (2, 3, 0, 1)),
    (r"conv_dw_(\d+)/depthwise_kernel", r"features.\1.0.weight", (2, 3, 0, 1)),
    (r"MobilenetV1/Conv2d_(\d+)_pointwise/weights", r"features.\1.3.weight", (3, 2, 0, 1)),
    (r"conv_pw_(\d+)/kernel", r"features.\1.3.weight", (3, 2, 0, 1)),
    (r"MobilenetV1/Logits/Conv2d_1c_1x1/weights|conv_preds/kernel", "classifier.1.weight", (3, 2, 0, 1)),
    (r"MobilenetV1/Logits/Conv2d_1c_1x1/biases|conv_preds/bias", "classifier.1.bias", None),
    *(
        rule
        for theirs, ours in NORM.items()
        for rule in (
            (rf"MobilenetV1/Conv2d_0/BatchNorm/{theirs}|conv1_bn/{theirs}", f"features.0.1.{ours}", None),
            (rf"MobilenetV1/Conv2d_(\d+)_depthwise/BatchNorm/{theirs}", rf"features.\1.1.{ours}", None),
            (rf"conv_dw_(\d+)_bn/{theirs}", rf"features.\1.1.{ours}", None),
            (rf"MobilenetV1/Conv2d_(\d+)_pointwise/BatchNorm/{theirs}", rf"features.\1.4.{ours}", None),
            (rf"conv_pw_(\d+)_bn/{theirs}", rf"features.\1.4.{ours}", None),
        )
    ),
)
"""Which of TensorFlow's variables is which tensor, for `paddlesuite convert`."""


class MobileNetV1(nn.Module):
    """A 3x3 convolution, thirteen depthwise separable blocks, mean over the positions, one linear layer.

    As in the authors' TensorFlow code, whose weights are the published ones: ReLU6 after every batch norm (whose eps is
    1e-3), and the padding that TensorFlow calls 'same', which at stride 2 pads an even size on the right and the bottom
    only. `features.i.j` names the layers: 0 depthwise convolution, 1 its norm, 3 pointwise convolution, 4 its norm.
    The authors' images are scaled to -1..1.

    Args:
        num_classes: classes, C.
        in_channels: channels of the images.
        width: multiplier of all channels (section 3.3), rounded down to multiples of 8.
        dropout: probability that a unit of the mean is dropped.

    Shapes: image [B, in_channels, H, W] float32 -> class scores (logits) [B, C].
    """

    foreign_names = TENSORFLOW

    def __init__(
        self, *, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, dropout: float = 0.001
    ) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, int(channels * width) // 8 * 8)

        channels = scaled(32)
        layers = [nn.Sequential(*_layer(in_channels, channels, 3, 2))]
        for out, stride in BLOCKS:
            out = scaled(out)
            layers.append(
                nn.Sequential(*_layer(channels, channels, 3, stride, groups=channels), *_layer(channels, out, 1, 1))
            )
            channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)  # [B, 1024 width, ceil(H / 32), ceil(W / 32)]
        return self.classifier(self.avgpool(x).flatten(1))


class SameConv2d(nn.Conv2d):
    """A square convolution, ceil(H / stride) high; where the padding is odd, the odd pixel is right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.stride[0]
        high, wide = (max(0, (size - 1) // stride * stride + kernel - size) for size in x.shape[-2:])
        return super().forward(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def _layer(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    if stride > 1:
        convolution: nn.Module = SameConv2d(channels, out, kernel, stride, groups=groups, bias=False)
    else:
        convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out, eps=1e-3), nn.ReLU6(inplace=True)]
