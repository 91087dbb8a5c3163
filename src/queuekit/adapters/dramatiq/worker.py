"""Dramatiq's own worker in this process: its threads, with our consumers and one actor for all messages."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import dramatiq
import redis
from dramatiq.middleware import SkipMessage

from queuekit.adapters.dramatiq.broker import CATCH_ALL, Broker, Fetched, base_queue
from queuekit.execution import Delivery, Dropped, Ended, Failed, Released, Retried, Stale, Succeeded, Unrecorded

if TYPE_CHECKING:
    from queuekit.execution import Outcome
    from queuekit.settings import Settings
    from queuekit.worker import Worker

__all__ = ["run"]

log = logging.getLogger("queuekit.dramatiq")

THREADS: Final = 8  # Dramatiq's own default
POLL: Final = 50  # milliseconds between two looks into an empty queue
SOCKET_TIMEOUT: Final = 10.0  # seconds: a shorter stall of the broker loses no reply
LAST_ACKS: Final = 1.0  # seconds for acknowledgements once all is done
INTERRUPTED: Final = 1.0  # seconds for attempts to end that were interrupted
LAST_RESORT: Final = 4.0  # seconds after the grace at which the process ends in any case


class Deliver(dramatiq.Middleware):
    """Hands the message of this thread to execution, and says what came of it in Dramatiq's words."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._here = threading.local()

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        self._here.message = message

    def act(self, *_args: Any, **_kwargs: Any) -> None:
        """The actor's function. What it raises is for Dramatiq's log and the user's middleware; the ack follows."""
        message: Fetched = self._here.message
        try:
            if self.worker.stopping.is_set():
                message.keep = True
                raise SkipMessage("the worker stops")
            if message.bell is None:
                said = message.raw.decode("utf-8", "backslashreplace")[:100_000]
                message.keep = not self.worker.quarantine(said, message.invalid)
                raise SkipMessage(message.invalid)
            delivery = Delivery(message.bell, list(message.args), message.kwargs)
            outcome = self.worker.execution.execute(delivery)
        finally:
            message.over = True
            self._here.message = None
        self._say(message, outcome)

    def _say(self, message: Fetched, outcome: Outcome) -> None:
        match outcome:
            case Succeeded():
                return
            case Retried(delay=delay, reason=reason):
                raise dramatiq.Retry(reason, delay=round(delay * 1000))
            case Failed(reason=reason, error=error):
                if message.bell is not None and message.bell.private:
                    raise RuntimeError(f"{type(error).__qualname__} (private)")
                raise error
            case Dropped(reason=reason) | Released(reason=reason) | Ended(reason=reason):
                raise SkipMessage(reason)
            case Stale():
                raise SkipMessage("its attempt was ended by somebody else")
            case Unrecorded(reason=reason):
                message.keep = True
                raise SkipMessage(reason)


def run(worker: Worker, settings: Settings, user_broker: dramatiq.Broker | None) -> int:
    """See Adapter.run_worker(). A first SIGTERM or SIGINT lets the running jobs end, a second one does not wait."""
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() may interrupt its get(): an Event's set() may not
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.put(number))
    threads = worker.concurrency or THREADS
    deliver = Deliver(worker)
    broker = Broker(
        settings,
        timeout=SOCKET_TIMEOUT,
        user_broker=user_broker,
        middleware=[deliver],
        threads=threads,
        stopping=worker.stopping,
    )
    queues = [base_queue(settings, name) for name in worker.queues]
    dramatiq.Actor(deliver.act, broker=broker, actor_name=CATCH_ALL, queue_name=queues[0], priority=0, options={})
    for name in queues:
        broker.declare_queue(name)
    worker.start()
    worker.watch_in_thread()
    broker.emit_after("process_boot")
    engine = dramatiq.Worker(broker, worker_timeout=POLL, worker_threads=threads)
    engine.start()
    log.info("worker %s: %d threads for the queues %s", worker.name, threads, ", ".join(worker.queues))
    asked.get()
    return _stop(worker, settings, broker, engine, asked)


def _stop(
    worker: Worker, settings: Settings, broker: Broker, engine: dramatiq.Worker, asked: queue.SimpleQueue[int]
) -> int:
    worker.stopping.set()
    until = time.monotonic() + settings.grace
    while broker.busy and time.monotonic() < until:
        try:
            asked.get(timeout=0.05)
            break
        except queue.Empty:
            pass
    # Whatever hangs from here on, a store that is away or a thread that somebody joins: the process ends.
    resort = threading.Timer(LAST_RESORT, _leave)
    resort.daemon = True
    resort.start()
    if broker.busy:
        worker.execution.interrupt_running()
        _wait(broker, INTERRUPTED)
    if broker.busy:  # what sits in a blocking call ends with the process
        released = worker.execution.release_running("the worker stopped")
        log.warning("%d attempts were released, and end with this process", released)
        _leave()
    engine.stop(timeout=round(LAST_ACKS * 1000))
    with suppress(redis.RedisError):
        broker.forget_me()
    broker.close()
    return 0


def _wait(broker: Broker, seconds: float) -> None:
    until = time.monotonic() + seconds
    while broker.busy and time.monotonic() < until:
        time.sleep(0.01)


def _leave() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)
