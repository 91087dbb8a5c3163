"""The rows of the compile report for caps: at most so many jobs of one queue, or of one task, in one worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from queuekit.adapters.report import CAPS, Level, Row
from queuekit.worker import cap_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.settings import Settings
    from queuekit.task import Task

__all__ = ["cap_rows"]

REMEDY: Final = (
    "choose the pool async, on Redis; or a worker for these jobs alone, with no more of them at a time; or unset it"
)


def cap_rows(task: Task[..., Any, Any], settings: Settings, *, kept: bool, at_a_time: int | None) -> Iterator[Row]:
    """Nothing for what has no cap.

    Args:
        kept: the pool counts them, and takes no more.
        at_a_time: how many jobs a worker runs at a time in any case; None: that is not known.
    """
    queue = task.request.queue or task.queue
    caps = (settings.queue_concurrency.get(queue), cap_of(task, settings))
    for field, cap in zip(CAPS, caps, strict=True):
        if cap is not None:
            yield _row(field, cap, kept=kept, at_a_time=at_a_time)


def _row(field: str, cap: int, *, kept: bool, at_a_time: int | None) -> Row:
    asked = f"{cap} in each worker process"
    if at_a_time is not None and at_a_time <= cap:
        return Row(field, asked, Level.native, f"a worker runs {at_a_time} at a time in any case")
    if not kept:
        why = "the engine hands over whatever comes next"
        return Row(field, asked, Level.refused, "a worker does not start with it", why, REMEDY)
    if field == CAPS[0]:
        return Row(field, asked, Level.emulated, "a queue that is at its cap is not fetched from")
    said = "a message that comes while the task is at its cap is kept back, and not claimed; others pass it"
    return Row(field, asked, Level.emulated, said)
