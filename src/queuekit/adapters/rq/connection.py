"""The user's own Redis connection: one like it for ourselves, and a URL for the steward, which knows only settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import redis
from redis.sentinel import SentinelConnectionPool
from rq.connections import get_connection_kwargs

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["alike", "check", "same_server", "url_of"]

TLS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
UNSAYABLE: Final = ("credential_provider", "redis_connect_func", "ssl_ca_data", "ssl_password")
_REMEDY: Final = "give the URL too: install(connection, broker_url=...), or QUEUEKIT_BROKER_URL"


def check(connection: Any) -> redis.Redis:
    """Raises ConfigError for what is no connection that RQ could use."""
    if isinstance(connection, redis.RedisCluster):
        raise ConfigError(
            "redis=RedisCluster(...): RQ's keys lie in many slots, and its scripts and pipelines take several at once. "
            "Give RQ a connection to a single Redis; the store may stay on the cluster "
            "(store_url=redis+cluster://HOST:PORT)"
        )
    if not isinstance(connection, redis.Redis):
        raise ConfigError(f"redis={type(connection).__name__}: give the redis.Redis that your RQ queues are made with")
    return connection


def alike(connection: redis.Redis, **options: Any) -> redis.Redis:
    """A client of the same server and the same login, with a pool and these options of its own."""
    kwargs = {**get_connection_kwargs(connection), "decode_responses": False, **options}
    pool = connection.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        for name in ("host", "port", "connection_pool"):
            kwargs.pop(name, None)
        kwargs["connection_class"] = pool.connection_class
        again = SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **kwargs)  # type: ignore[no-untyped-call]
        return redis.Redis(connection_pool=again)
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **kwargs))


def url_of(connection: redis.Redis) -> str:
    """The URL that leads to the same server. Raises ConfigError where no URL can say what the connection does."""
    pool, said = connection.connection_pool, get_connection_kwargs(connection)
    for name in UNSAYABLE:
        if said.get(name) is not None:
            raise ConfigError(
                f"the connection's {name} cannot stand in a URL, which the steward connects by: {_REMEDY}"
            )
    login = _login(said)
    db = said.get("db") or 0
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel_url(pool, login, db)
    if said.get("path"):
        return f"unix://{login}{quote(said['path'])}?db={db}"
    tls = issubclass(pool.connection_class, redis.SSLConnection)
    host = said.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    return f"{'rediss' if tls else 'redis'}://{login}{host}:{said.get('port', 6379)}/{db}{_query(said) if tls else ''}"


def _login(said: Mapping[str, Any]) -> str:
    user, password = said.get("username"), said.get("password")
    if not user and not password:
        return ""
    return f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@"


def _query(said: Mapping[str, Any]) -> str:
    options = {name: getattr(said[name], "name", said[name]) for name in TLS if said.get(name) is not None}
    if "ssl_cert_reqs" in options:  # a word, or ssl.CERT_NONE
        options["ssl_cert_reqs"] = str(options["ssl_cert_reqs"]).removeprefix("CERT_").lower()
    return f"?{urlencode(options)}" if options else ""


def _sentinel_url(pool: SentinelConnectionPool, login: str, db: int) -> str:
    if issubclass(pool.connection_class, redis.SSLConnection):
        raise ConfigError(f"a connection by Sentinel with TLS has no URL: {_REMEDY}")
    watchers = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    hosts = ",".join(f"{one['host']}:{one['port']}" for one in watchers)
    secret = {name: watchers[0].get(name) for name in ("username", "password") if watchers and watchers[0].get(name)}
    query = f"?{urlencode({f'sentinel_{name}': value for name, value in secret.items()})}" if secret else ""
    return f"sentinel://{login}{hosts}/{pool.service_name}/{db}{query}"


def same_server(one: redis.Redis, other: redis.Redis) -> bool | None:
    """Whether both lead to the same database of the same server; None: it cannot be told."""
    databases = {client.connection_pool.connection_kwargs.get("db") or 0 for client in (one, other)}
    if len(databases) > 1:
        return False
    try:
        ids = [client.info("server").get("run_id") for client in (one, other)]
    except redis.RedisError:  # away, or not allowed
        return None
    return None if None in ids else ids[0] == ids[1]
