"""`queuekit worker`: Celery's own worker, with a stop that keeps its word.

Pinned by tests/contracts/test_celery.py: what Celery does around the places that are overridden.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.app import trace
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

from queuekit.adapters import ASYNC
from queuekit.adapters.aio import CONCURRENCY
from queuekit.adapters.celery.beside import (
    Around,
    Served,
    prepare,
    running_children,
    select_native,
    wait_for_others,
)
from queuekit.adapters.celery.check import check
from queuekit.adapters.celery.installing import FEED
from queuekit.errors import ConfigError
from queuekit.processes import SAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from queuekit.adapters.celery import CeleryAdapter
    from queuekit.worker import Worker

__all__ = ["run"]

log = logging.getLogger("queuekit.celery")

HAND_BACK: Final = signal.SIGQUIT  # tells a process that runs user code that the grace is over
HANDING_BACK: Final = 2.0  # seconds that user code has to end then
LEAVING: Final = 4.5  # seconds after the grace at which the process ends in any case


# ---- the connection ------------------------------------------------------------------------------------------------


class PatientConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    def ensure_connected(self, conn: Any) -> Any:
        """For as long as it takes, and soon after the broker is back: Celery's own waits for up to 30 s."""

        def away(error: Exception, interval: float) -> None:
            log.warning("the broker is away, trying again in %.1f s: %s", interval, error)

        self.first_connection_attempt = False
        return conn.ensure_connection(
            away, None, interval_start=0.2, interval_step=0.3, interval_max=2.0, callback=state.maybe_shutdown
        )


# ---- stopping ------------------------------------------------------------------------------------------------------


class _Stop:
    """SIGTERM or SIGINT: no new jobs, and the running ones have the grace. Then, or at a second signal, each process
    that runs user code is told to hand back what it runs; what does not end then is handed back under it."""

    def __init__(self, worker: Worker, children: Callable[[], list[int]]) -> None:
        self.worker, self.children = worker, children
        self._now = threading.Event()
        self._asked: float | None = None  # when
        self._pid = os.getpid()

    def __call__(self, signum: int, frame: object) -> None:
        state.should_stop = 0  # Celery's warm shutdown
        if self._asked is not None:
            if time.monotonic() - self._asked > SAME:
                self._now.set()
            return
        self._asked = time.monotonic()
        threading.Thread(target=self._run, name="queuekit-stop", daemon=True).start()

    def _run(self) -> None:
        self.worker.stopping.set()
        grace = self.worker.settings.grace
        log.info("stopping: no new jobs, and %g s for the running ones", grace)
        if self.worker.drained.is_set():
            wait_for_others(self.worker, self._now)
        else:
            self._now.wait(grace)
        for pid in [*self.children(), os.getpid()]:
            try:
                os.kill(pid, HAND_BACK)
            except ProcessLookupError:
                pass
        time.sleep(LEAVING)
        os._exit(self.worker.exit_code)

    def around(self) -> AbstractContextManager[None]:
        """In a prefork child, when it runs its first job: billiard sets its own handlers after Celery's last signal."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._in_child()
        return nullcontext()

    def _in_child(self) -> None:
        # A service manager signals the whole group: it is the parent that says when. A handler and not SIG_IGN, which
        # programs started by a task would inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(HAND_BACK, self.hand_back)

    def hand_back(self, signum: int, frame: object) -> None:
        self.worker.stopping.set()
        threading.Thread(target=self._hand_back_the_rest, name="queuekit-stop", daemon=True).start()
        self.worker.execution.interrupt_running()

    def _hand_back_the_rest(self) -> None:
        time.sleep(HANDING_BACK)
        if self.worker.execution.release_running("the worker stopped, and the task went on"):
            os._exit(self.worker.exit_code)


# ---- the worker ----------------------------------------------------------------------------------------------------


def run(adapter: CeleryAdapter, worker: Worker) -> int:
    """Run Celery's worker in this process until it is told to stop."""
    pool = worker.pool or adapter.capabilities.default_pool
    known = [one.name for one in adapter.capabilities.pools]
    if pool not in known:
        why = adapter.capabilities.refused.get(pool)
        said = f"pool={pool!r}: queuekit runs Celery's pools {', '.join(known)}"
        raise ConfigError(f"{said}: {why}" if why else said)

    worker.keeps_caps = pool == ASYNC and not adapter.async_by_link
    worker.at_a_time = 1 if pool == "solo" else worker.concurrency
    worker.check_caps()
    # An app's pool threads and children take it from there.
    app = adapter.app
    app.set_default()
    app.finalize()
    if adapter.own:
        app.amqp.queues.deselect(list(app.amqp.queues))  # Celery's default queue is nothing to us
    asked = select_native(app, adapter)
    if asked:
        log.info("task_queues names queuekit's queues %s, which are served in any case", ", ".join(asked))
    app.steps["consumer"].add(FEED)
    hostname = f"queuekit@{worker.name}"
    trace.setup_worker_optimizations(app, hostname)
    if not adapter.own:
        for finding in check(app):
            if finding.fatal:
                raise ConfigError(f"the Celery app's {finding}")
            log.warning("the Celery app's %s", finding)

    controller: Any = type("Controller", (WorkController,), {"queuekit": Served(adapter, worker)})(
        app=app,
        hostname=hostname,
        pool="queuekit.adapters.celery.aio:AsyncPool" if pool == ASYNC else pool,
        concurrency={"solo": 1, ASYNC: worker.concurrency or CONCURRENCY}.get(pool, worker.concurrency),
        consumer_cls=PatientConsumer,
        ready_callback=lambda _: log.info("Celery's worker (%s) serves %s", pool, ", ".join(worker.queues)),
        task_events=app.conf.worker_send_task_events,
        without_mingle=True,
        without_gossip=True,
    )

    def children() -> list[int]:
        try:
            return list(controller.pool.info["processes"]) if adapter.own else running_children()
        except (AttributeError, KeyError):  # a pool without, or one that has ended
            return []

    def leave_logging_alone(**_: Any) -> None: ...

    stop = _Stop(worker, children)
    signals.setup_logging.connect(leave_logging_alone, weak=False)
    prepare(app, adapter, worker, stop.around if adapter.own else Around(worker))
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(HAND_BACK, stop.hand_back)
    worker.start()
    if pool == "solo":
        worker.watch_in_thread()  # its one thread runs the jobs
    else:
        controller.timer.call_repeatedly(0.5, worker.watch)
    controller.start()
    return int(controller.exitcode or worker.exit_code)
