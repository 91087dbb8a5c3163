"""Leases: beat(), leave() and reap(), and when nothing may be reaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import LEASE, OK, R, plan

from queuekit.job import JobStatus
from queuekit.store import Beat, Claimed, NoLease

if TYPE_CHECKING:
    from store_world import World

HOUR_MS = 3_600_000


# ---- beat and leave ------------------------------------------------------------------------------------------------


def test_a_worker_lives_from_its_first_beat(world: World) -> None:
    assert world.store.beat("w") == Beat(alive=False)
    assert world.store.beat("w", start=True) == Beat(alive=True)
    assert world.store.beat("w") == Beat(alive=True)


def test_a_first_lease_lasts_as_long_as_is_asked_for(world: World) -> None:
    """A steward may be long in coming; its first beat makes the lease a usual one."""
    world.settle()
    for worker, first in [("slow", 1.5 * LEASE), ("short", 0.1), ("came", 1.5 * LEASE)]:
        world.store.beat(worker, start=True, first=first)
        world.new(worker)
        assert isinstance(world.claim(worker, f"t-{worker}", worker=worker), Claimed)
    assert world.store.beat("came", first=1.5 * LEASE).alive
    assert sorted(world.tick(LEASE)) == [("came", "lost"), ("short", "lost")]
    assert world.tick(0.5 * LEASE - 0.001) == []
    assert world.tick(0.001) == [("slow", "lost")]


def test_a_tick_that_ends_nothing_is_a_tick(world: World) -> None:
    """Whoever opens the first lease ticks so: an outage that begins before a steward has come is seen."""
    assert world.store.reap(0) == []
    world.new("j")
    world.run("j")
    world.clock.ms += int(LEASE * 1000)
    assert world.store.reap(100) == []
    assert world.tick(LEASE) == [("j", "lost")]


def test_a_beat_tells_the_processes_that_run_attempts(world: World) -> None:
    for id, process in [("a", "1:10"), ("b", "2:20"), ("c", "1:10"), ("d", "9:90")]:
        world.new(id)
        world.run(id, f"t-{id}", process=process, worker="other" if id == "d" else "w")
    assert sorted(world.store.beat("w").processes) == ["1:10", "2:20"]
    world.store.finish("b", "t-b", OK, None)
    assert world.store.beat("w").processes == ("1:10",)


def test_the_attempts_of_a_dead_process_end_at_once(world: World) -> None:
    for id, process in [("a", "1:10"), ("b", "2:20"), ("c", "1:10")]:
        world.new(id)
        world.run(id, f"t-{id}", process=process, on_lost=plan(7.0, "lost once"))
    answer = world.store.beat("w", dead=["1:10", "1:11"])
    assert (answer.alive, answer.processes, sorted(answer.lost)) == (True, ("2:20",), ["a", "c"])
    for id in "ac":
        record = world.get(id)
        assert (record.status, record.due, record.state) == (JobStatus.retrying, world.now + 7, "lost once")
        assert record.attempts()[0].outcome == "lost"
        assert world.store.finish(id, f"t-{id}", OK, None) is False
    assert world.get("b").status is JobStatus.running
    assert world.store.beat("w", dead=["1:10"]) == Beat(True, ("2:20",))  # again: nothing more is lost


def test_a_beat_gives_the_cancels(world: World) -> None:
    for id in "ab":
        world.new(id)
        world.run(id, f"t-{id}")
    world.store.cancel("b", "why")
    assert world.store.beat("w").cancels == ("b",)
    beat = world.store.beat("w")  # until it has ended
    assert (beat.cancels, beat.cancelled) == (("b",), (beat.processes[0],))
    world.store.cancelled("b", "t-b", OK, "why")
    assert world.store.beat("w").cancels == ()


def test_a_worker_that_leaves_gives_back_its_attempts(world: World) -> None:
    for id in "abc":
        world.new(id)
        world.run(id, f"t-{id}", worker="w2" if id == "c" else "w")
    assert sorted(world.store.leave("w")) == ["a", "b"]
    assert [world.get(id).status for id in "abc"] == ["retrying", "retrying", "running"]
    assert world.store.leave("w") == []
    assert world.store.beat("w") == Beat(alive=False)
    assert world.claim("a", "t2", worker="w") == NoLease()


# ---- reap ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_beats_is_never_reaped(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j")
    assert world.tick(20 * LEASE, beat=["w"]) == []
    assert world.get("j").status is JobStatus.running


def test_a_silent_workers_attempts_are_lost_after_a_lease(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", on_lost=plan(10.0, "lost once", reason="attempt 1 of 3 was lost"))
    assert world.tick(LEASE - 0.001) == []
    assert world.tick(0.001) == [("j", "lost")]
    record = world.get("j")
    assert (record.status, record.due, record.state) == (JobStatus.retrying, world.now + 10, "lost once")
    (attempt,) = record.attempts()
    assert (attempt.number, attempt.outcome, attempt.reason, attempt.delay) == (
        1,
        "lost",
        "attempt 1 of 3 was lost",
        10.0,
    )
    assert world.store.finish("j", "t1", OK, "late") is False
    assert world.store.beat("w") == Beat(alive=False)  # it is to stop, or to start anew
    assert world.tick(LEASE) == []
    assert world.run("j", "t2", seen="lost once").number == 2


def test_a_plan_without_a_delay_fails_the_job(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", on_lost=plan(None, reason="it has killed its worker 3 times"))
    world.tick(LEASE)
    assert (world.get("j").status, world.get("j").reason) == (JobStatus.failed, "it has killed its worker 3 times")
    assert world.store.dead(5) == ["j"]


def test_reaped_jobs_of_many_workers(world: World) -> None:
    workers = [f"w{number}" for number in range(5)]
    world.settle(*workers)
    for number, worker in enumerate(workers):
        world.new(f"j{number}")
        world.run(f"j{number}", f"t{number}", worker=worker)
    world.tick(LEASE - 1)
    world.advance(1)
    first = world.store.reap(2)  # two workers
    assert len(first) == 2
    assert sorted(first + world.store.reap(100)) == [(f"j{number}", "lost") for number in range(5)]


@pytest.mark.parametrize("how", ["beat", "leave", "reap"])
@pytest.mark.parametrize(("delay", "status"), [(4.0, JobStatus.retrying), (None, JobStatus.failed)])
def test_an_attempt_over_its_limit_ends_with_its_process_and_by_that_limit(
    world: World, delay: float | None, status: JobStatus, how: str
) -> None:
    """Not before: its code may still run."""
    world.settle("w")
    world.new("j")
    world.run("j", timeout=5.0, on_limit=plan(delay, "limit once", outcome="failed", reason="over 5 s"), process="7:7")
    assert world.tick(4.999, beat=["w"]) == []
    assert world.store.beat("w").over == ()
    world.advance(0.001)
    assert world.store.beat("w").over == (("j", "7:7"),)
    assert world.tick(3 * LEASE, beat=["w"]) == []
    match how:
        case "beat":
            assert world.store.beat("w", dead=["7:7"]) == Beat(alive=True, lost=("j",))
        case "leave":
            assert world.store.leave("w") == ["j"]
        case "reap":
            assert world.tick(LEASE) == [("j", "time_limit")]
    record = world.get("j")
    assert (record.status, record.due) == (status, None if delay is None else world.now + 4)
    assert record.attempts()[0].reason == "over 5 s"
    assert (record.suspect, record.attempts()[0].company) == (0, 0)
    assert world.store.finish("j", "t1", OK, "late") is False


def test_a_process_that_died_within_the_limit_was_lost(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", timeout=5.0, process="7:7")
    world.advance(4.999)
    assert world.store.beat("w", dead=["7:7"]).lost == ("j",)
    assert (world.get("j").attempts()[0].outcome, world.get("j").suspect) == ("lost", 1)


def test_a_machine_that_died_within_the_limit_is_not_over_it_when_its_lease_has_passed(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", timeout=1.0)
    world.tick(0.5, beat=["w"])
    assert world.tick(LEASE) == [("j", "lost")]


@pytest.mark.parametrize("how", ["beat", "leave"])
def test_a_process_found_dead_was_not_over_its_limit_for_that(world: World, how: str) -> None:
    """Its steward was still starting: on a busy machine that takes longer than the limit of a job that crashed."""
    world.settle("w")
    world.new("j")
    world.run("j", timeout=1.0, process="7:7")
    world.advance(2.0)
    if how == "beat":
        assert world.store.beat("w", found=["7:7"]).lost == ("j",)
    else:
        assert world.store.leave("w", seen=False) == ["j"]
    assert (world.get("j").attempts()[0].outcome, world.get("j").suspect) == ("lost", 1)


def test_an_attempt_that_ended_in_time_has_no_limit(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", timeout=5.0)
    world.store.finish("j", "t1", OK, None)
    assert world.tick(LEASE, beat=["w"]) == []
    assert world.store.beat("w").over == ()


def test_an_attempt_is_reaped_once_though_both_its_times_have_passed(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", timeout=LEASE)
    assert world.tick(LEASE) == [("j", "lost")]
    assert len(world.get("j").runs) == 1


def test_a_job_to_be_cancelled_ends_as_cancelled_when_its_attempt_is_lost(world: World) -> None:
    world.settle()
    for id, timeout in [("lost", None), ("limit", 3.0), ("left", None)]:
        world.new(id)
        world.run(id, f"t-{id}", timeout=timeout, worker=f"w-{id}")
        world.store.cancel(id, "not wanted")
    assert world.store.leave("w-left") == ["left"]
    assert world.tick(LEASE, beat=["w-limit"]) == [("lost", "lost")]
    assert world.store.leave("w-limit") == ["limit"]
    for id in ("lost", "limit", "left"):
        assert (world.get(id).status, world.get(id).reason) == (JobStatus.cancelled, "not wanted")


# ---- when nothing may be reaped ------------------------------------------------------------------------------------


def test_the_first_tick_of_all_is_no_discontinuity(world: World) -> None:
    """So that the first worker that dies on a new store is not waited for twice as long."""
    world.new("j")
    world.run("j")
    world.advance(LEASE - 0.001)
    assert world.store.reap(100) == []
    world.advance(0.001)
    assert world.store.reap(100) == [("j", "lost")]


def test_nothing_is_reaped_for_a_lease_when_nobody_has_ticked(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", worker="gone")
    world.clock.ms += int(LEASE * 1000) // 3 + 1  # nobody could: whoever did not beat may not have been able to either
    assert world.store.reap(100) == []
    assert world.tick(LEASE - 0.001) == []
    assert world.tick(0.001) == [("j", "lost")]


def test_a_third_of_a_lease_without_a_tick_is_no_discontinuity(world: World) -> None:
    world.settle("w")
    world.new("j")
    world.run("j", worker="gone")
    world.tick(LEASE * 0.7)
    world.clock.ms += int(LEASE * 1000) // 3
    assert world.store.reap(100) == [("j", "lost")]


def test_a_clock_that_jumps_forward_costs_no_living_worker_its_lease(world: World) -> None:
    world.settle("w", "dead")
    for id, worker in [("j", "w"), ("k", "dead")]:
        world.new(id)
        world.run(id, f"t-{id}", worker=worker)
    world.clock.ms += HOUR_MS
    assert world.store.reap(100) == []
    assert world.store.beat("w").alive
    assert world.tick(LEASE, beat=["w"]) == [("k", "lost")]
    assert world.store.finish("j", "t-j", OK, None)


def test_a_clock_that_is_set_back_makes_no_lease_longer_than_a_lease(world: World) -> None:
    world.settle("w", "dead")
    for id, worker in [("j", "w"), ("k", "dead")]:
        world.new(id)
        world.run(id, f"t-{id}", worker=worker)
    world.clock.ms -= HOUR_MS
    assert world.store.reap(100) == []
    assert world.tick(LEASE - 0.001, beat=["w"]) == []
    assert world.tick(0.001, beat=["w"]) == [("k", "lost")]
    assert world.get("j").status is JobStatus.running


def test_a_suspension_of_a_clock_that_ran_ahead_ends_when_it_is_set_right(world: World) -> None:
    world.settle("w")
    world.clock.ms += 24 * HOUR_MS
    world.store.reap(100)
    world.clock.ms -= 24 * HOUR_MS
    world.new("j")
    world.run("j", worker="dead")
    assert world.store.reap(100) == []
    assert world.tick(LEASE, beat=["w"]) == [("j", "lost")]


def test_claims_go_on_while_reaping_is_suspended(world: World) -> None:
    world.new("j")
    world.store.reap(100)
    world.store.beat("w", start=True)
    assert isinstance(world.claim("j"), Claimed)
    assert world.store.finish("j", "t1", OK, None)


def test_a_job_that_kills_each_worker_ends_as_its_plans_say(world: World) -> None:
    """The reaper alone, with no user code and no policy at hand."""
    world.settle("ticker")
    world.new("j")
    for number in (1, 2, 3):
        lost = plan(0.0 if number < 3 else None, f"lost {number}", reason="3 of 3 attempts were lost")
        world.run("j", f"t{number}", seen=f"lost {number - 1}" if number > 1 else "", worker=f"w{number}", on_lost=lost)
        world.tick(LEASE, beat=["ticker"])
        if number < 3:
            assert world.ids(world.store.take_due(R, 10)) == ["j"]
    record = world.get("j")
    assert (record.status, record.attempt, record.reason) == (JobStatus.failed, 3, "3 of 3 attempts were lost")
    assert [attempt.outcome for attempt in record.attempts()] == ["lost"] * 3
