"""Cross-entropy with label smoothing (Szegedy et al., 2016, "Rethinking the Inception Architecture", section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 19  # logits worked on at a time: 2 MiB of float32, which stays in a processor's cache


class _Smoothed(torch.autograd.Function):
    """The loss and, in the same passes over logits, its gradient softmax(logits) - q in closed form."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, smoothing: float, counted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        count, size = logits.shape
        ctx.width = logits.dtype
        # in float16 it would lose what a scaled loss is scaled for, and the scale itself is beyond its range
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient = torch.empty_like(logits, dtype=kept) if ctx.needs_input_grad[0] else None
        nll = torch.zeros((), dtype=torch.float32, device=logits.device)
        even = torch.zeros_like(nll)
        step = max(1, _CHUNK // size) if logits.device.type == "cpu" else count
        for start in range(0, count, step):
            part = slice(start, start + step)
            wanted = target[part, None]
            log_probs = logits[part].float().log_softmax(1)  # [step, V]
            if counted is not None:
                log_probs *= counted[part, None]
            nll -= log_probs.gather(1, wanted).sum()
            if smoothing:
                even -= log_probs.sum() / size
            if gradient is not None:
                share = log_probs.exp_()
                share -= smoothing / size
                share.scatter_add_(1, wanted, torch.full_like(wanted, smoothing - 1.0, dtype=share.dtype))
                if counted is not None:
                    share *= counted[part, None]
                gradient[part] = share
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        ctx.mark_non_differentiable(nll)
        return (1 - smoothing) * nll + smoothing * even, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        grad = grads[0]
        if grad.device.type == "cpu" and grad == 1.0:  # a loss that is backpropagated itself: no pass over the logits
            return gradient, None, None, None
        return (gradient * grad).to(ctx.width), None, None, None


def smoothed_cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over n tokens of -sum_v q(v) log P(v), with q = (1 - smoothing) on the target + smoothing / V on all, and of
    -log P(target), the latter without a gradient.

    Args:
        logits: [n, V] float of any width; computed in float32.
        target: [n] int64.
        smoothing: in [0, 1).
        counted: [n] bool: the tokens that count; None = all.
    """
    loss, nll = _Smoothed.apply(logits, target, smoothing, counted)
    return loss, nll


def token_losses(
    output: Callable[[Tensor], Tensor], features: Tensor, target: Tensor, pad_id: int, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of `smoothed_cross_entropy` over the targets that are no padding, and how many those are.

    Padding is not scored, but in training on a GPU: the host would have to wait there for where it is.

    Args:
        output: makes logits [n, V] of features [n, d].
        features: [B, T, d] float.
        target: [B, T] int64.
        pad_id: padding of `target`.
        smoothing: in [0, 1).
    """
    counted = target != pad_id
    if features.device.type == "cpu" or not torch.is_grad_enabled():
        loss, nll = smoothed_cross_entropy(output(features[counted]), target[counted], smoothing)
    else:
        logits = output(features.flatten(0, 1))
        loss, nll = smoothed_cross_entropy(logits, target.flatten(), smoothing, counted.flatten())
    return loss, nll, counted.sum()
