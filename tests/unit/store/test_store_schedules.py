"""Schedules in the store, on both: recorded, due, fired once, paused, let go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from store_world import OK, START, R

from queuekit.store import NewJob

if TYPE_CHECKING:
    from store_world import World


def put(world: World, name: str = "s", text: str = "text", when: str = "when", due: int | None = START + 5000) -> str:
    return world.store.put_schedule(name, text, when, due, declared=True)


def job(id: str, at: float, **more: Any) -> NewJob:
    return NewJob(id, f'{{"id":"{id}"}}', f"digest of {id}", R, "any", 3600.0, at=at, **more)


def row(world: World, name: str = "s") -> Any:
    return next(iter(world.store.schedules(name)), None)


def test_it_is_recorded_and_changed(world: World) -> None:
    assert put(world) == "added"
    assert put(world) == "same"
    assert put(world, text="other", due=START + 9000) == "changed"
    assert (row(world).text, row(world).due) == ("other", START + 5000)  # it ticks as before
    assert put(world, text="third", when="then", due=START + 9000) == "changed"
    assert row(world).due == START + 9000
    assert world.store.put_schedule("s", "text", "when", None, declared=False) == "taken"
    assert world.store.remove_schedule("s")
    assert not world.store.remove_schedule("s")
    assert world.store.schedules() == []
    if world.kind != "memory":
        assert not {key for key in world.key_names() if "schedule" in key}


def test_it_is_due_at_its_moment(world: World) -> None:
    put(world, "later", due=START + 9000)
    put(world)
    put(world, "never", due=None)
    world.advance(4)
    assert world.store.due_schedules(10) == []
    world.advance(1)
    (due,) = world.store.due_schedules(10)
    assert (due.name, due.text, due.due, due.now) == ("s", "text", START + 5000, START + 5000)
    world.advance(10)
    assert [one.name for one in world.store.due_schedules(10)] == ["s", "later"]
    assert [one.name for one in world.store.due_schedules(1)] == ["s"]
    assert [one.name for one in world.store.schedules()] == ["s", "later", "never"]
    assert [one.name for one in world.store.schedules("later")] == ["later"]
    assert world.store.schedules("nobody") == []
    for n in range(120):
        put(world, f"s{n:03d}", due=START + 10_000 + n)
    assert [one.name for one in world.store.schedules()][2:-1] == [f"s{n:03d}" for n in range(120)]


def test_a_tick_is_fired_once(world: World) -> None:
    put(world)
    world.advance(6)
    fire = {"text": "text", "due": START + 5000, "following": START + 10_000, "once": False}
    assert world.store.fire("s", jobs=[job("s-1", START / 1000 + 5)], **fire) == ["s-1"]
    assert world.store.fire("s", jobs=[job("s-1", START / 1000 + 5)], **fire) is None
    record = world.get("s-1")
    assert (record.status, record.due, record.created) == ("scheduled", START / 1000 + 5, world.now)
    assert world.ids(world.store.take_due(R, 10)) == ["s-1"]
    assert (row(world).due, row(world).fired, row(world).job) == (START + 10_000, START + 5000, "s-1")
    world.run("s-1")
    assert world.store.finish("s-1", "t1", OK, None)


def test_of_twenty_stewards_one_fires(world: World) -> None:
    put(world)
    world.advance(6)

    def fire(_: int) -> Any:
        return world.store.fire("s", "text", START + 5000, START + 10_000, [job("s-1", START / 1000 + 5)], once=False)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(fire, range(20)))
    assert sorted(answers, key=str) == [*[None] * 19, ["s-1"]]


def test_what_is_there_by_that_id_is_not_made_again(world: World) -> None:
    put(world)
    world.new("s-1")
    world.advance(6)
    jobs = [job("s-1", START / 1000 + 5), job("s-2", START / 1000 + 6)]
    assert world.store.fire("s", "text", START + 5000, None, jobs, once=False) == ["s-2"]
    assert world.get("s-1").status == "queued"
    assert row(world).due is None


def test_a_schedule_that_was_changed_or_is_gone_is_not_fired(world: World) -> None:
    put(world)
    put(world, text="other")
    world.advance(6)
    assert world.store.fire("s", "text", START + 5000, None, [job("s-1", 0)], once=False) is None
    assert world.store.fire("other", "text", START + 5000, None, [job("s-1", 0)], once=False) is None
    assert world.store.get("s-1") is None


def test_one_moment_lets_it_go_or_keeps_it(world: World) -> None:
    for name, once in (("kept", False), ("gone", True)):
        put(world, name)
        world.advance(6)
        assert world.store.fire(name, "text", START + 5000, None, [], once=once) == []
    assert [(one.name, one.due, one.paused) for one in world.store.schedules()] == [("kept", None, False)]


def test_a_job_whose_key_is_held_is_not_made(world: World) -> None:
    put(world)
    world.new("by-hand", key="k")
    world.advance(6)
    keyed = job("s-1", START / 1000 + 5, key="k")
    assert world.store.fire("s", "text", START + 5000, START + 10_000, [keyed], once=False) == []
    world.advance(5)
    replacing = job("s-2", START / 1000 + 10, key="k", if_held="replace")
    assert world.store.fire("s", "text", START + 10_000, None, [replacing], once=False) == ["s-2"]
    assert world.get("by-hand").reason == "replaced by job s-2"
    assert world.store.holder("k") == "s-2"


def test_it_stands_still_and_goes_on(world: World) -> None:
    assert not world.store.pause_schedule("s", True)
    put(world)
    assert world.store.pause_schedule("s", False, START + 77_000)  # it did not stand still
    assert row(world).due == START + 5000
    assert world.store.pause_schedule("s", True)
    assert (row(world).paused, row(world).due) == (True, None)
    world.advance(60)
    assert world.store.due_schedules(10) == []
    assert put(world, text="other", when="then", due=START + 65_000) == "changed"
    assert row(world).due is None
    assert world.store.fire("s", "other", START + 5000, None, [], once=False) is None
    assert world.store.pause_schedule("s", False, START + 70_000)
    assert (row(world).paused, row(world).due) == (False, START + 70_000)
