"""queuekit inside a worker of a user's own Celery app: two steps among those that Celery's worker is made of.

The companion, a step of the worker, is there for as long as the process: the lease, the steward, and what happens when
the worker is told to stop. The feed, a step of the worker's consumer, is there for as long as the consumer runs: it
opens the link by which queuekit's queues are served.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final, cast

from celery import bootsteps, signals
from celery.backends.base import DisabledBackend
from celery.worker import state

from queuekit.adapters import ASYNC
from queuekit.adapters.celery.check import check
from queuekit.adapters.celery.gate import Gate
from queuekit.adapters.celery.installing import installed
from queuekit.adapters.celery.link import Link
from queuekit.adapters.celery.tasks import UNKNOWN, DoorbellTask, compile_task
from queuekit.errors import ConfigError
from queuekit.worker import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.adapters.celery import CeleryAdapter
    from queuekit.worker import Worker

__all__ = ["Around", "Companion", "Feed", "Served", "prepare", "running_children", "select_native", "wait_for_others"]

log = logging.getLogger("queuekit.celery")

POOLS: Final = {
    "celery.concurrency.prefork": "prefork",
    "celery.concurrency.thread": "threads",
    "celery.concurrency.solo": "solo",
    "queuekit.adapters.celery.aio": ASYNC,
}
HAND_BACK: Final = signal.SIGQUIT  # tells a child that the grace of its job is over
HANDING_BACK: Final = 2.0  # seconds that user code has to end then
LEAVING: Final = 2.0  # seconds after that at which the process ends, where no native task runs
WATCH: Final = 0.5  # seconds
WAIT: Final = 0.1  # seconds between two looks whether a drained worker's last jobs have ended
ACKNOWLEDGED: Final = 1.5  # seconds for Celery's last words about them, and to take nothing more


@dataclass(frozen=True)
class Served:
    """What the feed needs to know; it stands on the worker as `queuekit`."""

    adapter: CeleryAdapter
    worker: Worker


# ---- the worker's step ---------------------------------------------------------------------------------------------


class Companion(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    requires = ("celery.worker.components:Timer",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = False
        if getattr(parent, "queuekit", None) is not None:  # `queuekit worker` sees to all of this itself
            return
        why = self._why_not(parent)
        if why:
            log.error("this worker runs the app's native tasks alone, and none of queuekit's: %s", why)
            return
        for finding in check(parent.app):
            log.warning("Celery's %s", finding)
        self.enabled = True
        self._grace: threading.Thread | None = None
        self.worker = self._make(parent)

    def _why_not(self, w: Any) -> str:
        pool = POOLS.get(getattr(w.pool_cls, "__module__", ""))
        if pool is None:
            return f"queuekit runs in Celery's pools {', '.join(POOLS.values())}, and not in {w.pool_cls}"
        if pool == ASYNC:
            return f"the pool {ASYNC} is run by `queuekit worker --pool {ASYNC}`, with this app handed in"
        if not w.use_eventloop:
            return "the app's broker transport has no event loop, which queuekit's connection needs"
        return "; ".join(str(finding) for finding in check(w.app) if finding.fatal)

    def _make(self, w: Any) -> Worker:
        ours = installed[w.app]
        adapter = cast("CeleryAdapter", ours.adapter)
        selected = select_native(w.app, adapter)
        pool = POOLS[w.pool_cls.__module__]
        worker = ours.worker(queues=selected, pool=pool)
        worker.at_a_time = 1 if pool == "solo" else None  # the app may scale its pool
        worker.check_caps()
        prepare(w.app, adapter, worker, Around(worker))
        w.queuekit = Served(adapter, worker)
        return worker

    def start(self, parent: Any) -> None:
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)
        self.worker.start()
        if POOLS[parent.pool_cls.__module__] == "solo":
            self.worker.watch_in_thread()  # its one thread runs the jobs
        else:
            parent.timer.call_repeatedly(WATCH, self.worker.watch)

    def stop(self, parent: Any) -> None:
        signals.worker_shutting_down.disconnect(self._on_shutdown)
        if self._grace is not None and threading.current_thread() is threading.main_thread():
            # The process ends, and its interpreter takes its handlers back: a third signal would be a crash.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.worker.drained.is_set():
            parent.exitcode = self.worker.exit_code

    terminate = stop

    def _on_shutdown(self, sender: Any = None, how: str = "", **_: Any) -> None:
        """In a signal handler, which takes no lock."""
        cold = how != "Warm"
        if self._grace is None or cold:
            grace = 0.0 if cold else self.worker.settings.grace
            self._grace = threading.Thread(target=self._hand_back, args=(grace,), name="queuekit-stop", daemon=True)
            self._grace.start()

    def _hand_back(self, grace: float) -> None:
        """After the grace our jobs are handed back; for native ones Celery waits as it always does."""
        worker = self.worker
        worker.stopping.set()
        _told[0] = 1
        log.info("stopping: no new jobs, and %g s for the running ones", grace)
        if worker.drained.is_set() and grace:
            wait_for_others(worker, threading.Event())
        else:
            time.sleep(grace)
        for pid in running_children():
            with suppress(ProcessLookupError):
                os.kill(pid, HAND_BACK)
        worker.execution.interrupt_running()
        time.sleep(HANDING_BACK)
        worker.execution.release_running("the worker stopped, and the task went on")
        time.sleep(LEAVING)
        for pid in running_children():  # C code, which lets no thread of its process hand anything back
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A thread that sits in a blocking call would keep the process. Native tasks may: they are waited for.
        if _native_left():
            while _native_left():
                time.sleep(WATCH)
            time.sleep(LEAVING)
        leave(worker.exit_code)


def _native_left() -> bool:
    """Whether a native task runs, or waits for a process or thread that it was received for."""
    try:
        return any(not isinstance(one.task, DoorbellTask) for one in tuple(state.reserved_requests))
    except RuntimeError:  # the set has changed meanwhile
        return True


_told = mmap(-1, 1)  # shared with the children: 1 when the worker has been told to stop


class Around:
    """Around each of our jobs in a prefork child: signals mean something else than in a native task. Afterwards they
    mean again what they did."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.parent = os.getpid()

    def __call__(self) -> Any:
        here = threading.current_thread() is threading.main_thread()
        return self._handlers() if os.getpid() != self.parent and here else nullcontext()

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        if _told[0]:
            self.worker.stopping.set()
        before = {number: signal.signal(number, self._hand_back) for number in (signal.SIGTERM, HAND_BACK)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if not _told[0]:  # this process goes on: one job alone was to end, by Celery's revoke(terminate=True)
                self.worker.stopping.clear()
                self.worker.execution.go_on()

    def _hand_back(self, signum: int, frame: object) -> None:
        self.worker.stopping.set()
        threading.Thread(target=self._hand_back_the_rest, name="queuekit-stop", daemon=True).start()
        self.worker.execution.interrupt_running()

    def _hand_back_the_rest(self) -> None:
        running = self.worker.execution.attendant.running()
        time.sleep(HANDING_BACK)
        left = [one for one in self.worker.execution.attendant.running() if one in running]
        if left and self.worker.execution.release_running("the worker stopped, and the task went on"):
            os._exit(0)


# ---- the consumer's step -------------------------------------------------------------------------------------------


class Feed(bootsteps.StartStopStep):  # type: ignore[misc]
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._link: Link | None = None

    def start(self, parent: Any) -> None:
        c = parent
        served: Served | None = getattr(c.controller, "queuekit", None)
        if served is None:
            return
        broker = served.adapter.broker
        for queue in list(c.task_consumer.queues):  # one that a native producer in this process has named since
            if broker.owns(queue.name):
                c.task_consumer.cancel_by_queue(queue.name)
        if self._link is not None:
            self._link.close()
            self._link = None
        limits = (c.controller.time_limit, c.controller.soft_time_limit)
        pool = POOLS[c.controller.pool_cls.__module__]
        gate = Gate(
            c.app.tasks,
            adopt=served.adapter.settings.adopt,
            limits=limits,
            most=served.adapter.settings.doorbell_limit,
        )
        deliver = c.create_task_handler() if pool != ASYNC else None
        if deliver is None:
            jobs = c.pool.attach(c, served.worker)
            if not served.adapter.async_by_link:
                jobs.fetch_from(broker, gate)
                return
            deliver = jobs.deliver
        self._link = Link(
            broker,
            served.worker,
            gate,
            served.worker.queues,
            hub=c.hub,
            deliver=deliver,
            slots=lambda: max(1, c.pool.num_processes),
            heartbeat=pool != "solo",
        )
        # Not before the loop runs: the pool takes nothing until then.
        c.hub.call_soon(self._link.open)

    def stop(self, parent: Any) -> None:
        if self._link is not None:
            self._link.stop()

    def shutdown(self, parent: Any) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


# ---- shared with `queuekit worker` ---------------------------------------------------------------------------------


def wait_for_others(worker: Worker, hurry: threading.Event) -> None:
    """In a worker that is drained: until all that run beside what is stuck have ended and were
    acknowledged, for the grace, or until `hurry` is set."""
    until = time.monotonic() + worker.settings.grace
    quiet = 0.0
    while quiet < ACKNOWLEDGED and time.monotonic() < until and not hurry.wait(WAIT):
        quiet = quiet + WAIT if worker.execution.only_stuck else 0.0


def running_children() -> list[int]:
    """The processes that run one of our jobs, and no native task."""
    ours = [one.worker_pid for one in tuple(state.active_requests) if isinstance(one.task, DoorbellTask)]
    return [pid for pid in dict.fromkeys(ours) if pid is not None and pid != os.getpid()]


def select_native(app: Any, adapter: CeleryAdapter) -> tuple[str, ...]:
    """Leave the app's own consumer none of queuekit's queues, which the link serves. Those that were asked for, by -Q
    or in task_queues, in queuekit's words."""
    broker = adapter.broker
    taken = [name for name in app.amqp.queues.consume_from if broker.owns(name)]
    if taken:
        app.amqp.queues.deselect(taken)
    return tuple(dict.fromkeys(broker.base(name) for name in taken))


def prepare(app: Any, adapter: CeleryAdapter, worker: Worker, around: Callable[[], Any]) -> None:
    """Register our tasks in the app. Raises ConfigError: see compile_task()."""
    if adapter.settings.celery_result and isinstance(app.backend, DisabledBackend):
        raise ConfigError(
            "celery_result=True, and the Celery app has no result_backend to keep results in: set one, or leave "
            "celery_result out"
        )
    for task in worker.tasks:
        compile_task(app, task.name, adapter.broker, task)
        for alias in task.aliases:
            if alias not in app.tasks:  # a native task that is kept under the old name is the user's own affair
                compile_task(app, alias, adapter.broker, task)
    compile_task(app, UNKNOWN, adapter.broker)
    DoorbellTask.worker = worker
    DoorbellTask.around = staticmethod(around)

    def leaving(**_: Any) -> None:  # a prefork child, which has no exit handlers
        worker.execution.hooks.flush()

    signals.worker_process_shutdown.connect(leaving, weak=False)
