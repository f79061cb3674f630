from __future__ import annotations

import pytest
import torch

from paddlecore import distributed
from paddlecore.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("device", "environment", "said"),
    [
        ("cuda:0", {"WORLD_SIZE": "2"}, "device=cuda:0 is one GPU, and there are 2 ranks"),
        ("cuda:1", {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "there are 2 ranks"),
        ("cuda:1", {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "no CUDA device can be used"),  # one on each machine
        ("cuda", {}, "no CUDA device can be used"),
        ("gpu", {}, "is not a device"),
        ("meta", {}, "is not supported"),
    ],
)
def test_a_device_that_cannot_be_is_refused(
    device: str, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        distributed.start(device)


def test_work_of_the_first_rank_is_done_and_its_error_raised_where_there_is_one_process() -> None:
    assert distributed.on_first(lambda: {"a": 1}) == {"a": 1}

    def bad() -> None:
        raise DataError("data.csv:3: bad")

    with pytest.raises(DataError, match="^data.csv:3: bad$"):  # of two ranks: tests/dist
        distributed.on_first(bad)
