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
from dramatiq.common import current_millis

from queuekit.adapters import BrokerAway
from queuekit.adapters.dramatiq.broker import LEVELS, Broker, Consumer, Fetched, compact, encode, level_queue
from queuekit.clients import connect, one_try
from queuekit.message import HEADER, shown_of
from queuekit.store import Wire, WireForm

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from queuekit.message import Message
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings

__all__ = ["RedisBroker", "url_of"]

# Dramatiq pushes a message again whose worker has sent no command for so long. For us that is a redundant doorbell, and
# of use only to clear away what killed workers had fetched: the record repairs by itself, and sooner. It looks for them
# by KEYS, over the whole database that the record may share: as seldom, then, and not by chance.
HEARTBEAT_TIMEOUT: Final = 3600  # seconds


# What the engine's `fetch` does for one queue, for several in turn, with the ids that it does not give: [number of the
# queue, id, message], .... A message that is not there any more is none. The queues of a group, the levels of one of
# ours, share how many are taken at most.
# KEYS[1] the namespace, ARGV: 1 the time in ms, 2 the worker, 3 how many at most, 4 the number of groups, how many at
# most of each, then the queues: all groups' of one level, then those of the next.
FETCH: Final = """
redis.call('ZADD', KEYS[1] .. ':__heartbeats__', ARGV[1], ARGV[2])
local found, left, groups, most = {}, tonumber(ARGV[3]), tonumber(ARGV[4]), {}
for i = 1, groups do most[i] = tonumber(ARGV[4 + i]) end
for i = 5 + groups, #ARGV do
  local queue = KEYS[1] .. ':' .. ARGV[i]
  local group = (i - 5 - groups) % groups + 1
  local few = math.min(left, most[group])
  local ids = {}
  if few > 0 then ids = redis.call('LRANGE', queue, 0, few - 1) end
  if #ids > 0 then
    redis.call('LTRIM', queue, #ids, -1)
    for n, message in ipairs(redis.call('HMGET', queue .. '.msgs', unpack(ids))) do
      if message then
        redis.call('SADD', KEYS[1] .. ':__acks__.' .. ARGV[2] .. '.' .. ARGV[i], ids[n])
        found[#found + 1] = {i - 5 - groups, ids[n], message}
      end
    end
    left = left - #ids
    most[group] = most[group] - #ids
    if left == 0 then break end
  end
end
return found
"""


class _Fetched(Fetched):
    """`key_queue`, `redis_id`: where it lies in the broker, whatever it says itself."""

    def __init__(
        self,
        base: str,
        level: int,
        raw: bytes,
        slot: threading.Semaphore,
        most: int = 1 << 24,
        *,
        redis_id: bytes = b"",
    ) -> None:
        self.key_queue, self.redis_id = level_queue(base, level), redis_id
        super().__init__(base, level, raw, slot, most)


