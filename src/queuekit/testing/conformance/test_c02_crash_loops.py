from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Category
from queuekit.processes import is_alive, start_time
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import JobInfo, Task
    from queuekit.testing.bench import WorkerBench

AT_ONCE = 4
ALONE = 60.0  # seconds for a job that waits for others to run alone, on a busy machine


def told(info: JobInfo) -> list[tuple[int, str]]:
    return [(one.number, one.outcome) for one in info.attempts]


def shares(bench: WorkerBench) -> bool:
    """Whether the pool runs several jobs in one process."""
    return bench.target.pool.concurrent and not bench.target.pool.processes


@pytest.fixture
def crowd(new_bench: Callable[..., WorkerBench]) -> WorkerBench:
    """A worker with room for several jobs at a time, however the engine makes that."""
    bench = new_bench(concurrency=AT_ONCE)
    bench.start_worker()
    return bench


@pytest.fixture
def sharing(new_bench: Callable[..., WorkerBench]) -> WorkerBench:
    """The same in one process, with a short grace."""
    bench = new_bench(concurrency=AT_ONCE, grace=1.0)
    if not shares(bench):
        pytest.skip(NOT_APPLICABLE + f"the pool {bench.target.pool_name!r} runs one job a process")
    bench.start_worker()
    return bench


