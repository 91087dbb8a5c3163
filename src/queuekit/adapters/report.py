"""The compile report: what a task becomes on an engine, field by field.

    native      the engine does it by itself, by the options that are shown
    emulated    queuekit does it, and the same on each engine
    degraded    what is asked for does not hold in full on this pool; the setting `strict` refuses it
    refused     it cannot run so

`default_rows()` says what follows from an adapter's Capabilities alone; Adapter.compile() replaces the rows of which
the adapter knows more. The engine options in them are read off the native objects and messages that the adapter makes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from queuekit.adapters import load_adapter
from queuekit.errors import ConfigError
from queuekit.message import Publication
from queuekit.retry import RetryPolicy
from queuekit.settings.urls import AMQP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from queuekit.adapters import Adapter, Pool
    from queuekit.retry.lower import Lowered
    from queuekit.settings import Settings
    from queuekit.task import Task

__all__ = [
    "CAPS",
    "FAULTS",
    "JOB_ID",
    "Engine",
    "Level",
    "Row",
    "Target",
    "broker_of",
    "compile_task",
    "policy_of",
    "refuse_faults",
    "report",
    "sample",
]

JOB_ID: Final = "JOB"
"""Stands for the job's id in the options of a report."""

CAPS: Final = ("queue_concurrency", "max_concurrency")
"""The fields that one pool of an engine refuses and another does not."""

SOMEWHERE: Final = {"redis": "redis://localhost:6379/0", "rabbitmq": "amqp://localhost:5672//"}
"""Brokers for who has set none: nothing is connected to."""


class Level(StrEnum):
    native = "native"
    emulated = "emulated"
    degraded = "degraded"
    refused = "refused"


FAULTS: Final = (Level.degraded, Level.refused)


@dataclass(frozen=True, slots=True)
class Row:
    """One field of a task, on one pool.

    Attributes:
        field: "queue", "timeout", "retry.rate_limit": docs/reference/compile.md lists them.
        asked: what the task, or a setting, asks for; "-" where it asks for nothing.
        becomes: what happens.
        why: where that needs a reason.
        remedy: what to change, where it is degraded or refused.
        options: the engine's own, by where they stand: {"message.priority": 3}.
    """

    field: str
    asked: str
    level: Level
    becomes: str
    why: str = ""
    remedy: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def native(self, becomes: str, options: Mapping[str, Any]) -> Self:
        """The same field, done by the engine."""
        return replace(self, level=Level.native, becomes=becomes, options=options)

    def also(self, said: str, options: Mapping[str, Any]) -> Self:
        """The same with one more thing said, and the engine's options."""
        becomes = f"{self.becomes}; {said}" if said else self.becomes
        return replace(self, becomes=becomes, options={**self.options, **options})


def sample(task: Task[..., Any, Any], settings: Settings, backend: str) -> Publication:
    """The first publication of a job of the task, without arguments: what an adapter makes of it is what the report
    shows."""
    message = task.message(JOB_ID, [], {}, backend=backend, default_ttl=settings.result_ttl)
    return Publication(message, 1, 1, "")


def broker_of(settings: Settings) -> str:
    """The kind of broker, by its name in Capabilities.brokers."""
    return "rabbitmq" if (settings.broker_url or "").startswith(AMQP) else "redis"


def policy_of(task: Task[..., Any, Any], settings: Settings) -> RetryPolicy:
    """The policy that its jobs go by. Raises ConfigError where the settings have none of that name."""
    retry = task.retry if task.request.retry is None else task.request.retry
    if isinstance(retry, str):
        return settings.retry_policy(retry)
    return RetryPolicy() if retry is None else retry


def compile_task(adapter: Adapter, task: Task[..., Any, Any], pool: Pool, settings: Settings) -> tuple[Row, ...]:
    """The rows of the task on that pool: what the capabilities say, and in its place what the adapter says."""
    from queuekit.adapters.defaults import default_rows

    rows = {row.field: row for row in default_rows(task, adapter.name, pool, settings, adapter.capabilities)}
    own = getattr(adapter, "compile", None)  # an adapter may leave it out
    if own is not None:
        rows.update({row.field: row for row in own(task, pool, dict(rows))})
    return tuple(rows.values())


