"""What people do: cancel, revive, look at dead letters and at the quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import AGAIN, BACK, BAD, LEASE, OK, R

from queuekit.job import JobStatus
from queuekit.store import MOST_SAID, Busy, Cancelled, Claimed, Taken

if TYPE_CHECKING:
    from store_world import World


def bring_to(world: World, status: str) -> None:
    """A job "j" in that state, its last fence "t1"."""
    world.new("j", delay=60 if status == "scheduled" else None)
    if status in {"scheduled", "queued"}:
        return
    world.run("j", "t1")
    match status:
        case "retrying":
            world.store.retry("j", "t1", AGAIN, 10.0, "s")
        case "released":
            world.store.release("j", "t1", BACK, 10.0)
        case "succeeded":
            world.store.finish("j", "t1", OK, "42")
        case "failed":
            world.store.fail("j", "t1", BAD, "no rule")
        case "cancelled":
            world.store.cancelled("j", "t1", OK, "first")
        case _:
            assert status == "running"


# ---- cancel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["scheduled", "queued", "retrying", "released"])
def test_a_job_that_is_not_running_is_cancelled_at_once_and_never_starts(world: World, status: str) -> None:
    bring_to(world, status)
    assert world.store.cancel("j", "not needed") == "cancelled"
    record = world.get("j")
    assert (record.status, record.reason, record.finished, record.due) == (
        JobStatus.cancelled, "not needed", world.now, None
    )  # fmt: skip
    world.advance(100)
    assert world.store.take_due(R, 10) == []
    world.store.mark(R, 0)
    world.advance(LEASE)
    assert world.store.take_lost(R, 10) == []
    world.store.beat("w", start=True)
    assert world.claim("j", "t2") == Cancelled("not needed")


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_an_ended_job_cannot_be_cancelled(world: World, status: str) -> None:
    bring_to(world, status)
    before = world.get("j")
    assert world.store.cancel("j", "too late") == "ended"
    assert world.get("j") == before


def test_an_unknown_job_cannot_be_cancelled(world: World) -> None:
    assert world.store.cancel("nobody", "why") == "missing"
    assert world.store.get("nobody") is None


def test_a_running_job_is_asked_to_end(world: World) -> None:
    bring_to(world, "running")
    assert world.store.cancel("j", "first") == "requested"
    assert world.store.cancel("j", "second") == "requested"
    assert world.get("j").cancel_requested == "first"
    assert world.get("j").status is JobStatus.running
    assert world.store.cancel_requested(["j", "nobody"]) == {"j": "first"}
    assert world.store.beat("w").cancels == ("j",)
    assert world.store.cancelled("j", "t1", OK, "first")
    assert (world.get("j").status, world.get("j").reason) == (JobStatus.cancelled, "first")
    assert world.store.cancel_requested(["j"]) == {}
    assert world.store.cancel_requested([]) == {}


@pytest.mark.parametrize("how", ["retry", "release"])
def test_a_job_to_be_cancelled_is_not_tried_again(world: World, how: str) -> None:
    bring_to(world, "running")
    world.store.cancel("j", "enough")

    def end(token: str) -> bool | Cancelled:
        if how == "retry":
            return world.store.retry("j", token, AGAIN, 0.0, "s")
        return world.store.release("j", token, BACK, 0.0)

    assert end("another") is False
    assert end("t1") == Cancelled("enough")
    assert end("t1") == Cancelled("enough")  # the first answer may have been lost
    assert end("another") is False
    assert (world.get("j").status, world.get("j").reason) == (JobStatus.cancelled, "enough")
    assert world.store.take_due(R, 10) == []


def test_a_job_that_ends_before_it_hears_of_the_cancel_has_ended(world: World) -> None:
    bring_to(world, "running")
    world.store.cancel("j", "too late")
    assert world.store.finish("j", "t1", OK, "42")
    assert (world.get("j").status, world.store.result("j")) == (JobStatus.succeeded, "42")
    assert world.store.beat("w").cancels == ()


def test_a_reason_may_be_empty(world: World) -> None:
    bring_to(world, "running")
    world.store.cancel("j", "")
    assert world.store.cancel_requested(["j"]) == {"j": ""}
    assert world.store.retry("j", "t1", AGAIN, 0.0, "s") == Cancelled("")
    assert world.get("j").status is JobStatus.cancelled


# ---- revive --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_ended_job_is_queued_again_with_a_new_publication(world: World, status: str) -> None:
    world.use(retention=60.0, dead_ttl=60.0)
    bring_to(world, status)
    taken = world.store.revive("j")
    assert taken == Taken('{"id":"j"}', 2, 2, world.store.epoch())
    record = world.get("j")
    assert (record.status, record.state, record.reason, record.finished) == (JobStatus.queued, "", "", None)
    assert len(record.runs) == 1  # its past stays
    assert world.store.dead(5) == []
    assert world.store.revive("j") is None  # it is queued now
    world.advance(61)
    assert world.ids(world.store.take_lost(R, 10)) == ["j"]  # nobody published it, and it does not expire
    assert world.run("j", "t2").number == 2
    assert world.store.finish("j", "t1", OK, None) is False
    assert world.store.finish("j", "t2", OK, "42")


@pytest.mark.parametrize("status", ["scheduled", "queued", "running", "retrying", "succeeded"])
def test_no_other_job_is_revived(world: World, status: str) -> None:
    bring_to(world, status)
    before = world.get("j")
    assert world.store.revive("j") is None
    assert world.get("j") == before
    assert world.store.revive("nobody") is None


def test_a_revived_job_may_have_another_message_and_another_route(world: World) -> None:
    bring_to(world, "failed")
    taken = world.store.revive("j", message='{"id":"k"}', route="celery:other:3")
    assert taken == Taken('{"id":"k"}', 1, 2, world.store.epoch())
    assert (world.get("j").message, world.get("j").route) == ('{"id":"k"}', "celery:other:3")
    assert world.store.routes("celery") == ["celery:other:3"]
    world.advance(100)
    assert world.store.take_lost(R, 10) == []
    assert world.ids(world.store.take_lost("celery:other:3", 10)) == ["k"]


def test_a_revived_job_has_forgotten_its_cancel_and_its_expiry(world: World) -> None:
    world.new("j", expires_in=5.0)
    world.run("j", "t1")
    world.store.cancel("j", "enough")
    world.store.retry("j", "t1", AGAIN, 0.0, "s")
    world.advance(10)
    assert world.store.revive("j") is not None
    assert world.get("j").cancel_requested is None
    world.run("j", "t2")
    assert world.store.beat("w").cancels == ()
    assert world.store.retry("j", "t2", AGAIN, 0.0, "s")
    assert world.get("j").status is JobStatus.retrying


def test_a_job_that_expired_may_be_revived(world: World) -> None:
    world.new("j", expires_in=5.0)
    world.advance(5)
    assert world.claim("j") == Cancelled("expired before it started")
    assert world.store.revive("j") is not None
    assert world.run("j", "t2").number == 1


def test_a_revived_job_has_an_empty_retry_state(world: World) -> None:
    bring_to(world, "retrying")
    assert world.get("j").state == "s"
    world.store.cancel("j", "")
    assert world.store.revive("j") is not None
    assert world.get("j").state == ""
    assert world.run("j", "t2", seen="").state == ""


def test_the_token_of_a_failed_attempt_does_not_start_the_revived_job(world: World) -> None:
    bring_to(world, "failed")
    world.store.revive("j")
    world.store.beat("w", start=True)
    assert world.claim("j", "t1") == Busy()
    assert isinstance(world.claim("j", "t2"), Claimed)


# ---- quarantine ----------------------------------------------------------------------------------------------------


def test_the_newest_of_the_quarantine_come_first(world: World) -> None:
    assert world.store.quarantined(5) == []
    for number in range(3):
        world.store.quarantine(f"raw|{number}", f"why|{number}")
        world.advance(1)
    assert [(kept.raw, kept.reason, kept.at) for kept in world.store.quarantined(2)] == [
        ("raw|2", "why|2", world.now - 1),
        ("raw|1", "why|1", world.now - 2),
    ]
    assert len(world.store.quarantined(10)) == 3


def test_the_quarantine_says_where_a_message_came_from(world: World) -> None:
    world.store.quarantine("raw|7,3|ü", "why, 12|3", source="a.queue|ü")
    world.store.quarantine("", "", source="")
    assert [(kept.raw, kept.reason, kept.source) for kept in world.store.quarantined(5)] == [
        ("", "", ""),
        ("raw|7,3|ü", "why, 12|3", "a.queue|ü"),
    ]


def test_a_reason_that_quotes_the_message_is_cut(world: World) -> None:
    world.store.quarantine("raw", "x" * 100_000, source="y" * 100_000)
    (kept,) = world.store.quarantined(5)
    assert (kept.raw, kept.reason, kept.source) == ("raw", "x" * MOST_SAID, "y" * MOST_SAID)


def test_what_was_put_aside_before_sources_were_kept_is_read(redis_world: World) -> None:
    redis_world.raw.lpush(f"{redis_world.prefix}quarantine", f"{redis_world.clock.ms}|3|why{{raw}}")
    (kept,) = redis_world.store.quarantined(5)
    assert (kept.raw, kept.reason, kept.source) == ("{raw}", "why", "")
