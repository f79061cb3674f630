"""Every published artefact answers inputs without its data set, and is of the recipe that it stands under."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paddlecore import config, hub
from paddlecore.run import load_predictor

PUBLISHED = hub.list_models(pretrained=True)


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(finite(one) for one in value.values())
    if isinstance(value, list):
        return all(finite(one) for one in value)
    return not isinstance(value, float) or abs(value) < float("inf")


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_weights_answer(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLE_DATA", raising=False)
    answer = load_predictor(recipe, "device=cpu")
    examples = list(answer.data.examples())[:2]
    answers = answer(*examples)
    assert len(answers) == len(examples) > 0
    assert all(made and finite(made) for made in answers)
    assert all(torch.isfinite(p).all() for p in answer.task.parameters())


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_card_belongs_to_its_recipe(recipe: str) -> None:
    card, about = hub.read_card(recipe), config.about(recipe)
    assert card["recipe"] == recipe and card["title"] == about["title"] and card["target"] == about["expected"]
    split = "test" if "test" in card["metrics"] else "valid"
    assert card["before_rounding"].keys() == {split} if "before_rounding" in card else True
    assert card["command"].startswith(f"paddlesuite train recipe={recipe} seed=")
    assert card["eval_command"].startswith(f"paddlesuite eval recipe={recipe} init.weights={recipe}")
