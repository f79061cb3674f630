"""The image classifiers that other models stand on, by name: as a whole, or as the feature maps of their trunk.

torchvision's models under their own names (`resnet50`, `vgg16`, `mobilenet_v2`, ...), with the names and shapes of
their tensors, so that files of weights for them load unchanged; and those of this suite (`mobilenet_v1`, ...).
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from paddlecore.errors import DataError, nearest
from paddlecv.layers.dilation import dilate
from paddlecv.models.cifar_resnet import CifarResNet
from paddlecv.models.dpn import DPN
from paddlecv.models.inception_v4 import InceptionV4
from paddlecv.models.mobilenet_v1 import MobileNetV1
from paddlecv.models.resnet_vd import ResNetVd
from paddlecv.models.se_resnext import SEResNeXt

OWN: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v1": MobileNetV1,
    **{f"resnet{depth}_cifar": partial(CifarResNet, depth=depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}_vd": partial(ResNetVd, depth=depth) for depth in (18, 34, 50, 101, 152)},
    **{f"se_resnext{depth}_32x4d": partial(SEResNeXt, depth=depth) for depth in (50, 101)},
    "inception_v4": InceptionV4,
    **{f"dpn{depth}": partial(DPN, depth=depth) for depth in (68, 92, 98, 107, 131)},
}
"""The architectures that torchvision does not have."""

TIMM = {
    **{f"resnet{depth}_vd": f"resnet{depth}d" for depth in (18, 34, 50, 101, 152)},
    **{f"se_resnext{depth}_32x4d": f"seresnext{depth}_32x4d" for depth in (50, 101)},
    **{name: name for name in ("inception_v4", "dpn68", "dpn92", "dpn98", "dpn107", "dpn131")},
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    "mobilenet_v2": "mobilenetv2_100",
}
"""timm's name of an architecture, where its model gives the same with the same weights."""

LAST = ("fc", "linear", "last_linear", "classifier")
"""What the layer that gives the class scores is called."""

TORCHVISION = (
    "alexnet",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    *("squeezenet1_0", "squeezenet1_1"),
)


