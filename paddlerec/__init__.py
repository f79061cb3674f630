"""Recommendation: models, tasks, data; this loads none of them. `from paddlerec.models import DeepFM` loads models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from paddlecore.hub import LoadReport

__all__ = ["create_model", "list_models", "load_pretrained"]


def list_models(*, task: str | None = None, data: str | None = None, pretrained: bool = False) -> list[str]:
    """Names that `create_model` takes; see `paddlecore.hub.list_models`."""
    from paddlecore import hub

    return hub.list_models(suite="rec", task=task, data=data, pretrained=pretrained)


def create_model(name: str, *, pretrained: bool | str | Path = False, **sizes: Any) -> nn.Module:
    """A model of this suite by recipe or class name; see `paddlecore.hub.create_model`."""
    from paddlecore import hub

    return hub.create_model(name, suite="rec", pretrained=pretrained, **sizes)


def load_pretrained(module: nn.Module, where: str | Path, *, strict: bool = False) -> LoadReport:
    """Load weights into a model; see `paddlecore.hub.load_pretrained`."""
    from paddlecore import hub

    return hub.load_pretrained(module, where, strict=strict)
