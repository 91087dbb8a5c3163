"""Schedules: jobs that are made by the clock.

    @agent_task(schedule=Cron("0 3 * * *", tz="Europe/Berlin"))
    def nightly() -> None: ...

    schedules.add("report-17", report.bind(17), Every(3600), missed="once")

A schedule is recorded in the store: a worker records those that are declared, on its tasks and in the settings, when it
starts; add() records one at run time. Any steward of the namespace fires each tick once: the job's id is made of the
schedule's name and the moment, and is made in the step in which the schedule goes on to its next tick.

The functions here are of the App in use and ask the store; in async code call them by asyncio.to_thread().
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queuekit.schedules.declared import Scheduled
from queuekit.schedules.when import At, Cron, Every

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from queuekit.app import App
    from queuekit.handle import Job
    from queuekit.schedules.spec import Missed
    from queuekit.schedules.when import When
    from queuekit.task import Call

__all__ = [
    "At",
    "Cron",
    "Every",
    "Schedule",
    "Scheduled",
    "add",
    "find",
    "list",
    "pause",
    "register",
    "remove",
    "resume",
    "run_now",
]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the store knows of a schedule.

    Attributes:
        when: Cron, Every or At; None for a record that cannot be read here.
        source: "task", "settings" or "run time": where it was declared.
        next_at: None: it is paused, or has no tick any more.
        last_at, last_job: its last tick that was fired, and the id of that tick's job.
    """

    name: str
    task: str
    queue: str
    backend: str
    when: When | None
    missed: str
    source: str
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_job: str | None


def _app() -> App:
    from queuekit.app import current_app

    return current_app()


def add(name: str, call: Call[Any], when: When, *, missed: Missed = "skip") -> bool:
    """Record a schedule, or change the one of that name. True: there was none.

    Args:
        name: 1 to 90 letters, digits, '_' and '-'.
        call: made by task.bind(), or by task.options(...).bind(): queue, priority, retry, timeouts, result_ttl, expires
            in seconds and key count for each of its jobs.
        when: Cron, Every or At. A tick counts from now on: a moment that has passed has none.
        missed: what becomes of ticks that nobody fired while all workers were down, for longer than a lease: "skip",
            "once" (the first of them stands for all) or "all" (the latest 1,000).

    Raises:
        ConfigError: a value that cannot be; the name of a schedule that is declared on a task or in the settings.
        PayloadError: an argument that does not fit. StoreAway: the store cannot be reached.
    """
    return _app().schedules.add(name, call, when, missed=missed)


def list() -> Sequence[Schedule]:
    """All schedules of the namespace, by their next tick."""
    return _app().schedules.list()


def find(name: str) -> Schedule | None:
    """The schedule of that name."""
    return _app().schedules.find(name)


def remove(name: str) -> bool:
    """Let a schedule go; its jobs stay. False: there is none. One that is declared comes back when a worker starts."""
    return _app().schedules.remove(name)


def pause(name: str) -> bool:
    """Let it stand still until resume(), whoever starts meanwhile. False: there is none."""
    return _app().schedules.pause(name)


def resume(name: str) -> bool:
    """Go on with the next tick from now; those of the pause are not made good. False: there is none."""
    return _app().schedules.resume(name)


def run_now(name: str) -> Job[Any]:
    """Make a job of it now, besides its ticks; also while it is paused. Stewards publish it at their next tick.

    Raises:
        QueuekitError: no such schedule, it cannot be read here, or another job holds its key.
    """
    return _app().schedules.run_now(name)


def register() -> None:
    """Record what this process declares, on its tasks and in the settings, as a worker does at its start."""
    _app().schedules.register()
