"""The memory backend: everything in this process, on a clock that stands still until somebody moves it.

The same execution, codec, policy and state machine as on an engine; only the broker and the worker are missing. Jobs
run when a result is awaited, or when told to. A wait takes no time: the clock jumps to the moment that is due next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from queuekit.adapters import Capabilities, Pool
from queuekit.errors import ConfigError, QueuekitError
from queuekit.execution import SWALLOWED, Delivery, Execution, Failed, Retried
from queuekit.loops import on_process_loop
from queuekit.store.memory import MemoryStore
from queuekit.ticks import Ticker, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from queuekit.adapters.report import Row
    from queuekit.events import Hooks
    from queuekit.message import Publication
    from queuekit.settings import Settings
    from queuekit.store import Taken
    from queuekit.task import Task
    from queuekit.worker import Worker

__all__ = ["MemoryAdapter", "VirtualClock"]


class VirtualClock:
    """Milliseconds since the epoch, moved by hand. Starts at the real time."""

    def __init__(self, start: float | None = None) -> None:
        self._now = (time.time() if start is None else start) * 1000

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"advance() takes seconds >= 0, not {seconds}")
        self._now += seconds * 1000

    def advance_to(self, moment: float) -> None:
        self._now = max(self._now, moment * 1000)


class MemoryAdapter:
    name: ClassVar[str] = "memory"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(Pool("caller", processes=False, interrupts_sync=True, shared_loop=True, concurrent=False),),
        default_pool="caller",
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        if native is not None:
            raise ConfigError("the memory backend takes no engine application")
        self.settings = settings
        self.clock = VirtualClock()
        self.store = MemoryStore(
            lease=settings.lease,
            retention=settings.retention,
            dead_ttl=settings.dead_letter_ttl,
            quarantine_limit=settings.quarantine_limit,
            quarantine_bytes=settings.quarantine_bytes,
            clock=self.clock,
        )
        self._broker: deque[Publication] = deque()
        self._lock = threading.RLock()
        self._ticker = Ticker(self.store, self, signer=settings.signer)
        self._execution: Execution | None = None

    def serve(self, find: Callable[[str], Task[..., Any, Any] | None], hooks: Hooks | None = None) -> None:
        """The App says where tasks are found, and who is told of events."""
        self._ticker = Ticker(self.store, self, hooks, signer=self.settings.signer)
        self._execution = Execution(
            self.store,
            self.settings,
            find=find,
            worker=lambda: "memory",
            renew=self._renew,
            hooks=hooks,
            publish=self._publish_taken,
        )

    def _publish_taken(self, taken: Sequence[tuple[str, Taken]]) -> None:
        for route, one in taken:
            publish(self.store, self, route, [one], self.settings.signer)

    def advance(self, seconds: float) -> None:
        """Move the clock, from tick to tick of the schedules: a steward would have been there at each."""
        until = self.clock() / 1000 + seconds
        while True:
            due = [row.due / 1000 for row in self.store.schedules() if row.due is not None]
            if not due or min(due) > until:
                break
            self.clock.advance_to(min(due))
            self._ticker.fire(self.settings.lease)
        self.clock.advance(max(until - self.clock() / 1000, 0.0))

    def _renew(self) -> None:
        self.store.beat("memory", start=True)

    # ---- the Adapter protocol ---------------------------------------------------------------------------------------

    def publish(self, publications: Sequence[Publication]) -> None:
        with self._lock:
            self._broker.extend(publications)

    def depth(self, route: str) -> int | None:
        with self._lock:
            return sum(one.message.route == route for one in self._broker)

    def native(self, task: Task[..., Any, Any]) -> Any:
        return task.fn

    def compile(self, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterable[Row]:
        # What queuekit does is all there is; but no process of its own, which could end for a job.
        again = (
            f"swallows its cancellation ends in the record {SWALLOWED:g} s after its limit, and goes on"
            if task.is_async
            else "swallows it is interrupted again each second, and keeps its caller until it ends"
        )
        return [replace(rows["overrun"], becomes=f"what {again}")]

    def run_worker(self, worker: Worker) -> int:
        raise ConfigError(
            "the memory backend has no worker: its jobs run in the process that enqueues them, when a result is "
            "awaited. Choose backend celery, rq or dramatiq to run a worker."
        )

    def close(self) -> None:
        pass

    # ---- running ----------------------------------------------------------------------------------------------------

    def run_next(self, *, wait: bool = True) -> bool:
        """Run one delivery. With `wait` the clock jumps to the next due job where none is ready. False: nothing ran."""
        assert self._execution is not None, "serve() was not called"
        with self._lock:
            self._renew()  # however far the clock has jumped, this process lives
            self._ticker.tick()
            if not self._broker:
                due = self.store.next_due() if wait else None
                if due is None:
                    return False
                self.clock.advance_to(due)
                self._renew()
                self._ticker.tick()
            if not self._broker:
                return False
            best = max(one.message.priority for one in self._broker)
            publication = next(one for one in self._broker if one.message.priority == best)
            message = publication.message
            if on_process_loop():
                raise QueuekitError(
                    f"job {message.id} cannot run while an async task waits for it without await: it blocks the loop "
                    "that all async tasks share. Use `await job.aresult()`"
                )
            self._broker.remove(publication)
        outcome = self._execution.execute(Delivery(publication.doorbell, message.args, message.kwargs))
        if isinstance(outcome, (Retried, Failed)) and isinstance(outcome.error, KeyboardInterrupt):
            raise outcome.error  # it is the caller who pressed the key
        return True

    def run_until_idle(self, *, wait: bool = True) -> int:
        """Run all there is; with `wait` also what is scheduled or retrying. How many deliveries there were."""
        count = 0
        while self.run_next(wait=wait):
            count += 1
        return count
