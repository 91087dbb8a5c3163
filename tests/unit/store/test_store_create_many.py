"""Many jobs recorded in one step, and their doorbells with them where the broker is the store's own Redis."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.store import Created, IdTaken, NewJob, Wire, WireForm
from queuekit.store.redis import _laid_out

if TYPE_CHECKING:
    from store_world import World

R = "celery:q:0"
DOORBELL = ('{"pseq": ', ', "epoch": "', '"}')


def new(id: str, *, digest: str = "", **more: object) -> NewJob:
    return NewJob(id, f'{{"id":"{id}"}}', digest or f"digest of {id}", R, f"new-{id}", 60.0, **more)  # type: ignore[arg-type]


def form(key: str, *before: tuple[str, ...]) -> WireForm:
    return WireForm(*before, ("RPUSH", key, WireForm.DOORBELL))


def wire(key: str, *before: tuple[str, ...]) -> Wire:
    return Wire(form(key, *before), DOORBELL)


# ---- every store -------------------------------------------------------------------------------------------------------


def test_each_is_recorded_as_by_create(world: World) -> None:
    made = world.store.create_many([new("a"), new("b", delay=5.0), new("c", expires_in=1.0)])
    assert isinstance(made, list)
    assert [(one.created, one.same, one.pseq, one.number) for one in made] == [
        (True, True, 1, 1), (True, True, None, 1), (True, True, 2, 1),
    ]  # fmt: skip
    assert [str(world.get(id).status) for id in "abc"] == ["queued", "scheduled", "queued"]
    assert world.store.create_many([]) == []


def test_asked_again_it_gives_the_same_answer(world: World) -> None:
    jobs = [new("a"), new("b")]
    assert world.store.create_many(jobs) == world.store.create_many(jobs)
    assert world.store.create(jobs[0]) == Created(True, True, world.store.epoch(), 1, 1)


def test_all_or_none(world: World) -> None:
    world.store.create(new("b"))
    assert world.store.create_many([new("a"), new("b", digest="another")]) == IdTaken("b")
    assert world.store.get("a") is None
    assert world.store.create_many([new("a"), new("c"), new("a", digest="another")]) == IdTaken("a")
    assert world.store.get("c") is None


def test_half_an_emoji_and_what_json_has_to_escape(world: World) -> None:
    message = '{"id":"a","args":["\ud83d \\u0000 \\" é 😀"]}'
    world.store.create_many([NewJob("a", message, "d", R, "t", 60.0)])
    assert world.get("a").message == message


# ---- Redis, with the doorbell --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True], ids=["published", "refused"])
def test_plain_jobs_are_written_in_short_as_at_length(
    redis_world: World, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    store.epoch()
    own = WireForm.OWN
    before = [
        *([("GET",)] if refused else []),
        ("SADD", f"{key}s", key),
        ("HSET", own, "x", own),
        ("SADD", f"{key}x", own),
    ]
    of_both = form(key, *before)
    wires = [Wire(of_both, (f"{key}-{id}", id, f"{id} 4711", *DOORBELL)) for id in "ab"]
    assert _laid_out([new("a"), new("b")], wires) is not None, "otherwise both are at length"
    found, answers = [], []
    for short in (True, False):
        if not short:
            monkeypatch.setattr("queuekit.store.redis._laid_out", lambda *_: None)
        answers.append(store.create_many([new("a"), new("b")], wires))
        names = {name for name in redis_world.key_names() - {"meta"} if not (refused and name.startswith("broker"))}
        found.append({name: contents(redis_world, name) for name in names})
        redis_world.command("DEL", *(f"{redis_world.prefix}{name}" for name in redis_world.key_names() - {"meta"}))
    assert answers[0] == answers[1]
    assert found[0] == found[1]


def contents(world: World, name: str) -> Any:
    key = f"{world.prefix}{name}"
    reads = {
        "hash": ("HGETALL",),
        "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        "set": ("SMEMBERS",),
        "list": ("LRANGE", 0, -1),
    }
    read, *rest = reads[world.command("TYPE", key)]
    return world.command(read, key, *rest)


@pytest.mark.parametrize(
    "more", [{"delay": 5.0}, {"expires_in": 1.0}, {"key": "k"}, {"elsewhere": True}, {"parent": ("p", "f")}], ids=str
)
def test_what_is_more_than_plain_is_written_at_length(
    redis_world: World, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    ran: list[str] = []
    run: Any = type(redis_world.store)._run  # type: ignore[attr-defined]

    def noted(store: Any, operation: str, *args: Any) -> Any:
        ran.append(operation)
        return run(store, operation, *args)

    monkeypatch.setattr(type(redis_world.store), "_run", noted)
    wires = [wire(f"{redis_world.prefix}broker")] * 2
    redis_world.store.create_many([new("b"), new("a", **more)], wires)
    assert ran == ["create_many"]


def test_twice_one_id_in_a_batch(redis_world: World) -> None:
    key = f"{redis_world.prefix}broker"
    redis_world.store.epoch()
    redis_world.store.create_many([new("a"), new("a")], [wire(key)] * 2)
    assert redis_world.command("LLEN", key) == 1


def test_record_and_doorbell_in_one_step(redis_world: World) -> None:
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    made = store.create_many(
        [new("a"), new("b"), new("c", delay=9.0)],
        [wire(key), wire(key, ("SADD", f"{key}s", key)), wire(key)],
    )
    assert isinstance(made, list)
    assert [one.pseq for one in made] == [None, None, None], "nothing is left to be published"
    epoch = store.epoch()
    assert redis_world.command("LRANGE", key, 0, -1) == [f'{{"pseq": {n}, "epoch": "{epoch}"}}' for n in (1, 2)]
    assert redis_world.command("SMEMBERS", f"{key}s") == {key}
    assert redis_world.get("b").pseq == 2
    assert redis_world.command("ZCARD", f"{redis_world.prefix}outbox:{R}") == 0
    # a lost reply: asked again, it rings once
    again = store.create_many([new("a")], [wire(key)])
    assert again == [Created(True, True, epoch, None, 1)]
    assert redis_world.command("LLEN", key) == 2


def test_what_a_job_has_of_its_own_is_never_taken_for_a_place(redis_world: World) -> None:
    key = f"{redis_world.prefix}broker"
    job = NewJob("a", json.dumps({"id": "a", "args": ["\0", "\1"]}), "d", R, "t", 60.0)
    own = Wire(form(key, ("SADD", f"{key}s", WireForm.OWN)), (WireForm.DOORBELL, *DOORBELL))
    for _ in range(2):  # in short, and at length
        redis_world.store.create_many([job], [own])
        assert redis_world.command("SMEMBERS", f"{key}s") == {WireForm.DOORBELL}
    assert json.loads(redis_world.get("a").message)["args"] == ["\0", "\1"]


@pytest.mark.parametrize("asked_again", [False, True])
def test_what_the_broker_refuses_is_left_to_be_published(redis_world: World, asked_again: bool) -> None:
    """A user of the store who may not write to the broker's keys; here, a key of another type."""
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    redis_world.command("SET", key, "no list")
    made = store.create_many([new("a")], [wire(key)])
    if asked_again:
        made = store.create_many([new("a")], [wire(key)])
    assert made == [Created(True, True, store.epoch(), 1, 1)]
    assert redis_world.command("ZCARD", f"{redis_world.prefix}outbox:{R}") == 1


