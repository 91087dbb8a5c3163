"""The store on Redis >= 6.2 or Valkey: one Lua file an operation, one hash tag a namespace, the server's clock.

Keys, under `queuekit:{NAMESPACE}:`
    job:ID          hash    the record; message, status, route, state, fence, the attempts as start1, end1, ...
    result:ID       string  the result's JSON, with its own time to live
    steps:ID        hash    step -> NUMBER|ATTEMPT|AT| and "begun", or "=" and its result
    key:KEY         string  the job that was enqueued with the unique key
    schedules       zset    schedule -> its next tick; +inf for one that is paused or over
    schedule:NAME   hash    text (its record), when, declared, paused, fired (the last tick), job (of that)
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
    waiting         zset    jobs that are waiting, scheduled, queued or retrying, by when they were created
    running         zset    jobs that run, by when they were created
    succeeded       zset    jobs that ended so, by when they did; likewise
    cancelled       zset
    failed          zset    the dead letters
    quarantine      list    the newest first
    flow:FLOW       hash    a workflow: how many of its jobs have not ended, how many have stopped it, its compensations
    members:OWNER   list    ids that a job has started, a workflow with a ~; or, with OWNER = ~FLOW, those of a workflow
    waits:ID        set     for whose ends the job waits yet; ^ the start of the workflow, ! its end, for a compensation
    forming         zset    workflows that are being recorded -> until when
    errands         list    what an end means for many, where it was too much for one step
    untold          list    jobs that were cancelled by that of others, for whoever tells the hooks
    meta            hash    epoch, tick, run_id, suspended, quarantined (the bytes in quarantine)

All times in Redis are whole milliseconds.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import secrets
import threading
from contextlib import suppress
from functools import cache, partial
from hashlib import sha1
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from queuekit.clients import Asking, ask_all, connect, one_try, open_cluster, packed
from queuekit.errors import ConfigError
from queuekit.job import JobStatus, Record
from queuekit.store import (
    MOST_SAID,
    Beat,
    Busy,
    Cancelled,
    Claim,
    Claimed,
    Created,
    Creating,
    Done,
    DueSchedule,
    Early,
    FlowJob,
    FlowState,
    Followed,
    IdTaken,
    IfEnded,
    Input,
    Kept,
    Kin,
    Left,
    Missing,
    NewFlow,
    NewJob,
    NoLease,
    Quarantined,
    ScheduleRow,
    Started,
    StepsFull,
    StoreAway,
    StoreLost,
    Suspect,
    Taken,
    Unreadable,
    Unseen,
    Wire,
    WireForm,
)
from queuekit.store.ends import parse_end
from queuekit.store.redis import flows, views
from queuekit.store.views import LOOK, Page, read_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from queuekit.settings import Settings
    from queuekit.store.views import Consumer, Query, RouteCount

__all__ = ["RedisStore", "read_scripts"]

T = TypeVar("T")
Arg: TypeAlias = "str | float"

CLUSTER = ("redis+cluster://", "rediss+cluster://")
_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
CHUNK = 50  # schedules that are read in one step
FEW = 2  # operations from which on a pipeline saves a round trip
SEVERAL = " several"
MANY = {"claim" + SEVERAL, "finish" + SEVERAL}  # one script for several, which is read once: a quarter of the work
COMMON = 5  # arguments that every operation has: see _head.lua
CHAIN = 16  # of those in one step, during which the server does nothing else: a millisecond
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]+")  # no braces, and not empty: either would break the hash tag


@cache
def _source(operation: str) -> str:
    folder = resources.files(__name__) / "lua"

    def text(name: str) -> str:
        return (folder / f"{name}.lua").read_text("utf-8")

    def function(name: str) -> str:
        return f"local function {name}()\n{text(name)}end\n"

    if operation == "add":
        return text("_head") + text(operation)
    before = text("_head") + text("_prelude") + text("_flows")
    if operation == "create_many":
        return before + function("create") + text(operation)
    if operation in MANY:
        each = operation.removesuffix(SEVERAL)
        return before + function(each) + f"local each = {each}\n" + text("_several")
    return before + text(operation)


@cache
def _sha(operation: str) -> str:
    return sha1(_source(operation).encode(), usedforsecurity=False).hexdigest()


def read_scripts() -> None:
    """Those of an attempt, so that processes that are forked for one need not: each would read and hash them."""
    for operation in ("claim", "finish", "retry", "fail", "release", "begin_step", "keep_step", "steps", "progress"):
        _sha(operation)


class _NotConnected(ConnectionError):
    """Nothing was sent: the connection could not be made."""


class _Asked(Exception):
    """What an operation would send is noted."""


class _Batch:
    """Of together(): what its calls would send, and the answer for the one that is called again."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[Arg]]] = []
        self.answer: list[Any] = []

    def take(self, operation: str, argv: list[Arg]) -> Any:
        if self.answer:
            return self.answer.pop()
        self.asked.append((operation, argv))
        raise _Asked


