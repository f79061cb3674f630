"""Every model that reads a history answers an empty one, one of unknown items, and one longer than it reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from paddlecore import run, testing

HISTORIES: list[Any] = [[], [10**9, -3], [2] * 500]
PEOPLE = [{"user": 10**9, "history": history} for history in HISTORIES]
FILMS = [{"item": item, "genres": [], "title": ""} for item in (1, 10**9)]
PROFILE = {"gender": "F", "age": 25, "occupation": 4, "items": FILMS}
COLD: dict[str, list[Any]] = {
    **dict.fromkeys(("rec/dssm_gowalla", "rec/item2vec_gowalla", "rec/lightgcn_gowalla"), [*HISTORIES, *PEOPLE]),
    **dict.fromkeys(("rec/mf_bpr_gowalla", "rec/popularity_gowalla"), [*HISTORIES, *PEOPLE]),
    **dict.fromkeys(("rec/gru4rec_yoochoose", "rec/srgnn_yoochoose", "rec/ssr_yoochoose"), HISTORIES),
    **dict.fromkeys(("rec/sasrec_games", "rec/sasrec_beauty"), HISTORIES),
    "rec/din_amazon": [{"history": history, "item": item} for history in HISTORIES for item in (1, 10**9)],
    "rec/multiview_simnet_ml1m": [{**PROFILE, "history": history} for history in HISTORIES],
    "rec/ncf_ml1m": [{"user": 10**9}, {"user": -1, "items": [3, 10**9]}],
}


@pytest.mark.parametrize("recipe", COLD)
def test_cold_input_is_answered(recipe: str) -> None:
    cfg = testing.tiny(recipe)
    data = run._data(cfg)
    data.prepare()
    task = run._task(cfg, data).eval()
    with torch.no_grad():
        for raw in COLD[recipe]:
            (answer,) = task.render(task.predict(data.encode(raw)))
            listed = answer.get("items", [{"item": 1, **answer}])
            assert listed
            for one in listed:
                assert math.isfinite(one.get("score", one.get("probability"))), (raw, answer)
                assert 0 < int(one["item"]) < 10**6
