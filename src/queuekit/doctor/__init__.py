"""`queuekit doctor`: looks at what a promise depends on and queuekit cannot set by itself: the servers' configuration,
the workers that are up, clocks, the user's own engine application, SDKs that retry.

A check is a function of the Patient that gives a Finding for each thing it has looked at. An adapter adds its own by
Adapter.diagnose(). Nothing is changed anywhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

from queuekit.adapters import BrokerAway, Diagnosing
from queuekit.adapters.findings import Finding, Severity
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

    from queuekit.adapters import Adapter
    from queuekit.doctor.servers import Server
    from queuekit.settings import Settings
    from queuekit.store import Consumer
    from queuekit.store.redis import RedisStore
    from queuekit.task import Task

    Check: TypeAlias = Callable[["Patient"], Iterable[Finding]]

__all__ = ["Patient", "examine"]


@dataclass
class Patient:
    """What is looked at.

    Attributes:
        settings: with a store_url or a broker_url.
        adapters: by name: that of the settings' backend, or of each that jobs were recorded for.
        modules, tasks: the user's, that were imported; empty where the command was given none.
        broken: modules that could not be imported, and why.
        clock: seconds, this host's.
    """

    settings: Settings
    records: RedisStore
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    modules: Sequence[ModuleType] = ()
    tasks: Sequence[Task[..., object, object]] = ()
    broken: Mapping[str, Exception] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    away: str = ""

    @property
    def store(self) -> RedisStore:
        """Raises StoreAway at once where it did not answer before."""
        if self.away:
            raise StoreAway(self.away, sent=False)
        return self.records

    @cached_property
    def servers(self) -> list[Server]:
        """The Redis or Valkey servers of store and broker, asked once."""
        from queuekit.doctor.servers import ask

        return ask(self.settings)

    @cached_property
    def workers(self) -> list[Consumer]:
        """Those whose lease lives. Raises StoreAway."""
        now = self.store.now()
        return [one for one in self.store.consumers() if one.until > now]


def checks() -> dict[str, Check]:
    """In the order in which they are made and shown."""
    from queuekit.doctor import fleet, sdks, servers

    return {
        "modules": _check_modules,
        "store": servers.check_store,
        "broker": servers.check_broker,
        "eviction": servers.check_eviction,
        "append-only-file": servers.check_append_only,
        "workers": fleet.check_workers,
        "schedules": fleet.check_schedules,
        "clock": fleet.check_clocks,
        "code-versions": fleet.check_versions,
        "engine": _ask_adapters,
        "sdk-retries": sdks.check_sdks,
    }


def examine(patient: Patient) -> list[Finding]:
    """Everything, whatever of it fails: a server that does not answer is a finding, and the other checks go on."""
    found: list[Finding] = []
    for name, check in checks().items():
        found += _guarded(name, partial(check, patient))
    return found


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except StoreAway as error:
        yield Finding(
            name, Severity.unchecked, f"the store does not answer: {error}", remedy="see to the store, and run it again"
        )
    except BrokerAway as error:
        yield Finding(name, Severity.unchecked, f"the broker does not answer: {error}", remedy="see to the broker")
    except Exception as error:  # the user's code, a third adapter, or an answer that nobody thought of
        yield Finding(
            name,
            Severity.unchecked,
            f"the check itself failed: {type(error).__qualname__}: {error}",
            remedy="mend it where it is your code's; else report it, with `queuekit --version`",
        )


def _check_modules(patient: Patient) -> Iterator[Finding]:
    for name, error in patient.broken.items():
        yield Finding(
            "modules",
            Severity.error,
            f"{name} cannot be imported: {type(error).__qualname__}: {error}",
            "a worker that is given it does not start",
            f"python -c 'import {name.removesuffix('.py')}' shows where",
        )


def _ask_adapters(patient: Patient) -> Iterator[Finding]:
    for adapter in patient.adapters.values():
        if isinstance(adapter, Diagnosing):
            yield from _guarded("engine", partial(adapter.diagnose, patient.tasks))