def _chunks(asked: Sequence[tuple[str, list[Arg]]]) -> list[tuple[str, list[Arg], int]]:
    """What is sent: the operation, its arguments, and of how many it is."""
    chunks: list[tuple[str, list[Arg], int]] = []
    for operation, of_one in groupby(asked, key=itemgetter(0)):
        argvs = [argv for _, argv in of_one]
        if len(argvs) < FEW or operation + SEVERAL not in MANY:
            chunks += [(operation, argv, 1) for argv in argvs]
            continue
        for start in range(0, len(argvs), CHAIN):
            some = argvs[start : start + CHAIN]
            joined = [*some[0][:COMMON], len(some[0]) - COMMON]
            for argv in some:
                joined += argv[COMMON:]
            chunks.append((operation + SEVERAL, joined, len(some)))
    return chunks


def _failed(operation: str, error: Exception) -> StoreAway:
    """What a client's error means. Raises ConfigError where the server is one of a cluster's."""
    import redis.exceptions as errors

    if isinstance(error, (_NotConnected, errors.MaxConnectionsError)):
        return StoreAway(f"the store cannot be reached: {error}", sent=False)
    if isinstance(error, errors.MovedError):
        raise _of_a_cluster() from error
    if isinstance(error, errors.RedisClusterException):  # the slot has no node for now
        return StoreAway(f"the store refused {operation}: {error}", sent=False)
    if isinstance(error, (errors.BusyLoadingError, errors.AuthenticationError, errors.AuthorizationError)):
        return StoreAway(f"the store refused {operation}: {error}", sent=False)
    if isinstance(error, (errors.ConnectionError, errors.TimeoutError, errors.InvalidResponse)):
        return StoreAway(f"the store did not answer: {error}", sent=True)
    return StoreAway(f"the store refused {operation}: {error}", sent=False)  # read only, out of memory


