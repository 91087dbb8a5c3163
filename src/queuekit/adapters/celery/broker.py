"""Publishing through kombu, Celery's own messaging: the messages of Celery's protocol 2, by connections of our own.

Celery's producer pool waits for a broker as long as it takes to come back; an enqueue must not.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
import uuid
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer

from queuekit.adapters import BrokerAway
from queuekit.clients import await_name
from queuekit.message import BUCKETS, HEADER, bucket, shown_of, split_route
from queuekit.payload.arguments import as_json
from queuekit.settings import redact
from queuekit.store import Wire, WireForm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.message import Message, Publication
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings

    _Native = tuple[Queue, str, dict[str, Any]]  # where to, the body, and what goes around it

__all__ = ["BACKSTOP", "Broker"]

BACKSTOP: Final = 5.0  # seconds over its limit after which Celery kills a prefork child
BATCH: Final = 500
LEVEL: Final = ":"  # between a queue's name, in which it cannot be, and its priority level
REPR: Final = 1024  # characters of the arguments that monitors are shown
SEP: Final = "\x06\x16"  # kombu's, between a queue's name and a priority that is not 0
HEALTH: Final = 5  # seconds between two looks at the connection that waits for messages
# The pool solo runs jobs in the loop that would send AMQP's heartbeats, and has none: the system asks the other side,
# after so many seconds, three times. py-amqp's own settings take 150 s.
KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 4, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)  # macOS has another name for the first
}
T = TypeVar("T")

# kombu's JSON reads objects out of dictionaries with this key. The arguments of the record are not touched by it.
LOOKS_LIKE_AN_OBJECT: Final = '"__type__"'
EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class _Link:
    """One connection, for one thread at a time."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.connection = Connection(url, **options)
        try:
            self.connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            self.channel: Any = self.connection.channel()
            self.producer = Producer(self.channel, auto_declare=False)
        except BaseException:
            self.close()
            raise

    def send(self, messages: Sequence[_Native], until: float) -> None:
        """All of them, in order. `until` by time.monotonic(). Raises the connection's errors, or TimeoutError."""
        for start in range(0, len(messages), BATCH):
            if time.monotonic() > until:
                raise TimeoutError(f"it took {start} of {len(messages)} messages in time")
            with self.producer.batch(BATCH):
                for queue, body, options in messages[start : start + BATCH]:
                    # The default exchange goes to the queue by its name: a broker that lost its bindings loses nothing.
                    self.producer.publish(body, exchange="", routing_key=queue.name, **options)

    def waiting(self, queue: Queue, priority: int) -> int:
        """The length of the list that kombu keeps for a queue and a priority."""
        key = queue.name + (f"{self.channel.sep}{priority}" if priority else "")
        length: int = self.channel.client.llen(key)
        return length

    def close(self) -> None:
        with suppress(Exception):  # it is given up: whatever state it is in
            self.connection.release()


