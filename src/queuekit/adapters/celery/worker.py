"""Celery's own worker, with a gate before it and a stop that keeps its word.

Pinned by tests/contracts/test_celery.py: what Celery does around the places that are overridden.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.app import trace
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

from queuekit.adapters.celery import transport
from queuekit.adapters.celery.broker import BACKSTOP
from queuekit.adapters.celery.tasks import UNKNOWN, DoorbellTask, compile_task
from queuekit.errors import ConfigError
from queuekit.message import HEADER, Doorbell, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queuekit.adapters.celery import CeleryAdapter
    from queuekit.worker import Worker

__all__ = ["run"]

log = logging.getLogger("queuekit.celery")

SHOWN: Final = ("lang", "id", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin")  # headers for monitors
HAND_BACK: Final = signal.SIGQUIT  # tells a process that runs user code that the grace is over
HANDING_BACK: Final = 2.0  # seconds that user code has to end then
LEAVING: Final = 4.5  # seconds after the grace at which the process ends in any case


# ---- the gate ------------------------------------------------------------------------------------------------------


class GatedConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Only doorbells get as far as Celery's tasks; what else lies in our queues goes to quarantine."""

    worker: Worker
    tasks: Mapping[str, Any]  # the app's

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        deliver = super().create_task_handler(*args, **kwargs)

        def gate(message: Any) -> None:
            try:
                self._admit(message)
            except Exception as error:  # an InvalidMessage, or a value that nobody thought of
                self._put_aside(message, str(error))
            else:
                deliver(message)

        return gate

    def _admit(self, message: Any) -> None:
        """Raises an error that says why not. Celery is told what the doorbell says: a forged header chooses no other
        task, no callback, time or limit."""
        headers = message.headers
        if not isinstance(headers, dict) or HEADER not in headers:
            raise InvalidMessage(f"it has no header {HEADER!r}: nobody published it through queuekit")
        bell = Doorbell.from_header(headers[HEADER])
        try:
            body = message.decode()
        except Exception as error:  # not JSON, or not accepted; a pickle is not looked at
            raise InvalidMessage(f"its body cannot be read as JSON: {error}") from None
        match body:
            case [list(), dict(), dict() as embed] if not any(embed.values()):
                pass
            case _:
                raise InvalidMessage("its body is not [args, kwargs, {}]")
        if headers.get("task") != bell.task or not isinstance(headers.get("id"), str):
            raise InvalidMessage("its headers name another task than its doorbell, or no id")
        ours = isinstance(self.tasks.get(bell.task), DoorbellTask)
        message.headers = {
            **{name: headers[name] for name in SHOWN if isinstance(headers.get(name), str)},
            "task": bell.task if ours else UNKNOWN,
            "shadow": None if ours else bell.task,
            "timelimit": [None if bell.timeout is None else bell.timeout + BACKSTOP, None],
            HEADER: headers[HEADER],
        }

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._put_aside(message, f"its body cannot be read: {exc}")

    def _put_aside(self, message: Any, why: str) -> None:
        body = message.body
        text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
        told = {"content_type": message.content_type, "headers": message.headers, "body": text}
        if self.worker.quarantine(json.dumps(told, default=repr)[: transport.RAW], why):
            message.ack_log_error(log, self.connection_errors)

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
        self._asked = False

    def __call__(self, signum: int, frame: object) -> None:
        state.should_stop = 0  # Celery's warm shutdown
        if self._asked:
            self._now.set()
            return
        self._asked = True
        threading.Thread(target=self._run, name="queuekit-stop", daemon=True).start()

    def _run(self) -> None:
        self.worker.stopping.set()
        grace = self.worker.settings.grace
        log.info("stopping: no new jobs, and %g s for the running ones", grace)
        self._now.wait(grace)
        for pid in [*self.children(), os.getpid()]:
            try:
                os.kill(pid, HAND_BACK)
            except ProcessLookupError:
                pass
        time.sleep(LEAVING)
        os._exit(0)

    def in_child(self) -> None:
        """In a prefork child, when it runs its first job: billiard sets its own handlers after Celery's last signal."""
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
            os._exit(0)


# ---- the worker ----------------------------------------------------------------------------------------------------


def run(adapter: CeleryAdapter, worker: Worker) -> int:
    """Run Celery's worker in this process until it is told to stop."""
    pool = worker.pool or adapter.capabilities.default_pool
    known = [one.name for one in adapter.capabilities.pools]
    if pool not in known:
        raise ConfigError(f"pool={pool!r}: queuekit runs Celery's pools {', '.join(known)}")

    transport.Transport.worker = worker
    # An app's pool threads and children take it from there.
    app = adapter.app
    app.set_default()
    for task in worker.tasks:
        compile_task(app, task.name, task.timeout)
    compile_task(app, UNKNOWN)
    app.finalize()
    queues = [adapter.broker.queue(name) for name in worker.queues]
    for queue in queues:
        app.amqp.queues.add(queue)
    hostname = f"queuekit@{worker.name}"
    trace.setup_worker_optimizations(app, hostname)

    controller: Any = WorkController(
        app=app,
        hostname=hostname,
        pool=pool,
        concurrency=1 if pool == "solo" else worker.concurrency,
        queues=[queue.name for queue in queues],
        prefetch_multiplier=1,
        consumer_cls=type("DoorbellConsumer", (GatedConsumer,), {"worker": worker, "tasks": app.tasks}),
        ready_callback=lambda _: log.info("Celery's worker (%s) serves %s", pool, ", ".join(worker.queues)),
        task_events=app.conf.worker_send_task_events,
        without_mingle=True,
        without_gossip=True,
    )

    def children() -> list[int]:
        try:
            return list(controller.pool.info["processes"])
        except (AttributeError, KeyError):  # a pool without, or one that has ended
            return []

    def leave_logging_alone(**_: Any) -> None: ...

    stop = _Stop(worker, children)
    signals.setup_logging.connect(leave_logging_alone, weak=False)
    DoorbellTask.worker, DoorbellTask.in_child = worker, staticmethod(stop.in_child)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(HAND_BACK, stop.hand_back)
    worker.start()
    if pool == "solo":
        worker.watch_in_thread()  # its one thread runs the jobs
    else:
        controller.timer.call_repeatedly(0.5, worker.watch)
    controller.start()
    return int(controller.exitcode or 0)
