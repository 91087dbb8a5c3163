"""A connection of queuekit's own in the event loop of Celery's worker.

It takes messages from queuekit's queues past the worker's own consumer, so that nothing of a user's app is touched: not
its connection and transport options, not its queues, not its prefetch. The gate looks at what this connection brings,
and at nothing else. When it breaks it is opened again by itself; the app's own connection does not notice.

What it hands to Celery is never more than the pool can run. On Redis the prefetch sees to that. RabbitMQ counts for
each queue by itself, and cuts a connection whose deliveries stay unacknowledged (consumer_timeout, 30 min): there a
delivery is acknowledged when it is accepted, the record carries the job from then on, and what comes while all slots
are taken waits here for a moment, and goes back then to whom has a slot.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.messaging import Consumer, Producer
from kombu.transport import TRANSPORT_ALIASES

from queuekit.adapters.celery import transport
from queuekit.adapters.celery.gate import describe
from queuekit.message import HEADER
from queuekit.store import MOST_SAID, StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.adapters.celery.broker import Broker
    from queuekit.adapters.celery.gate import Gate
    from queuekit.worker import Worker

__all__ = ["DoorbellRequest", "Link"]

TRANSPORT_ALIASES["queuekit"] = "queuekit.adapters.celery.transport:Transport"  # on Redis

log = logging.getLogger("queuekit.celery")

CONNECT: Final = 1  # seconds that an attempt to connect may keep the worker's loop
ANSWER: Final = {True: 5.0, False: 10.0}  # seconds, on Redis and on RabbitMQ: meanwhile the worker's loop waits
AGAIN: Final = 2.0  # seconds between two attempts to connect
ASIDE_AGAIN: Final = 1.0  # seconds between two attempts to put a message aside
PATIENCE: Final = 2.0  # seconds that a message waits here for a slot
HEARTBEAT: Final = 8  # seconds; RabbitMQ. After two without a sign of life the connection is given up


class DoorbellRequest(Request):  # type: ignore[misc]  # Celery has no types
    """Celery's view of one delivery."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        accepted = getattr(self.message, "accepted", None)  # set by a link
        if accepted is not None:
            accepted()

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = exc_info.exception
        # billiard wraps it. The child could say nothing.
        if isinstance(getattr(error, "exc", error), (WorkerLostError, TimeLimitExceeded)):
            header = self.request_dict.get(HEADER) or {}
            self.task.keep_what_the_record_says(header.get("id", self.id))
        return super().on_failure(exc_info, *args, **kwargs)


class _Loop:
    """What of Celery's event loop a connection sees: an error in its callbacks breaks the connection and not the
    worker, and all that it has registered can be taken back."""

    def __init__(self, hub: Any, broken: Callable[[Exception], None]) -> None:
        self._hub, self._broken = hub, broken
        self._readers: set[int] = set()
        self._ticks: list[Any] = []
        self._entries: list[Any] = []
        self.closed = False

    @property
    def poller(self) -> Any:
        return self._hub.poller

    @property
    def on_tick(self) -> _Loop:
        return self

    def guard(self, callback: Any) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            if self.closed:
                return None
            try:
                return callback(*args)
            except Empty:
                return None
            except Exception as error:  # whatever a transport raises for a connection that is gone
                self._broken(error)
                return None

        return guarded

    def add(self, callback: Any) -> None:
        """Of `on_tick`."""
        guarded = self.guard(callback)
        self._ticks.append(guarded)
        self._hub.on_tick.add(guarded)

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._readers.add(number)
        self._hub.add_reader(number, self.guard(callback), *args)

    def remove_reader(self, fd: Any) -> None:
        self._hub.remove_reader(fd)

    def remove(self, fd: Any) -> None:
        self._hub.remove(fd)

    def call_soon(self, callback: Any, *args: Any) -> Any:
        return self._hub.call_soon(self.guard(callback), *args)

    def call_repeatedly(self, delay: float, callback: Any, *args: Any) -> Any:
        entry = self._hub.call_repeatedly(delay, self.guard(callback), *args)
        self._entries.append(entry)
        return entry

    def close(self) -> None:
        self.closed = True
        for number in self._readers:
            with suppress(Exception):
                self._hub.remove_reader(number)
        for tick in self._ticks:
            self._hub.on_tick.discard(tick)
        for entry in self._entries:
            entry.cancel()


