from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Category
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job, Task
    from queuekit.testing.bench import Bench, WorkerBench


def assert_over_the_limit(bench: Bench, job: Job[Any]) -> None:
    info = bench.ended(job)
    (attempt,) = info.attempts
    assert attempt.ended_at is not None
    assert (attempt.outcome, attempt.category) == ("failed", Category.time_limit)
    if bench.target.real:  # the memory backend's clock stands still meanwhile
        assert (attempt.ended_at - attempt.started_at).total_seconds() >= 0.499
    assert not bench.journal.entries(job.id, "end")


def assert_no_overlap(bench: WorkerBench, job: Job[Any], within: float = 30.0) -> None:
    """The first attempt has ended by its limit, not before its process was gone, and the second one ran after it."""
    info = bench.ended(job, within)
    assert [(one.outcome, one.category) for one in info.attempts] == [
        ("retried", Category.time_limit),
        ("succeeded", None),
    ]
    assert job.result(timeout=0) == [], "processes of the first attempt that ran when the second one began"
    assert not bench.journal.entries(job.id, "end")
    starts = {entry.attempt: entry.at for entry in bench.journal.entries(job.id, "start")}
    assert all(entry.at < starts[2] for entry in bench.journal.entries(job.id, "swallowed"))


class TestC8:
    """SoftTimeout is raised once in the task; timeout ends the attempt as time_limit."""

    clause = "C8"

    def test_soft_in_async_code(self, bench: Bench) -> None:
        job = tasks.tidy_up_async.options(soft_timeout=0.4, timeout=10).enqueue(5.0)
        assert bench.ended(job).status == "succeeded"
        assert job.result(timeout=0) == "tidied up"

    def test_soft_in_synchronous_code(self, bench: Bench) -> None:
        job = tasks.tidy_up.options(soft_timeout=0.4, timeout=10).enqueue(5.0)
        assert bench.ended(job).status == "succeeded"
        assert job.result(timeout=0) == "tidied up"
        assert len(bench.journal.entries(job.id, "soft")) == 1

    def test_in_time(self, bench: Bench) -> None:
        job = tasks.tidy_up_async.options(soft_timeout=5, timeout=10).enqueue(0.1)
        assert job.result(timeout=20) == "had time"

    def test_hard_in_async_code(self, bench: Bench) -> None:
        assert_over_the_limit(bench, tasks.sleep_async.options(timeout=0.5).enqueue(8.0))

    def test_hard_in_synchronous_code(self, bench: Bench) -> None:
        assert_over_the_limit(bench, tasks.spin.options(timeout=0.5).enqueue(8.0))

    def test_hard_in_a_blocking_call(self, bench: Bench) -> None:
        if not bench.target.pool.interrupts_sync:
            pytest.skip(NOT_APPLICABLE + f"the pool {bench.target.pool_name!r} cannot interrupt a blocking call")
        assert_over_the_limit(bench, tasks.sleep.options(timeout=0.5).enqueue(8.0))

    def test_a_hard_limit_that_was_swallowed_counts_all_the_same(self, bench: Bench) -> None:
        """And it does not end the attempt in the record before the code has ended."""
        job = tasks.stubborn.options(timeout=0.5).enqueue(2.0)
        info = bench.ended(job)
        (attempt,) = info.attempts
        assert (info.status, attempt.category) == ("failed", Category.time_limit)
        assert len(bench.journal.entries(job.id, "end")) == 1
        if bench.target.real:
            assert attempt.ended_at is not None
            assert (attempt.ended_at - attempt.started_at).total_seconds() >= 1.999

    @pytest.mark.parametrize("how", ["swallows", "blocks"])
    @pytest.mark.parametrize("task", [tasks.overstay, tasks.overstay_async], ids=["sync", "async"])
    def test_what_goes_on_ends_with_its_process_and_the_next_attempt_begins_after_that(
        self, workers: WorkerBench, task: Task[..., Any, Any], how: str
    ) -> None:
        """A child is killed. What has no children takes nothing more, ends with 75, and is started again."""
        worker = workers.worker
        with workers.supervised():
            job = task.options(soft_timeout=0.3, timeout=0.5).enqueue(how)
            assert_no_overlap(workers, job)
            workers.until(lambda: workers.worker.exit_code is None, "a worker runs")
        if workers.target.pool.processes:
            assert worker.exit_code is None
        else:
            assert worker.exit_code == 75

    def test_code_that_holds_the_interpreters_lock_is_ended_from_outside(self, workers: WorkerBench) -> None:
        """No thread of its process does anything any more: the engine kills a child, and the steward its worker."""
        worker = workers.worker
        with workers.supervised():
            job = tasks.overstay.options(timeout=0.5).enqueue("holds")
            assert_no_overlap(workers, job, within=60)
        assert (worker.exit_code is None) is workers.target.pool.processes

    def test_what_runs_beside_it_ends_in_peace(self, new_bench: Callable[..., WorkerBench]) -> None:
        """Within the grace; what waits for a worker goes to another one."""
        bench = new_bench(grace=20.0)
        if not bench.target.pool.concurrent:
            pytest.skip(NOT_APPLICABLE + f"the pool {bench.target.pool_name!r} runs one job at a time")
        worker = bench.start_worker()
        neighbour = tasks.sleep.enqueue(9.0)
        bench.started(neighbour)
        stuck = tasks.overstay.options(timeout=0.5).enqueue("blocks")
        bench.started(stuck)
        waiting = [tasks.add.enqueue(number) for number in range(4)]
        if bench.target.pool.processes:
            assert_no_overlap(bench, stuck)
            assert worker.exit_code is None
        else:
            bench.until(lambda: worker.exit_code is not None, "the worker has left", within=15 + SLACK)
            assert worker.exit_code == 75
            assert bench.record(neighbour).status == "succeeded"
            assert not any(bench.journal.entries(job.id) for job in waiting), "a drained worker took a job"
            bench.start_worker(ready=False)
            assert_no_overlap(bench, stuck)
        assert [(one.outcome, one.number) for one in bench.ended(neighbour).attempts] == [("succeeded", 1)]
        for job in waiting:
            assert [(one.outcome, one.number) for one in bench.ended(job).attempts] == [("succeeded", 1)]

    def test_what_runs_beside_it_for_longer_than_the_grace_is_handed_back(
        self, new_bench: Callable[..., WorkerBench]
    ) -> None:
        bench = new_bench(grace=1.0)
        if not bench.target.pool.concurrent or bench.target.pool.processes:
            pytest.skip(
                NOT_APPLICABLE + f"in the pool {bench.target.pool_name!r} nothing runs beside it in one process"
            )
        worker = bench.start_worker()
        neighbour = tasks.sleep.enqueue(12.0)
        bench.started(neighbour)
        stuck = tasks.overstay.options(timeout=0.5).enqueue("swallows")
        bench.until(lambda: worker.exit_code is not None, "the worker has left", within=15 + SLACK)
        assert worker.exit_code == 75
        bench.start_worker(ready=False)
        assert_no_overlap(bench, stuck)
        assert [(one.outcome, one.number) for one in bench.ended(neighbour).attempts] == [
            ("released", 1),
            ("succeeded", 1),
        ]

    def test_the_policy_decides_what_follows(self, bench: Bench) -> None:
        """for_llm() tries once more."""
        job = tasks.like_an_agent_waits.options(timeout=0.3).enqueue(8.0)
        info = bench.ended(job)
        assert [(one.outcome, one.category) for one in info.attempts] == [
            ("retried", Category.time_limit),
            ("failed", Category.time_limit),
        ]

    def test_the_worker_goes_on(self, bench: Bench) -> None:
        for _ in range(3):
            bench.ended(tasks.spin.options(timeout=0.2).enqueue(5.0))
        assert tasks.add.enqueue(1).result(timeout=20) == 2
        assert tasks.add_async.enqueue(1).result(timeout=20) == 2