def refuse_faults(adapter: Adapter, tasks: Iterable[Task[..., Any, Any]], pool: str, settings: Settings) -> None:
    """With the setting strict. Raises ConfigError, which names each field that the pool would not keep."""
    found = next((one for one in adapter.capabilities.pools if one.name == pool), None)
    if found is None:  # run_worker() says so
        return
    faults = [
        f"  {task.name}, {row.field} ({row.asked}): {row.level}: {row.becomes}. {row.remedy}"
        for task in tasks
        for row in compile_task(adapter, task, found, settings)
        if row.level in FAULTS
    ]
    if faults:
        raise ConfigError(
            f"strict: in {adapter.name}'s pool {pool!r} this would not hold as it is asked for:\n"
            + "\n".join(faults)
            + "\nor set strict=false. `queuekit compile MODULE:TASK` shows the whole of it"
        )


# ---- the whole report ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A task on one pool of an engine, on one kind of broker."""

    pool: str
    broker: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A task on one engine.

    Attributes:
        refused: the pools that queuekit does not run, and why.
        missing: the brokers for which something is not installed, and what.
        lowered: the nearest options of the engine's own retry, and what they lose; None where there are none.
    """

    backend: str
    default_pool: str
    targets: tuple[Target, ...]
    refused: Mapping[str, str]
    missing: Mapping[str, str]
    lowered: Lowered | None

    def refuses(self, pool: str | None) -> bool:
        """Whether the task cannot run here, or not in the pool that was asked for."""
        refused = [{row.field for row in one.rows if row.level is Level.refused} for one in self.targets]
        everywhere = bool(refused) and all(refused)
        return everywhere or any(fields.difference(CAPS) for fields in refused) or pool in self.refused


def report(
    task: Task[..., Any, Any],
    settings: Settings,
    backend: str,
    pool: str | None = None,
    installed: Adapter | None = None,
) -> Engine:
    """What the task becomes on the backend: on all its pools, or that one, and all its brokers. Connects to nothing.

    `installed` is the adapter of these very settings, with the user's own engine application, where there is one.

    Raises:
        ConfigError: the engine is not installed, or has no such pool.
    """
    kind = load_adapter(backend)
    has = kind.capabilities
    known = [*(one.name for one in has.pools), *has.refused]
    if pool is not None and pool not in known:
        raise ConfigError(f"--pool {pool!r}: {backend} has {', '.join(known)}")
    targets: list[Target] = []
    missing = {}
    for broker in has.brokers:
        there = _on(settings, backend, broker)
        own = installed if broker == broker_of(settings) else None
        try:
            adapter = own or kind(there)
        except ConfigError as error:
            missing[broker] = str(error)
            continue
        try:
            targets += [
                Target(one.name, broker, compile_task(adapter, task, one, there))
                for one in has.pools
                if pool in {None, one.name} and (not one.brokers or broker in one.brokers)
            ]
        finally:
            if own is None:
                adapter.close()
    refused = {name: why for name, why in has.refused.items() if pool in {None, name}}
    return Engine(backend, has.default_pool, tuple(targets), refused, missing, _lowered(task, settings, backend))


def _on(settings: Settings, backend: str, broker: str) -> Settings:
    """The settings with a broker of that kind: the one that is set, or one that nobody asks."""
    if settings.broker_url is not None and broker_of(settings) == broker:
        return settings.replace("queuekit compile", backend=backend)
    urls = {"broker_url": SOMEWHERE[broker], "store_url": settings.store_url or SOMEWHERE["redis"]}
    return settings.replace("queuekit compile", backend=backend, **urls)


def _lowered(task: Task[..., Any, Any], settings: Settings, backend: str) -> Lowered | None:
    try:
        return policy_of(task, settings).lower(backend)
    except ConfigError:  # no engine of that name, or no policy
        return None
