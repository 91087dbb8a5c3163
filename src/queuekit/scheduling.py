"""The schedules of an App: recorded, listed, paused, run now. See queuekit.schedules."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from queuekit.errors import ConfigError, DuplicateJob, QueuekitError
from queuekit.job import moment
from queuekit.message import InvalidMessage, schedule_id
from queuekit.schedules import At, Cron, Every, Schedule
from queuekit.schedules.declared import declared_on, from_table
from queuekit.schedules.spec import Spec, check_missed, check_name
from queuekit.task import Call, find_task, registered_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.message import Message
    from queuekit.schedules.spec import Missed
    from queuekit.schedules.when import When
    from queuekit.settings import Settings
    from queuekit.store import NewJob, ScheduleRow, Store

__all__ = ["Schedules", "resume", "run_now", "seen"]

log = logging.getLogger("queuekit")


class Schedules:
    """`prepare` makes the message of a call under an id, and what the store is to be asked."""

    def __init__(
        self, store: Store, settings: Settings, prepare: Callable[[Call[Any], str], tuple[Message, NewJob]]
    ) -> None:
        self._store, self._settings, self._prepare = store, settings, prepare

    # ---- recording --------------------------------------------------------------------------------------------------

    def add(self, name: str, call: Call[Any], when: When, *, missed: Missed = "skip") -> bool:
        """See queuekit.schedules.add()."""
        where = f"schedule {name!r}"
        check_name(name, "schedules.add()")
        if not isinstance(call, Call):
            raise ConfigError(f"call={call!r} in {where}: what task.bind(...) gives")
        said = self._put(self._spec(name, call, when, check_missed(missed, where), "run time"))
        if said == "taken":
            raise ConfigError(
                f"{where} is declared on a task or in the settings: change it there, or take another name"
            )
        return said == "added"

    def check(self) -> None:
        """Whether what is declared here can be. Raises ConfigError or PayloadError."""
        for _ in self._declared():
            pass

    def register(self) -> None:
        """Record what is declared here, and let go of what a task that is known here declared before."""
        declared = {spec.name: spec for spec in self._declared()}
        rows = {row.name: row for row in self._store.schedules()}
        for name, spec in declared.items():
            row = rows.get(name)
            if row is not None and row.text == spec.to_text():
                continue
            said = self._put(spec)
            if said == "taken":
                log.warning(
                    "schedule %s was added at run time, and is not replaced by the one of %s", name, spec.source
                )
            elif said != "same":
                log.info("schedule %s of task %s was %s: %s", name, spec.task, said, spec.when)
        for row in rows.values():
            old = _read(row)
            if old is not None and old.declared and row.name not in declared and find_task(old.task) is not None:
                log.info("schedule %s of task %s is declared no more, and was removed", row.name, old.task)
                self._store.remove_schedule(row.name)

    def _declared(self) -> Iterator[Spec]:
        """Raises ConfigError."""
        found: dict[str, str] = {}
        every = [
            (task, name, one, "task")
            for task in registered_tasks()
            for name, one in (declared_on(task.name, task.schedule) if task.schedule else {}).items()
        ]
        for name, table in self._settings.schedules.items():
            wanted, one = from_table(name, table)
            task = find_task(wanted)
            if task is not None:  # else another worker's
                every.append((task, name, one, "settings"))
        for task, name, one, source in every:
            if name in found:
                raise ConfigError(f"two schedules of the name {name!r}: of task {found[name]} and of {task.name}")
            found[name] = task.name
            call = Call(task, tuple(one.args), dict(one.kwargs))
            yield self._spec(name, call, one.when, one.missed, source)

    def _spec(self, name: str, call: Call[Any], when: When, missed: Missed, source: str) -> Spec:
        where = f"schedule {name!r}"
        if not isinstance(when, (Cron, Every, At)):
            raise ConfigError(f"when={when!r} in {where}: Cron(...), Every(...) or At(...)")
        asked = call.task.request
        for option, value in (
            ("id", asked.id), ("delay", asked.delay), ("at", asked.at), ("expires (a moment)", asked.expires_at),
        ):  # fmt: skip
            if value is not None:
                raise ConfigError(f"{option} in the options of {where}: each tick's job has its own")
        if asked.on_duplicate == "debounce":
            raise ConfigError(f"on_duplicate='debounce' in the options of {where}: give existing, reject or replace")
        _, new = self._prepare(call, schedule_id(name))
        return Spec(
            name=name,
            when=when,
            missed=missed,
            source=source,
            task=call.task.name,
            message=new.message,
            digest=new.digest,
            route=new.route,
            result_ttl=new.result_ttl,
            expires_in=new.expires_in,
            key=new.key,
            if_held="replace" if new.if_held == "replace" else "existing",
            key_ttl=new.key_ttl,
        )

    def _put(self, spec: Spec) -> str:
        due = spec.when.next(int(self._store.now() * 1000))
        when = repr(sorted(spec.when.to_dict().items()))
        return self._store.put_schedule(spec.name, spec.to_text(), when, due, declared=spec.declared)

    # ---- by hand ----------------------------------------------------------------------------------------------------

    def list(self) -> list[Schedule]:
        return [seen(row) for row in self._store.schedules()]

    def find(self, name: str) -> Schedule | None:
        row = _row(self._store, name)
        return None if row is None else seen(row)

    def remove(self, name: str) -> bool:
        return self._store.remove_schedule(name)

    def pause(self, name: str) -> bool:
        return self._store.pause_schedule(name, True)

    def resume(self, name: str) -> bool:
        return resume(self._store, name)

    def make_now(self, name: str) -> tuple[Message, str]:
        return run_now(self._store, self._settings, name)


def run_now(store: Store, settings: Settings, name: str) -> tuple[Message, str]:
    """Make a job of the schedule now, which stewards publish: its message and id. Raises QueuekitError."""
    row = _row(store, name)
    if row is None:
        raise QueuekitError(f"there is no schedule {name!r}")
    id = f"{name}-now-{secrets.token_hex(4)}"
    try:
        # A moment of the store's that will have come: parked, so that any backend's stewards take it.
        message, new = Spec.of(name, row.text).job(id, settings.signer)
    except InvalidMessage as error:
        raise QueuekitError(f"schedule {name!r} is not run: {error}") from None
    made = store.create(replace(new, delay=0.001))
    if not made.created:
        raise DuplicateJob(
            f"schedule {name!r} is not run now: job {made.other} holds the key of its jobs",
            recorded=False,
            job_id=cast("str", made.other),
        )
    return message, id


def resume(store: Store, name: str) -> bool:
    """Let the schedule go on with its next tick. False: there is none. Raises QueuekitError."""
    row = _row(store, name)
    if row is None:
        return False
    spec = _read(row)
    if spec is None:
        raise QueuekitError(f"schedule {name!r} cannot be read here, and is not resumed")
    return store.pause_schedule(name, False, spec.when.next(int(store.now() * 1000)))


def _row(store: Store, name: str) -> ScheduleRow | None:
    return next(iter(store.schedules(name)), None)


def _read(row: ScheduleRow) -> Spec | None:
    try:
        return Spec.of(row.name, row.text)
    except InvalidMessage as error:
        log.warning("schedule %s cannot be read here: %s", row.name, error)
        return None


def seen(row: ScheduleRow) -> Schedule:
    spec = _read(row)
    backend, queue, _ = ("", "", "") if spec is None else spec.route.split(":")
    return Schedule(
        name=row.name,
        task="" if spec is None else spec.task,
        queue=queue,
        backend=backend,
        when=None if spec is None else spec.when,
        missed="" if spec is None else spec.missed,
        source="" if spec is None else spec.source,
        paused=row.paused,
        next_at=None if row.due is None else moment(row.due / 1000),
        last_at=None if row.fired is None else moment(row.fired / 1000),
        last_job=row.job or None,
    )
