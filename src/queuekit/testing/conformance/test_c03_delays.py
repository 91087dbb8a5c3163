from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, Settings
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK, TICK, pauses

if TYPE_CHECKING:
    from queuekit import JobInfo, Task
    from queuekit.testing.bench import Bench, WorkerBench

PLANS = {
    "each-kind": ["status:429", "timeout", "connection", "status:503", "status:429"],
    "growing": ["status:429", "status:429", "status:429"],
    "asked-for": ["retry-after:0.3", "connection"],
    "no-rule": ["status:503", "bug"],
    "auth": ["status:401"],
}


def schedule(info: JobInfo) -> list[tuple[Any, ...]]:
    """What must be the same everywhere."""
    return [(one.number, one.outcome, one.category, one.error_type, one.delay) for one in info.attempts]


def assert_on_time(info: JobInfo) -> None:
    """The store's clock counts milliseconds."""
    for one, waited in zip(info.attempts, pauses(info), strict=False):
        assert one.delay is not None
        assert waited >= one.delay - 0.001
        assert waited <= one.delay + TICK + SLACK


class TestC3:
    """The same policy, errors, job id and seed give the same delays everywhere; never early."""

    clause = "C3"

    @pytest.mark.parametrize("task", [tasks.follow, tasks.follow_async], ids=["sync", "async"])
    @pytest.mark.parametrize("plan", PLANS)
    def test_as_on_the_memory_backend(self, bench: Bench, task: Task[..., Any, Any], plan: str) -> None:
        id = f"c3-{task.is_async:d}-{plan}"
        info = bench.ended(task.options(id=id).enqueue(PLANS[plan]))
        with App(Settings(backend="memory", seed="conformance")).activate() as memory:
            job = task.options(id=id).enqueue(PLANS[plan])
            memory.run_until_idle()
            expected = schedule(job.info())
        assert schedule(info) == expected
        assert_on_time(info)

    def test_another_id_another_delay(self, bench: Bench) -> None:
        delays = {
            bench.ended(tasks.follow.options(id=id).enqueue(["status:429"])).attempts[0].delay
            for id in ("c3-x", "c3-y")
        }
        assert len(delays) == 2
        assert all(0.3 <= delay <= 0.3 * 1.25 for delay in delays if delay is not None)

    def test_a_delay_at_enqueue(self, bench: Bench) -> None:
        job = tasks.add.options(delay=0.7).enqueue(1)
        assert job.status() == "scheduled"
        info = bench.ended(job)
        assert 0.7 - 0.001 <= (info.attempts[0].started_at - info.enqueued_at).total_seconds() <= 0.7 + TICK + SLACK

    def test_a_moment_at_enqueue(self, bench: Bench) -> None:
        moment = datetime.fromtimestamp(bench.app.store.now(), UTC) + timedelta(seconds=0.5)
        info = bench.ended(tasks.add.options(at=moment).enqueue(1))
        assert info.attempts[0].started_at >= moment - timedelta(milliseconds=1)

    def test_delayed_ones_run_in_the_order_of_their_time(self, bench: Bench) -> None:
        late, soon = (tasks.add.options(delay=delay).enqueue(1) for delay in (2.0, 0.3))
        first, second = bench.ended(soon).attempts[0], bench.ended(late).attempts[0]
        assert first.started_at < second.started_at

    def test_a_wait_is_not_held_by_the_engine(self, workers: WorkerBench) -> None:
        job = tasks.without_policy.enqueue(["retry-after:1.5"])
        workers.until(lambda: job.status() == "retrying", "the job waits")
        assert not any(workers.app.adapter.depth(route) for route in workers.app.store.routes(workers.target.backend))
        assert_on_time(workers.ended(job))

    def test_a_wait_outlives_the_worker(self, workers: WorkerBench) -> None:
        job = tasks.without_policy.enqueue(["retry-after:1.5"])
        workers.until(lambda: job.status() == "retrying", "the job waits")
        workers.worker.kill_all()
        workers.ensure_worker()
        info = workers.ended(job)
        assert [one.outcome for one in info.attempts] == ["retried", "succeeded"]
        assert pauses(info)[0] >= 1.499
