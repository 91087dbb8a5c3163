"""claim() in all its answers, and how an attempt ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import AGAIN, BACK, BAD, LEASE, OK, START, R, plan

from queuekit.job import JobStatus
from queuekit.retry import Category
from queuekit.store import (
    Busy,
    Cancelled,
    Claimed,
    Done,
    Early,
    Missing,
    NoLease,
    StoreLost,
    Unseen,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from store_world import World

DAY = 86400.0

ENDS: dict[str, Callable[[World, str], bool]] = {
    "finish": lambda world, token: world.store.finish("j", token, OK, "42"),
    "retry": lambda world, token: world.store.retry("j", token, AGAIN, 10.0, "state"),
    "fail": lambda world, token: world.store.fail("j", token, BAD, "no rule"),
    "release": lambda world, token: world.store.release("j", token, BACK, 1.0),
    "cancelled": lambda world, token: world.store.cancelled("j", token, OK, "asked to"),
}
AFTER = {
    "finish": JobStatus.succeeded,
    "retry": JobStatus.retrying,
    "fail": JobStatus.failed,
    "release": JobStatus.queued,
    "cancelled": JobStatus.cancelled,
}


# ---- claim ---------------------------------------------------------------------------------------------------------


def test_a_claim_says_from_when_the_job_could_have_run(world: World) -> None:
    def ready(id: str, token: str = "t1") -> float:
        world.advance(2)
        claimed = world.run(id, token)
        assert isinstance(claimed, Claimed)
        return claimed.ready

    began = world.now
    world.new("at-once")
    assert ready("at-once") == began
    began = world.now
    world.store.retry("at-once", "t1", AGAIN, 0.5, "")
    assert ready("at-once", "t2") == began + 0.5
    world.store.fail("at-once", "t2", BAD, "why")
    began = world.now
    world.store.revive("at-once")
    assert ready("at-once", "t3") == began
    began = world.now
    world.new("later", delay=1.5)
    assert ready("later") == began + 1.5


def test_a_claimed_attempt_is_recorded_before_it_runs(world: World) -> None:
    world.new("j")
    world.advance(2)
    claimed = world.run("j")
    assert claimed == Claimed('{"id":"j"}', 1, world.now, START / 1000, "", 3600.0)
    record = world.get("j")
    assert (record.status, record.attempt, record.worker) == (JobStatus.running, 1, "w")
    assert record.runs == (({"at": world.now, "number": 1, "worker": "w"}, None),)
    (attempt,) = record.attempts()
    assert (attempt.number, attempt.outcome, attempt.worker, attempt.ended_at) == (1, "running", "w", None)


def test_a_lost_reply_to_claim_can_be_asked_for_again(world: World) -> None:
    world.new("j")
    first = world.run("j", "t1")
    world.advance(1)
    assert world.claim("j", "t1") == first
    assert world.get("j").attempt == 1


def test_a_running_job_is_busy_for_everybody_else(world: World) -> None:
    world.new("j")
    world.run("j", "t1")
    assert world.claim("j", "t2") == Busy()
    assert world.claim("j", "t2", worker="w2") == Busy()
    assert world.get("j").attempt == 1


def test_an_expired_lease_is_not_taken_over(world: World) -> None:
    world.new("j")
    world.run("j", "t1")
    world.advance(10 * LEASE)
    world.store.beat("w2", start=True)
    assert world.claim("j", "t2", worker="w2") == Busy()


def test_a_parked_job_is_early_until_its_time(world: World) -> None:
    world.new("j", delay=10)
    world.store.beat("w", start=True)
    assert world.claim("j") == Early(world.now + 10)
    world.advance(9.999)
    assert world.claim("j") == Early(world.now + 0.001)
    assert world.get("j").status is JobStatus.scheduled
    world.advance(0.001)
    assert isinstance(world.claim("j"), Claimed)
    assert world.store.take_due(R, 10) == []


@pytest.mark.parametrize(("end", "answer"), [("finish", Done(JobStatus.succeeded)), ("fail", Done(JobStatus.failed)),
                                            ("cancelled", Cancelled("asked to"))])  # fmt: skip
def test_an_ended_job_is_done(world: World, end: str, answer: object) -> None:
    world.new("j")
    world.run("j", "t1")
    ENDS[end](world, "t1")
    assert world.claim("j", "t2") == answer


def test_a_cancelled_job_says_why(world: World) -> None:
    world.new("j")
    world.store.cancel("j", "not needed any more")
    assert world.claim("j") == Cancelled("not needed any more")


def test_a_job_that_has_not_started_in_time_never_does(world: World) -> None:
    world.new("a", expires=world.now + 10)
    world.new("b", expires_in=10.0)
    world.new("c", expires_in=10.0)
    world.store.beat("w", start=True)
    world.clock.ms += 9_999
    assert isinstance(world.claim("c", "tc"), Claimed)
    world.clock.ms += 1
    for id in "ab":
        assert world.claim(id, f"t{id}") == Cancelled("expired before it started")
        assert (world.get(id).status, world.get(id).reason) == (JobStatus.cancelled, "expired before it started")
        assert world.get(id).finished == world.now


def test_a_job_that_has_started_in_time_may_run_again_later(world: World) -> None:
    world.new("j", expires_in=10.0)
    world.run("j", "t1")
    world.store.retry("j", "t1", AGAIN, 60.0, "s")
    world.advance(60)
    assert world.run("j", "t2", seen="s").number == 2


def test_a_job_that_was_only_handed_back_has_not_started(world: World) -> None:
    world.new("j", expires_in=10.0)
    world.run("j", "t1")
    world.store.release("j", "t1", BACK, 0.0)
    world.advance(10)
    assert world.claim("j", "t2") == Cancelled("expired before it started")


def test_what_this_very_store_does_not_know_is_missing(world: World) -> None:
    assert world.claim("nobody", epoch=world.store.epoch()) == Missing()


def test_a_message_of_another_epoch_shows_that_the_store_was_lost(world: World) -> None:
    assert world.claim("nobody", epoch="another") == StoreLost(world.store.epoch())
    world.new("j")
    world.store.beat("w", start=True)
    assert isinstance(world.claim("j", epoch="another"), Claimed)  # its record is here all the same


def test_a_worker_without_a_living_lease_gets_nothing(world: World) -> None:
    world.new("j")
    assert world.claim("j") == NoLease()
    world.store.beat("w", start=True)
    world.clock.ms += int(LEASE * 1000)
    assert world.claim("j") == NoLease()
    assert (world.get("j").status, world.get("j").attempt) == (JobStatus.queued, 0)
    assert world.store.beat("w").alive
    assert isinstance(world.claim("j"), Claimed)


def test_plans_made_for_another_state_are_asked_for_again(world: World) -> None:
    world.new("j")
    world.run("j", "t1")
    world.store.retry("j", "t1", AGAIN, 0.0, "one failure")
    assert world.claim("j", "t2", seen="") == Unseen("one failure", '{"id":"j"}')
    assert world.get("j").attempt == 1
    assert world.run("j", "t2", seen="one failure").state == "one failure"


def test_a_token_whose_attempt_has_ended_opens_no_other(world: World) -> None:
    """A claim that arrives late, when its attempt is over: nobody waits for the answer, so nobody would run it."""
    for end in ("retry", "release"):
        id = f"j-{end}"
        world.new(id)
        world.run(id, "t1")
        if end == "retry":
            world.store.retry(id, "t1", AGAIN, 0.0, "")
        else:
            world.store.release(id, "t1", BACK, 0.0)
        assert world.claim(id, "t1") == Busy()
        assert isinstance(world.claim(id, "t"), Claimed)  # only this very token


def test_claim_does_not_raise_for_any_token(world: World) -> None:
    world.new("j")
    world.run("j", "a")
    world.store.retry("j", "a", AGAIN, 0.0, "")
    assert isinstance(world.claim("j", "a:retry"), Claimed)


# ---- how an attempt ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_each_end_is_recorded_once_and_answers_a_repetition_alike(world: World, end: str) -> None:
    world.new("j")
    world.run("j", "t1")
    world.advance(3)
    assert ENDS[end](world, "t1") is True
    record = world.get("j")
    assert record.status is AFTER[end]
    world.advance(1)
    assert ENDS[end](world, "t1") is True
    assert world.get("j") == record


@pytest.mark.parametrize("end", ENDS)
def test_no_other_fence_ends_it(world: World, end: str) -> None:
    world.new("j")
    assert ENDS[end](world, "t1") is False  # not running
    world.run("j", "t1")
    for token in ("t2", "", "t", "t1:finish"):
        assert ENDS[end](world, token) is False
    assert world.get("j").status is JobStatus.running
    assert ENDS[end](world, "t1") is True


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("then", ENDS)
def test_one_fence_ends_one_attempt_in_one_way(world: World, end: str, then: str) -> None:
    world.new("j")
    world.run("j", "t1")
    ENDS[end](world, "t1")
    record = world.get("j")
    assert ENDS[then](world, "t1") is (then == end)
    assert world.get("j") == record


@pytest.mark.parametrize("end", ENDS)
def test_the_fence_of_an_earlier_attempt_is_refused(world: World, end: str) -> None:
    world.new("j")
    world.run("j", "t1")
    world.store.retry("j", "t1", AGAIN, 0.0, "s")
    world.run("j", "t2", seen="s")
    assert ENDS[end](world, "t1") is (end == "retry")  # a repetition of what it did
    assert world.get("j").status is JobStatus.running
    assert ENDS[end](world, "t2") is True


@pytest.mark.parametrize("end", ENDS)
def test_ends_of_an_unknown_job_are_refused(world: World, end: str) -> None:
    assert ENDS[end](world, "t1") is False
    assert world.store.get("j") is None


def test_finish_keeps_the_result(world: World) -> None:
    world.new("j")
    world.run("j")
    world.advance(3)
    world.store.finish("j", "t1", OK, '{"é":1}')
    record = world.get("j")
    assert (record.status, record.finished, record.reason, record.due) == (JobStatus.succeeded, world.now, "", None)
    assert record.runs[0][1] == {"at": world.now, "outcome": "succeeded"}
    assert world.store.result("j") == '{"é":1}'


def test_no_result_and_an_empty_one_are_different(world: World) -> None:
    for id, result in [("none", None), ("empty", "")]:
        world.new(id)
        world.run(id, f"t-{id}")
        world.store.finish(id, f"t-{id}", OK, result)
    assert world.store.result("none") is None
    assert world.store.result("empty") == ""


def test_retry_parks_the_job_for_its_delay(world: World) -> None:
    world.new("j")
    world.run("j")
    world.store.retry("j", "t1", AGAIN, 10.0, "state one")
    record = world.get("j")
    assert (record.status, record.due, record.state, record.attempt) == (
        JobStatus.retrying, world.now + 10, "state one", 1
    )  # fmt: skip
    (attempt,) = record.attempts()
    assert (attempt.outcome, attempt.error_type, attempt.delay, attempt.category) == (
        "retried", "builtins.ValueError", 10.0, Category.unknown
    )  # fmt: skip
    world.advance(9.999)
    assert world.store.take_due(R, 10) == []
    world.advance(0.001)
    assert world.ids(world.store.take_due(R, 10)) == ["j"]
    assert world.run("j", "t2", seen="state one", worker="w2").number == 2
    assert [attempt.worker for attempt in world.get("j").attempts()] == ["w", "w2"]


def test_fail_makes_a_dead_letter(world: World) -> None:
    for id in "abc":
        world.new(id)
        world.run(id, f"t-{id}")
        world.store.fail(id, f"t-{id}", BAD, "no rule matched")
        world.advance(1)
    assert world.store.dead(2) == ["c", "b"]
    assert world.store.dead(10) == ["c", "b", "a"]
    assert world.store.dead_count() == 3
    record = world.get("a")
    assert (record.status, record.reason) == (JobStatus.failed, "no rule matched")
    assert record.attempts()[0].error_type == "builtins.KeyError"
    assert world.store.result("a") is None


def test_a_released_attempt_does_not_count(world: World) -> None:
    world.new("j")
    world.run("j", "t1")
    world.store.release("j", "t1", BACK, 2.0)
    record = world.get("j")
    assert (record.status, record.due, record.attempt) == (JobStatus.queued, world.now + 2, 0)
    assert world.claim("j", "t2") == Early(world.now + 2)
    assert world.store.take_lost(R, 10) == []
    world.advance(2)
    assert world.ids(world.store.take_due(R, 10)) == ["j"]
    assert world.run("j", "t2").number == 1
    assert [(attempt.number, attempt.outcome) for attempt in world.get("j").attempts()] == [
        (1, "released"),
        (1, "running"),
    ]


# ---- how long it is kept -------------------------------------------------------------------------------------------


def test_a_result_expires_and_its_tombstone_stays(world: World) -> None:
    world.use(retention=3600.0)
    world.new("j", result_ttl=600.0)
    world.run("j")
    world.store.finish("j", "t1", OK, "42")
    world.advance(599)
    assert world.store.result("j") == "42"
    world.advance(2)
    assert world.store.result("j") is None
    world.advance(DAY - 2)
    assert world.get("j").status is JobStatus.succeeded  # 24 h beyond the result
    world.advance(2)
    assert world.store.get("j") is None
    assert world.claim("j", "t2") == Missing()


def test_a_result_outlives_a_shorter_retention(world: World) -> None:
    world.use(retention=60.0)
    world.new("j", result_ttl=10 * DAY)
    world.run("j")
    world.store.finish("j", "t1", OK, "42")
    world.advance(10 * DAY - 1)
    assert world.store.result("j") == "42"
    assert world.get("j").status is JobStatus.succeeded


def test_a_result_ttl_of_zero_keeps_no_result(world: World) -> None:
    world.new("j", result_ttl=0.0)
    world.run("j")
    assert world.store.finish("j", "t1", OK, "42")
    assert world.store.result("j") is None
    assert world.get("j").status is JobStatus.succeeded


@pytest.mark.parametrize(("end", "kept"), [("finish", 7 * DAY), ("cancelled", 7 * DAY), ("fail", 30 * DAY)])
def test_ended_jobs_are_kept_for_their_time(world: World, end: str, kept: float) -> None:
    world.use(retention=7 * DAY, dead_ttl=30 * DAY)
    world.new("j")
    world.run("j")
    ENDS[end](world, "t1")
    world.advance(kept - 1)
    assert world.get("j").status is AFTER[end]
    world.advance(2)
    assert world.store.get("j") is None
    assert world.store.dead(10) == []
    assert world.new("j", token="anew").created  # the id is free again


def test_a_job_that_has_not_ended_never_expires(world: World) -> None:
    world.use(retention=60.0, dead_ttl=60.0)
    for id in ("queued", "running", "retrying", "scheduled"):
        world.new(id, delay=1000 * DAY if id == "scheduled" else None)
    world.run("running", "t1")
    world.run("retrying", "t2")
    world.store.retry("retrying", "t2", AGAIN, 1000 * DAY, "")
    world.advance(999 * DAY)
    for id in ("queued", "running", "retrying", "scheduled"):
        assert world.get(id).status == id


def test_dead_letters_are_forgotten_with_their_records(world: World) -> None:
    world.use(dead_ttl=60.0)
    for id in "ab":
        world.new(id)
        world.run(id, f"t-{id}")
        world.store.fail(id, f"t-{id}", BAD, "")
        world.advance(40)
    assert world.store.dead(10) == ["b"]
    world.advance(21)
    assert world.store.dead(10) == []


def test_the_plans_of_an_ended_attempt_are_of_no_more_use(world: World) -> None:
    world.new("j")
    world.run("j", timeout=5.0, on_lost=plan(None))
    world.store.retry("j", "t1", AGAIN, 0.0, "")
    world.settle()
    assert world.tick(100) == []
    assert world.store.leave("w") == []
    assert world.get("j").status is JobStatus.retrying
