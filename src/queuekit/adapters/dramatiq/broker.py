"""What our Dramatiq brokers share, whatever carries the messages: redis.py and rabbitmq.py have the rest.

To Dramatiq's worker the four levels of a queue are one queue: one consumer, which looks into the highest level first.
It fetches a message only when a thread is free for it, so that nothing waits in a worker's memory, neither behind a
lower priority nor behind a long job.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Final

import dramatiq
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    GroupCallbacks,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.results import Results
from dramatiq.worker import _WorkerMiddleware

from queuekit.errors import ConfigError
from queuekit.message import BUCKETS, HEADER, Doorbell, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from queuekit.message import Message
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings
    from queuekit.store import Wire

__all__ = ["CATCH_ALL", "LEVELS", "Broker", "Consumer", "Fetched", "base_queue", "level_queue"]

CATCH_ALL: Final = "queuekit.any"  # the one actor of a worker
LEVELS: Final = tuple(sorted(BUCKETS, reverse=True))  # in the order in which a consumer looks into them

# Those that would retry, limit, drop or follow up a message, which is for queuekit to do; and the one whose loop is not
# ours (C15).
DECIDERS: Final = (
    AgeLimit,
    AsyncIO,
    Callbacks,
    GroupCallbacks,
    Pipelines,
    Results,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)

# What Dramatiq says of a process and its worker, once each, and not of a message or a thread.
OF_THE_PROCESS: Final = frozenset({"process_boot", "worker_boot", "worker_shutdown"})


def base_queue(settings: Settings, queue: str) -> str:
    return f"queuekit.{settings.namespace}.{queue}"


def level_queue(base: str, level: int) -> str:
    # Always with a level: a queue named "x.p9" must not meet level 9 of "x", nor "x.DQ" be Dramatiq's delay queue.
    return f"{base}.p{level}"


compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def encode(message: dramatiq.Message[Any]) -> bytes:
    # Not by message.encode(): it goes by the process's global encoder, which may be the user's pickle.
    return compact(message.asdict()).encode()


class Fetched(dramatiq.MessageProxy):
    """A message that this process holds.

    Attributes:
        queue: where it was, in queuekit's words, and its level.
        raw: as it came; none of ours has more than `most` bytes. `invalid` says why it is none of ours; otherwise
            `bell` is its doorbell.
        native: one of Dramatiq's that nobody published through queuekit, in place of the doorbell.
        over: whether its outcome is there, and only the acknowledgement is not.
        keep: not to be acknowledged but handed back.
    """

    def __init__(self, base: str, level: int, raw: bytes, slot: threading.Semaphore, most: int = 1 << 24) -> None:
        _, _, self.queue = base.split(".", 2)  # queuekit.NAMESPACE.QUEUE: a namespace has no dot
        self.level, self.raw, self.most = level, raw, most
        self.invalid = ""
        self.bell: Doorbell | None = None
        self.native: dict[str, Any] | None = None
        self.over = self.keep = False
        self._slot: threading.Semaphore | None = slot
        # Of the options only our header is kept: Dramatiq acts on some of them ("eta", "throws"), whoever wrote them.
        # The consumer is found by queue_name, which is therefore never the message's own word.
        fields: dict[str, Any] = {"actor_name": "invalid", "args": (), "kwargs": {}, "options": {}}
        try:
            fields.update(self._read(raw))
        except InvalidMessage as error:
            self.invalid = str(error)
        super().__init__(dramatiq.Message(queue_name=base, **fields))

    def _read(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > self.most:
            raise InvalidMessage(f"it takes {len(raw)} bytes, and none of ours more than {self.most}")
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidMessage(f"not JSON: {error}") from None
        options = data.get("options") if isinstance(data, dict) else None
        if not isinstance(options, dict):
            raise InvalidMessage("not a Dramatiq message")
        actor, id, args, kwargs = (data.get(name) for name in ("actor_name", "message_id", "args", "kwargs"))
        if HEADER in options:
            bell = Doorbell.from_header(options[HEADER])
            bell.check_native(id)
            self.bell = bell
            actor, id, options = self.bell.task, str(id or self.bell.id), {HEADER: options[HEADER]}
        else:
            self.native = {"id": id, "task": actor, "args": args, "kwargs": kwargs}
            actor, id, options = str(actor), str(id), {}
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            self.bell = self.native = None
            raise InvalidMessage("args must be a list, kwargs an object")
        return {"actor_name": actor, "args": tuple(args), "kwargs": kwargs, "options": options, "message_id": id}

    def __hash__(self) -> int:  # the base compares by content, and has none
        return id(self)

    def claimed(self) -> None:
        """The record has the attempt from here on: a lost message would change nothing."""

    def free(self) -> None:
        """Give the thread's slot back, once."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()


