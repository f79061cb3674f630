"""Batch norm folded into the convolution before it, for evaluation.

With fixed statistics a batch norm is one factor and one offset a channel, so a convolution can do it: Jacob, Kligys,
Chen, Zhu, Tang, Howard, Adam, Kalenichenko, 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR, eq. 14.
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

NORMS = (_BatchNorm, FrozenBatchNorm2d)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` in evaluation mode that gives the same up to rounding, with fewer passes over the maps.

    A norm is folded where all of a convolution's output goes into it and nowhere else, each of the two being used once.
    Where that holds is read off the traced forward; a module whose forward cannot be traced, because it depends on
    values, is searched part by part. A folded norm is an `nn.Identity`, and its convolution has a bias. What is left,
    such as a norm in front of a convolution, stays as it is.
    """
    folded = copy.deepcopy(module).eval()
    _fold(folded)
    return folded


def _fold(module: nn.Module) -> None:
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception:  # tracing runs the module's own code on stand-ins for tensors, so anything may come of it
        for child in module.children():
            _fold(child)
        return
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(norm := module.get_submodule(node.target), NORMS):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1 or uses[node.target] > 1 or uses[before.target] > 1:
            continue
        convolution = module.get_submodule(before.target)
        if isinstance(convolution, nn.Conv2d) and norm.running_mean is not None:
            module.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            module.set_submodule(node.target, nn.Identity())


class _Tracer(fx.Tracer):
    """Takes convolutions and norms as wholes, those of this suite too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, *NORMS)) or super().is_leaf_module(m, module_qualified_name)
