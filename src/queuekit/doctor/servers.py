"""The Redis or Valkey servers of store and broker: whether they answer, what they delete, what outlives their restart.

INFO says nearly all of it, and the users that docs/how-to/deploy-redis.md describes may call it; CONFIG GET they may
not.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from queuekit.adapters import BrokerAway
from queuekit.adapters.findings import Finding, Severity
from queuekit.clients import connect, one_try, open_cluster
from queuekit.message import BUCKETS
from queuekit.settings import redact
from queuekit.settings.urls import AMQP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.adapters import Adapter
    from queuekit.doctor import Patient
    from queuekit.settings import Settings

__all__ = ["Server", "ask", "check_append_only", "check_broker", "check_eviction", "check_store"]

CLUSTER: Final = ("redis+cluster", "rediss+cluster")
STORE, BROKER, BOTH = "store", "broker", "store and broker"


@dataclass
class Server:
    """One server, as it described itself.

    Attributes:
        role: "store", "broker" or "store and broker".
        info: of INFO; empty where that was refused or nothing has answered.
        away: why it does not answer; empty where it does.
        refused: why it does not tell; empty where it does.
        appendfsync: of CONFIG GET; None where that was refused.
        cli: the command line that reaches it, but for a password.
    """

    role: str
    url: str
    cli: str
    user: str
    info: dict[str, Any] = field(default_factory=dict)
    away: str = ""
    refused: str = ""
    appendfsync: str | None = None

    @property
    def keeps_records(self) -> bool:
        return self.role != BROKER

    def __str__(self) -> str:
        return f"the {self.role} {redact(self.url)}"


def ask(settings: Settings) -> list[Server]:
    """The store's server, and the broker's where that is one and another."""
    store = _ask(STORE, settings.resolved_store_url, settings)
    if settings.broker_url is None or settings.broker_url.startswith(AMQP):
        return [store]
    if settings.broker_url == settings.resolved_store_url:
        store.role = BOTH
        return [store]
    broker = _ask(BROKER, settings.broker_url, settings)
    if broker.info and broker.info.get("run_id") == store.info.get("run_id"):  # by another name, or database
        store.role = BOTH
        return [store]
    return [store, broker]


def _ask(role: str, url: str, settings: Settings) -> Server:
    import redis.exceptions

    server = Server(role, url, _cli(url), _user(url))
    client: Any = None
    try:
        client, where = _open(url, settings)
        try:
            server.info = client.info(**where)
        except redis.ResponseError as error:
            server.refused = str(error)
        with suppress(redis.ResponseError):
            server.appendfsync = client.config_get("appendfsync", **where).get("appendfsync")
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        server.away = str(error) or type(error).__name__
    finally:
        if client is not None:
            client.close()
    return server


def _open(url: str, settings: Settings) -> tuple[Any, dict[str, Any]]:
    """A client, and for a cluster the node that keeps the records of the namespace."""
    options = {**one_try(settings.store_timeout), "decode_responses": True}
    if urlsplit(url).scheme not in CLUSTER:
        return connect(url, setting="store_url", **options), {}
    client: Any = open_cluster(url, **options)
    return client, {"target_nodes": client.get_node_from_key(f"queuekit:{{{settings.namespace}}}:")}


def _cli(url: str) -> str:
    """redis-cli, as it reaches that server; a password is asked for."""
    parts = urlsplit(url)
    words = ["redis-cli"]
    if parts.scheme == "unix":
        words += ["-s", unquote(parts.path)]
    elif parts.scheme in {"redis", "rediss"}:
        words += ["-h", parts.hostname or "localhost", "-p", str(parts.port or 6379)]
    elif parts.scheme == "sentinel":
        words += ["-h", "MASTER"]
    else:
        words += ["-h", "NODE"]  # each of them
    if parts.scheme.startswith("rediss"):
        words.append("--tls")
    if parts.password:
        words += ["--user", _user(url), "--askpass"]
    return shlex.join(words)


def _user(url: str) -> str:
    parts = urlsplit(url)
    # A lone user name may be a token, which is not for showing.
    return unquote(parts.username) if parts.username and parts.password else "default"


# ---- do they answer ------------------------------------------------------------------------------------------------


def check_store(patient: Patient) -> Iterator[Finding]:
    server = next(one for one in patient.servers if one.keeps_records)
    if server.away:
        patient.away = server.away
        yield Finding(
            "store",
            Severity.error,
            f"{server} does not answer: {server.away}",
            "nothing can be enqueued, and no job starts: enqueue() raises EnqueueError",
            f"start it, or set store_url; ask it from here: {server.cli} PING",
        )
        return
    patient.store.now()  # the rights that records need are another matter than those for INFO
    yield Finding("store", Severity.ok, f"{server} answers")


def check_broker(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if settings.broker_url is None:
        yield Finding(
            "broker", Severity.unchecked, "broker_url is not set here: the broker was not looked at",
            remedy="--broker-url URL, or run it where a worker runs",
        )  # fmt: skip
        return
    server = next((one for one in patient.servers if one.role != STORE), None)
    if server is not None and server.away:
        if server.role == BROKER:
            yield _broker_away(settings, server.away, f"{server.cli} PING")
        return  # where it is the store as well, that is said already
    if server is None and not patient.adapters:
        yield Finding(
            "broker",
            Severity.unchecked,
            f"the broker {redact(settings.broker_url)} was not looked at, since no engine is named",
            remedy="--backend celery, or dramatiq",
        )
    for adapter in patient.adapters.values():
        yield _depth(patient, adapter)
    if not patient.adapters and server is not None:
        yield Finding("broker", Severity.ok, f"{server} answers")


def _depth(patient: Patient, adapter: Adapter) -> Finding:
    try:
        adapter.depth(f"{adapter.name}:default:{BUCKETS[0]}")
    except BrokerAway as error:
        return _broker_away(patient.settings, str(error), "see its log")
    return Finding(
        "broker", Severity.ok, f"{adapter.name} reaches its broker {redact(patient.settings.broker_url or '')}"
    )


def _broker_away(settings: Settings, error: str, ask: str) -> Finding:
    return Finding(
        "broker",
        Severity.error,
        f"the broker {redact(settings.broker_url or '')} does not answer: {error}",
        "what is enqueued is recorded, and starts when the broker is back",
        f"start it, or set broker_url; ask it from here: {ask}",
    )


# ---- what they delete, and what they keep --------------------------------------------------------------------------


def _told(patient: Patient, check: str) -> Iterator[tuple[Server, Finding | None]]:
    """Each server that answers, with a finding where it does not say how it is configured."""
    for server in patient.servers:
        if server.away:
            continue
        unknown = None
        if not server.info:
            unknown = Finding(
                check,
                Severity.unchecked,
                f"{server} does not say how it is configured: {server.refused}",
                remedy=f"give the user the right for INFO: ACL SETUSER {server.user} +info",
            )
        yield server, unknown


def check_eviction(patient: Patient) -> Iterator[Finding]:
    for server, unknown in _told(patient, "eviction"):
        policy = server.info.get("maxmemory_policy")
        if unknown is not None or policy is None:
            yield unknown or Finding("eviction", Severity.unchecked, f"{server} does not name its maxmemory-policy")
            continue
        if policy == "noeviction":
            yield Finding("eviction", Severity.ok, f"{server} deletes nothing when it is full (noeviction)")
            continue
        limit = int(server.info.get("maxmemory", 0))
        if not server.keeps_records:
            what = "messages of jobs that wait: each is found missing a lease after its turn, and published again"
        elif policy.startswith("volatile"):
            what = "results, dead letters and what is known of jobs that have ended, before their time"
        else:
            what = "records of jobs that wait or run: these are lost"
        yield Finding(
            "eviction",
            Severity.error if server.keeps_records and limit else Severity.warning,
            f"maxmemory-policy of {server} is {policy}",
            f"once it is full it deletes {what}"
            + (
                "" if limit else ". It has no maxmemory for now, and so never is; a limit that is set later turns it on"
            ),
            f"{server.cli} CONFIG SET maxmemory-policy noeviction, and `maxmemory-policy noeviction` in its file",
        )


def check_append_only(patient: Patient) -> Iterator[Finding]:
    for server, unknown in _told(patient, "append-only-file"):
        enabled = server.info.get("aof_enabled")
        if unknown is not None or enabled is None:
            yield unknown or Finding("append-only-file", Severity.unchecked, f"{server} does not say what it keeps")
        elif enabled:
            yield from _written(server)
        elif server.keeps_records:
            yield Finding(
                "append-only-file",
                Severity.error,
                f"{server} has no append-only file",
                "when it is started again, it has forgotten all jobs since its last snapshot, if it makes any",
                f"{server.cli} CONFIG SET appendonly yes, and `appendonly yes` and `appendfsync everysec` in its file",
            )
        else:
            yield Finding(
                "append-only-file",
                Severity.hint,
                f"{server} has no append-only file",
                "jobs whose messages it forgets at a restart are published again, a lease after their turn; native "
                "messages of your own are gone",
                f"{server.cli} CONFIG SET appendonly yes, and `appendonly yes` in its file",
            )


def _written(server: Server) -> Iterator[Finding]:
    status = server.info.get("aof_last_write_status", "ok")
    if status != "ok":
        yield Finding(
            "append-only-file",
            Severity.error,
            f"{server} could not write its append-only file (aof_last_write_status: {status})",
            "it refuses writes: nothing is enqueued, and no outcome is recorded",
            "see its log; its disk may be full",
        )
    elif server.appendfsync is None:
        yield Finding("append-only-file", Severity.ok, f"{server} has an append-only file")
        yield Finding(
            "append-only-file",
            Severity.unchecked,
            f"appendfsync of {server} could not be read: the user {server.user!r} has no right for CONFIG GET",
            remedy=f"ACL SETUSER {server.user} +config|get; or see that its file says `appendfsync everysec`",
        )
    elif server.appendfsync == "no":
        yield Finding(
            "append-only-file",
            Severity.hint,
            f"{server} has an append-only file, and leaves it to the system when that is written (appendfsync no)",
            "when the machine goes down, half a minute may be missing; nothing is when the process alone does",
            f"{server.cli} CONFIG SET appendfsync everysec, and `appendfsync everysec` in its file",
        )
    else:
        yield Finding("append-only-file", Severity.ok, f"{server} has an append-only file ({server.appendfsync})")
