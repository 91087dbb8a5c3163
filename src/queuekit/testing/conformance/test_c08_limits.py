from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Category
from queuekit.testing import tasks
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from queuekit import Job
    from queuekit.testing.bench import Bench


def assert_over_the_limit(bench: Bench, job: Job[Any]) -> None:
    info = bench.ended(job)
    (attempt,) = info.attempts
    assert attempt.ended_at is not None
    assert (attempt.outcome, attempt.category) == ("failed", Category.time_limit)
    if bench.target.real:  # the memory backend's clock stands still meanwhile
        assert (attempt.ended_at - attempt.started_at).total_seconds() >= 0.499
    assert not bench.journal.entries(job.id, "end")


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

    def test_a_blocking_call_that_nothing_interrupts_is_ended_in_the_record(self, bench: Bench) -> None:
        if bench.target.pool.interrupts_sync:
            pytest.skip(NOT_APPLICABLE + f"the pool {bench.target.pool_name!r} interrupts a blocking call")
        job = tasks.sleep.options(timeout=0.5).enqueue(4.0)
        info = bench.ended(job)
        assert (info.status, info.attempts[-1].category) == ("failed", Category.time_limit)
        over = info.attempts[-1].started_at.timestamp() + 4.3
        bench.until(lambda: bench.app.store.now() > over, "the call has returned")
        assert bench.ended(job) == info

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
