from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Category, JobFailed
from queuekit.testing import tasks

if TYPE_CHECKING:
    from queuekit import JobInfo, Task
    from queuekit.testing.bench import Bench, WorkerBench


def told(info: JobInfo) -> list[tuple[int, str]]:
    return [(one.number, one.outcome) for one in info.attempts]


class TestC2:
    """queuekit counts attempts, from 1, and records one before user code runs; a crash is one."""

    clause = "C2"

    def test_the_first_is_number_one(self, bench: Bench) -> None:
        assert told(bench.ended(tasks.add.enqueue(1))) == [(1, "succeeded")]

    def test_an_attempt_is_recorded_before_user_code_runs(self, bench: Bench) -> None:
        seen = tasks.look_at_own_record.enqueue().result(timeout=20)
        assert (seen["status"], seen["numbers"]) == ("running", [1])

    @pytest.mark.parametrize("task", [tasks.follow, tasks.follow_async], ids=["sync", "async"])
    def test_a_retry_is_the_next_number(self, bench: Bench, task: Task[..., Any, Any]) -> None:
        job = task.enqueue(["connection", "timeout"])
        assert told(bench.ended(job)) == [(1, "retried"), (2, "retried"), (3, "succeeded")]
        assert job.result(timeout=0) == "attempt 3"
        assert [entry.attempt for entry in bench.journal.entries(job.id, "start")] == [1, 2, 3]

    @pytest.mark.parametrize("task", [tasks.follow, tasks.follow_async, tasks.without_policy])
    def test_an_error_without_a_rule_fails_at_once(self, bench: Bench, task: Task[..., Any, Any]) -> None:
        job = task.enqueue(["bug", "ok"])
        assert told(bench.ended(job)) == [(1, "failed")]
        with pytest.raises(JobFailed) as caught:
            job.result(timeout=0)
        assert caught.value.error_type.endswith("KeyError")
        assert caught.value.category is Category.unknown

    def test_a_rule_of_its_own_limit(self, bench: Bench) -> None:
        info = bench.ended(tasks.follow.enqueue(["timeout", "connection", "timeout", "timeout"]))
        assert told(info) == [(1, "retried"), (2, "retried"), (3, "retried"), (4, "failed")]

    def test_max_attempts_counts_all_kinds(self, bench: Bench) -> None:
        plan = ["connection", "status:429", "connection", "timeout", "connection", "connection", "ok"]
        info = bench.ended(tasks.follow.enqueue(plan))
        assert [one.number for one in info.attempts] == [1, 2, 3, 4, 5, 6]
        assert info.attempts[-1].outcome == "failed"

    def test_the_task_decides(self, bench: Bench) -> None:
        info = bench.ended(tasks.without_policy.enqueue(["retry-after:0.2", "do-not-retry"]))
        assert told(info) == [(1, "retried"), (2, "failed")]

    def test_a_task_that_exits_has_come_to_no_outcome(self, bench: Bench) -> None:
        """SystemExit ends neither the worker nor the job's chances."""
        info = bench.ended(tasks.without_policy.enqueue(["exit", "exit", "exit", "exit"]))
        assert [one.number for one in info.attempts] == [1, 2, 3]
        assert {one.category for one in info.attempts} == {Category.lost}
        assert tasks.add.enqueue(1).result(timeout=20) == 2

    # ---- crashes

    def test_a_crash_is_an_attempt(self, workers: WorkerBench) -> None:
        with workers.supervised():
            job = tasks.without_policy.enqueue(["killed"])
            assert told(workers.ended(job)) == [(1, "lost"), (2, "succeeded")]
        assert job.info().attempts[0].category is Category.lost

    def test_a_job_that_kills_its_process_each_time_is_a_dead_letter(self, workers: WorkerBench) -> None:
        with workers.supervised():
            job = tasks.without_policy.enqueue(["killed"] * 9)
            info = workers.ended(job)
            assert told(info) == [(1, "lost"), (2, "lost"), (3, "lost")]
            with pytest.raises(JobFailed) as caught:
                job.result(timeout=0)
            assert caught.value.category is Category.lost
            assert job.id in workers.app.store.dead(100)
            assert tasks.add.enqueue(1).result(timeout=20) == 2
        assert len(workers.journal.entries(job.id, "start")) == 3

    def test_crashes_and_errors_count_together(self, workers: WorkerBench) -> None:
        with workers.supervised():
            plan = ["killed", "connection", "killed", "connection", "killed", "killed", "ok"]
            info = workers.ended(tasks.follow.enqueue(plan))
        assert [one.number for one in info.attempts] == [1, 2, 3, 4, 5, 6]
        assert [one.outcome for one in info.attempts] == ["lost", "retried", "lost", "retried", "lost", "lost"]
        assert info.status == "failed"

    def test_on_lost_fail_opts_out(self, workers: WorkerBench) -> None:
        with workers.supervised():
            info = workers.ended(tasks.only_once.enqueue(["killed"]))
        assert told(info) == [(1, "lost")]
        assert info.status == "failed"
