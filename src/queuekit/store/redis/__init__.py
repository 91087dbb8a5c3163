"""The store on Redis >= 6.2 or Valkey: one Lua file an operation, one hash tag a namespace, the server's clock.

Keys, under `queuekit:{NAMESPACE}:`
    job:ID          hash    the record; message, status, route, state, fence, the attempts as start1, end1, ...
    result:ID       string  the result's JSON, with its own time to live
    due:ROUTE       zset    id -> the moment from which it may run (scheduled, retrying, released)
    queued:ROUTE    zset    id -> the number of its last publication
    outbox:ROUTE    zset    id -> when to publish it again, unless somebody says that the broker has it
    route:ROUTE     hash    pseq (publications so far), mark (the highest that claims have seen)
    marks:ROUTE     zset    mark -> since when
    routes          set     every route that a job was recorded for
    workers         zset    worker incarnation -> the end of its lease
    consumers       hash    worker -> since when, and what it says of itself
    worker:W        hash    id -> the process that runs it
    cancels:W       set     ids that the worker is to cancel
    deadlines       zset    id -> when its attempt is over, whatever its worker says
    waiting         zset    jobs that are scheduled, queued or retrying, by when they were created
    running         zset    jobs that run, by when they were created
    succeeded       zset    jobs that ended so, by when they did; likewise
    cancelled       zset
    failed          zset    the dead letters
    quarantine      list    the newest first
    meta            hash    epoch, tick, run_id, suspended, quarantined (the bytes in quarantine)

All times in Redis are whole milliseconds.
"""

from __future__ import annotations

import math
import re
import secrets
import threading
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from queuekit.clients import connect, one_try, open_cluster
from queuekit.errors import ConfigError
from queuekit.job import JobStatus, Record
from queuekit.store import (
    Beat,
    Busy,
    Cancelled,
    Claim,
    Claimed,
    Created,
    Done,
    Early,
    IfEnded,
    Missing,
    NewJob,
    NoLease,
    Quarantined,
    StoreAway,
    StoreLost,
    Suspect,
    Taken,
    Unreadable,
    Unseen,
)
from queuekit.store.ends import parse_end
from queuekit.store.redis import views
from queuekit.store.views import LOOK, Page, read_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from queuekit.settings import Settings
    from queuekit.store.views import Consumer, Query, RouteCount

__all__ = ["RedisStore"]

CLUSTER = ("redis+cluster://", "rediss+cluster://")
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]+")  # no braces, and not empty: either would break the hash tag


@cache
def _source(operation: str) -> str:
    folder = resources.files(__name__) / "lua"
    return (folder / "_prelude.lua").read_text("utf-8") + (folder / f"{operation}.lua").read_text("utf-8")


@cache
def _sha(operation: str) -> str:
    return sha1(_source(operation).encode(), usedforsecurity=False).hexdigest()


class _NotConnected(ConnectionError):
    """Nothing was sent: the connection could not be made."""


def _connect(url: str, timeout: float) -> redis.Redis:
    """A client that tries once, waits `timeout` seconds at most, and tells a failed connect from a lost reply."""
    import redis.exceptions

    options = {
        **one_try(timeout),
        "driver_info": None,  # nor is it told who we are: three ways less for an enqueue from a short-lived process
        "decode_responses": True,
        "encoding_errors": "surrogatepass",  # half an emoji in an error message is no reason to lose the outcome
        "health_check_interval": 0,
        "max_connections": 1024,
    }
    if url.startswith(CLUSTER):
        try:
            # All keys of a namespace share a slot, and thus a node: of that a cluster's client asks what others do.
            return cast("redis.Redis", open_cluster(url, **options))
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise _NotConnected(str(error)) from error
    client = connect(url, setting="store_url", **options)
    pool = client.connection_pool
    base = pool.connection_class

    class Connection(base):  # type: ignore[misc,valid-type]  # the class follows from the URL's scheme
        def connect(self) -> None:
            try:
                super().connect()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                raise _NotConnected(str(error)) from error

    pool.connection_class = Connection
    return client


