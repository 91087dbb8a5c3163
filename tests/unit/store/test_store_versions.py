"""Records carry a version. One that is not read here is touched only where all versions agree."""

from __future__ import annotations

import json

import pytest
from store_world import LEASE, OK, R, World

from queuekit.job import JOINED_VERSION, RECORD_VERSION, JobStatus
from queuekit.store import Claimed, FlowJob, NewFlow, NewJob, Unreadable

LATER = JOINED_VERSION + 1


@pytest.fixture
def world(redis_world: World) -> World:
    """Redis only: no other version ever writes into a process's memory."""
    return redis_world


def fields(world: World, id: str = "j") -> dict[str, str]:
    return world.raw.hgetall(f"{world.prefix}job:{id}")  # type: ignore[return-value]


def set_version(world: World, version: int | None, id: str = "j") -> None:
    """As a program of that version has recorded it; None: from before they were numbered."""
    if version is None:
        world.raw.hdel(f"{world.prefix}job:{id}", "v")
    else:
        world.raw.hset(f"{world.prefix}job:{id}", "v", str(version))


def test_what_is_recorded_carries_the_version(world: World) -> None:
    world.new()
    assert fields(world)["v"] == str(RECORD_VERSION)
    assert world.get().version == RECORD_VERSION


def test_a_record_from_before_they_were_numbered_is_read_and_brought_up(world: World) -> None:
    world.new()
    set_version(world, None)
    assert world.get().version == 0
    world.run()
    assert world.get().version == RECORD_VERSION


def test_a_later_record_is_handed_back_with_a_wait_and_costs_no_attempt(world: World) -> None:
    world.new()
    set_version(world, LATER)
    before = fields(world)
    assert world.claim() == Unreadable(LATER, ended=False)
    after = fields(world)
    assert {name: after[name] for name in before} == before
    assert (after["attempt"], after["status"]) == ("0", "queued")
    assert world.store.take_due(R, 10) == []
    world.advance(1)
    assert world.ids(world.store.take_due(R, 10)) == ["j"]


def test_after_the_grace_it_is_a_dead_letter_that_can_be_revived(world: World) -> None:
    world.new()
    set_version(world, LATER)
    assert world.claim(unknown_grace=60.0) == Unreadable(LATER, ended=False)
    world.advance(59)
    assert world.claim(unknown_grace=60.0) == Unreadable(LATER, ended=False)
    world.advance(100)
    assert world.claim(unknown_grace=60.0) == Unreadable(LATER, ended=True)
    assert (world.get().status, world.get().attempt) == (JobStatus.failed, 0)
    assert f"version {LATER}" in world.get().reason
    assert world.store.dead(10) == ["j"]
    assert world.store.revive("j") is not None


def test_the_grace_begins_anew_once_somebody_could_read_it(world: World) -> None:
    world.new()
    set_version(world, LATER)
    assert world.claim() == Unreadable(LATER, ended=False)
    set_version(world, RECORD_VERSION)  # as its own version sees it
    world.advance(10)
    world.run()
    assert "unread" not in fields(world)


def test_anybody_can_cancel_it(world: World) -> None:
    world.new()
    set_version(world, LATER)
    assert world.store.cancel("j", "enough") == "cancelled"


def test_its_attempt_is_ended_by_stewards_of_its_own_version_alone(world: World) -> None:
    """A plan of another version may mean anything. Its neighbours on the worker are seen to."""
    for id in ("j", "k"):
        world.new(id)
        world.run(id, f"t-{id}", timeout=5.0)
    key = f"{world.prefix}job:j"
    mine = fields(world)
    set_version(world, LATER)
    world.raw.hdel(key, "fence", "lost_delay", "limit_delay")  # kept elsewhere by its version
    before = fields(world)
    world.store.reap(10)
    reaped = world.tick(3 * LEASE)
    assert {id for id, _ in reaped} == {"k"}
    assert fields(world) == before
    world.raw.hset(key, mapping=dict(mine))
    assert {id for id, _ in world.store.reap(10)} == {"j"}
    assert world.get().status is JobStatus.retrying
    assert world.raw.zcard(f"{world.prefix}workers") == 0


def test_a_record_that_is_gone_does_not_come_back_as_a_version(world: World) -> None:
    world.new()
    world.run()
    world.raw.delete(f"{world.prefix}job:j")
    world.store.leave("w")
    assert fields(world) == {}
    assert "worker:w" not in world.key_names()


def test_a_claim_of_a_job_that_was_handed_back_is_answered_like_any_other(world: World) -> None:
    world.new(message=json.dumps({"id": "j"}))
    set_version(world, LATER)
    world.claim()
    world.advance(1)
    world.store.take_due(R, 10)
    set_version(world, None)
    assert isinstance(
        world.claim(worker="w2", token="t2") if world.store.beat("w2", start=True).alive else None, Claimed
    )


def test_only_jobs_whose_end_means_something_for_others_are_of_the_later_version(world: World) -> None:
    """So that a worker of before, which would not see to the others, hands them back."""
    world.new()
    world.run()
    assert world.get().version == RECORD_VERSION
    world.new("child", parent=("j", "t1"))
    assert (world.get().version, world.get("child").version) == (JOINED_VERSION, RECORD_VERSION)
    flow = NewFlow("f", "t", 1, near="a")
    step = NewJob("a", '{"id":"a"}', "d", R, "", 60.0)
    assert world.store.create_flow(flow, [FlowJob(step)]) == []
    assert world.get("a").version == JOINED_VERSION
    assert world.store.start_flow(flow).said == "started"
    world.run("a", "ta", pseq=3)
    assert world.store.finish("a", "ta", OK, None)