class Broker:
    """The broker, as a publisher sees it. Any thread may use it, and a forked child starts with no connection."""

    def __init__(self, settings: Settings) -> None:
        assert settings.broker_url is not None
        self.settings = settings
        self.is_redis = not settings.broker_url.startswith("amqp")
        self._named: dict[str, Queue] = {}  # kombu takes longer to make one than to send a message to it
        self._idle: deque[_Link] = deque()
        self._pid = os.getpid()
        self._parents: deque[_Link] | None = None

    # ---- names ------------------------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        return f"queuekit.{self.settings.namespace}."

    @property
    def keeps_books(self) -> bool:
        """Whether a worker writes down in Redis what it has taken: where the record may not know of it. Otherwise that
        would be half of what the parent of its children does, for a message that the record rings again sooner."""
        return self.settings.adopt or self.settings.store_lost == "adopt"

    @property
    def queue_per_level(self) -> bool:
        """On RabbitMQ each priority level is a queue of its own: its depth can be told then, quorum queues can be used
        (which know no priorities before RabbitMQ 4), and the lowest one is declared as Celery by itself would."""
        return not self.is_redis

    def queue(self, name: str, level: int = 0) -> Queue:
        """Bound to an exchange of its own name, as Celery does for a queue that nobody configured."""
        full = self.prefix + name
        if self.queue_per_level and bucket(level):
            full += f"{LEVEL}{bucket(level)}"
        found = self._named.get(full)
        if found is None:
            quorum = {"x-queue-type": "quorum"} if not self.is_redis and self.settings.amqp_queues == "quorum" else None
            found = Queue(full, Exchange(full, "direct"), routing_key=full, queue_arguments=quorum)
            self._named[full] = found
        return found

    def queues(self, name: str) -> list[Queue]:
        """All that a worker consumes for it, the highest level first."""
        levels = reversed(BUCKETS) if self.queue_per_level else (0,)
        return [self.queue(name, level) for level in levels]

    def owns(self, full: str) -> bool:
        """Whether a queue of that name in the broker is one of queuekit's, in this namespace."""
        return full.startswith(self.prefix)

    def base(self, full: str) -> str:
        """The queue in queuekit's words, of one in the broker."""
        return full.removeprefix(self.prefix).partition(LEVEL)[0]

    def level(self, full: str, native: int | None, otherwise: int) -> int:
        """The priority of a native message, 0 to 9; `otherwise` where its producer has named none. On Redis it cannot
        be told from kombu's 0, which is its default."""
        if self.queue_per_level:
            level = full.partition(LEVEL)[2]
            return int(level) if level else otherwise if native is None else min(max(native, 0), 9)
        return 9 - min(native, 9) if native else otherwise

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
        url = self.settings.broker_url or ""
        scheme, _, rest = url.partition("://")
        if scheme == "amqps":  # kombu takes 127.0.0.1 for localhost, which is the name of no certificate
            return {"server_hostname": urlsplit(url).hostname}
        return {"ssl_cert_reqs": "required"} if scheme == "rediss" and "ssl_cert_reqs" not in rest else None

    def transport_options(self, timeout: float) -> dict[str, Any]:
        if not self.is_redis:
            return {"read_timeout": timeout, "write_timeout": timeout, "socket_settings": KEEPALIVE}
        # The keys that hold what was delivered and not acknowledged are shared by all Celery apps of a Redis, each with
        # a timeout of its own, unless they are told apart. A redelivery is dropped; without one a dead worker's entries
        # would stay: hence a day.
        own = f"queuekit.{self.settings.namespace}:unacked"
        return {
            "ack_emulation": self.keeps_books,
            "visibility_timeout": 86400,
            "unacked_key": own,
            "unacked_index_key": f"{own}_index",
            "unacked_mutex_key": f"{own}_mutex",
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            # A BRPOP without an answer: found after 6 to 11 s in place of kombu's 26 to 51.
            "health_check_interval": HEALTH,
        }

    def _use(self, call: Callable[[_Link], T]) -> T:
        """What the call gives with a connection of this thread. Raises BrokerAway."""
        if self._pid != os.getpid():
            # A forked child neither uses the parent's connections nor closes them: kept, so that nobody does.
            self._parents, self._idle, self._pid = self._idle, deque(), os.getpid()
        while True:
            link: _Link | None = None
            used = bool(self._idle)
            try:
                link = self._idle.pop() if used else self._open()
                found = call(link)
            except (OSError, KombuError, *self._errors()) as error:
                if link is not None:
                    link.close()
                if used and not self.is_redis and not isinstance(error, (TimeoutError, BlockingIOError)):
                    # The server may have closed it long ago. redis-py would have seen that, and connected again.
                    continue
                assert self.settings.broker_url is not None
                raise BrokerAway(f"the broker {redact(self.settings.broker_url)} does not answer: {error}") from error
            except BaseException:
                if link is not None:
                    link.close()
                raise
            self._idle.append(link)
            return found

    def await_name(self, timeout: float) -> None:
        """Until the broker's name is looked up, for which kombu waits as long as the system. Raises TimeoutError."""
        host = urlsplit(self.settings.broker_url or "").hostname
        if host:
            await_name(host, timeout)

    def _open(self) -> _Link:
        # Looking up the name, connecting, its greeting, a ping, and the message: each may take a fifth, and all of it
        # enqueue_timeout. On RabbitMQ the first two may, and then the whole of the rest three fifths.
        fifth = self.settings.enqueue_timeout / 5
        answer = min(2.0, fifth) if self.is_redis else 3 * fifth
        self.await_name(min(2.0, fifth))
        options = {"connect_timeout": min(2.0, fifth), "transport_options": self.transport_options(answer)}
        if self.ssl is not None:
            options["ssl"] = self.ssl
        if self.is_redis:
            return _Link(self.url(), options)
        from queuekit.adapters.celery.rabbit import RabbitLink

        return RabbitLink(self.url(), options)

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
        until = time.monotonic() + self.settings.enqueue_timeout * (1 if self.is_redis else 0.6)
        messages = [self._native(one) for one in publications]
        self._use(lambda link: link.send(messages, until))

    def _native(self, publication: Publication) -> _Native:
        message, id = publication.message, publication.native_id
        args, kwargs, header = publication.within(self.settings.shown_limit)
        body = json.dumps([args, kwargs, EMBED])
        if LOOKS_LIKE_AN_OBJECT in body:
            args, kwargs, header = publication.left_out()
            body = json.dumps([args, kwargs, EMBED])
        level = split_route(message.route)[2]
        headers = {
            **_same(message),
            "id": id,
            "root_id": message.id,
            "argsrepr": _short(tuple(args)),
            "kwargsrepr": _short(kwargs),
            "origin": origin(),
            HEADER: dict(header),
        }
        options = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "priority": self.priority(level),
            "correlation_id": id,
            "reply_to": "",
            "headers": headers,
        }
        return self.queue(message.queue, level), body, options

    def wiring(self, like: Message) -> Callable[[str, Arguments], Wire] | None:
        """What kombu's Redis transport sends; it takes four times as long over it."""
        if not self.is_redis:
            return None
        _, name, level = split_route(like.route)
        queue, step = self.queue(name, level).name, self.priority(level)
        form = WireForm(("LPUSH", f"{queue}{SEP}{step}" if step else queue, WireForm.DOORBELL))
        shown_as = shown_of(like, self.settings.shown_limit, unfit=_looks_like_an_object)
        same = json.dumps(_same(like))[1:-1]
        properties = {
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": step,
            "body_encoding": "base64",
        }
        around = {"content-encoding": "utf-8", "content-type": "application/json", "properties": properties}
        rest = json.dumps(around)[1:-2]  # the properties are its last, and stay open
        embed = json.dumps(EMBED)

        def wire(id: str, arguments: Arguments) -> Wire:
            shown, (before, between, then, behind) = shown_as(arguments)
            body = f"[{shown.args_text},{shown.kwargs_text},{embed}]"
            args, kwargs = as_json(_short(tuple(shown.args))), as_json(_short(shown.kwargs))
            encoded, tag = base64.b64encode(body.encode()).decode(), uuid.uuid4()
            named = f'"id":"{id}","root_id":"{id}","origin":"{origin()}","argsrepr":{args},"kwargsrepr":{kwargs}'
            first = f'{{"body":"{encoded}",{rest},"correlation_id":"{id}","delivery_tag":"{tag}"}},"headers":{{{same}'
            return Wire(form, (f'{first},{named},"{HEADER}":{before}{id}{between}', then, behind + "}}"))

        return wire

    def depth(self, route: str) -> int:
        _, name, level = split_route(route)
        queue, priority = self.queue(name, level), self.priority(level)
        return self._use(lambda link: link.waiting(queue, priority))


def origin() -> str:
    return f"queuekit@{os.getpid()}"


def _same(like: Message) -> dict[str, Any]:
    """The headers of Celery's in which messages like this one do not differ."""
    return {
        "lang": "py",
        "task": like.task,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None if like.timeout is None else like.timeout + BACKSTOP, None],
    }


def _looks_like_an_object(arguments: Arguments) -> bool:
    return LOOKS_LIKE_AN_OBJECT in arguments.args_text or LOOKS_LIKE_AN_OBJECT in arguments.kwargs_text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= REPR else text[: REPR - 3] + "..."
