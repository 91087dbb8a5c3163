"""Dramatiq's Redis keys and commands, with a consumer of ours.

dramatiq:queuekit.NAMESPACE.QUEUE.pLEVEL          list of redis_message_ids, first in, first out
dramatiq:queuekit.NAMESPACE.QUEUE.pLEVEL.msgs     hash: redis_message_id -> the message's JSON
dramatiq:__acks__.BROKER_ID.QUEUE                 set: what this worker has fetched and not acknowledged
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode

import dramatiq
import redis
from dramatiq.brokers import redis as engine

from queuekit.adapters import BrokerAway
from queuekit.adapters.dramatiq.broker import LEVELS, Broker, Consumer, Fetched, encode, level_queue
from queuekit.clients import connect, one_try
from queuekit.message import InvalidMessage

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from queuekit.settings import Settings

__all__ = ["RedisBroker", "url_of"]

# Dramatiq pushes a message again whose worker has sent no command for so long. For us that is a redundant doorbell, and
# of use only to clear away what killed workers had fetched: the record repairs by itself, and sooner. It looks for them
# by KEYS, over the whole database that the record may share: seldom, then.
HEARTBEAT_TIMEOUT: Final = 3600  # seconds
MAINTENANCE_CHANCE: Final = 10  # in a million commands


class _Fetched(Fetched):
    """`key_queue`, `redis_id`: where it lies in the broker."""

    def __init__(self, base: str, level: int, raw: bytes, slot: threading.Semaphore) -> None:
        self.key_queue = level_queue(base, level)
        self.redis_id = ""
        super().__init__(base, level, raw, slot)

    def check(self, options: dict[str, Any]) -> None:
        redis_id = options.get("redis_message_id")
        if not isinstance(redis_id, str) or not redis_id.isascii():
            raise InvalidMessage("redis_message_id must be a plain string")
        self.redis_id = redis_id


class RedisBroker(Broker, engine.RedisBroker):
    """`timeout`: seconds for each of connecting, its greeting, sending, and an answer."""

    def __init__(self, settings: Settings, *, timeout: float, **others: Any) -> None:
        super().__init__(
            settings,
            timeout=timeout,
            client=connect(cast("str", settings.broker_url), **one_try(timeout), max_connections=1024),
            heartbeat_timeout=HEARTBEAT_TIMEOUT * 1000,
            maintenance_chance=MAINTENANCE_CHANCE,
            **others,
        )

    @classmethod
    def publish_timeout(cls, settings: Settings) -> float:
        return settings.enqueue_timeout * 0.24  # four of them: connecting, the greeting, sending, the answer

    def close(self) -> None:
        self.client.close()
        self.client.connection_pool.disconnect()

    def key(self, queue: str) -> str:
        return f"{self.namespace}:{queue}"

    # ---- publishing -------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[dramatiq.Message[Any]]) -> None:
        """In one transaction. Not by Dramatiq's enqueue command, which sends one at a time and enters each process that
        ever published into its list of workers."""
        ids: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for message in messages:
            redis_id = str(uuid.uuid4())
            message.options["redis_message_id"] = redis_id
            self.emit_before("enqueue", message, None)
            ids[message.queue_name][redis_id] = encode(message)
        try:
            with self.client.pipeline(transaction=True) as pipe:
                for queue, bodies in ids.items():
                    pipe.hset(f"{self.key(queue)}.msgs", mapping=cast("dict[Any, Any]", bodies))
                    pipe.rpush(self.key(queue), *bodies)
                pipe.execute()
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not take {len(messages)} messages: {error}") from error
        for message in messages:
            self.emit_after("enqueue", message, None)

    def waiting(self, queue: str) -> int:
        try:
            return cast("int", self.client.llen(self.key(queue)))
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not answer: {error}") from error

    # ---- consuming --------------------------------------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 50) -> dramatiq.Consumer:
        return _Consumer(self, queue_name, timeout / 1000)

    def leave(self) -> None:
        """Dramatiq's list of workers: one that ended in good order is none to look after."""
        with suppress(redis.RedisError):
            self.client.zrem(f"{self.namespace}:__heartbeats__", self.broker_id)


class _Consumer(Consumer):
    def __init__(self, broker: RedisBroker, base: str, pause: float) -> None:
        super().__init__(broker, base, pause)
        self.broker = broker
        self.queues = {level: level_queue(base, level) for level in LEVELS}

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def fetch(self) -> Fetched | None:
        try:
            return self._fetch()
        except redis.RedisError as error:  # a timeout and a refusal too: ask again by and by
            raise dramatiq.ConnectionClosed(str(error)) from None

    def _fetch(self) -> Fetched | None:
        with self.broker.client.pipeline(transaction=False) as pipe:
            for queue in self.queues.values():
                pipe.llen(self.broker.key(queue))
            lengths = pipe.execute()
        for (level, queue), length in zip(self.queues.items(), lengths, strict=True):
            if length:
                for raw in self.broker.do_fetch(queue, 1):
                    if raw is None:  # an id without a message
                        self.broker.do_ack(queue, self._find(queue, None))
                        continue
                    fetched = _Fetched(self.base, level, raw, self.broker.slots)
                    if fetched.bell is None:  # what others wrote need not be where it says
                        fetched.redis_id = self._find(queue, raw)
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

    def settle(self, message: Fetched) -> None:
        assert isinstance(message, _Fetched)
        command = self.broker.do_requeue if message.keep else self.broker.do_ack
        try:
            command(message.key_queue, message.redis_id)
        except redis.RedisError as error:
            raise dramatiq.ConnectionClosed(str(error)) from None


# ---- the user's own ------------------------------------------------------------------------------------------------

_SCHEMES: Final[dict[Any, str]] = {
    redis.Connection: "redis",
    redis.SSLConnection: "rediss",
    redis.UnixDomainSocketConnection: "unix",
}
_TLS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_UNSAYABLE: Final = ("credential_provider", "redis_connect_func", "ssl_ca_data", "ssl_password")


def url_of(broker: engine.RedisBroker) -> str | None:
    """Where the user's broker connects to, as a URL; None where one URL cannot say it (Sentinel, a cluster, a
    credential provider). Makes no connection."""
    pool = getattr(broker.client, "connection_pool", None)
    kind = getattr(pool, "connection_class", None)
    asked = getattr(pool, "connection_kwargs", {})
    if kind not in _SCHEMES or any(asked.get(name) is not None for name in _UNSAYABLE):
        return None
    user, password = asked.get("username") or "", asked.get("password") or ""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    database = asked.get("db") or 0
    if kind is redis.UnixDomainSocketConnection:
        return f"unix://{login}{quote(asked['path'])}?db={database}"
    host, port = asked.get("host", "localhost"), asked.get("port", 6379)
    host = f"[{host}]" if ":" in host else host
    tls = {name: _word(asked[name]) for name in _TLS if asked.get(name) is not None}
    query = f"?{urlencode(tls)}" if kind is redis.SSLConnection and tls else ""
    return f"{_SCHEMES[kind]}://{login}{host}:{port}/{database}{query}"


def _word(value: object) -> str:
    """ssl.CERT_NONE is "none" in a URL."""
    return str(getattr(value, "name", value)).removeprefix("CERT_").lower() if hasattr(value, "name") else str(value)
