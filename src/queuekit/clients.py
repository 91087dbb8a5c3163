"""How we talk to Redis where nobody may be kept waiting: try once, and within a known time; alone, by Sentinel or on a
cluster."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

__all__ = [
    "Asking", "ask_all", "await_name", "connect", "names_in_time", "one_try", "open_cluster", "packed",
    "refuse_cluster",
]  # fmt: skip


def one_try(timeout: float) -> dict[str, Any]:
    """Options for redis-py, which by default waits 5 s and tries 10 times.

    `timeout`: seconds for connecting, and for an answer each. Protocol 2 has no greeting whose answer would be waited
    for as well.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def connect(url: str, *, setting: str = "broker_url", **options: Any) -> redis.Redis:
    """A client for a URL that the settings have checked; `options` go to redis-py's connections. Connects at first use.

    Raises ConfigError for what redis-py cannot read; `setting` names it.
    """
    import redis

    if url.startswith("sentinel://"):
        return _by_sentinel(url, options)
    try:
        pool = _quick_pool().from_url(url, **options)
        pool.connection_class = names_in_time(pool.connection_class)
        return redis.Redis(connection_pool=pool)
    except ValueError as error:
        raise ConfigError(
            f"{setting} cannot be read: {error}; give redis://HOST:PORT/DB, rediss:// or unix://"
        ) from None


@cache
def _quick_pool() -> type[Any]:
    """redis-py's pool, which tells its books of each connection that it gives and gets back, but for those of
    ask_all(): that took as long as half of a round trip."""
    import redis

    class Pool(redis.ConnectionPool):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._kept: list[Any] = []  # in use, as far as redis-py's books go
            self._of = os.getpid()

        def get_connection(self, *args: Any, **options: Any) -> Any:
            if self._of != os.getpid():  # redis-py's books forget the parent's as well
                self._kept, self._of = [], os.getpid()
            with suppress(IndexError):  # of several threads, one takes the last
                connection = self._kept.pop()
                with suppress(redis.RedisError, OSError):
                    if not connection.can_read():
                        return connection
                super().release(connection)  # the server has closed it: redis-py opens it again
            return super().get_connection(*args, **options)

        def keep(self, connection: Any) -> None:
            """release(), by whoever has read all that comes from it."""
            if self._of == os.getpid() and connection.is_connected:
                self._kept.append(connection)
            else:
                self.release(connection)

        def disconnect(self, inuse_connections: bool = True) -> None:
            while self._of == os.getpid() and self._kept:
                self.release(self._kept.pop())
            super().disconnect(inuse_connections)

    return Pool


def ask_all(client: redis.Redis, commands: Sequence[bytes | Sequence[str | float]]) -> list[Any]:
    """The answers to commands, packed() ones among them, with errors of the server. Raises redis.RedisError where one
    does not come.

    A pipeline of redis-py's, but for its retries, which a client by one_try() has none of, and for telling how long it
    took.
    """
    return Asking(client, commands).answers()


class Asking:
    """Commands that are sent, and whose answers are still to be taken: by answers(), or nobody wants them: drop().
    Raises redis.RedisError."""

    __slots__ = ("_connection", "_count", "_pool")

    def __init__(self, client: redis.Redis, commands: Sequence[bytes | Sequence[str | float]]) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._count = len(commands)
        try:
            text = b"".join([one if type(one) is bytes else packed(one) for one in commands])
            self._connection.send_packed_command([text])  # type: ignore[no-untyped-call]  # redis-py has few types here
        except BaseException:
            self.drop()
            raise

    def answers(self) -> list[Any]:
        """See ask_all(). Called once."""
        from redis.exceptions import ResponseError

        answers: list[Any] = []
        try:
            for _ in range(self._count):
                try:
                    answers.append(self._connection.read_response())
                except ResponseError as error:
                    answers.append(error)
        finally:
            if len(answers) == self._count:
                getattr(self._pool, "keep", self._pool.release)(self._connection)
            else:
                self.drop()
        return answers

    def drop(self) -> None:
        """What comes yet is nobody's."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def packed(command: Sequence[str | float]) -> bytes:
    """A command as Redis reads it. As redis-py packs it, in a quarter of the time."""
    texts = [one if type(one) is str else one.__str__() if isinstance(one, str) else repr(one) for one in command]
    whole = "".join([f"${len(one)}\r\n{one}\r\n" for one in texts])
    if not whole.isascii():  # lengths are in bytes
        whole = "".join([f"${len(one.encode('utf-8', 'surrogatepass'))}\r\n{one}\r\n" for one in texts])
    return f"*{len(texts)}\r\n{whole}".encode("utf-8", "surrogatepass")


# ---- names ---------------------------------------------------------------------------------------------------------


def names_in_time(base: type[Any]) -> type[Any]:
    """A class of redis-py's connections whose socket_connect_timeout covers the look-up of the host's name as well: the
    system waits for a name server that does not answer for 10 s and more, whatever a socket's timeout is."""
    import redis

    class Connection(base):  # type: ignore[misc]  # the class follows from the URL's scheme
        socket_connect_timeout: float | None

        def connect(self) -> None:
            host, whole = getattr(self, "host", None), self.socket_connect_timeout
            # a Unix socket, or no hurry, or nothing to do: redis-py asks for each command
            if host is None or not whole or self.is_connected:
                super().connect()
                return
            began = time.monotonic()
            try:
                await_name(host, whole)
            except TimeoutError as error:
                raise redis.TimeoutError(str(error)) from None
            self.socket_connect_timeout = max(whole - (time.monotonic() - began), whole / 10)
            try:
                super().connect()
            finally:
                self.socket_connect_timeout = whole

    return Connection