class Broker(dramatiq.Broker):
    """Publishes, and in a worker consumes. A base: what carries the messages comes in by the class beside it.

    Args:
        timeout: seconds for which publishing may wait, as the subclass says.
        user_broker: the user's own. Its middleware sees our messages too, but for Dramatiq's that would decide on them.
        threads: how many messages to hold at most. Only a worker consumes.
        stopping: set when nothing more is to be fetched.
        beside: whether the user's broker has a worker in this process, which has told its middleware that it starts.
            There are no slots then until Engine.open().
        carrier: for the class that carries the messages.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout: float,
        user_broker: dramatiq.Broker | None = None,
        middleware: Iterable[dramatiq.Middleware] = (),
        threads: int = 0,
        stopping: threading.Event | None = None,
        beside: bool = False,
        **carrier: Any,
    ) -> None:
        self.settings, self.timeout, self.beside = settings, timeout, beside
        self.slots = threading.Semaphore(0 if beside else threads)
        self.stopping = stopping or threading.Event()
        self.held: set[Fetched] = set()
        theirs = [one for one in user_broker.middleware if _may_see(one)] if user_broker else []
        super().__init__(middleware=[*theirs, *middleware], **carrier)

    @classmethod
    def publish_timeout(cls, settings: Settings) -> float:
        """The `timeout` with which publishing stays within enqueue_timeout."""
        raise NotImplementedError

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if not (self.beside and signal in OF_THE_PROCESS):
            super().emit_before(signal, *args, **kwargs)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if not (self.beside and signal in OF_THE_PROCESS):
            super().emit_after(signal, *args, **kwargs)

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Without the delay queue that Dramatiq adds: every wait is parked in the record, and its consumers poll. On a
        server that has to make it, it is made by whoever publishes or consumes first."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    # ---- publishing -------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[dramatiq.Message[Any]]) -> None:
        """Publish all, in order, each to the queue that it names. Raises BrokerAway."""
        raise NotImplementedError

    def wiring(self, like: Message, queue: str, options: Mapping[str, Any]) -> Callable[[str, Arguments], Wire] | None:
        """See Wiring: what send() sends, where that is a few commands for Redis."""
        return None

    def waiting(self, queue: str) -> int:
        """How many messages nobody has fetched. Raises BrokerAway."""
        raise NotImplementedError

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """A native message, by the actor's send(). Raises BrokerAway; ConfigError for a delay."""
        if delay is not None:
            raise ConfigError(
                f"a native message for {message.actor_name!r} cannot be delayed: nobody looks into Dramatiq's delay "
                "queues for queuekit. Call the task's options(delay=...).enqueue(...)"
            )
        self.send([message])
        return message

    # ---- consuming --------------------------------------------------------------------------------------------------

    def get_actor(self, actor_name: str) -> dramatiq.Actor[Any, Any]:
        """In a worker one actor takes every message, whatever its name: execution knows the tasks."""
        return self.actors.get(CATCH_ALL) or super().get_actor(actor_name)

    @property
    def busy(self) -> bool:
        """Whether a message is held whose outcome is not there yet."""
        return any(not one.over for one in tuple(self.held))

    def leave(self) -> None:
        """The worker has ended in good order. Never raises."""


class Consumer(dramatiq.Consumer):
    """Of one queue with its levels. `pause` is in seconds: between two looks into an empty queue."""

    def __init__(self, broker: Broker, base: str, pause: float) -> None:
        self.carrier, self.base, self.pause = broker, base, pause

    def __next__(self) -> Fetched | None:
        if self.carrier.stopping.is_set():
            self.rest(self.pause)
            return None
        if not self.carrier.slots.acquire(timeout=self.pause):
            self.rest(0)
            return None
        fetched = None
        try:
            fetched = self.fetch()
        finally:
            if fetched is None:
                self.carrier.slots.release()
            else:
                self.carrier.held.add(fetched)
        if fetched is None:
            self.rest(self.pause)
        return fetched

    def fetch(self) -> Fetched | None:
        """The next message, of the highest level that has one. Raises dramatiq.ConnectionClosed."""
        raise NotImplementedError

    def rest(self, seconds: float) -> None:
        """Wait, and do meanwhile what the connection needs. Raises dramatiq.ConnectionClosed."""
        raise NotImplementedError

    def settle(self, message: Fetched) -> None:
        """Acknowledge it, or hand it back where it is to be kept. Raises dramatiq.ConnectionClosed, upon which
        Dramatiq's thread tries again in 5 s, for as long as it takes."""
        raise NotImplementedError

    def ack(self, message: dramatiq.MessageProxy) -> None:
        assert isinstance(message, Fetched)
        self.settle(message)
        self.carrier.held.discard(message)
        message.free()

    nack = ack  # the dead letters are in the record; Dramatiq's would only pile up

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        for message in messages:
            assert isinstance(message, Fetched)
            message.keep = True
            self.ack(message)


def _may_see(middleware: dramatiq.Middleware) -> bool:
    # _WorkerMiddleware is how the user's worker hears of queues: it would consume ours.
    return not isinstance(middleware, (*DECIDERS, _WorkerMiddleware)) and not getattr(middleware, "queuekit", False)