def test_asked_for_before_the_answer_is_waited_for(redis_world: World) -> None:
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    epoch = store.epoch()
    store.create_many([new("first")], [wire(f"{key}:first")])  # a server that does not know the script yet says so
    creating = store.creating([new("a"), new("b")], [wire(key)] * 2)
    creating.start()
    until = time.monotonic() + 20
    while not redis_world.command("EXISTS", f"{redis_world.prefix}job:b") and time.monotonic() < until:
        time.sleep(0.001)
    assert redis_world.command("LLEN", key) == 2, "nobody has asked for the answer yet"
    assert creating() == [Created(True, True, epoch, None, 1)] * 2
    assert creating() == [Created(True, True, epoch, None, 1)] * 2, "a lost answer: asked again, it is the same"
    assert redis_world.command("LLEN", key) == 2


def test_what_was_asked_for_and_dropped_is_no_answer_to_anything_else(redis_world: World) -> None:
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    store.epoch()
    for number in range(3):
        creating = store.creating([new(f"a{number}")], [wire(key)])
        creating.start()
        creating.drop()
    assert store.status("none of these") is None
    assert isinstance(store.create_many([new("b")], [wire(key)]), list)


def test_a_server_that_does_not_know_the_script_and_an_empty_store(redis_world: World) -> None:
    store, key = redis_world.store, f"{redis_world.prefix}broker"
    redis_world.command("SCRIPT", "FLUSH")
    creating = store.creating([new("a")], [wire(key)])
    creating.start()
    (made,) = creating()  # type: ignore[misc]
    assert (made.created, made.pseq) == (True, None)
    assert redis_world.command("LLEN", key) == 1
