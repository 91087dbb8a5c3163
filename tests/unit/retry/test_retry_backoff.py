from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from queuekit.errors import ConfigError
from queuekit.retry import Backoff


def test_each_wait_doubles_up_to_the_cap() -> None:
    backoff = Backoff(30, cap=200, jitter="none")
    assert [backoff.delay(n, 0.5) for n in (1, 2, 3, 4, 5)] == [30, 60, 120, 200, 200]


def test_durations_are_seconds_or_timedelta() -> None:
    assert Backoff(timedelta(minutes=1), cap=timedelta(hours=1)) == Backoff(60, cap=3600)
    assert Backoff.fixed(timedelta(seconds=5)) == Backoff.fixed(5.0)


@pytest.mark.parametrize(
    ("jitter", "low", "middle", "high"),
    [("none", 10, 10, 10), ("full", 0, 5, 10), ("equal", 5, 7.5, 10), ("spread", 10, 11.25, 12.5)],
)
def test_what_one_u_makes_of_the_figure(jitter: Any, low: float, middle: float, high: float) -> None:
    backoff = Backoff(10, jitter=jitter)
    assert (backoff.delay(1, 0.0), backoff.delay(1, 0.5)) == (low, middle)
    assert backoff.bounds(1) == (low, high)


def test_the_cap_is_on_the_figure_before_jitter() -> None:
    assert Backoff(10, cap=20).bounds(5) == (20, 25)


def test_fixed_does_not_grow_and_is_never_early() -> None:
    assert [Backoff.fixed(5).bounds(n) for n in (1, 2, 99)] == [(5, 6.25)] * 3


@pytest.mark.parametrize(
    "backoff", [Backoff(1), Backoff(1, factor=1e9), Backoff(0), Backoff(5, factor=1.0), Backoff(3, cap=60)]
)
def test_a_million_failures_do_not_overflow(backoff: Backoff) -> None:
    low, high = backoff.bounds(10**6)
    assert 0 <= low <= high < math.inf


def test_no_wait_stays_no_wait() -> None:
    assert Backoff(0).bounds(10**6) == (0, 0)


def test_scaled() -> None:
    assert Backoff(30, cap=1800, jitter="full").scaled(1 / 30) == Backoff(1, cap=60, jitter="full")


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, 10**400, "30", None, True, timedelta(seconds=-1), 4e9])
def test_a_base_that_is_no_duration(bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"Backoff\(base\)="):
        Backoff(bad)


@pytest.mark.parametrize(
    "bad", [{"factor": 0.5}, {"factor": math.nan}, {"factor": "2"}, {"factor": True}, {"cap": -1}, {"jitter": "some"}]
)
def test_other_bad_values(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Backoff(1, **bad)


def test_it_is_a_value() -> None:
    assert hash(Backoff(1)) == hash(Backoff(1.0))
    with pytest.raises(AttributeError):
        Backoff(1).base = 2  # type: ignore[misc]
