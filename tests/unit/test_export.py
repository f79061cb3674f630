"""Models can be exported for any number of rows, and the graph gives what the model gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paddlecore.hub import create_model


def ids(rows: int, columns: int) -> Tensor:
    return torch.arange(rows * columns).view(rows, columns) % 7 + 1


MODELS = {
    "rec/DeepFM": ({"vocab_sizes": [10] * 4, "hidden": [256]}, lambda rows: ids(rows, 4)),
    "rec/XDeepFM": ({"vocab_sizes": [10] * 4, "cin": [6, 5], "hidden": [8]}, lambda rows: ids(rows, 4)),
    "rec/SASRec": ({"num_items": 10, "dim": 8, "max_len": 6}, lambda rows: ids(rows, 6)),
    "cv/LeNet": ({"num_classes": 10}, lambda rows: torch.rand(rows, 1, 28, 28)),
    "cv/resnet20_cifar": ({"num_classes": 10}, lambda rows: torch.rand(rows, 3, 32, 32)),
    "nlp/TextCNN": ({"vocab_size": 10, "num_classes": 2, "dim": 8}, lambda rows: ids(rows, 12)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_for_any_number_of_rows(name: str) -> None:
    torch.manual_seed(0)
    sizes, made = MODELS[name]
    model = create_model(name, **sizes).eval()
    exported = torch.export.export(model, (made(3),), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    for rows in (2, 50):
        x = made(rows)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-4)
