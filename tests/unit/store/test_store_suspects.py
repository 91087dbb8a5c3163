"""Losses in company and alone: who becomes a suspect, how suspects are claimed, and whom a loss may end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import AGAIN, BACK, BAD, LEASE, OK, R, plan

from queuekit.job import JobStatus
from queuekit.store import Claimed, Early, IfEnded, Suspect
from queuekit.store.ends import write_end

if TYPE_CHECKING:
    from store_world import World

LAST = IfEnded(None, "", write_end("lost", category="lost"), "attempt 1 of 1 was the last", spare=True)
NEVER_AGAIN = IfEnded(None, "", write_end("lost", category="lost"), "on_lost='fail'")


def crowd(world: World, ids: str = "abc", *, worker: str = "w", **more: object) -> None:
    for id in ids:
        if world.store.get(id) is None:
            world.new(id)
        world.run(id, f"t-{id}-{len(world.get(id).runs)}", worker=worker, **more)


def die(world: World, how: str, worker: str = "w") -> None:
    if how == "leave":
        world.store.leave(worker)
    elif how == "reap":
        assert {why for _, why in world.tick(LEASE)} == {"lost"}
    else:
        world.store.beat(worker, dead=[f"process of {worker}"])


HOW = pytest.mark.parametrize("how", ["leave", "reap", "beat"])


@HOW
def test_what_dies_together_is_told_so_and_suspected(world: World, how: str) -> None:
    world.settle()
    crowd(world, on_lost=plan(7.0, "lost once"))
    die(world, how)
    for id in "abc":
        record = world.get(id)
        assert (record.status, record.attempt, record.suspect) == (JobStatus.retrying, 1, 1)
        (attempt,) = record.attempts()
        assert (attempt.outcome, attempt.company, attempt.delay) == ("lost", 2, 7.0)


@HOW
def test_what_dies_alone_is_suspected_too(world: World, how: str) -> None:
    world.settle()
    crowd(world, "a")
    die(world, how)
    assert (world.get("a").suspect, world.get("a").attempts()[0].company) == (1, 0)


def test_only_what_shares_the_dead_process_is_its_company(world: World) -> None:
    for id, process in [("a", "1:1"), ("b", "1:1"), ("c", "2:2"), ("d", "3:3")]:
        world.new(id)
        world.run(id, f"t-{id}", process=process)
    world.store.beat("w", dead=["1:1", "2:2"])
    assert {id: world.get(id).attempts()[0].company for id in "abcd"} == {"a": 1, "b": 1, "c": 0, "d": 0}
    assert {id: world.get(id).suspect for id in "abcd"} == {"a": 1, "b": 1, "c": 1, "d": 0}


@HOW
def test_a_last_attempt_that_died_with_others_does_not_count(world: World, how: str) -> None:
    world.settle()
    crowd(world, on_lost=LAST)
    die(world, how)
    for id in "abc":
        record = world.get(id)
        assert (record.status, record.attempt, record.suspect, record.due) == (JobStatus.queued, 0, 1, world.now)
        (attempt,) = record.attempts()
        assert (attempt.number, attempt.outcome, attempt.category, attempt.company) == (1, "released", "lost", 2)
        assert attempt.reason == "its worker died with 2 others running: it does not count, and the job runs alone next"
    assert sorted(world.ids(world.store.take_due(R, 10))) == ["a", "b", "c"]
    assert world.run("a", "again").number == 1


def test_one_other_is_one_other(world: World) -> None:
    crowd(world, "ab", on_lost=LAST)
    world.store.leave("w")
    assert "with 1 other running" in (world.get("a").attempts()[0].reason or "")


@HOW
def test_a_last_attempt_that_died_alone_is_the_end(world: World, how: str) -> None:
    world.settle()
    crowd(world, "a", on_lost=LAST)
    die(world, how)
    record = world.get("a")
    assert (record.status, record.attempt, record.reason) == (JobStatus.failed, 1, LAST.reason)
    assert record.suspect == 0


def test_who_would_not_be_paid_for_twice_is_not_spared(world: World) -> None:
    crowd(world, "ab", on_lost=NEVER_AGAIN)
    world.store.leave("w")
    for id in "ab":
        assert (world.get(id).status, world.get(id).attempts()[0].outcome) == (JobStatus.failed, "lost")
        assert world.get(id).attempts()[0].company == 1


def test_a_job_to_be_cancelled_is_not_spared(world: World) -> None:
    crowd(world, "ab", on_lost=LAST)
    world.store.cancel("a", "not wanted")
    world.store.leave("w")
    assert (world.get("a").status, world.get("a").suspect) == (JobStatus.cancelled, 0)
    assert world.get("a").attempts()[0].outcome == "lost"


def test_it_is_spared_twice_and_then_ends(world: World) -> None:
    """By then it was the only one of its kind in what died: a job that takes all of its worker along has an end."""
    for suspect in (1, 2):
        crowd(world, "ab", on_lost=LAST)
        world.store.leave("w")
        assert (world.get("a").status, world.get("a").suspect) == (JobStatus.queued, suspect)
        if suspect == 1:
            world.store.take_due(R, 10)
    world.store.cancel("b", "out of the way")
    crowd(world, "ac", on_lost=LAST)
    world.store.leave("w")
    assert (world.get("a").status, world.get("a").attempt) == (JobStatus.failed, 1)
    assert [one.outcome for one in world.get("a").attempts()] == ["released", "released", "lost"]
    assert world.get("c").status is JobStatus.queued


# ---- how a suspect is claimed --------------------------------------------------------------------------------------


def lose(world: World, *ids: str, times: int = 1) -> None:
    """Each `times` times, with others."""
    for _ in range(times):
        for id in ids:
            if world.store.get(id) is None:
                world.new(id)
            world.run(id, f"t-{id}-{len(world.get(id).runs)}", worker="gone")
        world.store.leave("gone")
        world.store.take_due(R, 10)


def test_a_suspect_is_for_a_process_that_runs_nothing_else(world: World) -> None:
    lose(world, "a", "b")
    world.store.beat("w", start=True)
    before = world.get("a")
    assert world.claim("a", alone=False) == Suspect(before.message, waits=False)
    assert world.get("a") == before  # it waits as before, for the process that its worker starts
    assert isinstance(world.claim("a", alone=True), Claimed)
    assert isinstance(world.claim("b", "t2", process="another"), Claimed)


def test_others_are_claimed_as_ever(world: World) -> None:
    world.new("a")
    world.store.beat("w", start=True)
    assert isinstance(world.claim("a", alone=False), Claimed)


def test_of_those_that_were_lost_with_others_twice_a_worker_runs_one(world: World) -> None:
    lose(world, "a", "b", times=2)
    lose(world, "c", "d")
    assert [world.get(id).suspect for id in "abcd"] == [2, 2, 1, 1]
    world.run("a", "ta", worker="w")
    message = world.get("b").message
    assert world.claim("b", "tb", worker="w") == Suspect(message, waits=True)
    assert (world.get("b").status, world.get("b").due) == (JobStatus.queued, world.now + 1)
    assert world.claim("b", "tb", worker="w") == Early(world.now + 1)
    assert isinstance(world.claim("c", "tc", worker="w"), Claimed)
    world.advance(1)
    assert world.ids(world.store.take_due(R, 10)) == ["b"]
    assert world.run("b", "tb2", worker="w2").number == 3  # another worker has none
    world.store.finish("a", "ta", OK, None)
    assert world.store.leave("w2") == ["b"]
    assert world.run("b", "tb3", worker="w").number == 4


# ---- how long it stays one -----------------------------------------------------------------------------------------


def test_until_an_attempt_ends_by_itself(world: World) -> None:
    lose(world, "a", "b", times=2)
    world.run("a", "t", worker="w")
    assert world.get("a").suspect == 2
    world.store.release("a", "t", BACK, 0)  # its worker stopped: that says nothing of it
    assert world.get("a").suspect == 2
    world.run("a", "t2", worker="w")
    world.store.retry("a", "t2", AGAIN, 0, "once")
    assert world.get("a").suspect == 0
    assert world.run("a", "t3", worker="w", seen="once", alone=False).number == 4


def test_not_beyond_its_end(world: World) -> None:
    lose(world, *"abcd")
    for id in "abc":
        world.run(id, f"t-{id}", worker="w")
    world.store.finish("a", "t-a", OK, None)
    world.store.fail("b", "t-b", BAD, "a bug")
    world.store.cancelled("c", "t-c", BACK, "not wanted")
    world.store.cancel("d", "not wanted")
    assert [world.get(id).suspect for id in "abcd"] == [0, 0, 0, 0]
    world.store.revive("b")
    world.store.beat("w", start=True)
    assert isinstance(world.claim("b", "anew", alone=False), Claimed)


def test_a_time_limit_makes_none(world: World) -> None:
    world.settle("w")
    world.new("a")
    world.run("a", timeout=5.0, on_limit=plan(0.0, outcome="retried"))
    world.new("b")
    world.run("b", "t-b")
    world.advance(5.0)
    assert sorted(world.store.leave("w")) == ["a", "b"]
    assert (world.get("a").suspect, world.get("a").attempts()[0].company) == (0, 0)
