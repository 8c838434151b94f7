"""A worker whose node is cut off ends; one that gets answers, or got one in time, goes on."""

from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from countryreward.on_ray import training


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.mark.parametrize("error", [GetTimeoutError("no answer"), ActorUnavailableError("no network", None)])
@pytest.mark.parametrize("answers", [0, 3])
def test_it_ends_after_the_last_answer(answers: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def get(_: Any, timeout: float) -> int:
        asked.append(now)
        if len(asked) > answers:
            sleep(timeout)
            raise error
        return 0

    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    monkeypatch.setattr(training.time, "sleep", sleep)
    monkeypatch.setattr(training.os, "_exit", MagicMock(side_effect=Ended))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(Ended):
        training._end_when_cut_off(MagicMock())
    silent = now - (asked[answers - 1] if answers else 0.0)
    assert training.CUT_OFF_S <= silent <= 1.5 * training.CUT_OFF_S
