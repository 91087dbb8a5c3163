"""The Adapter protocol: what queuekit asks of an engine.

An adapter carries doorbells and runs the engine's own worker; it decides nothing about a job. It is a plugin in the
entry-point group `queuekit.adapters`, a class that is called with the App's settings. One engine, one folder: nothing
else imports the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from queuekit.errors import ConfigError, QueuekitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from queuekit.adapters.findings import Finding
    from queuekit.adapters.report import Row
    from queuekit.message import Message, Publication
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings
    from queuekit.store import Wire
    from queuekit.task import Task
    from queuekit.worker import Worker

__all__ = ["ASYNC", "Adapter", "BrokerAway", "Capabilities", "Diagnosing", "Pool", "Wiring", "load_adapter"]

ASYNC = "async"
"""The name of the pool in which a worker runs all that it has on one loop, on every engine that has it."""

GROUP = "queuekit.adapters"


class BrokerAway(QueuekitError, ConnectionError):
    """The broker did not take a publication. The job is accepted all the same, and published later."""


@dataclass(frozen=True, slots=True)
class Pool:
    """How an engine's worker runs tasks.

    Attributes:
        processes: user code runs in child processes, so that a crash takes one job and not the worker.
        interrupts_sync: a time limit takes synchronous code out of a blocking call.
        shared_loop: async tasks of the whole process share one loop (C15).
        concurrent: it can run more than one job at a time.
        brokers: the kinds of broker that it runs on; empty: all of the adapter's.
        caps: the kinds of broker on which it keeps queue_concurrency, task_concurrency and max_concurrency.
    """

    name: str
    processes: bool
    interrupts_sync: bool
    shared_loop: bool
    concurrent: bool
    brokers: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the conformance suite may ask of an adapter.

    Attributes:
        brokers: the kinds of broker that it runs on, "redis" and "rabbitmq", the first one as the usual one.
        gaps: why a clause does not hold: by clause ("C15"), for one pool ("C15:worker") or one broker ("C3:rabbitmq").
        refused: the engine's pools that the adapter does not run, and why.
    """

    pools: tuple[Pool, ...]
    default_pool: str
    brokers: tuple[str, ...] = ("redis",)
    gaps: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def check_pool(self, pool: str, *, backend: str, broker: str = "") -> None:
        """App.worker() asks. Raises ConfigError for a pool that is not there, with the reason where one is given, or
        not there on that kind of broker."""
        found = next((one for one in self.pools if one.name == pool), None)
        if found is None:
            names = [one.name for one in self.pools]
            why = f": {self.refused[pool]}" if pool in self.refused else ""
            raise ConfigError(f"pool={pool!r}: the backend {backend} has {', '.join(names)}{why}")
        if broker and found.brokers and broker not in found.brokers:
            others = [one.name for one in self.pools if not one.brokers or broker in one.brokers]
            raise ConfigError(
                f"pool={pool!r}: on the backend {backend} it takes messages from {' or '.join(found.brokers)}, and "
                f"broker_url leads to {broker}: set broker_url to that, or choose the pool {' or '.join(others)}"
            )


class Adapter(Protocol):
    """One engine. All methods but run_worker() may be called from any thread."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        """`native` is the user's own engine application, where one was handed in. Makes no connection."""
        ...

    def publish(self, publications: Sequence[Publication]) -> None:
        """Send the doorbells natively, with the message's arguments readable and the header `queuekit`. Called by
        enqueue() and by the steward, which knows no task. Returns when the broker has them all; raises BrokerAway
        within the settings' enqueue_timeout where it has not: they are all sent again then."""
        ...

    def depth(self, route: str) -> int | None:
        """How many messages wait in the broker for this route; None if that cannot be told. Raises BrokerAway."""
        ...

    def native(self, task: Task[..., Any, Any]) -> Any:
        """The task as the engine knows it: a Celery task, an RQ function, a Dramatiq actor."""
        ...

    def compile(self, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterable[Row]:
        """What the task becomes on this pool, for `queuekit compile` and the setting strict. `rows` is what follows
        from the capabilities alone, by field; what is given stands in the place of a row of the same field, or beside
        them. Options are to be read off what native() and publish() make. Makes no connection.

        Optional: an adapter without it is reported by its capabilities, and without options of the engine."""
        return ()

    def run_worker(self, worker: Worker) -> int:
        """Run the engine's worker in this process until it is told to stop; its exit code. Called in the main thread.
        It calls worker.start() once its signal handlers are set, hands each delivery to worker.execution, and says the
        outcome in the engine's own words before it acknowledges. start() refuses caps on the jobs of a queue or a task,
        unless the adapter has said on the worker why they hold: by Worker.keeps_caps or Worker.at_a_time."""
        ...

    def close(self) -> None:
        """Close the connections. Harmless when there are none, and when called twice."""
        ...


@runtime_checkable
class Wiring(Protocol):
    """An adapter on Redis that publishes by a few plain commands. Where the store is on the same Redis, record and
    doorbell are then written in one step, and one round trip. Optional: others publish after they have recorded."""

    def wiring(self, like: Message) -> Callable[[str, Arguments], Wire] | None:
        """What gives the commands that publish() would send for a first publication, by the job's id and arguments: of
        messages like this one, but for those two. The pseq and the epoch are known by the store alone, and put in.
        None: not here. Makes no connection."""
        ...


@runtime_checkable
class Diagnosing(Protocol):
    """An adapter that has something to say to `queuekit doctor`. Optional: others are not asked."""

    def diagnose(self, tasks: Sequence[Task[..., Any, Any]]) -> Iterable[Finding]:
        """What in the engine's own set-up, or the broker's, undoes a promise; and what was looked at and is well. Each
        finding names its check: "prefetch", "app-settings", "consumer-timeout", or one of the adapter's own.

        `tasks` are those that the modules declare which the command was given. It may connect and import, and changes
        nothing. What it raises is shown, and the other checks go on."""
        ...


def load_adapter(name: str) -> type[Adapter]:
    """The plugin's class. Raises ConfigError where there is none, or where its engine is not installed."""
    from importlib.metadata import entry_points

    for found in entry_points(group=GROUP, name=name):
        try:
            adapter: type[Adapter] = found.load()
        except ModuleNotFoundError as error:
            # Only the engine's own absence: an error inside the adapter is a bug, and is shown as one.
            if error.name is None or error.name.partition(".")[0] != name:
                raise
            ours = found.dist is None or found.dist.name == "queuekit"
            install = f"'queuekit[{name}]'" if ours else error.name
            raise ConfigError(
                f"backend {name!r} needs the package {error.name!r}, which is not installed: pip install {install}"
            ) from error
        return adapter
    known = sorted({found.name for found in entry_points(group=GROUP)})
    raise ConfigError(f"backend {name!r} is not one that is installed: choose one of {', '.join(known)}")