class RedisBroker(Broker, engine.RedisBroker):
    """`timeout`: seconds for each of connecting, its greeting, sending, and an answer."""

    def __init__(self, settings: Settings, *, timeout: float, **others: Any) -> None:
        super().__init__(
            settings,
            timeout=timeout,
            client=connect(cast("str", settings.broker_url), **one_try(timeout), max_connections=1024),
            heartbeat_timeout=HEARTBEAT_TIMEOUT * 1000,
            maintenance_chance=0,
            **others,
        )
        self._looked = time.monotonic()
        self._fetch = self.client.register_script(FETCH)

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

    def wiring(self, like: Message, queue: str, options: Mapping[str, Any]) -> Callable[[str, Arguments], Wire] | None:
        key = self.key(queue)
        own, bell = WireForm.OWN, WireForm.DOORBELL
        form = WireForm(("HSET", f"{key}.msgs", own, bell), ("RPUSH", key, own))
        named = f'{{"queue_name":{compact(queue)},"actor_name":{compact(like.task)},"args":'
        more, shown_as = compact(options)[1:-1], shown_of(like, self.settings.shown_limit)

        def wire(id: str, arguments: Arguments) -> Wire:
            shown, (header, between, then, behind) = shown_as(arguments)
            shown_text = f'{shown.args_text},"kwargs":{shown.kwargs_text}'
            # The first of the job: its id is nobody else's.
            rest = f'"redis_message_id":"{id}"}},"message_id":"{id}","message_timestamp":{current_millis()}}}'
            before = f'{named}{shown_text},"options":{{"{HEADER}":{header}{id}{between}'
            return Wire(form, (id, before, then, f"{behind},{more},{rest}", id))

        return wire

    def waiting(self, queue: str) -> int:
        try:
            return cast("int", self.client.llen(self.key(queue)))
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not answer: {error}") from error

    # ---- consuming --------------------------------------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 50) -> dramatiq.Consumer:
        return _Consumer(self, queue_name, timeout / 1000)

    def fetch_many(self, bases: Mapping[str, int], most: int) -> list[_Fetched]:
        """Up to so many in all, and of each of the queues, of the highest levels that have some, in turn of the queues.
        Each is among `held` from then on. Raises BrokerAway."""
        places = [(base, level) for level in LEVELS for base in bases]
        queues = [level_queue(base, level) for base, level in places]
        try:
            if time.monotonic() - self._looked > HEARTBEAT_TIMEOUT:
                self._look_after_the_dead(queues)
            bounds = [len(bases), *bases.values()]
            rows = self._fetch(keys=[self.namespace], args=[current_millis(), self.broker_id, most, *bounds, *queues])
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not answer: {error}") from error
        found = []
        for place, id, raw in rows:
            base, level = places[place]
            found.append(_Fetched(base, level, raw, self.slots, self.settings.doorbell_limit, redis_id=id))
        self.held.update(found)
        return found

    def wait(self, bases: Iterable[str], seconds: float) -> None:
        """Until something lies in one of the queues, or so long. What ends with this process between the two commands
        is found by its record. Raises BrokerAway."""
        keys = [self.key(level_queue(base, level)) for level in LEVELS for base in bases]
        try:
            found: Any = self.client.blpop(keys, seconds)
            if found is not None:
                self.client.lpush(*found)  # where it was: fetch_many() takes it as Dramatiq does
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not answer: {error}") from error

    def _look_after_the_dead(self, queues: Sequence[str]) -> None:
        """Dramatiq does it by the way, where it fetches."""
        self._looked, self.maintenance_chance = time.monotonic(), engine.MAINTENANCE_SCALE
        try:
            for queue in queues:
                self.do_fetch(queue, 0)
        finally:
            self.maintenance_chance = 0

    def settle_many(self, messages: Sequence[Fetched]) -> None:
        """Acknowledge them, or hand back those that are to be kept. Raises BrokerAway: all are to be settled again."""
        acks: defaultdict[str, list[bytes]] = defaultdict(list)
        kept: defaultdict[str, list[bytes]] = defaultdict(list)
        for one in messages:
            assert isinstance(one, _Fetched)
            (kept if one.keep else acks)[one.key_queue].append(one.redis_id)
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for queue, ids in acks.items():  # what the engine's `ack` does, for one
                    pipe.srem(f"{self.namespace}:__acks__.{self.broker_id}.{queue}", *ids)
                    pipe.hdel(f"{self.key(queue)}.msgs", *cast("list[Any]", ids))
                pipe.execute()
            for queue, ids in kept.items():
                self.do_requeue(queue, *ids)
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not take {len(messages)} acknowledgements: {error}") from error
        self.held.difference_update(messages)

    def leave(self) -> None:
        """Dramatiq's list of workers: one that ended in good order is none to look after."""
        with suppress(redis.RedisError):
            self.client.zrem(f"{self.namespace}:__heartbeats__", self.broker_id)


class _Consumer(Consumer):
    def __init__(self, broker: RedisBroker, base: str, pause: float) -> None:
        super().__init__(broker, base, pause)
        self.broker = broker

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def fetch(self) -> Fetched | None:
        try:
            return next(iter(self.broker.fetch_many({self.base: 1}, 1)), None)
        except BrokerAway as error:  # a timeout and a refusal too: ask again by and by
            raise dramatiq.ConnectionClosed(str(error)) from None

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
