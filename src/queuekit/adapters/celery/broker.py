"""Publishing through kombu, Celery's own messaging: the messages of Celery's protocol 2, by connections of our own.

Celery's producer pool waits for a broker as long as it takes to come back; an enqueue must not.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer

from queuekit.adapters import BrokerAway
from queuekit.message import HEADER, split_route
from queuekit.settings import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queuekit.message import Publication
    from queuekit.settings import Settings

__all__ = ["BACKSTOP", "Broker"]

BACKSTOP: Final = 5.0  # seconds over its limit after which Celery kills a prefork child
BATCH: Final = 500
REPR: Final = 1024  # characters of the arguments that monitors are shown
EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class _Link:
    """One connection, for one thread at a time."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.connection = Connection(url, **options)
        try:
            self.connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            self.channel: Any = self.connection.channel()
        except BaseException:
            self.close()
            raise
        self.producer = Producer(self.channel, auto_declare=False)

    def close(self) -> None:
        with suppress(Exception):  # it is given up: whatever state it is in
            self.connection.release()


class Broker:
    """The broker, as a publisher sees it. Any thread may use it, and a forked child starts with no connection."""

    def __init__(self, settings: Settings) -> None:
        assert settings.broker_url is not None
        self.settings = settings
        self.is_redis = not settings.broker_url.startswith("amqp")
        self._idle: deque[_Link] = deque()
        self._pid = os.getpid()
        self._parents: deque[_Link] | None = None

    # ---- names ------------------------------------------------------------------------------------------------------

    def queue(self, name: str) -> Queue:
        """Bound to an exchange of its own name, as Celery does for a queue that nobody configured."""
        full = f"queuekit.{self.settings.namespace}.{name}"
        return Queue(full, Exchange(full, "direct"), routing_key=full)

    def priority(self, level: int) -> int:
        """kombu's Redis transport counts the other way round than we, and RabbitMQ, do."""
        return 9 - level if self.is_redis else level

    # ---- connections ------------------------------------------------------------------------------------------------

    def url(self, transport: str = "redis") -> str:
        """The URL as kombu wants it. `transport` names ours for Redis, where the worker's is to be used."""
        url = self.settings.broker_url
        assert url is not None
        scheme, _, rest = url.partition("://")
        if scheme == "unix":
            return f"{transport}+socket://{rest.replace('?db=', '?virtual_host=').replace('&db=', '&virtual_host=')}"
        return f"{transport if self.is_redis else scheme}://{rest}"

    @property
    def ssl(self) -> Any:
        """Certificates are checked, unless the URL says otherwise: kombu by itself does not."""
        scheme, _, rest = (self.settings.broker_url or "").partition("://")
        if scheme == "amqps":
            return True
        return {"ssl_cert_reqs": "required"} if scheme == "rediss" and "ssl_cert_reqs" not in rest else None

    def transport_options(self, timeout: float) -> dict[str, Any]:
        if not self.is_redis:
            return {}
        # The keys that hold what was delivered and not acknowledged are shared by all Celery apps of a Redis, each with
        # a timeout of its own, unless they are told apart. A redelivery is dropped; without one a dead worker's entries
        # would stay: hence a day.
        own = f"queuekit.{self.settings.namespace}:unacked"
        return {
            "visibility_timeout": 86400,
            "unacked_key": own,
            "unacked_index_key": f"{own}_index",
            "unacked_mutex_key": f"{own}_mutex",
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }

    @contextmanager
    def _link(self) -> Iterator[_Link]:
        """A connection for this thread. Raises BrokerAway."""
        if self._pid != os.getpid():
            # A forked child neither uses the parent's connections nor closes them: kept, so that nobody does.
            self._parents, self._idle, self._pid = self._idle, deque(), os.getpid()
        link: _Link | None = None
        try:
            # One that its server has closed meanwhile is seen and opened again by redis-py.
            link = self._idle.pop() if self._idle else self._open()
            yield link
        except (OSError, KombuError, *self._errors()) as error:
            if link is not None:
                link.close()
            assert self.settings.broker_url is not None
            raise BrokerAway(f"the broker {redact(self.settings.broker_url)} does not answer: {error}") from error
        except BaseException:
            if link is not None:
                link.close()
            raise
        self._idle.append(link)

    def _open(self) -> _Link:
        # Connecting, its greeting, a ping, and the message: each may take a fifth, and all of it enqueue_timeout.
        fifth = min(2.0, self.settings.enqueue_timeout / 5)
        options = {"connect_timeout": fifth, "transport_options": self.transport_options(fifth)}
        if self.ssl is not None:
            options["ssl"] = self.ssl
        return _Link(self.url(), options)

    def _errors(self) -> tuple[type[Exception], ...]:
        if not self.is_redis:
            from amqp.exceptions import AMQPError

            return (AMQPError,)
        from redis import RedisError

        return (RedisError,)

    def close(self) -> None:
        while self._idle and self._pid == os.getpid():
            self._idle.pop().close()

    # ---- publishing -------------------------------------------------------------------------------------------------

    def publish(self, publications: Sequence[Publication]) -> None:
        until = time.monotonic() + self.settings.enqueue_timeout
        with self._link() as link:
            for start in range(0, len(publications), BATCH):
                if time.monotonic() > until:
                    raise TimeoutError(f"it took {start} of {len(publications)} messages in time")
                with link.producer.batch(BATCH):
                    for publication in publications[start : start + BATCH]:
                        self._publish(link, publication)

    def _publish(self, link: _Link, publication: Publication) -> None:
        message, id, header = publication.message, publication.native_id, dict(publication.header())
        args, kwargs = publication.shown
        body = json.dumps([args, kwargs, EMBED])
        if '"__type__"' in body:
            # kombu's JSON reads objects out of such dictionaries. The arguments of the record are not touched by it.
            args, kwargs, header["private"] = ["(in the record)"], {}, True
            body = json.dumps([args, kwargs, EMBED])
        queue = self.queue(message.queue)
        link.producer.publish(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            # The default exchange goes to the queue by its name: a broker that lost its bindings loses no message.
            exchange="",
            routing_key=queue.name,
            declare=None if self.is_redis else [queue],
            priority=self.priority(split_route(message.route)[2]),
            correlation_id=id,
            reply_to="",
            headers={
                "lang": "py",
                "task": message.task,
                "id": id,
                "root_id": message.id,
                "parent_id": None,
                "group": None,
                "shadow": None,
                "eta": None,
                "expires": None,
                "retries": 0,
                "timelimit": [None if message.timeout is None else message.timeout + BACKSTOP, None],
                "argsrepr": _short(tuple(args)),
                "kwargsrepr": _short(kwargs),
                "origin": f"queuekit@{os.getpid()}",
                HEADER: header,
            },
        )

    def depth(self, route: str) -> int | None:
        """On Redis the length of the list that kombu keeps for a queue and a priority."""
        if not self.is_redis:
            return None  # RabbitMQ counts a queue, not its levels
        _, name, level = split_route(route)
        priority = self.priority(level)
        with self._link() as link:
            key = self.queue(name).name + (f"{link.channel.sep}{priority}" if priority else "")
            length: int = link.channel.client.llen(key)
            return length


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= REPR else text[: REPR - 3] + "..."
