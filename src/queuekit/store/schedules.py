"""What the store says of schedules. Their records are text that it does not read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DueSchedule", "ScheduleRow"]


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose tick has come. `due` and `now` in whole milliseconds."""

    name: str
    text: str
    due: int
    now: int


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """`due`: its next tick; None: it is paused, or has none any more. `fired` and `job`: its last tick, and the job of
    that. In whole milliseconds."""

    name: str
    text: str
    due: int | None
    paused: bool
    fired: int | None
    job: str