def _answer(call: Callable[[], T]) -> T | StoreAway:
    try:
        return call()
    except StoreAway as error:
        return error


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
        self._here = threading.local()
        self._known: set[str] = set()  # of MANY, what the server has been told

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

    def _argv(self, *args: Arg) -> list[Arg]:
        now = "" if self._clock is None else str(int(self._clock()))
        # A new name at each call: one that was kept could name the store before and after it was emptied.
        return [now, self._lease, _new_epoch(), self._retention, self._dead_ttl, *args]  # the first are COMMON

    def _run(self, operation: str, *args: Arg) -> Any:
        argv = self._argv(*args)
        batch: _Batch | None = getattr(self._here, "batch", None)
        return self._ask_for(operation, argv) if batch is None else batch.take(operation, argv)

    def _command(self, operation: str, argv: Sequence[Arg]) -> tuple[Arg, ...]:
        return ("EVALSHA", _sha(operation), 1, self._prefix, *argv)

    def _begin(self, command: Any) -> Asking | None:
        """None: it is to be asked in one step."""
        return None if self._url.startswith(CLUSTER) else Asking(self._client, [command])

    def _ask_for(self, operation: str, argv: Sequence[Arg], command: Any = None, asking: Asking | None = None) -> Any:
        """`command`: what asks for it, packed or not; `asking`: where it is asked for already."""
        import redis.exceptions

        try:
            try:
                return self._ask(command or self._command(operation, argv), asking)
            except redis.exceptions.NoScriptError:  # the first call, or the server was started anew
                return self._client.eval(_source(operation), 1, self._prefix, *argv)
        except (_NotConnected, redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise _failed(operation, error) from error

    def _ask(self, command: Any, asking: Asking | None) -> Any:
        if self._url.startswith(CLUSTER):
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        (answer,) = (asking or Asking(self._client, [command])).answers()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _eval(self, operation: str, argv: Sequence[Arg]) -> Any:
        """The answer, or the error."""
        import redis

        try:
            return self._client.eval(_source(operation), 1, self._prefix, *argv)
        except (_NotConnected, redis.RedisError) as error:
            return error

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T | StoreAway]:
        import redis.exceptions

        if len(calls) < FEW or self._url.startswith(CLUSTER):
            return [_answer(call) for call in calls]
        # First each call is asked what it would send; then, with the server's answer, what it makes of that.
        batch = self._here.batch = _Batch()
        try:
            for call in calls:
                with suppress(_Asked):
                    call()
            asked = batch.asked
            chunks = _chunks(asked)
            for operation in {operation for operation, _, _ in chunks} & MANY - self._known:
                # Of none: what the server is told of only when it does not know it comes after the others.
                if self._eval(operation, [*asked[0][1][:COMMON], 1]) == []:
                    self._known.add(operation)
            try:
                rows = ask_all(
                    self._client,
                    [("EVALSHA", _sha(operation), 1, self._prefix, *argv) for operation, argv, _ in chunks],
                )
            except (_NotConnected, redis.RedisError) as error:
                return [_failed(asked[0][0], error) for _ in calls]
            answers: list[T | StoreAway] = []
            for (operation, argv, count), said in zip(chunks, rows, strict=True):
                some = calls[len(answers) : len(answers) + count]
                unknown = isinstance(said, redis.exceptions.NoScriptError)
                row = self._eval(operation, argv) if unknown else said
                if isinstance(row, Exception):
                    # one of several that cannot be answered does not keep the others from it
                    self._here.batch = None
                    answers += map(_answer, some) if count > 1 else [_failed(operation, row)]
                else:
                    self._here.batch = batch
                    for call, answer in zip(some, row if operation in MANY else [row], strict=True):
                        batch.answer = [answer]
                        answers.append(call())
            return answers
        finally:
            self._here.batch = None

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
        return _created(self._run("create", *_new(job)))

    def create_many(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> list[Created] | IdTaken:
        return self.creating(jobs, wires)()

    def creating(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> Creating:
        laid_out = _laid_out(jobs, wires)
        whole = partial(self._create_any, jobs, wires)
        if laid_out is None:
            return Creating(whole)
        argv = self._argv(*laid_out)
        # Packed by whoever prepares it while the server is busy with others: it is a tenth of the work.
        command: Any = self._command("add", argv)
        if not self._url.startswith(CLUSTER):
            command = packed(command)
        return _Adding(partial(self._begin, command), partial(self._ask_for, "add", argv, command), len(jobs), whole)

    def _create_any(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None]) -> list[Created] | IdTaken:
        # As one argument: redis-py takes longer over hundreds of them than the server over all the rest.
        asked = [[_new(job), *_wired(wire)] for job, wire in zip(jobs, wires or [None] * len(jobs), strict=True)]
        rows = self._run("create_many", _compact(asked))
        if isinstance(rows, str):
            return IdTaken(rows)
        return [_created(row) for row in rows]

    def holder(self, key: str) -> str | None:
        return cast("str | None", self._run("holder", key))

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

    def finish(self, id: str, token: str, end: str, result: str | None, proof: str = "") -> bool | Followed:
        return flows.followed(self._run("finish", id, token, end, "" if result is None else "1", result or "", proof))

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool | Cancelled:
        return _ended(self._run("retry", id, token, end, _ms(delay), state))

    def fail(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        return flows.followed(self._run("fail", id, token, end, reason))

    def release(self, id: str, token: str, end: str, delay: float) -> bool | Cancelled:
        return _ended(self._run("release", id, token, end, _ms(delay)))

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        return flows.followed(self._run("cancelled", id, token, end, reason))

    # ---- steps -----------------------------------------------------------------------------------------------------

    def steps(self, id: str, token: str | None = None) -> dict[str, Kept] | None:
        rows = self._run("steps", id, token or "")
        return None if rows is None else {name: _kept(text) for name, text in zip(rows[::2], rows[1::2], strict=True)}

    def begin_step(self, id: str, token: str, step: str, number: int | None) -> bool:
        return bool(self._run("begin_step", id, token, step, "" if number is None else number) != 0)

    def keep_step(
        self, id: str, token: str, step: str, number: int | None, text: str, limit: int
    ) -> Kept | StepsFull | None:
        answer = self._run("keep_step", id, token, step, "" if number is None else number, text, limit)
        if isinstance(answer, int):
            return StepsFull(answer) if answer else None
        return _kept(answer)

    def forget_step(self, id: str, token: str, step: str) -> bool:
        return bool(self._run("forget_step", id, token, step) != 0)

    def progress(self, id: str, token: str, said: str) -> bool:
        return bool(self._run("progress", id, token, said))

    # ---- workers ---------------------------------------------------------------------------------------------------

    def beat(
        self,
        worker: str,
        *,
        start: bool = False,
        dead: Sequence[str] = (),
        found: Sequence[str] = (),
        about: str = "",
        first: float = 0.0,
    ) -> Beat:
        alive, *lists, over = self._run(
            "beat", worker, _ms(first) if start else "", about, *dead, *(f"?{one}" for one in found)
        )
        processes, cancels, lost, cancelled = map(tuple, lists)
        pairs = tuple((id, process) for id, process in over)
        return Beat(bool(alive), processes, cancels, lost, cancelled, pairs)

    def leave(self, worker: str, *, seen: bool = True) -> list[str]:
        return cast("list[str]", self._run("leave", worker, int(seen) or ""))

    def reap(self, n: int) -> list[tuple[str, str]]:
        return [(id, why) for id, why in self._run("reap", n)]

    # ---- workflows and children -------------------------------------------------------------------------------------

    def create_flow(self, flow: NewFlow, jobs: Sequence[FlowJob]) -> list[str] | None:
        said = self._run("create_flow", *flows.asked(flow), *flows.written(jobs))
        return None if isinstance(said, str) else list(said)

    def start_flow(self, flow: NewFlow) -> Started:
        parent, fence = flow.parent or ("", "")
        said, epoch, rows = self._run("start_flow", flow.id, flow.token, parent, fence, flow.near)
        return Started(said, epoch, flows.rang(rows))

    def follow(self, n: int) -> Left:
        more, ids = self._run("follow", n)
        return Left(bool(more), tuple(ids))

    def cancel_flow(self, id: str, reason: str) -> str:
        return cast("str", self._run("cancel_flow", id, reason))

    def inputs(self, ids: Sequence[str]) -> list[Input]:
        return flows.inputs(self._read, self._prefix, ids)

    def members(self, owner: str) -> list[str]:
        return cast("list[str]", self._read(lambda client: client.lrange(f"{self._prefix}members:{owner}", 0, -1)))

    def kin(self, ids: Sequence[str]) -> list[Kin | None]:
        return flows.kin(self._read, self._prefix, ids)

    def flow(self, id: str) -> FlowState | None:
        return flows.state(self._read(lambda client: client.hgetall(f"{self._prefix}flow:{id}")), id)

    # ---- by hand ---------------------------------------------------------------------------------------------------

    def cancel(self, id: str, reason: str) -> str:
        return cast("str", self._run("cancel", id, reason))

    def cancel_requested(self, ids: Sequence[str], worker: str = "") -> dict[str, str]:
        if worker:
            listed = self._read(lambda client: client.smembers(f"{self._prefix}cancels:{worker}"))
            ids = [id for id in ids if id in listed]
            if not ids:
                return {}

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
        self,
        id: str,
        *,
        message: str | None = None,
        route: str | None = None,
        handed_over: bool = False,
        anew: bool = False,
    ) -> Taken | None:
        row = self._run("revive", id, message or "", route or "", "1" if handed_over else "", "1" if anew else "")
        return None if row is None else _taken(row)

    def purge(self, route: str, n: int, reason: str) -> list[str]:
        return cast("list[str]", self._run("purge", route, n, reason))

    def quarantine(self, raw: str, reason: str, *, source: str = "") -> None:
        reason, source = reason[:MOST_SAID], source[:MOST_SAID]
        self._run("quarantine", raw, reason + source, f"{len(reason)},{len(source)}", *self._quarantine)

    def quarantined(self, n: int, skip: int = 0) -> list[Quarantined]:
        gone = self._gone(self._dead_ttl) / 1000
        rows = self._read(lambda client: client.lrange(f"{self._prefix}quarantine", skip, skip + n - 1))
        out = []
        for row in rows:
            at, sizes, rest = row.split("|", 2)
            reason, _, source = sizes.partition(",")  # "12,7"; "12" where its source is not told
            said = int(reason), int(reason) + int(source or 0)
            out.append(Quarantined(rest[said[1] :], rest[: said[0]], int(at) / 1000, rest[said[0] : said[1]]))
        return [one for one in out if one.at > gone]

    # ---- schedules -------------------------------------------------------------------------------------------------

    def put_schedule(self, name: str, text: str, when: str, due: int | None, *, declared: bool) -> str:
        at = "" if due is None else due
        return cast("str", self._run("put_schedule", name, text, when, at, "1" if declared else ""))

    def remove_schedule(self, name: str) -> bool:
        return bool(self._run("remove_schedule", name))

    def pause_schedule(self, name: str, paused: bool, due: int | None = None) -> bool:
        return bool(self._run("pause_schedule", name, "1" if paused else "", "" if due is None else due))

    def due_schedules(self, n: int) -> list[DueSchedule]:
        now, rows = self._run("due_schedules", n)
        return [DueSchedule(name, text, int(due), int(now)) for name, text, due in rows]

    def fire(
        self, name: str, text: str, due: int, following: int | None, jobs: Sequence[NewJob], *, once: bool
    ) -> list[str] | None:
        each = [
            part
            for job in jobs
            for part in (
                job.id, job.message, job.digest, job.route, _ms(job.result_ttl), _ms(job.at), _ms(job.expires_in),
                job.key or "", job.if_held, _ms(job.key_ttl),
            )
        ]  # fmt: skip
        at = "" if following is None else following
        return cast("list[str] | None", self._run("fire", name, text, due, at, "1" if once else "", *each))

    def schedules(self, name: str | None = None) -> list[ScheduleRow]:
        found: dict[str, ScheduleRow] = {}
        for start in itertools.count(0, CHUNK):
            rows = self._run("schedules", name or "", start, start + CHUNK - 1)
            for its_name, text, due, paused, fired, job in rows:
                at = None if due == "inf" else int(due)
                if text:
                    found[its_name] = ScheduleRow(its_name, text, at, bool(paused), int(fired) if fired else None, job)
            if len(rows) < CHUNK:
                break
        return list(found.values())

    # ---- reads -----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Record | None:
        def read(client: redis.Redis) -> Any:
            return client.hgetall(f"{self._prefix}job:{id}")

        row: dict[str, str] = self._read(read)
        if "message" not in row:
            return None
        due = None
        kids: list[str] = self.members(id) if "kids" in row else []
        waits: set[str] = set()
        if "flow" in row:
            waits = self._read(lambda client: client.smembers(f"{self._prefix}waits:{id}"))
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
            progress=row.get("progress", ""),
            parent=row.get("parent", ""),
            root=row.get("root", ""),
            flow=row.get("flow", ""),
            after=tuple(filter(None, row.get("after", "").split(","))),
            waits=tuple(sorted(waits)),
            children=tuple(kids),
            rule=row.get("rule", ""),
            undoes=row.get("undoes", ""),
            stopped=row.get("stopped", ""),
            needs=int(row.get("needs", 0)),
            key=row.get("key"),
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

    def glimpse(self, id: str) -> tuple[str, ...] | None:
        fields = ("status", "runs", "progress", "pseq", "cancel")
        found = self._read(lambda client: client.hmget(f"{self._prefix}job:{id}", *fields))
        return None if found[0] is None else tuple(value or "" for value in found)

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


def _new(job: NewJob) -> list[str]:
    """What create.lua takes."""
    times = (job.result_ttl, job.at, job.delay, job.expires, job.expires_in)
    named = (job.key or "", job.if_held, _ms(job.key_ttl), flows.ties(job))
    return [job.id, job.message, job.digest, job.route, job.token, *map(_ms, times), *named]


def _wired(wire: Wire | None) -> list[Any]:
    """What create_many.lua takes."""
    if wire is None:
        return []
    values, commands, place, around = iter(wire.values), [], [0, 0], ["", "", ""]
    for number, command in enumerate(wire.form.commands, 1):
        args = []
        for k, arg in enumerate(command, 1):
            if arg == WireForm.DOORBELL:
                place, around = [number, k], [next(values) for _ in around]
            args.append(next(values) if arg == WireForm.OWN else arg)
        commands.append(args)
    return [*place, *around, commands]


class _Adding(Creating):
    """By add.lua, or by create_many.lua where one of them is there, or the store is empty."""

    def __init__(
        self,
        begin: Callable[[], Asking | None],
        ask: Callable[[Asking | None], Any],
        count: int,
        whole: Callable[[], list[Created] | IdTaken],
    ) -> None:
        super().__init__(whole)
        self._begin, self._add, self._count = begin, ask, count
        self._asking: Asking | None = None

    def start(self) -> None:
        with suppress(Exception):  # the call says so
            self._asking = self._begin()

    def drop(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.drop()

    def __call__(self) -> list[Created] | IdTaken:
        asking, self._asking = self._asking, None
        said: str | None = self._add(asking)
        return self._ask() if said is None else self._made(said)

    def _made(self, said: str) -> list[Created]:
        now, epoch, *left = said.split()
        at = int(now) / 1000
        if not left:
            return [Created(True, True, epoch, None, at=at)] * self._count
        return [Created(True, True, epoch, pseq, at=at) for pseq in map(int, left)]


def _is_plain(job: NewJob) -> bool:
    """As add.lua has them."""
    return (
        job.at is None
        and job.delay is None
        and job.expires is None
        and job.expires_in is None
        and job.key is None
        and job.parent is None
        and not job.elsewhere
    )


def _laid_out(jobs: Sequence[NewJob], wires: Sequence[Wire | None]) -> list[Arg] | None:
    """What add.lua takes. None: it takes plain jobs, and commands of one form."""
    first = wires[0] if jobs and len(wires) == len(jobs) else None
    if first is None or not all(map(_is_plain, jobs)):
        return None
    form = first.form
    own: list[Arg] = [len(jobs), *form.laid_out]
    ttl, as_text = None, ""
    for job, wire in zip(jobs, wires, strict=True):
        if wire is None or (wire.form is not form and wire.form.laid_out != form.laid_out):
            return None
        if job.result_ttl != ttl:
            ttl, as_text = job.result_ttl, _ms(job.result_ttl)
        own += (job.id, job.message, job.digest, job.route, job.token, as_text, *wire.values)
    return own


def _created(row: Any) -> Created:
    created, same, epoch, pseq, number, at, other, again = row
    return Created(
        created == 1,
        bool(same) or created == -1,
        epoch,
        pseq or None,
        number or 1,
        int(at) / 1000,
        other or None,
        bool(again),
        stale=created == -1,
    )


def _taken(row: list[Any]) -> Taken:
    message, pseq, number, epoch = row
    return Taken(message, int(pseq), int(number), epoch)


def _kept(text: str) -> Kept:
    number, attempt, at, rest = text.split("|", 3)
    return Kept(
        number=int(number) if number else None,
        attempt=int(attempt),
        at=int(at) / 1000,
        text=rest[1:] if rest.startswith("=") else None,
    )


def _run(start: str, end: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    at, number, worker = start.split("|", 2)
    began: dict[str, Any] = {"at": int(at) / 1000, "number": int(number), "worker": worker}
    if end is None:
        return began, None
    ended_at, text = end.split("|", 1)
    return began, {"at": int(ended_at) / 1000, **parse_end(text)}
