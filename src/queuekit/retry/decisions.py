"""What a policy decides, what it remembers between attempts, and what a task can raise to decide for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeAlias

from queuekit.errors import ConfigError
from queuekit.retry.backoff import Seconds, positive_int, seconds
from queuekit.retry.category import Category  # noqa: TC001 - typing.get_type_hints(Retry) needs it

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["Decision", "DoNotRetry", "Fail", "Lost", "Pass", "Retry", "RetryAfter", "RetryState", "TimeLimit"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class RetryState:
    """All that a policy needs to know of the past. RetryState() is that of a job whose first attempt has just failed.

    Attributes:
        attempt: the number of the attempt that has just failed, from 1.
        counts: how often each rule has sent the job round so far, by the rule's name.
        first_failed_at: when the first attempt failed, in epoch seconds; None until it has.
    """

    attempt: int
    _counts: tuple[tuple[str, int], ...]  # sorted pairs, so that a state is hashable and two equal ones are equal
    first_failed_at: float | None

    def __init__(
        self, attempt: int = 1, counts: Mapping[str, int] | None = None, first_failed_at: float | None = None
    ) -> None:
        """
        Raises:
            ConfigError: a field of the wrong type, or out of range.
        """
        pairs = dict(counts or {})
        for name, count in pairs.items():
            if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ConfigError(f"RetryState(counts={pairs!r}): give rule names and whole numbers from 0 up")
        if first_failed_at is not None and (
            isinstance(first_failed_at, bool)
            or not isinstance(first_failed_at, (int, float))
            or not math.isfinite(first_failed_at)
        ):
            raise ConfigError(f"RetryState(first_failed_at={first_failed_at!r}): give epoch seconds, or None")
        put = object.__setattr__
        put(self, "attempt", positive_int("RetryState(attempt)", attempt))
        put(self, "_counts", tuple(sorted(pairs.items())))
        put(self, "first_failed_at", None if first_failed_at is None else float(first_failed_at))

    @property
    def counts(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._counts))

    def __repr__(self) -> str:
        counts = dict(self._counts)
        return f"RetryState(attempt={self.attempt}, counts={counts!r}, first_failed_at={self.first_failed_at!r})"

    def after(self, rule: str, *, now: float) -> Self:
        """The state of the next attempt, when `rule` has sent the job round."""
        counts = dict(self._counts)
        counts[rule] = counts.get(rule, 0) + 1
        return type(self)(self.attempt + 1, counts, now if self.first_failed_at is None else self.first_failed_at)

    def to_json(self) -> str:
        """A short JSON text, for a message or a record."""
        import json

        return json.dumps(
            {"a": self.attempt, "c": dict(self._counts), "f": self.first_failed_at}, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The state that to_json() wrote.

        Raises:
            ConfigError: the text is none of to_json()'s.
        """
        import json

        try:
            data = json.loads(text)
            return cls(data["a"], data["c"], data["f"])
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"not a RetryState: {text!r} ({e}); give what RetryState.to_json() wrote") from e


@dataclass(frozen=True, slots=True)
class Retry:
    """Again, after `delay` seconds.

    Attributes:
        delay: seconds from `now`, finite, 0 or more.
        reason: a sentence for people. Like every reason here it holds no text of the error's own message.
        rule: the name of the rule that decided; "retry_after" where the task did, "lost" for a crash without a rule.
        category: what kind of failure it was.
        state: what to hand to the next decide().
    """

    delay: float
    reason: str
    rule: str
    category: Category
    state: RetryState


@dataclass(frozen=True, slots=True)
class Fail:
    """Not again. `rule` is the name of the rule that decided, or None where none matched."""

    reason: str
    rule: str | None
    category: Category


@dataclass(frozen=True, slots=True)
class Pass:
    """Control flow (a cancellation, an interrupt, an engine's signal): not for a policy to judge. Let it through."""

    reason: str = "control flow"


Decision: TypeAlias = Retry | Fail | Pass


class RetryAfter(Exception):
    """Raised by a task: run me again, `delay` seconds from now or a little later.

    It needs no rule, and counts as an attempt.
    """

    __module__ = "queuekit.retry"  # where it is imported from: the name that logs and records show

    def __init__(self, delay: Seconds, *args: object) -> None:
        """
        Raises:
            ConfigError: the delay is no duration.
        """
        self.delay = seconds("RetryAfter(delay)", delay)
        super().__init__(self.delay, *args)

    def __str__(self) -> str:
        said = " ".join(str(part) for part in self.args[1:])
        return f"again after {self.delay:g} s" + (f": {said}" if said else "")


class DoNotRetry(Exception):
    """Raised by a task: fail now, whatever the rules say."""

    __module__ = "queuekit.retry"


class TimeLimit(Exception):
    """The attempt ran into its hard `timeout`. Raised by queuekit for the policy, not inside the task."""

    __module__ = "queuekit.retry"


class Lost(Exception):
    """The attempt's worker died. Never raised: handed to decide() for a crashed attempt.

    Only a rule that names it takes it ("category:lost", or this class), never a catch-all: a crash is nothing that
    the function raised.
    """

    __module__ = "queuekit.retry"