class RedisStore:
    """See queuekit.store.Store. `clock` gives milliseconds, for tests only: the server's clock otherwise.

    Args:
        url: redis://, rediss://, unix://, sentinel://, redis+cluster:// or rediss+cluster://.
        namespace: jobs of different namespaces never meet.
        lease: seconds without a beat after which a worker counts as gone.
        retention, dead_ttl: seconds that ended and failed jobs are kept.
        quarantine_limit, quarantine_bytes: how much the quarantine holds at most.
        timeout: seconds to wait for the server, for connecting and for an answer each.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        *,
        lease: float = 30.0,
        retention: float = 7 * 86400.0,
        dead_ttl: float = 30 * 86400.0,
        quarantine_limit: int = 10_000,
        quarantine_bytes: int = 64 * 1024 * 1024,
        timeout: float = 2.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not NAMESPACE.fullmatch(namespace):
            raise ConfigError(f"namespace={namespace!r}: give letters, digits, '_', '.' and '-' only")
        self._url, self._timeout = url, timeout
        self._connecting = threading.Lock()
        self._connected: redis.Redis | None = None if url.startswith(CLUSTER) else _connect(url, timeout)
        self._prefix = f"queuekit:{{{namespace}}}:"
        self._lease, self._retention, self._dead_ttl = _ms(lease), _ms(retention), _ms(dead_ttl)
        self._quarantine = (quarantine_limit, quarantine_bytes)
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> RedisStore:
        """The store of these settings. Connecting and two answers (a script that the server does not know is sent
        again) fit into enqueue_timeout."""
        return cls(
            settings.resolved_store_url,
            settings.namespace,
            lease=settings.lease,
            retention=settings.retention,
            dead_ttl=settings.dead_letter_ttl,
            quarantine_limit=settings.quarantine_limit,
            quarantine_bytes=settings.quarantine_bytes,
            timeout=settings.store_timeout,
        )

    # ---- calls -----------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> redis.Redis:
        """A cluster's client asks for the nodes when it is made. Raises _NotConnected."""
        if self._connected is None:
            with self._connecting:
                self._connected = self._connected or _connect(self._url, self._timeout)
        return self._connected

    def _run(self, operation: str, *args: str | float) -> Any:
        import redis.exceptions

        now = "" if self._clock is None else str(int(self._clock()))
        # A new name at each call: one that was kept could name the store before and after it was emptied.
        argv = [now, self._lease, _new_epoch(), self._retention, self._dead_ttl, *args]
        try:
            try:
                return self._client.evalsha(_sha(operation), 1, self._prefix, *argv)
            except redis.exceptions.NoScriptError:  # the first call, or the server was started anew
                return self._client.eval(_source(operation), 1, self._prefix, *argv)
        except (_NotConnected, redis.exceptions.MaxConnectionsError) as error:
            raise StoreAway(f"the store cannot be reached: {error}", sent=False) from error
        except redis.exceptions.MovedError as error:
            raise _of_a_cluster() from error
        except redis.exceptions.RedisClusterException as error:  # the slot has no node for now
            raise StoreAway(f"the store refused {operation}: {error}", sent=False) from error
        except (redis.BusyLoadingError, redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:
            raise StoreAway(f"the store refused {operation}: {error}", sent=False) from error
        except (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse) as error:
            raise StoreAway(f"the store did not answer: {error}", sent=True) from error
        except redis.RedisError as error:  # read only, out of memory: refused
            raise StoreAway(f"the store refused {operation}: {error}", sent=False) from error

    def _read(self, call: Callable[[redis.Redis], Any]) -> Any:
        import redis.exceptions

        try:
            return call(self._client)
        except redis.exceptions.MovedError as error:
            raise _of_a_cluster() from error
        except (_NotConnected, redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise StoreAway(f"the store did not answer: {error}", sent=False) from error

    def close(self) -> None:
        client = self._connected
        if client is None:
            return
        client.close()
        if not self._url.startswith(CLUSTER):
            client.connection_pool.disconnect()

    def now(self) -> float:
        if self._clock is not None:
            return self._clock() / 1000
        seconds, micros = self._read(self._time)
        return cast("float", seconds + micros / 1e6)

    def _time(self, client: Any) -> Any:
        if self._url.startswith(CLUSTER):  # of the node that runs the scripts of this namespace
            return client.time(target_nodes=client.get_node_from_key(self._prefix))
        return client.time()

    def epoch(self) -> str:
        # create() and beat() make it; a reader of an empty store makes it too, so that both read the same
        key = f"{self._prefix}meta"

        def read(client: redis.Redis) -> Any:
            client.hsetnx(key, "epoch", _new_epoch())
            return client.hget(key, "epoch")

        return cast("str", self._read(read))

    # ---- enqueue and publish ---------------------------------------------------------------------------------------

    def create(self, job: NewJob) -> Created:
        created, same, epoch, pseq, number, at = self._run(
            "create", job.id, job.message, job.digest, job.route, job.token, _ms(job.result_ttl),
            _ms(job.at), _ms(job.delay), _ms(job.expires), _ms(job.expires_in),
        )  # fmt: skip
        return Created(bool(created), bool(same), epoch, pseq or None, number or 1, int(at) / 1000)

    def take_due(self, route: str, n: int) -> list[Taken]:
        return [_taken(row) for row in self._run("take_due", route, n)]

    def take_lost(self, route: str, n: int) -> list[Taken]:
        return [_taken(row) for row in self._run("take_lost", route, n)]

    def published(self, route: str, publications: Sequence[tuple[str, int]]) -> None:
        self._run("published", route, *(part for pair in publications for part in pair))

    def mark(self, route: str, depth: int | None) -> None:
        self._run("mark", route, "" if depth is None else depth)

    # ---- attempts --------------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        id: str,
        epoch: str,
        pseq: int,
        route: str,
        worker: str,
        process: str,
        token: str,
        timeout: float | None,
        seen: str,
        on_lost: IfEnded,
        on_limit: IfEnded,
        unknown_grace: float = 3600.0,
        alone: bool = True,
    ) -> Claim:
        plans = [part for plan in (on_lost, on_limit) for part in (_ms(plan.delay), plan.state, plan.end, plan.reason)]
        kind, *rest = self._run(
            "claim", id, epoch, pseq, route, worker, process, token, _ms(timeout), seen, *plans, _ms(unknown_grace),
            "1" if on_lost.spare else "", "1" if alone else "",
        )  # fmt: skip
        match kind:
            case "claimed":
                message, number, started, created, state, result_ttl, ready = rest
                return Claimed(
                    message,
                    int(number),
                    int(started) / 1000,
                    int(created) / 1000,
                    state,
                    int(result_ttl) / 1000,
                    int(ready) / 1000,
                )
            case "unseen":
                return Unseen(*rest)
            case "suspect":
                return Suspect(rest[0], bool(rest[1]))
            case "unreadable":
                return Unreadable(int(rest[0]), bool(rest[1]))
            case "busy":
                return Busy()
            case "early":
                return Early(int(rest[0]) / 1000)
            case "done":
                return Done(JobStatus(rest[0]))
            case "cancelled":
                return Cancelled(rest[0], now=len(rest) > 1)
            case "missing":
                return Missing()
            case "store_lost":
                return StoreLost(rest[0])
            case _:
                return NoLease()

    def finish(self, id: str, token: str, end: str, result: str | None) -> bool:
        return bool(self._run("finish", id, token, end, "" if result is None else "1", result or ""))

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool | Cancelled:
        return _ended(self._run("retry", id, token, end, _ms(delay), state))

    def fail(self, id: str, token: str, end: str, reason: str) -> bool:
        return bool(self._run("fail", id, token, end, reason))

    def release(self, id: str, token: str, end: str, delay: float) -> bool | Cancelled:
        return _ended(self._run("release", id, token, end, _ms(delay)))

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool:
        return bool(self._run("cancelled", id, token, end, reason))

    # ---- workers ---------------------------------------------------------------------------------------------------

    def beat(
        self, worker: str, *, start: bool = False, dead: Sequence[str] = (), about: str = "", first: float = 0.0
    ) -> Beat:
        alive, processes, cancels, lost = self._run("beat", worker, _ms(first) if start else "", about, *dead)
        return Beat(bool(alive), tuple(processes), tuple(cancels), tuple(lost))

    def leave(self, worker: str) -> list[str]:
        return cast("list[str]", self._run("leave", worker))

    def reap(self, n: int) -> list[tuple[str, str]]:
        return [(id, why) for id, why in self._run("reap", n)]

    # ---- by hand ---------------------------------------------------------------------------------------------------

    def cancel(self, id: str, reason: str) -> str:
        return cast("str", self._run("cancel", id, reason))

    def cancel_requested(self, ids: Sequence[str]) -> dict[str, str]:
        def read(client: redis.Redis) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hmget(f"{self._prefix}job:{id}", "status", "cancel")
                return pipe.execute()

        rows = self._read(read)
        return {
            id: reason
            for id, (status, reason) in zip(ids, rows, strict=True)
            if status == "running" and reason is not None
        }

    def revive(
        self, id: str, *, message: str | None = None, route: str | None = None, handed_over: bool = False
    ) -> Taken | None:
        row = self._run("revive", id, message or "", route or "", "1" if handed_over else "")
        return None if row is None else _taken(row)

    def purge(self, route: str, n: int, reason: str) -> list[str]:
        return cast("list[str]", self._run("purge", route, n, reason))

    def quarantine(self, raw: str, reason: str) -> None:
        self._run("quarantine", raw, reason, len(reason), *self._quarantine)

    def quarantined(self, n: int, skip: int = 0) -> list[Quarantined]:
        gone = self._gone(self._dead_ttl) / 1000
        rows = self._read(lambda client: client.lrange(f"{self._prefix}quarantine", skip, skip + n - 1))
        out = []
        for row in rows:
            at, size, rest = row.split("|", 2)
            out.append(Quarantined(raw=rest[int(size) :], reason=rest[: int(size)], at=int(at) / 1000))
        return [one for one in out if one.at > gone]

    # ---- reads -----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Record | None:
        def read(client: redis.Redis) -> Any:
            return client.hgetall(f"{self._prefix}job:{id}")

        row: dict[str, str] = self._read(read)
        if "message" not in row:
            return None
        due = None
        if row["status"] in {"scheduled", "retrying", "queued"}:
            due = self._read(lambda client: client.zscore(f"{self._prefix}due:{row['route']}", id))
        return Record(
            id=id,
            version=int(row.get("v", 0)),
            status=JobStatus(row["status"]),
            message=row["message"],
            route=row["route"],
            created=int(row["created"]) / 1000,
            attempt=int(row["attempt"]),
            state=row["state"],
            pseq=int(row.get("pseq", 0)),
            worker=row.get("worker", ""),
            due=None if due is None else due / 1000,
            finished=int(row["finished"]) / 1000 if "finished" in row else None,
            reason=row.get("reason", ""),
            result_ttl=int(row["result_ttl"]) / 1000,
            cancel_requested=row.get("cancel"),
            suspect=int(row.get("suspect", 0)),
            runs=tuple(_run(row[f"start{run}"], row.get(f"end{run}")) for run in range(1, int(row["runs"]) + 1)),
        )

    def status(self, id: str) -> JobStatus | None:
        status = self._read(lambda client: client.hget(f"{self._prefix}job:{id}", "status"))
        return None if status is None else JobStatus(status)

    def statuses(self, ids: Sequence[str]) -> list[JobStatus | None]:
        def read(client: redis.Redis) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hget(f"{self._prefix}job:{id}", "status")
                return pipe.execute()

        return [None if status is None else JobStatus(status) for status in self._read(read)]

    def result(self, id: str) -> str | None:
        return cast("str | None", self._read(lambda client: client.get(f"{self._prefix}result:{id}")))

    def routes(self, backend: str) -> list[str]:
        routes = self._read(lambda client: client.smembers(f"{self._prefix}routes"))
        return sorted(route for route in routes if route.startswith(f"{backend}:"))

    def dead(self, n: int) -> list[str]:
        # Entries outlive their records until a steward ticks.
        gone = self._gone(self._dead_ttl)
        return cast(
            "list[str]",
            self._read(lambda client: client.zrevrangebyscore(f"{self._prefix}failed", "+inf", f"({gone}", 0, n)),
        )

    def dead_count(self) -> int:
        gone = self._gone(self._dead_ttl)
        return cast("int", self._read(lambda client: client.zcount(f"{self._prefix}failed", f"({gone}", "+inf")))

    def _gone(self, keep: str) -> int:
        """What ended at this millisecond, or before, has been kept for so long."""
        return math.floor(round(self.now() * 1000, 3)) - int(keep)

    # ---- lists and counts ------------------------------------------------------------------------------------------

    def jobs(self, query: Query, n: int, cursor: str | None = None) -> Page:
        after = read_cursor(cursor) or ("", "")
        moment, id, rows = self._run(
            "jobs", ",".join(sorted(query.statuses)), query.task or "", query.queue or "", query.backend or "",
            "1" if query.newest_first else "", *after, n, LOOK,
        )  # fmt: skip
        return Page(tuple(views.listed(row) for row in rows), f"{moment}-{id}" if id else None)

    def counts(self) -> list[RouteCount]:
        return views.counts(self._read, self._prefix, self._gone("0"))

    def consumers(self) -> list[Consumer]:
        return views.consumers(self._read, self._prefix)


def _of_a_cluster() -> ConfigError:
    return ConfigError("store_url leads to a node of a Redis Cluster: write redis+cluster://HOST:PORT in its place")


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _ms(seconds: float | None) -> str:
    """Whole milliseconds, rounded up: a delay may never become shorter."""
    return "" if seconds is None else str(math.ceil(round(seconds * 1000, 6)))


def _ended(answer: int | str) -> bool | Cancelled:
    return Cancelled(answer) if isinstance(answer, str) else bool(answer)


def _taken(row: list[Any]) -> Taken:
    message, pseq, number, epoch = row
    return Taken(message, int(pseq), int(number), epoch)


def _run(start: str, end: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    at, number, worker = start.split("|", 2)
    began: dict[str, Any] = {"at": int(at) / 1000, "number": int(number), "worker": worker}
    if end is None:
        return began, None
    ended_at, text = end.split("|", 1)
    return began, {"at": int(ended_at) / 1000, **parse_end(text)}