class Link:
    """Opened and used by the thread of Celery's event loop alone.

    Args:
        queues: names in queuekit's words.
        deliver: what hands a message to Celery; Consumer.create_task_handler() makes it.
        slots: how many messages Celery may have at a time.
    """

    def __init__(
        self,
        broker: Broker,
        worker: Worker,
        gate: Gate,
        queues: Sequence[str],
        *,
        hub: Any,
        deliver: Callable[[Any], None],
        slots: Callable[[], int],
        heartbeat: bool = True,
    ) -> None:
        self.broker, self.worker, self.gate = broker, worker, gate
        self.hub, self.deliver, self.slots = hub, deliver, slots
        self._queues = {queue.name: queue for name in queues for queue in broker.queues(name)}  # highest level first
        self._heartbeat = HEARTBEAT if heartbeat and not broker.is_redis else 0
        self._connection: Any = None
        self._channel: Any = None
        self._thread = 0
        self._consumers: dict[str, Any] = {}  # by queue
        self._loop: _Loop | None = None
        self._timer: Any = None
        self._given: set[int] = set()  # by id() of the message
        self._parked: list[tuple[str, Any]] = []
        self._paused: set[str] = set()
        self.over = False

    # ---- the connection ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, or try again in a while."""
        self._timer = None
        if self.over:
            return
        try:
            self._open()
        except Exception as error:
            self._broken(error)
        else:
            log.info("takes messages from %s", ", ".join(self._queues))

    def _open(self) -> None:
        broker = self.broker
        transport.Transport.aside = self.put_aside_text
        options = {"ssl": broker.ssl} if broker.ssl is not None else {}
        broker.await_name(CONNECT)
        self._connection = Connection(
            broker.url("queuekit"),
            heartbeat=self._heartbeat,
            connect_timeout=CONNECT,
            transport_options=broker.transport_options(ANSWER[broker.is_redis]),
            **options,
        )
        self._connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        if not broker.is_redis:
            transport.read_any_properties(self._connection.connection)
        self._channel = channel = self._connection.channel()
        if not broker.is_redis:
            channel.Message = transport.AmqpMessage
        self._thread = threading.get_ident()
        channel.basic_qos(0, self.slots() if broker.is_redis else 1, False)
        for name, queue in self._queues.items():
            receive = partial(self._receive, name)
            self._consumers[name] = Consumer(channel, [queue], accept=["json"], on_message=receive)
        self._loop = _Loop(self.hub, self._broken)
        self._connection.transport.register_with_event_loop(self._connection.connection, self._loop)
        if self._heartbeat and self._connection.get_heartbeat_interval():
            every = self._connection.get_heartbeat_interval() / 2
            self._loop.call_repeatedly(every, self._connection.heartbeat_check, 2)
        for consumer in self._consumers.values():
            consumer.consume()
        if not broker.is_redis:
            # What has come with an answer lies in the reader's buffer, where no poll sees it.
            self._loop.call_soon(self._connection.transport.on_readable, self._connection.connection, self._loop)

    def _broken(self, error: Exception) -> None:
        if not self.over:
            log.warning("the connection for queuekit's queues: %s; again in %g s", error or type(error).__name__, AGAIN)
        if self.broker.is_redis and self._channel is not None:
            self._channel.do_restore = self.broker.keeps_books  # Celery has what this connection brought, and runs it
        self._drop(self._connection and self._connection.collect)
        if not self.over and self._timer is None:
            self._timer = self.hub.call_later(AGAIN, self.open)

    def _drop(self, end: Callable[[], object] | None) -> None:
        """A message that Celery has already runs on. What else was delivered by this connection comes again, from the
        broker or by its record; a second delivery is dropped."""
        if self._loop is not None:
            self._loop.close()
        self._loop = self._connection = self._channel = None
        self._consumers = {}
        self._parked.clear()
        self._paused.clear()
        if end is not None:
            with suppress(Exception):  # it is given up: whatever state it is in
                end()

    def stop(self) -> None:
        """Take no more messages. What is under way can still be acknowledged."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        for consumer in self._consumers.values():
            with suppress(Exception):
                consumer.cancel()
        while self._parked:
            with suppress(Exception):
                self._parked.pop()[1].reject(requeue=True)

    def close(self) -> None:
        """Harmless when called twice."""
        self.over = True
        self._drop(self._connection and self._connection.release)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _receive(self, name: str, message: Any) -> None:
        message.original = message.headers
        try:
            self.gate.admit(message, name)
        except Exception as error:  # an InvalidMessage, or a value that nobody thought of
            self._put_aside(message, f"{error}" or type(error).__name__, name)
            return
        if len(self._given) < self.slots():
            self._give(name, message)
        else:
            self._parked.append((name, message))
            self.hub.call_later(PATIENCE, self._give_back, message)

    def _give(self, name: str, message: Any) -> None:
        key = id(message)
        self._given.add(key)
        message.ack_log_error = partial(self._settle, key, name, message, message.ack)
        message.reject_log_error = partial(self._settle, key, name, message, message.reject)
        if not self.broker.is_redis:
            message.accepted = partial(self._accepted, message)
        try:
            self.deliver(message)
        except Exception as error:
            log.exception("Celery did not take a message")
            self._given.discard(key)
            self._put_aside(message, str(error), name)

    def _accepted(self, message: Any) -> None:
        """In the loop's thread, or in one of a pool's, to which the connection does not belong."""
        if threading.get_ident() == self._thread:
            self._act(message, message.ack)
        else:
            self.hub.call_soon(self._act, message, message.ack)

    def _settle(
        self, key: int, name: str, message: Any, act: Callable[..., object], _log: Any, _errors: Any, **how: Any
    ) -> None:
        """Celery is done with it."""
        if message.acknowledged and how.get("requeue"):
            self._send_back(name, message)
        self._act(message, act, **how)
        self._given.discard(key)
        self._next()

    def _send_back(self, name: str, message: Any) -> None:
        """A message that was accepted, and acknowledged, and then not run."""
        if self._connection is None:  # the job is found like one whose message was lost
            return
        try:
            Producer(self._connection.default_channel).publish(
                message.body,
                exchange="",
                routing_key=name,
                headers=message.original,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                delivery_mode=2,
            )
        except Exception as error:
            self._broken(error)

    def _act(self, message: Any, act: Callable[..., object], **how: Any) -> None:
        if message.acknowledged:
            return
        alive = self._connection
        try:
            act(**how)
        except Exception as error:
            if alive is not None and message.channel is self._channel:
                self._broken(error)  # of a connection that was given up meanwhile it was to be expected

    def _next(self) -> None:
        """A slot is free."""
        self._parked.sort(key=lambda one: -self.broker.level(one[0], None, 0))
        while self._parked and len(self._given) < self.slots():
            self._give(*self._parked.pop(0))
        if self._paused and not self._parked and not self.over:
            paused, self._paused = self._paused, set()
            try:
                for name in sorted(paused, key=lambda one: -self.broker.level(one, None, 0)):
                    self._consumers[name].consume()
            except Exception as error:
                self._broken(error)

    def _give_back(self, message: Any) -> None:
        """To a worker that has a slot. No more from this queue, until here is one too."""
        found = next((one for one in self._parked if one[1] is message), None)
        if found is None:
            return
        self._parked.remove(found)
        try:
            self._consumers[found[0]].cancel()
            self._paused.add(found[0])
            message.reject(requeue=True)
        except Exception as error:
            self._broken(error)

    # ---- the quarantine ---------------------------------------------------------------------------------------------

    def _put_aside(self, message: Any, why: str, name: str) -> None:
        self.put_aside_text(describe(message), why, name, then=partial(self._act, message, message.ack))

    def put_aside_text(self, text: str, why: str, source: str, then: Callable[[], object] | None = None) -> None:
        """Into the quarantine, without keeping the loop: while the store is away it is tried again."""
        try:
            self.worker.store.quarantine(text, why, source=source)
        except StoreAway:
            self.hub.call_later(ASIDE_AGAIN, self.put_aside_text, text, why, source, then)
            return
        log.warning("a message went to quarantine: %s", why[:MOST_SAID])
        if then is not None:
            then()
