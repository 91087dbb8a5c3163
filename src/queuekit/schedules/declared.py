"""Schedules that stand in code, on their task, or in the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError
from queuekit.schedules.spec import check_missed, check_name
from queuekit.schedules.when import At, Cron, Every, when_of

if TYPE_CHECKING:
    from queuekit.schedules.spec import Missed
    from queuekit.schedules.when import When

__all__ = ["Scheduled", "declared_on", "from_table"]

_FIELDS = {"task", "cron", "tz", "every", "at", "args", "kwargs", "missed"}


@dataclass(frozen=True)
class Scheduled:
    """A schedule on its task, where it is more than the bare `when`.

    Args:
        when: Cron, Every or At.
        name: of the schedule; the task's by default.
        args, kwargs: what the task is called with.
        missed: what becomes of ticks that nobody fired while all workers were down: "skip", "once" (the first of them
            stands for all) or "all" (the latest 1,000).

    Raises:
        ConfigError: a value that cannot be.
    """

    when: When
    name: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "skip"

    def __post_init__(self) -> None:
        where = f"Scheduled({self.when!r})"
        if not isinstance(self.when, (Cron, Every, At)):
            raise ConfigError(f"when={self.when!r} in {where}: Cron(...), Every(...) or At(...)")
        if self.name is not None:
            check_name(self.name, where)
        check_missed(self.missed, where)
        if isinstance(self.args, str) or not isinstance(self.args, Sequence):
            raise ConfigError(f"args={self.args!r} in {where}: a list of what the task is called with")
        if not isinstance(self.kwargs, Mapping):
            raise ConfigError(f"kwargs={self.kwargs!r} in {where}: a mapping of what the task is called with")


def declared_on(task: str, schedule: Any) -> dict[str, Scheduled]:
    """What @agent_task(schedule=) says, by name. Raises ConfigError."""
    given = schedule if isinstance(schedule, (list, tuple)) else [schedule]
    found: dict[str, Scheduled] = {}
    for one in given:
        made = one if isinstance(one, Scheduled) else Scheduled(one)
        name = made.name or re.sub(r"[^A-Za-z0-9_-]", "-", task)[-90:]
        if name in found:
            raise ConfigError(
                f"schedule of task {task!r}: two of the name {name!r}. Give one another: Scheduled(name=)"
            )
        found[name] = made
    return found


def from_table(name: str, table: Mapping[str, Any]) -> tuple[str, Scheduled]:
    """The task's name and the schedule that [schedules.NAME] says. Raises ConfigError."""
    where = f"[schedules.{name}]"
    check_name(name, where)
    if unknown := sorted(set(table) - _FIELDS):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(_FIELDS))}")
    task = table.get("task")
    if not isinstance(task, str) or not task:
        raise ConfigError(f"{where}: task={task!r}: the name of the task, as module.function")
    args, kwargs = table.get("args") or [], table.get("kwargs") or {}
    missed = check_missed(table.get("missed", "skip"), where)
    return task, Scheduled(when_of(table, where), name, args, kwargs, missed)