class TestC2CrashLoops:
    """queuekit counts attempts, from 1, and records one before user code runs; a crash is one."""

    clause = "C2"

    # ---- what kills

    @pytest.mark.parametrize("how", ["killed", "segfault", "memory"])
    def test_what_kills_its_process_is_a_dead_letter_after_its_attempts(self, workers: WorkerBench, how: str) -> None:
        with workers.supervised():
            job = tasks.without_policy.enqueue([how] * 9)
            info = workers.ended(job, within=ALONE)
        assert told(info) == [(1, "lost"), (2, "lost"), (3, "lost")]
        assert info.status == "failed"
        assert "the attempt's worker was lost" in (info.reason or "")
        assert "attempt 3 of 3" in (info.reason or "")
        assert [one.company for one in info.attempts] == [0, 0, 0]
        assert len(workers.journal.entries(job.id, "start")) == 3

    # ---- who is near

    def test_it_takes_no_neighbour_with_it(self, crowd: WorkerBench) -> None:
        with crowd.supervised():
            neighbours = [
                tasks.sleep.enqueue(2.5),
                tasks.sleep_async.enqueue(2.5),
                tasks.sleep_in_one_attempt.enqueue(2.5),
            ]
            if shares(crowd) or crowd.target.pool.processes:
                for job in neighbours:
                    crowd.started(job)
            killer = tasks.without_policy.enqueue(["killed"] * 9)
            info = crowd.ended(killer, within=ALONE)
            beside = [crowd.ended(job, within=ALONE) for job in neighbours]
        assert told(info) == [(1, "lost"), (2, "lost"), (3, "lost")]
        assert info.status == "failed"
        assert [one.status for one in beside] == ["succeeded"] * 3
        assert len(crowd.journal.entries(killer.id, "start")) == 3
        for one in beside:
            assert len(one.attempts) <= 2
            assert all("1 other" in (end.reason or "") or end.company for end in one.attempts[:-1])
        if shares(crowd):  # they died once, all together; from then on it died alone
            assert [one.company for one in info.attempts] == [3, 0, 0]
            assert [told(one)[0] for one in beside] == [(1, "lost"), (1, "lost"), (1, "released")]
            assert told(beside[2]) == [(1, "released"), (1, "succeeded")]
            assert len(crowd.workers) == 2

    def test_two_of_them_are_told_apart(self, crowd: WorkerBench) -> None:
        with crowd.supervised():
            neighbour = tasks.sleep_in_one_attempt.enqueue(2.0)
            if shares(crowd) or crowd.target.pool.processes:
                crowd.started(neighbour)
            killers = [tasks.without_policy.enqueue(["killed"] * 9) for _ in range(2)]
            infos = [crowd.ended(job, within=ALONE) for job in killers]
            beside = crowd.ended(neighbour, within=ALONE)
        for job, info in zip(killers, infos, strict=True):
            assert info.status == "failed"
            # The one may have died alone just before the other killed their worker: that looks like company.
            assert [one for one in told(info) if one[1] != "released"] == [(1, "lost"), (2, "lost"), (3, "lost")]
            assert len(info.attempts) <= 5
            # Or it was claimed, and killed by the other before its code began.
            assert len(crowd.journal.entries(job.id, "start")) <= len(info.attempts)
        assert beside.status == "succeeded"

    def test_a_last_attempt_is_not_the_end_before_it_was_lost_alone(self, crowd: WorkerBench) -> None:
        """Of two that die together, one has killed both: each is tried alone, and the one that dies again it was."""
        with crowd.supervised():
            neighbour = tasks.sleep.enqueue(2.0)
            if shares(crowd) or crowd.target.pool.processes:
                crowd.started(neighbour)
            killer = tasks.one_attempt.enqueue(["killed"] * 9)
            info = crowd.ended(killer, within=ALONE)
            assert crowd.ended(neighbour, within=ALONE).status == "succeeded"
        assert info.status == "failed"
        assert [one.category for one in info.attempts] == [Category.lost] * len(info.attempts)
        if shares(crowd):
            assert told(info) == [(1, "released"), (1, "lost")]
            assert "died with 1 other running" in (info.attempts[0].reason or "")
        else:
            assert told(info) == [(1, "lost")]

    def test_who_dies_with_a_worker_that_was_killed_is_none(self, crowd: WorkerBench) -> None:
        """Somebody killed the worker: that ends no job which was in its last attempt."""
        if not crowd.target.pool.concurrent:
            pytest.skip(NOT_APPLICABLE + "a worker runs one job at a time")
        with crowd.supervised():
            jobs = [tasks.sleep_in_one_attempt.enqueue(2.0) for _ in range(3)]
            for job in jobs:
                crowd.started(job)
            os.kill(crowd.worker.pid, signal.SIGKILL)
            infos = [crowd.ended(job, within=ALONE) for job in jobs]
        assert [told(info) for info in infos] == [[(1, "released"), (1, "succeeded")]] * 3
        assert [info.attempts[0].company for info in infos] == [2, 2, 2]

    def test_who_would_not_run_again_does_not(self, crowd: WorkerBench) -> None:
        """on_lost="fail": it was paid for, whoever was to blame."""
        if not shares(crowd):
            pytest.skip(NOT_APPLICABLE + "nothing else dies with a job here")
        with crowd.supervised():
            neighbour = tasks.sleep_only_once.enqueue(2.0)
            crowd.started(neighbour)
            killer = tasks.without_policy.enqueue(["killed"])
            info = crowd.ended(neighbour, within=ALONE)
            assert crowd.ended(killer, within=ALONE).status == "succeeded"
        assert (info.status, told(info)) == ("failed", [(1, "lost")])
        assert info.attempts[0].company == 1

    # ---- alone, as anywhere

    def test_it_keeps_its_time_limit(self, workers: WorkerBench) -> None:
        """In a process of its own, blocking code too."""
        with workers.supervised():
            job = tasks.sleep_after_a_crash.options(timeout=1.0).enqueue(30.0)
            info = workers.ended(job, within=ALONE)
        assert told(info) == [(1, "lost"), (2, "failed")]
        assert info.attempts[1].category is Category.time_limit
        assert not workers.journal.entries(job.id, "end")

    def test_it_says_what_it_returns_and_raises(self, workers: WorkerBench) -> None:
        infos = []
        with workers.supervised():  # one after the other: none is lost with another one
            good = tasks.without_policy.enqueue(["killed", "ok"])
            infos.append(workers.ended(good, within=ALONE))
            again = tasks.follow.enqueue(["killed", "connection", "ok"])
            infos.append(workers.ended(again, within=ALONE))
            infos.append(workers.ended(tasks.follow_async.enqueue(["killed", "bug"]), within=ALONE))
        assert [one.status for one in infos] == ["succeeded", "succeeded", "failed"]
        assert (good.result(timeout=0), again.result(timeout=0)) == ("attempt 2", "attempt 3")
        assert [one.outcome for one in infos[1].attempts] == ["lost", "retried", "succeeded"]
        assert infos[2].attempts[-1].error_type == "builtins.KeyError"
        assert "a bug" in (infos[2].attempts[-1].traceback or "")

    @pytest.mark.parametrize(
        "task", [tasks.sleep_after_a_crash, tasks.sleep_after_a_crash_async], ids=["sync", "async"]
    )
    def test_it_can_be_cancelled(self, sharing: WorkerBench, task: Task[..., Any, Any]) -> None:
        with sharing.supervised():
            job = task.enqueue(30.0)
            sharing.started(job, attempt=2, within=ALONE)
            assert job.cancel("changed my mind")
            info = sharing.ended(job, within=10 + SLACK)
        assert (info.status, told(info)) == ("cancelled", [(1, "lost"), (2, "cancelled")])

    @pytest.mark.parametrize(
        "task", [tasks.sleep_after_a_crash, tasks.sleep_after_a_crash_async], ids=["sync", "async"]
    )
    def test_it_is_handed_back_by_a_worker_that_stops(self, sharing: WorkerBench, task: Task[..., Any, Any]) -> None:
        with sharing.supervised():
            job = task.enqueue(4.0)
            sharing.started(job, attempt=2, within=ALONE)
        worker = sharing.worker
        worker.terminate()
        assert worker.wait(1 + 5 + SLACK) == 0
        sharing.until(lambda: not worker.family(), "all its processes have ended", within=10)
        assert told(job.info()) == [(1, "lost"), (2, "released")]
        sharing.start_worker()
        assert told(sharing.ended(job, within=ALONE)) == [(1, "lost"), (2, "released"), (2, "succeeded")]

    def test_it_dies_with_its_worker(self, sharing: WorkerBench) -> None:
        with sharing.supervised():
            job = tasks.sleep_after_a_crash.enqueue(4.0)
            pid = sharing.started(job, attempt=2, within=ALONE).pid
            assert pid != sharing.worker.pid
            name = f"{pid}:{start_time(pid)}"
            os.kill(sharing.worker.pid, signal.SIGKILL)
            sharing.until(lambda: not is_alive(name), "its process is gone", within=2 + SLACK)
            info = sharing.ended(job, within=ALONE)
        assert told(info) == [(1, "lost"), (2, "lost"), (3, "succeeded")]
        assert len(sharing.journal.entries(job.id, "end")) == 1

    def test_a_worker_keeps_its_other_jobs_meanwhile(self, sharing: WorkerBench) -> None:
        with sharing.supervised():
            job = tasks.without_policy.enqueue(["killed", "killed", "ok"])
            sharing.started(job, attempt=2, within=ALONE)
            worker = sharing.worker.pid
            beside = [tasks.sleep.enqueue(1.0) for _ in range(3)]
            assert [sharing.ended(one, within=ALONE).status for one in beside] == ["succeeded"] * 3
            info = sharing.ended(job, within=ALONE)
        assert [one.outcome for one in info.attempts] == ["lost", "lost", "succeeded"]
        assert sharing.worker.pid == worker
