"""How long to wait before the next attempt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Self, TypeAlias

from queuekit.errors import ConfigError

__all__ = ["MAX_DELAY", "Backoff", "Jitter", "Seconds"]

Seconds: TypeAlias = float | timedelta
"""A duration: seconds, or a timedelta."""

Jitter: TypeAlias = Literal["none", "full", "equal", "spread"]

MAX_DELAY = 100 * 365 * 86400.0
"""The longest wait that can be asked for, 100 years in seconds: a sum with any date of today is still a date."""

# jitter: (the part of the figure that is fixed, the part that u in [0, 1) scales)
_JITTER: dict[str, tuple[float, float]] = {
    "none": (1.0, 0.0),
    "full": (0.0, 1.0),
    "equal": (0.5, 0.5),
    "spread": (1.0, 0.25),
}


def seconds(field: str, value: object, *, positive: bool = False) -> float:
    """A duration in seconds, checked.

    Raises:
        ConfigError: it is no number or timedelta, not finite, negative (or 0 where positive=True), or over 100 years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{field}={value!r} is not a duration: give seconds as a number, or a datetime.timedelta")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not 0 <= result <= MAX_DELAY or (positive and result == 0):
        floor = "more than 0" if positive else "0 or more"
        raise ConfigError(f"{field}={value!r} is out of range: give {floor} and at most {MAX_DELAY:g} seconds")
    return result


def positive_int(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field}={value!r} must be a whole number from 1 up (1: the first run is the only one)")
    return value


def one_of(field: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{field}={value!r} is unknown: give one of {', '.join(map(repr, known))}")
    return str(value)


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """The wait after the n-th failure of a kind: min(cap, base * factor ** (n - 1)), then jitter.

    Attributes:
        base: seconds after the first failure.
        factor: by what each further wait grows; 1 for always the same.
        cap: the longest figure in seconds, before jitter; None for none but MAX_DELAY.
        jitter: what one u in [0, 1) makes of the figure x: "none" x, "full" u x, "equal" x/2 + u x/2, and
            "spread" x (1 + u/4), which is never earlier than the figure.
    """

    base: float
    factor: float
    cap: float | None
    jitter: Jitter

    def __init__(self, base: Seconds, factor: float = 2, cap: Seconds | None = None, jitter: Jitter = "spread") -> None:
        """
        Raises:
            ConfigError: a duration out of range, a factor below 1, or an unknown jitter.
        """
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor <= 1e9:
            raise ConfigError(f"Backoff(factor={factor!r}) must be a number from 1 (always the same wait) to 1e9")
        one_of("Backoff(jitter)", jitter, tuple(_JITTER))
        put = object.__setattr__
        put(self, "base", seconds("Backoff(base)", base))
        put(self, "factor", float(factor))
        put(self, "cap", None if cap is None else seconds("Backoff(cap)", cap))
        put(self, "jitter", jitter)

    @classmethod
    def fixed(cls, delay: Seconds) -> Self:
        """The same wait each time (seconds), spread by up to a quarter: never earlier than the figure."""
        return cls(delay, factor=1)

    def figure(self, n: int) -> float:
        """The wait in seconds after the n-th failure (from 1), before jitter."""
        ceiling = MAX_DELAY if self.cap is None else self.cap
        if self.base == 0:
            return 0.0
        try:
            return min(ceiling, self.base * self.factor ** (max(n, 1) - 1))
        except OverflowError:  # 2.0 ** 10**6; the ceiling is lower than that
            return ceiling

    def delay(self, n: int, u: float) -> float:
        """The wait in seconds after the n-th failure (from 1), with u in [0, 1) for chance."""
        fixed, varied = _JITTER[self.jitter]
        x = self.figure(n)
        return x * (fixed + varied * u)

    def bounds(self, n: int) -> tuple[float, float]:
        """The shortest and the longest wait in seconds that delay(n, u) can give."""
        fixed, varied = _JITTER[self.jitter]
        x = self.figure(n)
        return x * fixed, x * (fixed + varied)

    def scaled(self, by: float) -> Self:
        """The same backoff with every wait multiplied by `by` (1/20: twenty times as fast)."""
        cap = None if self.cap is None else self.cap * by
        return type(self)(self.base * by, factor=self.factor, cap=cap, jitter=self.jitter)
