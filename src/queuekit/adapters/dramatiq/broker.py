"""Our Dramatiq broker: Dramatiq's Redis keys and commands, with a consumer of ours.

    dramatiq:queuekit.NAMESPACE.QUEUE.pLEVEL          list of redis_message_ids, first in, first out
    dramatiq:queuekit.NAMESPACE.QUEUE.pLEVEL.msgs     hash: redis_message_id -> the message's JSON
    dramatiq:__acks__.BROKER_ID.QUEUE                 set: what this worker has fetched and not acknowledged

To Dramatiq's worker the four levels of a queue are one queue: one consumer, which looks into the highest level first.
It fetches a message only when a thread is free for it, so that nothing waits in a worker's memory, neither behind a
lower priority nor behind a long job.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, cast

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    GroupCallbacks,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.results import Results

from queuekit.adapters import BrokerAway
from queuekit.clients import one_try
from queuekit.errors import ConfigError
from queuekit.message import BUCKETS, HEADER, Doorbell, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuekit.settings import Settings

__all__ = ["CATCH_ALL", "Broker", "Fetched", "base_queue", "level_queue"]

CATCH_ALL: Final = "queuekit.any"  # the one actor of a worker

# Dramatiq pushes a message again whose worker has sent no command for so long. For us that is a redundant doorbell, and
# of use only to clear away what killed workers had fetched: the record repairs by itself, and sooner. It looks for them
# by KEYS, over the whole database that the record may share: seldom, then.
HEARTBEAT_TIMEOUT: Final = 3600  # seconds
MAINTENANCE_CHANCE: Final = 10  # in a million commands

# Those that would retry, limit, drop or follow up a message, which is for queuekit to do.
DECIDERS: Final = (AgeLimit, Callbacks, GroupCallbacks, Pipelines, Results, Retries, ShutdownNotifications, TimeLimit)


def base_queue(settings: Settings, queue: str) -> str:
    return f"queuekit.{settings.namespace}.{queue}"


def level_queue(base: str, level: int) -> str:
    # Always with a level: a queue named "x.p9" must not meet level 9 of "x", nor "x.DQ" be Dramatiq's delay queue.
    return f"{base}.p{level}"


class Fetched(dramatiq.MessageProxy):
    """A message that this process holds.

    Attributes:
        queue, redis_id: where it lies in the broker.
        raw: as it came. `invalid` says why it is none of ours; otherwise `bell` is its doorbell.
        over: whether its outcome is there, and only the acknowledgement is not.
        keep: not to be acknowledged but handed back.
    """

    def __init__(self, base: str, queue: str, raw: bytes, slot: threading.Semaphore) -> None:
        self.queue, self.raw = queue, raw
        self.redis_id = self.invalid = ""
        self.bell: Doorbell | None = None
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
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidMessage(f"not JSON: {error}") from None
        options = data.get("options") if isinstance(data, dict) else None
        if not isinstance(options, dict):
            raise InvalidMessage("not a Dramatiq message")
        if HEADER not in options:
            raise InvalidMessage(f"a Dramatiq message without the option {HEADER!r}: queuekit did not send it")
        bell = Doorbell.from_header(options[HEADER])
        args, kwargs, redis_id = data.get("args"), data.get("kwargs"), options.get("redis_message_id")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidMessage("args must be a list, kwargs an object")
        if not isinstance(redis_id, str) or not redis_id.isascii():
            raise InvalidMessage("redis_message_id must be a plain string")
        self.bell, self.redis_id = bell, redis_id
        return {
            "actor_name": bell.task,
            "args": tuple(args),
            "kwargs": kwargs,
            "options": {HEADER: options[HEADER]},
            "message_id": str(data.get("message_id") or bell.id),
        }

    def __hash__(self) -> int:  # the base compares by content, and has none
        return id(self)

    def free(self) -> None:
        """Give the thread's slot back, once."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()