class Backbone(nn.Module):
    """An image classifier by the name of its architecture; its trunk alone with `features_only`.

    A trunk is a chain of layers. The map of a stride is the output of the last of them that has this stride, so a VGG
    gives what its pools take, a ResNet what its stages give. What comes after the last map asked for is left out.

    GoogLeNet is without its two auxiliary classifiers, which act in training only.

    Some published weights want other images than RGB normalised with ImageNet's mean and deviation: those of
    GoogLeNet, Inception-v4 and MobileNetV1 take pixels scaled to -1..1; for DPN's see there.

    Args:
        architecture: one of `Backbone.architectures`.
        num_classes: classes, C.
        in_channels: channels of the images; other than 3 gives a first convolution of another shape.
        features_only: give maps of the trunk, and have no classifier.
        strides: pixels of the image per pixel of each map; default: 4, 8, 16, 32, or what the architecture has of them
            (the ResNets for CIFAR: 1, 2, 4).
        output_stride: the largest stride, 8, 16 or 32; the stages behind are dilated instead (MobileNets, and ResNets
            from 50 layers on). The map of a stage is still asked for by the stride that it has without.
        dropout: probability that a unit before the classifier's linear layers is dropped; default: the architecture's.
        width: multiplier of all channels (MobileNets).

    Attributes:
        architectures: every name.
        strides: pixels of the image per pixel of each map, dilation considered.
        channels: channels of each map.

    Shapes: image [B, in_channels, H, W] float32 -> class scores (logits) [B, C]; with `features_only` a list of maps
    [B, channels[i], H / strides[i], W / strides[i]], up to rounding.

    Raises:
        ValueError: no such architecture, it has no such stride, dilation or width, `num_classes` is below 1, or there
            are `strides` without `features_only`.
        DataError: images so small that nothing is left of them, in networks whose layers do not pad.
    """

    architectures: tuple[str, ...] = tuple(sorted((*TORCHVISION, *OWN)))

    def __init__(
        self,
        *,
        architecture: str,
        num_classes: int = 1000,
        in_channels: int = 3,
        features_only: bool = False,
        strides: Sequence[int] | None = None,
        output_stride: int = 32,
        dropout: float | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if architecture not in self.architectures:
            close = nearest(architecture, self.architectures) or f"; there are {', '.join(self.architectures)}"
            raise ValueError(f"there is no architecture {architecture!r}{close}")
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1; features_only=True has no classifier")
        if strides is not None and not features_only:
            raise ValueError(f"strides={list(strides)} choose maps of the trunk, which features_only=True gives")
        self.architecture, self.num_classes = architecture, num_classes
        self._has_reference = not features_only and in_channels == 3 and width == 1 and output_stride == 32
        options: dict[str, Any] = {"num_classes": num_classes, "dropout": dropout, "width": width}
        net = _build(architecture, **options, output_stride=output_stride)
        self.foreign_names = getattr(net, "foreign_names", ())
        self._steps, self._head = _trunk(net), _head(net)
        self._maps: list[str] = []
        if features_only:
            with torch.device("meta"):  # shapes without arithmetic, and strides as they are without dilation
                known = _maps(_build(architecture, **options, output_stride=32), self._steps)
            usual = [s for s in (4, 8, 16, 32) if s in known] if 8 in known else list(known)
            wanted = usual if strides is None else list(strides)
            if not wanted or sorted(set(wanted)) != wanted or not set(wanted) <= set(known):
                raise ValueError(f"strides={wanted}: {architecture} has {', '.join(map(str, known))}, in this order")
            self._maps = [known[stride][0] for stride in wanted]
            self.strides = tuple(min(stride, output_stride) for stride in wanted)
            self.channels = tuple(known[stride][1] for stride in wanted)
            self._steps, self._head = self._steps[: self._steps.index(self._maps[-1]) + 1], []
        used = {step.partition(".")[0] for step in (*self._steps, *self._head)}
        for name, child in net.named_children():
            if name in used:
                self.add_module(name, child[: len(self._steps)] if name == "features" else child)
        if in_channels != 3:
            _reshape_first(self, in_channels)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        try:
            return self._forward(image)
        except RuntimeError as error:
            # what torch says of a window that is larger than its map; how large images must be, it does not say
            if "is too small" not in str(error) and "greater than actual input size" not in str(error):
                raise
            shown = tuple(image.shape[2:])
            raise DataError(f"images of {shown} pixels are too small for {self.architecture} (data.size)") from error

    def _forward(self, image: Tensor) -> Tensor | list[Tensor]:
        x, maps = image, []
        for step in self._steps:
            x = self.get_submodule(step)(x)
            if step in self._maps:
                maps.append(x)
        if self._maps:
            return maps
        for step in self._head:
            x = self.get_submodule(step)(x)
        return x

    def references(self) -> dict[str, nn.Module]:
        """Fresh models of torchvision and timm, as far as installed, that this one equals if the weights do."""
        found: dict[str, nn.Module] = {}
        if not self._has_reference:
            return found
        if self.architecture in TORCHVISION:
            extra = {"aux_logits": False, "init_weights": True} if self.architecture == "googlenet" else {}
            net = torchvision.models.get_model(self.architecture, num_classes=self.num_classes, **extra)
            found[f"torchvision {self.architecture}"] = net
        if self.architecture in TIMM and importlib.util.find_spec("timm"):
            import timm

            name = TIMM[self.architecture]
            found[f"timm {name}"] = timm.create_model(name, num_classes=self.num_classes)
        return found


def _build(architecture: str, *, num_classes: int, dropout: float | None, width: float, output_stride: int) -> Any:
    """The whole network, on 3 channels."""
    builder = OWN[architecture] if architecture in OWN else torchvision.models.get_model_builder(architecture)
    options: dict[str, Any] = {"num_classes": num_classes}
    resnet, mobilenet = "resne" in architecture and architecture not in OWN, architecture.startswith("mobilenet")
    if output_stride != 32:
        deep = resnet and architecture not in ("resnet18", "resnet34")
        if output_stride not in (8, 16) or not (deep or mobilenet):
            raise ValueError(f"output_stride={output_stride}: {architecture} has no such dilation")
        if deep:
            options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
    if width != 1:
        if not mobilenet or width <= 0:
            raise ValueError(f"width={width}: {architecture} has {'those above 0' if mobilenet else 'one width only'}")
        options["width" if architecture in OWN else "width_mult"] = width
    if architecture == "googlenet":
        options |= {"aux_logits": False, "init_weights": True}
    if architecture in OWN:
        has_dropout = "dropout" in inspect.signature(builder).parameters
    else:
        has_dropout = not (resnet or architecture.startswith("shufflenet"))
    if dropout is not None and has_dropout:
        options["dropout"] = dropout
    net: Any = builder(**options)
    if mobilenet:
        dilate(net.features, output_stride)
    if dropout is not None and not has_dropout:
        net.dropout = nn.Dropout(dropout)
    return net


def _trunk(net: nn.Module) -> list[str]:
    """The layers of the trunk, in order."""
    if hasattr(net, "features"):
        return [f"features.{name}" for name, _ in net.get_submodule("features").named_children()]
    return [name for name, _ in net.named_children() if name not in ("avgpool", "dropout", *LAST)]


def _head(net: nn.Module) -> list[str]:
    """The layers behind the trunk, in order; those that `net.forward` has as functions are made layers."""
    (last,) = (name for name in LAST if hasattr(net, name))
    net.flatten = nn.Flatten()
    if isinstance(net, torchvision.models.SqueezeNet):
        return [last, "flatten"]  # it takes the mean itself, of the scores
    if not hasattr(net, "avgpool"):
        net.avgpool = nn.AdaptiveAvgPool2d(1)
    before = ["avgpool", *(["dropout"] if hasattr(net, "dropout") else [])]
    if isinstance(getattr(net, last), nn.Conv2d):  # DPN's class scores
        return [*before, last, "flatten"]
    return [*before, "flatten", last]


def _maps(net: nn.Module, steps: list[str]) -> dict[int, tuple[str, int]]:
    """For each stride: the last step that has it, and its channels."""
    found, stride, x = {}, 1, torch.empty(1, 3, 256, 256)
    for step in steps:
        before, x = x.shape[-1], net.eval().get_submodule(step)(x)
        stride *= round(before / x.shape[-1])  # a pool without padding is some pixels short
        found[stride] = (step, x.shape[1])
    return found


def _reshape_first(net: nn.Module, in_channels: int) -> None:
    """Give `net` a first convolution for images of `in_channels` channels."""
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    sizes = (old.kernel_size[0], old.stride[0], old.padding[0])
    new = type(old)(in_channels, old.out_channels, *sizes, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    net.set_submodule(name, new)
