"""Messages doubled in a broker and deleted from it behind everybody's back, whatever engine they are of."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import redis

from queuekit.testing.rabbit import RabbitServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from queuekit.testing.servers import Server


class Waiting:
    """The messages that wait in the broker. Each call is for one of them; None or False: there was none."""

    def __init__(self, server: Server, random: Random) -> None:
        self.server, self.random = server, random
        self._names: list[str] = []
        self._asked = 0.0

    def delete(self) -> bytes | None:
        """The message that is gone now."""
        if isinstance(self.server, RabbitServer):
            with self._channel() as channel, self._as_listed():
                return next((body for name in self._queues() if (body := _get(channel, name, None))), None)
            return None
        with redis.Redis.from_url(self.server.url) as client:
            return next((body for key in self._lists(client) if (body := client.lpop(key))), None)  # type: ignore[misc]

    def double(self) -> bool:
        """It stays, and another one like it comes last."""
        if isinstance(self.server, RabbitServer):
            with self._channel() as channel, self._as_listed():
                return any(_get(channel, name, name) for name in self._queues())
            return False
        with redis.Redis.from_url(self.server.url) as client:
            for key in self._lists(client):
                if (body := client.lindex(key, 0)) is not None:
                    client.rpush(key, body)  # type: ignore[arg-type]
                    return True
        return False

    def _lists(self, client: Any) -> list[Any]:
        """The lists that are queues: not those of results, workers or dead letters."""
        keys = [key for key in client.scan_iter(_type="list", count=1000) if not key.endswith((b".XQ", b".DQ"))]
        self.random.shuffle(keys)
        return keys

    def _queues(self) -> list[str]:
        """To list them costs a second of the machine's time."""
        assert isinstance(self.server, RabbitServer)
        if not self._names or time.monotonic() - self._asked > 60:
            others = (".XQ", ".DQ", ".pidbox")
            names = (one for one in self.server.queues() if not one.endswith(others))
            self._names = [one for one in names if not one.startswith("celeryev.")]  # of a worker's own, and exclusive
            self._asked = time.monotonic()
        self.random.shuffle(self._names)
        return self._names

    @contextmanager
    def _as_listed(self) -> Iterator[None]:
        """A fault may have deleted a queue since they were listed, which nobody has needed again yet."""
        from amqp.exceptions import NotFound

        try:
            yield
        except NotFound:
            self._names = []

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        import amqp

        with closing(amqp.Connection(f"127.0.0.1:{self.server.port}", userid="guest", password="guest")) as connection:
            connection.connect()
            yield connection.channel()


def _get(channel: Any, name: str, again: str | None) -> bytes | None:
    message = channel.basic_get(name, no_ack=True)
    if message is None:
        return None
    if again is not None:
        for _ in range(2):
            channel.basic_publish(message, exchange="", routing_key=again)
    body = message.body
    headers = str(message.properties).encode()
    return (body if isinstance(body, bytes) else body.encode()) + headers