class Broker(RedisBroker):
    """Publishes, and in a worker consumes.

    Args:
        timeout: seconds for each of connecting, its greeting, sending, and an answer.
        threads: how many messages to hold at most. Only a worker consumes.
        stopping: set when nothing more is to be fetched.
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
    ) -> None:
        theirs = [one for one in user_broker.middleware if not isinstance(one, DECIDERS)] if user_broker else []
        super().__init__(
            client=_connect(cast("str", settings.broker_url), timeout),
            middleware=[*theirs, *middleware],
            heartbeat_timeout=HEARTBEAT_TIMEOUT * 1000,
            maintenance_chance=MAINTENANCE_CHANCE,
        )
        self.slots = threading.Semaphore(threads)
        self.stopping = stopping or threading.Event()
        self.held: set[Fetched] = set()

    def declare_queue(self, queue_name: str) -> None:
        """Without the delay queue that Dramatiq adds: every wait is parked in the record, and its consumers poll."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def close(self) -> None:
        self.client.close()
        self.client.connection_pool.disconnect()

    # ---- publishing -------------------------------------------------------------------------------------------------

    def key(self, queue: str) -> str:
        return f"{self.namespace}:{queue}"

    def send(self, messages: Sequence[tuple[str, dramatiq.Message[Any]]]) -> None:
        """Publish all in one transaction, in order. Not by Dramatiq's enqueue command, which sends one at a time and
        enters each process that ever published into its list of workers. Raises BrokerAway."""
        ids: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for queue, message in messages:
            redis_id = str(uuid.uuid4())
            message.options["redis_message_id"] = redis_id
            self.emit_before("enqueue", message, None)
            # Not by message.encode(): it goes by the process's global encoder, which may be the user's pickle.
            ids[queue][redis_id] = json.dumps(message.asdict(), separators=(",", ":")).encode()
        try:
            with self.client.pipeline(transaction=True) as pipe:
                for queue, bodies in ids.items():
                    pipe.hset(f"{self.key(queue)}.msgs", mapping=cast("dict[Any, Any]", bodies))
                    pipe.rpush(self.key(queue), *bodies)
                pipe.execute()
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not take {len(messages)} messages: {error}") from error
        for _, message in messages:
            self.emit_after("enqueue", message, None)

    def waiting(self, queue: str) -> int:
        """How many messages nobody has fetched. Raises BrokerAway."""
        try:
            return cast("int", self.client.llen(self.key(queue)))
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not answer: {error}") from error

    # ---- consuming --------------------------------------------------------------------------------------------------

    def get_actor(self, actor_name: str) -> dramatiq.Actor[Any, Any]:
        """In a worker one actor takes every message, whatever its name: execution knows the tasks."""
        return self.actors.get(CATCH_ALL) or super().get_actor(actor_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 50) -> dramatiq.Consumer:
        return _Consumer(self, queue_name, timeout / 1000)

    @property
    def busy(self) -> bool:
        """Whether a message is held whose outcome is not there yet."""
        return any(not one.over for one in tuple(self.held))

    def forget_me(self) -> None:
        """Leave Dramatiq's list of workers: a worker that ended in good order is none to look after."""
        self.client.zrem(f"{self.namespace}:__heartbeats__", self.broker_id)


class _Consumer(dramatiq.Consumer):
    """Of one queue with its levels. `pause` is in seconds: between two looks into an empty queue."""

    def __init__(self, broker: Broker, base: str, pause: float) -> None:
        self.broker, self.base, self.pause = broker, base, pause
        self.queues = [level_queue(base, level) for level in sorted(BUCKETS, reverse=True)]

    def __next__(self) -> Fetched | None:
        if self.broker.stopping.is_set():
            time.sleep(self.pause)
            return None
        if not self.broker.slots.acquire(timeout=self.pause):
            return None
        fetched = None
        try:
            fetched = self._fetch()
        except redis.RedisError as error:  # a timeout and a refusal too: ask again by and by
            raise dramatiq.ConnectionClosed(str(error)) from None
        finally:
            if fetched is None:
                self.broker.slots.release()
        if fetched is None:
            time.sleep(self.pause)
        return fetched

    def _fetch(self) -> Fetched | None:
        with self.broker.client.pipeline(transaction=False) as pipe:
            for queue in self.queues:
                pipe.llen(self.broker.key(queue))
            lengths = pipe.execute()
        for queue, length in zip(self.queues, lengths, strict=True):
            if length:
                for raw in self.broker.do_fetch(queue, 1):
                    if raw is None:  # an id without a message
                        self.broker.do_ack(queue, self._find(queue, None))
                        continue
                    fetched = Fetched(self.base, queue, raw, self.broker.slots)
                    if fetched.invalid:
                        fetched.redis_id = self._find(queue, raw)
                    self.broker.held.add(fetched)
                    return fetched
        return None

    def _find(self, queue: str, raw: bytes | None) -> str:
        """The id of a fetched message that does not say it itself: Dramatiq gives only the message."""
        client = self.broker.client
        ids = list(
            cast("set[bytes]", client.smembers(f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{queue}"))
        )
        bodies = cast("list[bytes | None]", client.hmget(f"{self.broker.key(queue)}.msgs", ids)) if ids else []
        return next((id.decode() for id, body in zip(ids, bodies, strict=True) if body == raw), "")

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Raises ConnectionClosed, upon which Dramatiq's thread tries again in 5 s, for as long as it takes."""
        assert isinstance(message, Fetched)
        command = self.broker.do_requeue if message.keep else self.broker.do_ack
        try:
            command(message.queue, message.redis_id)
        except redis.RedisError as error:
            raise dramatiq.ConnectionClosed(str(error)) from None
        self.broker.held.discard(message)
        message.free()

    nack = ack  # the dead letters are in the record; Dramatiq's would only pile up

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        for message in messages:
            assert isinstance(message, Fetched)
            message.keep = True
            self.ack(message)


def _connect(url: str, timeout: float) -> redis.Redis:
    try:
        pool = redis.ConnectionPool.from_url(url, **one_try(timeout), max_connections=1024)
    except ValueError as error:
        raise ConfigError(f"broker_url cannot be read: {error}; give redis://HOST:PORT/DB") from None
    return redis.Redis(connection_pool=pool)
