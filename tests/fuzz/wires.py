"""An engine's queue as somebody with the broker's address sees it: takes real messages out, and puts any in."""

from __future__ import annotations

import base64
import json
import math
import uuid
from contextlib import AbstractContextManager
from typing import Any

import amqp
import redis

from queuekit.settings import Settings
from queuekit.testing.rabbit import confirmed_channel


class Wire:
    def __init__(self, settings: Settings, queue: str = "default") -> None:
        assert settings.broker_url is not None
        self.url = settings.broker_url
        self.base = f"queuekit.{settings.namespace}.{queue}"

    def real(self) -> list[Any]:
        """What lies in the queue, which stays there."""
        raise NotImplementedError

    def put(self, items: list[Any]) -> None:
        raise NotImplementedError


class OnRedis(Wire):
    def __init__(self, settings: Settings, queue: str = "default") -> None:
        super().__init__(settings, queue)
        self.client = redis.Redis.from_url(self.url)


class CeleryOnRedis(OnRedis):
    LOWEST = "\x06\x169"  # kombu's name for the list of our level 0; without it, of a native producer's

    def real(self) -> list[Any]:
        found = [json.loads(raw) for raw in self.client.lrange(self.base + self.LOWEST, 0, -1)]
        return [{**one, "body": base64.b64decode(one["body"])} for one in found]

    def put(self, items: list[Any]) -> None:
        native = items[::3]
        self.client.lpush(self.base, *native)
        self.client.lpush(self.base + self.LOWEST, *(one for one in items if one not in native))


class Rq(OnRedis):
    @property
    def key(self) -> str:
        return f"rq:queue:{self.base}.p0"

    def real(self) -> list[Any]:
        ids = self.client.lrange(self.key, 0, -1)
        return [
            {"id": id, "hash": {name.decode(): value for name, value in self.client.hgetall(b"rq:job:" + id).items()}}
            for id in ids
        ]

    def put(self, items: list[Any]) -> None:
        with self.client.pipeline() as pipe:
            for one in items:
                key, content = b"rq:job:" + one["id"], one["hash"]
                if isinstance(content, bytes):
                    pipe.delete(key)
                    pipe.set(key, content, ex=600)
                elif content:
                    pipe.delete(key)
                    pipe.hset(key, mapping=content)
                    pipe.expire(key, 600)
                pipe.rpush(self.key, one["id"])
            pipe.execute()


class DramatiqOnRedis(OnRedis):
    @property
    def key(self) -> str:
        return f"dramatiq:{self.base}.p0"

    def real(self) -> list[Any]:
        return list(self.client.hgetall(f"{self.key}.msgs").values())

    def put(self, items: list[Any]) -> None:
        with self.client.pipeline() as pipe:
            for body in items:
                id = self._id(body)
                if body:
                    pipe.hset(f"{self.key}.msgs", id, body)
                pipe.rpush(self.key, id)
            pipe.execute()

    def _id(self, body: bytes) -> bytes:
        """As often as not the one that it names."""
        try:
            said = json.loads(body)["options"]["redis_message_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            said = None
        if not len(body) % 11:
            return b"\xff" + uuid.uuid4().bytes
        return (
            said.encode() if isinstance(said, str) and said.isascii() and len(body) % 2 else uuid.uuid4().hex.encode()
        )


class OnRabbitmq(Wire):
    @property
    def name(self) -> str:
        return self.base

    def channel(self) -> AbstractContextManager[Any]:
        return confirmed_channel(self.url)

    def taken(self) -> list[Any]:
        found = []
        with self.channel() as channel:
            while (one := channel.basic_get(self.name)) is not None:
                found.append(one)
        return found  # not acknowledged: they go back as the connection closes


class CeleryOnRabbitmq(OnRabbitmq):
    def real(self) -> list[Any]:
        return [
            {
                "body": one.body if isinstance(one.body, bytes) else bytes(one.body, "utf-8"),
                "headers": one.properties["application_headers"],
                "properties": {},
                "content-type": one.properties["content_type"],
                "content-encoding": one.properties["content_encoding"],
            }
            for one in self.taken()
        ]

    def put(self, items: list[Any]) -> None:
        with self.channel() as channel:
            for one in items:
                make: Any = amqp.Message
                properties = {name: value for name, value in one["properties"].items() if fits(name, value)}
                properties |= {"content_type": one["content-type"], "content_encoding": one["content-encoding"]}
                properties |= one.get("raw", {})
                headers = one["headers"] if isinstance(one["headers"], dict) else {}
                message = make(one["body"], application_headers=table(headers), **properties)
                channel.basic_publish(message, routing_key=self.name)


class DramatiqOnRabbitmq(OnRabbitmq):
    @property
    def name(self) -> str:
        return f"{self.base}.p0"

    def real(self) -> list[Any]:
        return [one.body if isinstance(one.body, bytes) else bytes(one.body, "utf-8") for one in self.taken()]

    def put(self, items: list[Any]) -> None:
        with self.channel() as channel:
            for number, body in enumerate(items):
                make: Any = amqp.Message
                odd: dict[str, Any] = {"content_type": b"\xff\xfe", "application_headers": {"x": b"\xff"}}
                channel.basic_publish(make(body, **(odd if number % 7 == 0 else {})), routing_key=self.name)


def fits(name: str, value: Any) -> bool:
    """Whether AMQP can say it, and RabbitMQ takes it."""
    if name == "delivery_mode":
        return type(value) is int and value in {1, 2}  # RabbitMQ refuses others
    if name == "priority":
        return type(value) is int and 0 <= value < 256
    return isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) < 256


def table(value: Any) -> Any:
    """What AMQP's tables can say."""
    if isinstance(value, dict):
        return {str(name)[:60]: table(one) for name, one in value.items()}
    if isinstance(value, list):
        return [table(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):  # RabbitMQ itself cuts the connection
        return str(value)
    return value if not isinstance(value, int) or -(2**63) < value < 2**63 else str(value)


WIRES: dict[str, type[Wire]] = {
    "celery-redis": CeleryOnRedis,
    "celery-rabbitmq": CeleryOnRabbitmq,
    "rq-redis": Rq,
    "dramatiq-redis": DramatiqOnRedis,
    "dramatiq-rabbitmq": DramatiqOnRabbitmq,
}
