"""What only a server can show: it is away, it is started anew, its keys, its scripts, its cost, forks."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
import redis
from store_world import AGAIN, BACK, BAD, LEASE, OK, START, R, World, binary_of, list_all, plan

import queuekit.store.redis as module
from queuekit.errors import ConfigError
from queuekit.job import JobStatus
from queuekit.store import (
    Beat,
    Claimed,
    Created,
    FlowJob,
    Followed,
    Missing,
    NewFlow,
    NewJob,
    Store,
    StoreAway,
    StoreLost,
    Taken,
)
from queuekit.store.redis import RedisStore
from queuekit.testing.servers import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

READS = {
    "glimpse",
    "get", "status", "statuses", "result", "routes", "dead", "now", "epoch", "close", "quarantined",
    "cancel_requested", "counts", "consumers", "dead_count", "inputs", "members", "kin", "flow",
    "together",  # others, in one conversation
}  # fmt: skip
JOB = NewJob(id="j", message="{}", digest="d", route=R, token="t", result_ttl=60.0)


# ---- away ----------------------------------------------------------------------------------------------------------


def test_where_nothing_listens_nothing_was_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        store = RedisStore(f"redis://127.0.0.1:{taken.getsockname()[1]}/0", timeout=5.0)
        with pytest.raises(StoreAway, match="cannot be reached") as caught:
            store.create(JOB)
        assert caught.value.sent is False
        for read in (store.now, store.epoch, lambda: store.get("j"), lambda: store.cancel_requested(["j"])):
            with pytest.raises(StoreAway):
                read()
        store.close()


def test_a_server_that_accepts_and_never_answers_may_have_got_it() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout=0.05)
        with pytest.raises(StoreAway, match="did not answer") as caught:
            store.create(JOB)
        assert caught.value.sent is True
        store.close()


def test_a_server_that_hangs_before_it_has_let_us_in_has_got_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = RedisStore(f"redis://:password@127.0.0.1:{silent.getsockname()[1]}/0", timeout=0.05)
        with pytest.raises(StoreAway) as caught:
            store.create(JOB)
        assert caught.value.sent is False
        assert "password" not in str(caught.value)
        store.close()


def test_after_a_lost_reply_the_same_call_finds_what_it_did(own_server: RedisServer) -> None:
    store = RedisStore(own_server.url, timeout=0.2)
    store.epoch()
    own_server.freeze()
    with pytest.raises(StoreAway) as caught:
        store.create(JOB)
    assert caught.value.sent is True
    own_server.thaw()  # it runs what it was sent
    with RedisServerStore(own_server) as patient:
        assert patient.create(JOB) == Created(True, True, patient.epoch(), pseq=1, number=1)
        assert len(patient.take_lost(R, 10)) == 0
    store.close()


class RedisServerStore(RedisStore):
    """For with statements."""

    def __init__(self, server: RedisServer, **settings: Any) -> None:
        super().__init__(server.url, timeout=10.0, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("kind", ["redis:valkey", "redis:redis"])
@pytest.mark.parametrize("login", ["", ":wrong@"], ids=["without a password", "with a wrong one"])
def test_a_server_that_does_not_let_us_in_has_refused(kind: str, login: str, tmp_path: Path) -> None:
    with RedisServer(binary_of(kind), tmp_path / "data", options=["--requirepass", "right"]) as server:
        store = RedisStore(server.url.replace("//", f"//{login}"))
        with pytest.raises(StoreAway) as caught:
            store.create(JOB)
        assert caught.value.sent is False
        store.close()
        store = RedisStore(server.url.replace("//", "//:right@"))
        assert store.create(JOB).created
        store.close()


def test_a_full_server_refuses_and_nothing_is_half_done(own_server: RedisServer) -> None:
    with World("redis", own_server) as world:
        world.new("a")
        before = world.key_names()
        world.raw.config_set("maxmemory", "1")
        with pytest.raises(StoreAway, match="refused create") as caught:
            world.new("b")
        assert caught.value.sent is False
        world.raw.config_set("maxmemory", "0")
        assert world.key_names() == before
        assert world.new("b").pseq == 2


def test_a_replica_refuses(own_server: RedisServer) -> None:
    with World("redis", own_server) as world:
        world.raw.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreAway) as caught:
            world.new("j")
        assert caught.value.sent is False
        world.raw.replicaof("NO", "ONE")
        assert world.new("j").created


@pytest.mark.parametrize("namespace", ["", "a}b", "{a", "a b", "a:b"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace="):
        RedisStore("redis://127.0.0.1:1", namespace)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="store_url"):
        RedisStore("http://127.0.0.1:1")


# ---- started anew --------------------------------------------------------------------------------------------------


def test_a_script_flush_is_survived(redis_world: World) -> None:
    redis_world.new("a")
    redis_world.raw.script_flush()
    assert redis_world.new("b").pseq == 2
    assert redis_world.run("b", pseq=2).number == 1


def test_a_restart_is_survived(own_server: RedisServer) -> None:
    with World("redis", own_server) as world:
        world.new("a")
        world.new("b", delay=5)
        world.run("a", "t1")
        before = {id: world.get(id) for id in "ab"}
        epoch = world.store.epoch()
        own_server.restart()
        assert world.store.epoch() == epoch  # over a connection that the restart has cut
        assert {id: world.get(id) for id in "ab"} == before
        assert world.store.finish("a", "t1", OK, "42")
        own_server.restart()
        assert world.store.result("a") == "42"
        world.advance(5)
        assert world.ids(world.store.take_due(R, 10)) == ["b"]


def test_after_a_restart_nothing_is_reaped_for_a_lease(own_server: RedisServer) -> None:
    with World("redis", own_server) as world:
        world.settle("w")
        for id, worker in [("j", "w"), ("k", "dead")]:
            world.new(id)
            world.run(id, f"t-{id}", worker=worker)
        world.advance(LEASE / 3)
        own_server.restart()
        assert world.store.reap(100) == []
        assert world.tick(LEASE - 0.001, beat=["w"]) == []
        assert world.tick(0.001, beat=["w"]) == [("k", "lost")]


def test_a_store_that_came_back_empty_has_another_epoch(own_server: RedisServer) -> None:
    """Also where the only client is the one that had named the epoch before."""
    with World("redis", own_server) as world:
        epoch = world.new("j").epoch
        assert world.store.beat("w", start=True).alive
        own_server.restart(empty=True)
        assert world.store.beat("w") == Beat(alive=False)
        answer = world.claim("j", epoch=epoch)
        assert isinstance(answer, StoreLost)
        assert answer.epoch == world.store.epoch() != epoch
        adopted = world.new("j")
        assert (adopted.created, adopted.epoch) == (True, answer.epoch)
        assert world.claim("nobody", epoch=answer.epoch) == Missing()


def test_all_clients_agree_on_the_epoch_of_an_empty_store(redis_world: World) -> None:
    others = [redis_world.make() for _ in range(3)]
    assert {store.epoch() for store in (*others, redis_world.store)} == {redis_world.new("j").epoch}
    assert redis_world.make("another").epoch() != redis_world.store.epoch()


def test_namespaces_never_meet(redis_world: World) -> None:
    other = redis_world.make(f"{redis_world.namespace}-x")
    redis_world.new("j", delay=1)
    redis_world.advance(1)
    assert other.get("j") is None
    assert other.take_due(R, 10) == []
    assert other.routes("rq") == []
    assert other.cancel("j", "") == "missing"


def test_time_is_the_servers(redis_world: World) -> None:
    store = redis_world.use(real_clock=True)
    before = store.now()
    redis_world.new("j")
    redis_world.run("j")
    assert store.finish("j", "t1", OK, None)
    record, after = redis_world.get("j"), store.now()
    assert before - 0.001 <= record.created <= record.runs[0][0]["at"] <= (record.finished or 0) <= after


# ---- a record that is gone -----------------------------------------------------------------------------------------


def test_a_record_that_somebody_deleted_stops_nothing(redis_world: World) -> None:
    world = redis_world
    world.settle("w")
    for id in ("queued", "due", "process", "runs", "worker"):
        for name in (id, f"{id}-2"):
            world.new(name, delay=1 if id == "due" else None)
            if id not in {"queued", "due"}:
                world.run(name, f"t-{name}", worker="dead" if id == "worker" else "w", process=id, timeout=2.0)
        world.raw.delete(f"{world.prefix}job:{id}")
    world.advance(5)
    assert world.ids(world.store.take_due(R, 10)) == ["due-2"]
    assert world.ids(world.store.take_lost(R, 10)) == ["queued-2"]
    assert world.store.beat("w", dead=["process"]).alive
    beat = world.store.beat("w")
    assert (beat.processes, beat.over) == (("runs",), (("runs-2", "runs"),))
    assert world.store.reap(100) == []
    assert world.tick(LEASE, beat=["w"]) == [("worker-2", "lost")]
    assert world.store.get("queued") is None
    for index in ("due", "queued", "outbox"):
        assert set(world.raw.zrange(f"{world.prefix}{index}:{R}", 0, -1)).isdisjoint({"queued", "due"})
    assert not [key for key in world.key_names() if key.startswith("job:") and not key.endswith("-2")]


# ---- scripts and keys ----------------------------------------------------------------------------------------------


def protocol() -> set[str]:
    return {name for name, member in vars(Store).items() if callable(member) and not name.startswith("_")}


def test_each_script_is_named_after_its_operation_and_each_operation_has_one() -> None:
    folder = resources.files("queuekit.store.redis") / "lua"
    scripts = {file.name.removesuffix(".lua") for file in folder.iterdir()} - {
        "_head",
        "_prelude",
        "_flows",
        "_several",
    }
    assert scripts - {"add"} == protocol() - READS - {"creating"}  # which is the short way of create_many


def every_operation(world: World) -> None:
    """Each operation once at least, in most of its branches."""
    store = world.store
    store.epoch()
    world.settle("w", "gone")
    for id in ("done", "again", "bad", "back", "off", "lost", "left", "limit", "asked", "late", "old"):
        world.new(id)
        world.new(id)
    world.new("later", delay=5)
    world.new("stale", expires_in=1.0)
    for id in ("done", "again", "bad", "back", "off", "lost", "left", "limit", "asked"):
        worker = {"lost": "gone", "left": "leaving", "limit": "slow"}.get(id, "w")
        world.run(id, f"t-{id}", worker=worker, timeout=2.0 if id == "limit" else None)
        world.claim(id, f"u-{id}")
    store.published(R, [("late", 10), ("old", 11)])
    assert store.holder("nobody's") is None
    assert store.begin_step("done", "t-done", "a", None)
    assert store.begin_step("done", "t-done", "b", 1)
    assert store.forget_step("done", "t-done", "b")
    assert store.keep_step("done", "t-done", "a", None, "1", 10)
    assert set(store.steps("done", "t-done") or ()) == {"a"}
    assert store.progress("done", "t-done", "[1,2,null]")
    assert store.finish("done", "t-done", OK, "42")
    assert store.retry("again", "t-again", AGAIN, 3.0, "s")
    assert store.fail("bad", "t-bad", BAD, "why")
    assert store.release("back", "t-back", BACK, 1.0)
    assert store.cancel("asked", "why") == "requested"
    assert store.cancel("late", "why") == "cancelled"
    assert store.cancelled("asked", "t-asked", OK, "why")
    assert store.beat("w", dead=["nobody"]).alive
    assert store.leave("leaving") == ["left"]
    store.mark(R, 0)
    assert world.tick(5, beat=["w", "slow"]) == []
    assert store.leave("slow") == ["limit"]
    assert isinstance(world.claim("nobody", epoch="another"), StoreLost)
    world.claim("stale")
    assert world.tick(LEASE, beat=["w"]) == [("lost", "lost")]
    assert sorted(world.ids(store.take_due(R, 10))) == ["again", "back", "later", "left", "limit", "lost"]
    assert world.ids(store.take_lost(R, 10)) == ["old"]
    store.mark(R, 3)
    assert store.revive("bad") is not None
    store.quarantine("raw", "why")
    store.quarantine("raw", "why")
    assert len(store.quarantined(5)) == 2
    listed = list_all(world, n=2)
    assert len(listed) == 13
    assert listed == list_all(world, n=2, newest_first=False)[::-1]
    assert (len(store.counts()), [one.name for one in store.consumers()]) == (1, ["w"])
    for id in "pq":
        world.new(id, delay=None if id == "p" else 9.0, route="rq:purged:0")
    assert store.purge("rq:purged:0", 5, "why") == ["p", "q"]
    made = store.create_many([NewJob("many", "{}", "d", "rq:purged:0", "t", 60.0)])
    assert isinstance(made, list)
    assert made[0].pseq == 2
    flow = NewFlow("f", "t", 2, near="h")
    h = NewJob("h", "{}", "d", "rq:flow:0", "", 60.0)
    after = FlowJob(replace(h, id="i"), after=("h",), uses=("h",))
    assert store.create_flow(flow, [after, FlowJob(h, next=("i",), needs=1)]) == []
    assert store.start_flow(flow).said == "started"
    world.run("h", "t-h", route="rq:flow:0")
    world.new("child", parent=("h", "t-h"), delay=9.0)
    assert store.finish("h", "t-h", OK, "1", "proof") == Followed((("rq:flow:0", Taken("{}", 2, 1, store.epoch())),))
    assert store.cancel_flow("f", "why") == "cancelled"
    assert store.revive("i") is not None
    assert store.cancel("child", "why") == "cancelled"
    assert not store.follow(10).more
    assert (store.members("~f"), len(store.kin(["h"])), store.inputs(["h"])[0].proof) == (["i", "h"], 1, "proof")
    assert store.flow("f") is not None
    for read in (store.get, store.status, store.result):
        assert read("done") is not None
    assert (store.routes("rq"), store.dead(5), store.cancel_requested(["done"])) == (
        [R, "rq:flow:0", "rq:purged:0"],
        [],
        {},
    )
    store.put_schedule("s", "text", "when", START, declared=False)
    (due,) = store.due_schedules(5)
    assert store.fire(
        "s", "text", due.due, due.due + 10**9, [replace(JOB, id="ticked", at=1.0, route="rq:ticks:0")], once=True
    )
    assert store.pause_schedule("s", True)
    assert [one.name for one in store.schedules()] == ["s"]
    assert store.remove_schedule("s")


def test_every_operation_runs_the_script_of_its_name(redis_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[tuple[str, str]] = set()
    run = RedisStore._run

    def watched(self: RedisStore, operation: str, *args: Any) -> Any:
        caller = sys._getframe(1).f_code.co_name
        ran.add(("create_many" if caller == "_create_any" else caller, operation))
        return run(self, operation, *args)

    monkeypatch.setattr(RedisStore, "_run", watched)
    every_operation(redis_world)
    assert ran == {(name, name) for name in protocol() - READS - {"creating"}}


ANSWERED_FROM_ONE_KEY = {
    "DEL", "ECHO", "EVAL", "EVALSHA", "EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HMGET",
    "HSET", "HSETNX", "LINDEX", "LLEN", "LPOP", "LPUSH", "LRANGE", "LTRIM", "PERSIST", "PEXPIRE", "RPOP", "RPUSH", "SADD",
    "SCARD", "SET", "SMEMBERS", "SREM", "UNLINK", "ZADD", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE",
    "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCORE",
}  # fmt: skip
WHOLE = {"HGETALL", "HKEYS", "SMEMBERS"}  # give all of a key: those must not grow with the backlog


def monitored(world: World, *, lua_only: bool = False) -> list[list[str]]:
    """The commands of every_operation(), as the server saw them."""
    seen: list[list[str]] = []
    with world.raw.monitor() as monitor:  # type: ignore[no-untyped-call]
        every_operation(world)
        world.raw.echo("that was all")
        while (row := cast("dict[str, str]", monitor.next_command()))["command"] != "ECHO that was all":
            if row["client_type"] == "lua" or not lua_only:
                seen.append(row["command"].split(" "))
    return seen


def test_all_keys_carry_the_one_hash_tag_of_the_namespace(redis_world: World) -> None:
    tag = re.compile(rf"queuekit:\{{{re.escape(redis_world.namespace)}\}}:[a-z]+")
    commands = monitored(redis_world, lua_only=True)
    assert len(commands) > 300
    for name, *args in commands:
        if name in {"TIME", "INFO"}:
            continue
        assert name in ANSWERED_FROM_ONE_KEY, (name, args)
        for key in args if name == "DEL" else args[:1]:
            assert tag.match(key), (name, args)


def test_nothing_is_read_whole_that_grows_with_the_backlog(redis_world: World) -> None:
    family = re.compile(r"queuekit:\{[^}]*\}:([a-z]+)")
    for name, *args in monitored(redis_world, lua_only=True):
        if name in WHOLE:
            found = family.match(args[0])
            assert found
            # waits: of those that a revived job has stopped, which somebody revives by hand
            assert found[1] in {"worker", "cancels", "steps", "waits"}, (name, args)
        if name in {"ZRANGE", "ZREVRANGE"}:
            assert 0 <= int(args[2]) - int(args[1]) < 50, (name, args)
        if name in {"ZRANGEBYSCORE", "ZREVRANGEBYSCORE"}:
            # one exception: after the clock was set, the leases of all workers are looked at
            assert "LIMIT" in args or args[0].endswith(":workers"), (name, args)


def calls(world: World) -> int:
    stats = world.raw.info("commandstats")
    ours = {"config", "info", "scan", "pttl", "pexpire", "del"}
    return sum(row["calls"] for name, row in stats.items() if name.removeprefix("cmdstat_").split("|")[0] not in ours)


@pytest.mark.parametrize("kind", ["redis:valkey", "redis:redis"])
def test_an_operation_takes_as_many_steps_on_a_long_backlog_as_on_a_short_one(kind: str, shared_server: Any) -> None:
    taken = []
    for backlog in (0, 2000):
        with World(kind, shared_server(kind)) as world:
            for number in range(backlog):
                world.new(f"queued{number}" if number % 2 else f"parked{number}", delay=None if number % 2 else 1e6)
            world.store.published(R, [(f"queued{n}", n // 2 + 1) for n in range(backlog) if n % 2])
            world.store.epoch()
            before = calls(world)
            world.new("j")
            world.new("k", delay=1)
            world.run("j", pseq=1)
            world.store.mark(R, None)
            world.store.finish("j", "t1", OK, None)
            world.clock.ms += 1000
            world.store.take_due(R, 10)
            world.store.take_lost(R, 10)
            world.store.reap(10)
            world.store.cancel("k", "why")
            taken.append(calls(world) - before)
    assert taken[1] <= taken[0]  # the first may send a script twice: it was not loaded yet


FAMILIES = set(re.findall(r"^    ([a-z]+)[: ]", module.__doc__ or "", re.MULTILINE))


def test_every_key_is_a_documented_one(redis_world: World) -> None:
    every_operation(redis_world)
    assert {key.partition(":")[0] for key in redis_world.key_names()} <= FAMILIES
    assert {"job", "result", "due", "queued", "outbox", "route", "marks", "workers", "meta"} < FAMILIES


@pytest.mark.parametrize("end", ["finish", "fail", "cancelled", "cancel", "lost"])
def test_no_key_is_left_behind_by_a_job_whose_time_is_over(redis_world: World, end: str) -> None:
    world = redis_world
    world.use(retention=60.0, dead_ttl=60.0)
    world.settle()
    world.new("j", delay=1, result_ttl=10.0)
    assert {"job:j", f"due:{R}", "waiting"} <= world.key_names()
    world.advance(1)
    world.store.take_due(R, 10)
    assert {f"queued:{R}", f"outbox:{R}"} <= world.key_names()
    world.store.published(R, [("j", 1)])
    if end != "cancel":
        world.run("j", "t1", timeout=30.0, on_lost=plan(None))
        assert "worker:w" in world.key_names()
        world.store.cancel("j", "why")
        assert "cancels:w" in world.key_names()
    match end:
        case "finish":
            world.store.finish("j", "t1", OK, "42")
            assert "result:j" in world.key_names()
        case "fail":
            world.store.fail("j", "t1", BAD, "")
        case "cancelled":
            world.store.cancelled("j", "t1", OK, "")
        case "cancel":
            world.store.cancel("j", "")
        case _:
            world.tick(LEASE)
    world.store.leave("w")
    world.store.mark(R, 0)
    lasting = {"routes", f"route:{R}", f"marks:{R}", "meta"}
    ended = {"succeeded", "cancelled", "failed"}
    assert world.key_names() - {"result:j"} - ended == {*lasting, "job:j"}
    assert len(world.key_names() & ended) == 1
    world.advance(60 + 86400)
    assert world.key_names() - ended == lasting
    assert (world.store.dead(10), list_all(world)) == ([], [])
    world.store.reap(100)  # the entries of an index go at the next tick
    assert world.key_names() == lasting


def test_every_operation_stays_in_one_slot_of_a_cluster(tmp_path: Path) -> None:
    with socket.socket() as probe:  # its default is the server's port + 10000, which may be none
        probe.bind(("127.0.0.1", 0))
        bus = str(probe.getsockname()[1])
    options = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-require-full-coverage", "no"]
    with (
        RedisServer(binary_of("redis:valkey"), tmp_path / "data", options=options) as server,
        World("redis", server) as world,
    ):
        world.command("CLUSTER", "ADDSLOTS", world.command("CLUSTER", "KEYSLOT", world.prefix))
        while "cluster_state:ok" not in world.command("CLUSTER", "INFO"):  # after 2 s of its own
            time.sleep(0.02)
        with pytest.raises(redis.RedisError):  # this server minds
            world.raw.eval("return redis.call('GET', 'another slot')", 0)
        every_operation(world)


# ---- forks ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_shares_no_connection_with_its_parent(redis_world: World) -> None:
    """Both go on with the store that the parent has used: shared sockets would mix up their answers."""
    store = redis_world.store
    redis_world.new("before")
    assert isinstance(store, RedisStore)
    mine = store._client.client_id()
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ok = store._client.client_id() != mine
                for n in range(100):
                    id = f"child{number}-{n}"
                    ok = ok and redis_world.new(id).created and redis_world.get(id).message == f'{{"id":"{id}"}}'
                code = 0 if ok else 2
            finally:
                os._exit(code)
        children.append(pid)
    for n in range(300):
        assert redis_world.new(f"parent{n}").created
        assert redis_world.get(f"parent{n}").message == f'{{"id":"parent{n}"}}'
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert store._client.client_id() == mine
    assert redis_world.new("after").pseq == 1 + 3 * 100 + 300 + 1
    assert isinstance(redis_world.run("after"), Claimed)
    assert redis_world.get("after").status is JobStatus.running