def await_name(host: str, timeout: float) -> None:
    """Wait until the system knows the host's address, or that there is none. Raises TimeoutError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return
    with _lock:
        looked_up = _looking_up.get(host)
        if looked_up is None:  # one look-up a name, however many wait for it: it cannot be called off
            looked_up = _looking_up[host] = threading.Event()
            threading.Thread(target=_look_up, args=[host, looked_up], name="queuekit-dns", daemon=True).start()
    if not looked_up.wait(timeout):
        raise TimeoutError(f"no name server has answered for {host!r} in {timeout:.1f} s")


def _look_up(host: str, done: threading.Event) -> None:
    try:
        # What it says, an error too, is for whoever connects: they ask again, at a name server that answers.
        with suppress(OSError, UnicodeError):
            socket.getaddrinfo(host, None)
    finally:
        with _lock:
            _looking_up.pop(host, None)
        done.set()


_lock = threading.Lock()
_looking_up: dict[str, threading.Event] = {}


def _after_fork() -> None:  # the threads are the parent's
    global _lock
    _lock = threading.Lock()
    _looking_up.clear()


os.register_at_fork(after_in_child=_after_fork)


# ---- several hosts -------------------------------------------------------------------------------------------------


def _by_sentinel(url: str, options: dict[str, Any]) -> redis.Redis:
    """The master that the sentinels name, asked anew at each connection: it is another one after a failover."""
    from redis.sentinel import Sentinel

    parts = urlsplit(url)
    hosts = _hosts(parts.netloc, 26379)
    service, _, db = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query))
    each = {**options, "max_connections": 2}
    for name in ("socket_timeout", "socket_connect_timeout"):
        if each.get(name):  # they are asked one after the other
            each[name] = each[name] / len(hosts)
    for name in ("username", "password"):
        if f"sentinel_{name}" in query:
            each[name] = query[f"sentinel_{name}"]
    each["decode_responses"] = True
    # Redis-py logs in at the sentinels with the database's password where none is given for them.
    each.setdefault("username", None)
    each.setdefault("password", None)
    sentinels: Any = Sentinel(hosts, sentinel_kwargs=each)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinels.master_for(service, db=int(db or 0), **_login(parts.netloc), **options)
    return client


def open_cluster(url: str, **options: Any) -> redis.RedisCluster:
    """A client for redis+cluster:// or rediss+cluster://. Connects at once, to learn who has which keys: raises
    redis.RedisError or redis.exceptions.RedisClusterException."""
    from redis.cluster import ClusterNode, RedisCluster
    from redis.connection import parse_url

    parts = urlsplit(url)
    if parts.scheme.startswith("rediss"):
        # The query is redis-py's: let it read that, and take what it made of it.
        said = parse_url(f"rediss://node/?{parts.query}")  # type: ignore[no-untyped-call]
        options |= {name: value for name, value in said.items() if name.startswith("ssl_")} | {"ssl": True}
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379)]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=nodes, **_login(parts.netloc), **options)


def refuse_cluster(url: str) -> None:
    """An engine's own keys lie in many slots, of which its scripts and transactions take several at once. Says nothing
    where the broker is away or does not tell. Raises ConfigError."""
    import redis

    client = connect(url, **one_try(2.0))
    try:
        enabled = client.info("cluster").get("cluster_enabled")
    except redis.RedisError:
        return
    finally:
        client.close()
    if enabled:
        raise ConfigError(
            "broker_url leads to a node of a Redis Cluster, on which Celery, RQ and Dramatiq cannot keep their queues "
            "(their transactions and scripts take keys of several slots). Set broker_url to a single Redis or "
            "sentinel://, or to RabbitMQ; the records may stay on the cluster: store_url=redis+cluster://HOST:PORT"
        )


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for one in netloc.rpartition("@")[2].split(","):
        host, colon, port = one.rpartition(":")
        if not colon or "]" in port:  # no port; an IPv6 address is in brackets
            host, port = one, str(default_port)
        found.append((host.strip("[]"), int(port)))
    return found


def _login(netloc: str) -> dict[str, Any]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    return {"username": unquote(user) or None, "password": unquote(password) or None}
