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
from dramatiq.middleware import SkipMessage

from queuekit.adapters.dramatiq.broker import CATCH_ALL, base_queue
from queuekit.execution import (
    Delivery,
    Dropped,
    Ended,
    Failed,
    Held,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.message import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.adapters.dramatiq.broker import Broker, Fetched
    from queuekit.execution import Outcome
    from queuekit.worker import Worker

__all__ = ["Deliver", "Engine", "run"]

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
            outcome = self._execute(message)
        finally:
            message.over = True
            self._here.message = None
        self._say(message, outcome)

    def _execute(self, message: Fetched) -> Outcome:
        execution = self.worker.execution
        try:
            delivery = self._delivery(message)
        except InvalidMessage as error:
            said = message.raw.decode("utf-8", "backslashreplace")[:100_000]
            message.keep = not self.worker.quarantine(said, str(error))
            raise SkipMessage(str(error)) from None
        if isinstance(delivery, Unrecorded):
            return delivery
        message.bell = delivery.bell
        held = execution.claim(delivery)
        if not isinstance(held, Held):
            return held
        message.claimed()
        return execution.run(held)

    def _delivery(self, message: Fetched) -> Delivery | Unrecorded:
        """Raises InvalidMessage where it is none of ours."""
        if message.bell is not None:
            return Delivery(message.bell, list(message.args), message.kwargs)
        if message.native is not None:
            return self.worker.execution.adopt(**message.native, queue=message.queue, priority=message.level)
        raise InvalidMessage(message.invalid)

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


class Engine:
    """The threads of one worker, on a broker of their own, which `make` gives: in a process of ours, or beside the
    worker of the user's broker.

    Args:
        threads: how many jobs at a time.
    """

    def __init__(self, worker: Worker, make: Callable[..., Broker], *, threads: int, beside: bool = False) -> None:
        self.worker, self.threads = worker, threads
        deliver = Deliver(worker)
        self.broker = make(
            timeout=SOCKET_TIMEOUT, middleware=[deliver], threads=threads, stopping=worker.stopping, beside=beside
        )
        queues = [base_queue(worker.settings, name) for name in worker.queues]
        dramatiq.Actor(
            deliver.act, broker=self.broker, actor_name=CATCH_ALL, queue_name=queues[0], priority=0, options={}
        )
        for name in queues:
            self.broker.declare_queue(name)
        self._native = dramatiq.Worker(self.broker, worker_timeout=POLL, worker_threads=threads)

    def start(self) -> None:
        self.worker.start()
        self.worker.watch_in_thread()
        self.broker.emit_after("process_boot")
        self._native.start()
        queues = ", ".join(self.worker.queues)
        log.info("worker %s: %d threads for the queues %s", self.worker.name, self.threads, queues)

    def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take nothing more, and wait until all that runs has ended: for the grace, or until `hurry` says so."""
        self.worker.stopping.set()
        until = time.monotonic() + self.worker.settings.grace
        while self.broker.busy and time.monotonic() < until and not hurry():
            time.sleep(0.05)

    def end(self) -> bool:
        """Stop what still runs. False: some of it could not be stopped; it was released, and ends with the process."""
        if self.broker.busy:
            self.worker.execution.interrupt_running()
            until = time.monotonic() + INTERRUPTED
            while self.broker.busy and time.monotonic() < until:
                time.sleep(0.01)
        if self.broker.busy:  # what sits in a blocking call
            self.release()
            return False
        self._native.stop(timeout=round(LAST_ACKS * 1000))
        self.broker.leave()
        self.broker.close()
        return True

    def release(self) -> None:
        """Hand back what still runs, before the process ends under it."""
        released = self.worker.execution.release_running("the worker stopped")
        log.warning("%d attempts were released, and end with this process", released)


def run(worker: Worker, make: Callable[..., Broker]) -> int:
    """See Adapter.run_worker(). A first SIGTERM or SIGINT lets the running jobs end, a second one does not wait."""
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() may interrupt its get(): an Event's set() may not
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.put(number))
    engine = Engine(worker, make, threads=worker.concurrency or THREADS)
    engine.start()
    asked.get()
    engine.drain(hurry=lambda: not asked.empty())
    # Whatever hangs from here on, a store that is away or a thread that somebody joins: the process ends.
    resort = threading.Timer(LAST_RESORT, _leave)
    resort.daemon = True
    resort.start()
    if not engine.end():
        _leave()
    return 0


def _leave() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)
