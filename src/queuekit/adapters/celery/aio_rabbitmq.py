"""The pool `async` on RabbitMQ: messages are pulled in batches, on one connection of the thread that fetches.

A message is acknowledged as soon as its attempt is claimed: the record has the job from there on, and consumer_timeout
cuts nothing off. One that is void, since its connection broke, is delivered again, and decided by the record. So it is
with native messages, which have their record by then.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from amqp.exceptions import AMQPError, NotFound
from kombu.connection import Connection
from kombu.exceptions import KombuError

from queuekit.adapters import BrokerAway
from queuekit.adapters.celery.aio import Job, Taking
from queuekit.adapters.celery.transport import AmqpMessage, read_any_properties
from queuekit.adapters.pulling import HEARTBEAT, SLICE, pull
from queuekit.message import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.adapters.celery.aio import _Jobs
    from queuekit.adapters.celery.broker import Broker
    from queuekit.adapters.celery.gate import Gate
    from queuekit.execution.caps import Room

__all__ = ["RabbitSource"]

CONNECT: Final = 2  # seconds
ANSWER: Final = 10.0  # seconds for an answer of the broker
INSTANT: Final = 0.001  # seconds; py-amqp would spin for the rest of a frame, with none
BROKEN: Final = (OSError, AMQPError, KombuError)  # what a connection raises


class RabbitSource(Taking):
    """The thread that fetches uses the connection; whoever closes the source, after it. Others leave word."""

    def __init__(self, jobs: _Jobs, broker: Broker, gate: Gate) -> None:
        super().__init__(jobs, gate)
        self.broker = broker
        self._turn = list(self.worker.queues)
        self._queues = {queue.name: queue for name in self._turn for queue in broker.queues(name)}
        self._levels = {name: [queue.name for queue in broker.queues(name)] for name in self._turn}
        self._connection: Any = None
        self._channel: Any = None
        self._tags = count(1)
        self._word: deque[tuple[Any, int, bool]] = deque()  # channel, delivery tag, whether to keep it

    # ---- the connection ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._connection is not None:
            return
        broker = self.broker
        broker.await_name(CONNECT)
        self._connection = Connection(
            broker.url(),
            heartbeat=HEARTBEAT,
            connect_timeout=CONNECT,
            transport_options=broker.transport_options(ANSWER),
            **({"ssl": broker.ssl} if broker.ssl is not None else {}),
        )
        self._connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        read_any_properties(self._connection.connection)
        self._open_channel()

    def _open_channel(self) -> None:
        self._channel = self._connection.channel()
        for queue in self._queues.values():
            queue(self._channel).declare()

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(Exception):  # it is given up: whatever state it is in
                connection.collect()

    def look_around(self) -> None:
        try:
            self._say()
            self._read(INSTANT)
        except Exception:
            self._drop()  # it is opened again by the next fetch, which says so if it cannot be

    def _read(self, seconds: float) -> None:
        """What there is, for so long at most, or until a message has come."""
        if self._connection is None:
            return
        with suppress(TimeoutError, BlockingIOError):
            self._connection.drain_events(timeout=seconds)
        self._connection.heartbeat_check(rate=2)

    def close(self) -> None:
        self.look_around()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # the worker ends, whatever the broker does
                connection.release()

    # ---- messages ---------------------------------------------------------------------------------------------------

    def fetch(self, room: Room) -> Sequence[Job]:
        self._turn.append(self._turn.pop(0))  # none is always the first
        try:
            self._open()
            self._say()
            return pull(self, {name: self._levels[name] for name in self._turn}, room)
        except BaseException as error:
            self._drop()  # whatever was under way on it
            if isinstance(error, BROKEN):
                raise BrokerAway(f"the broker does not answer: {error or type(error).__name__}") from error
            raise

    def waiting(self, name: str) -> int:
        try:
            found: int = self._queues[name](self._channel).queue_declare(passive=True).message_count
        except NotFound:  # somebody has deleted it, and the channel is closed
            self._open_channel()
            return 0
        return found

    def take(self, names: Sequence[str], each: int, most: int, seconds: float) -> Sequence[Job]:
        found: list[Job] = []
        lost: list[str] = []
        channel, until = self._channel, time.monotonic() + seconds
        if names:
            channel.basic_qos(0, each, False)
        tags = {f"queuekit.{next(self._tags)}": name for name in names}
        for tag, name in tags.items():
            take = partial(self._take, found, name)
            channel.basic_consume(name, consumer_tag=tag, callback=take, on_cancel=lost.append)
        while len(found) < most and not lost and not self.worker.stopping.is_set():
            left = until - time.monotonic()
            if left <= 0:
                break
            self._read(min(SLICE, left))
        for tag in tags:
            if tag not in lost:
                channel.basic_cancel(tag)
        return found

    def _take(self, found: list[Job], name: str, raw: Any) -> None:
        tag = raw.delivery_info["delivery_tag"]
        found.append(Job(raw=raw, place=name, settle=partial(self._leave_word, raw.channel, tag)))

    def read(self, message: Job) -> Any:
        try:
            found: Any = AmqpMessage(message.raw, accept={"application/json"})
            _ = found.headers.items()
        except Exception as error:  # whatever kombu stumbles over
            raise InvalidMessage(f"its envelope cannot be read: {type(error).__name__}: {error}") from None
        return found

    def body(self, message: Job) -> str | bytes:
        found: str | bytes = message.raw.body
        return found

    def _leave_word(self, channel: Any, tag: int, *, keep: bool) -> None:
        """By any thread."""
        self._word.append((channel, tag, keep))

    def _say(self) -> None:
        while self._word:
            channel, tag, keep = self._word.popleft()
            if channel is not self._channel:  # it was closed, and its messages are delivered again
                continue
            if keep:
                channel.basic_reject(tag, requeue=True)
            else:
                channel.basic_ack(tag)

    def begun(self, messages: Sequence[Job]) -> None:
        for message in messages:
            message.say(keep=False)
        self.look_around()

    def put_back(self, messages: Sequence[Job]) -> None:
        for message in messages:
            message.say(keep=True)
        self.look_around()
