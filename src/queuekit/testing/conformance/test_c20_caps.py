from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import LEASE, SLACK
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuekit import Job
    from queuekit.testing.bench import Bench, WorkerBench
    from queuekit.testing.target import Target

GRACE = 5.0
OF_TASK = json.dumps({tasks.sleep_async.name: 2})
OF_QUEUE = json.dumps({"default": 2})


@pytest.fixture
def kept(target: Target) -> None:
    if target.broker not in target.pool.caps:
        pytest.skip(NOT_APPLICABLE + f"the pool {target.pool_name!r} keeps no caps, and refuses them")


def most_at_a_time(bench: Bench, jobs: Iterable[Job[str]]) -> int:
    """Of these jobs, by what they wrote down themselves."""
    ids = {job.id for job in jobs}
    moves = [(entry.at, {"start": 1, "end": -1}[entry.event]) for entry in bench.journal.entries() if entry.job in ids]
    now = most = 0
    for _, move in sorted(moves):
        now += move
        most = max(most, now)
    return most


def all_ran_once(bench: Bench, jobs: Sequence[Job[str]]) -> None:
    for job in jobs:
        assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
    assert len([entry for job in jobs for entry in bench.journal.entries(job.id, "start")]) == len(jobs)


class TestC20:
    """Of a queue or a task with a cap no more jobs run at a time in a worker process, and others go on."""

    clause = "C20"

    @pytest.mark.usefixtures("kept")
    def test_of_a_task_no_more_run_and_others_pass(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(concurrency=10, task_concurrency=OF_TASK)
        bench.start_worker()
        capped = [tasks.sleep_async.enqueue(0.5) for _ in range(12)]
        bench.started(capped[0])
        others = [tasks.add_async.enqueue(n) for n in range(20)]
        assert [job.result(timeout=20) for job in others] == list(range(1, 21))
        assert capped[-1].status() == "queued", "they have passed it"
        all_ran_once(bench, capped)
        assert most_at_a_time(bench, capped) == 2

    @pytest.mark.usefixtures("kept")
    def test_of_a_queue_no_more_run_and_its_messages_stay_with_the_broker(
        self, new_bench: Callable[..., WorkerBench]
    ) -> None:
        bench = new_bench(concurrency=10, queue_concurrency=OF_QUEUE, queues="default,other")
        bench.start_worker()
        capped = [tasks.sleep_async.enqueue(0.5) for _ in range(8)]
        bench.started(capped[0])
        others = [tasks.add_async.options(queue="other").enqueue(n) for n in range(20)]
        assert [job.result(timeout=20) for job in others] == list(range(1, 21))
        assert bench.app.adapter.depth(f"{bench.target.backend}:default:0"), "another worker would have them"
        all_ran_once(bench, capped)
        assert most_at_a_time(bench, capped) == 2

    @pytest.mark.usefixtures("kept")
    def test_a_backlog_that_waits_for_longer_than_a_lease(self, new_bench: Callable[..., WorkerBench]) -> None:
        """Meanwhile messages of those that are kept back come again, and more wait than are kept back."""
        bench = new_bench(concurrency=10, task_concurrency=json.dumps({tasks.sleep_async.name: 8}))
        bench.start_worker()
        long = [tasks.sleep_async.enqueue(2 * LEASE + 1) for _ in range(8)]
        capped = [tasks.sleep_async.enqueue(0.01) for _ in range(50)]
        last = tasks.add_async.enqueue(1)
        all_ran_once(bench, [*long, *capped])
        assert last.result(timeout=20) == 2
        assert most_at_a_time(bench, [*long, *capped]) == 8

    @pytest.mark.usefixtures("kept")
    def test_a_stop_gives_back_what_was_kept(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(concurrency=10, task_concurrency=OF_TASK, grace=GRACE, lease=60.0)
        worker = bench.start_worker()
        capped = [tasks.sleep_async.enqueue(1.0) for _ in range(8)]
        bench.started(capped[0])
        tasks.add_async.enqueue(1).result(timeout=20)  # so it has taken all before
        worker.terminate()
        assert worker.wait(GRACE + 5 + SLACK) == 0
        ran = [job for job in capped if job.status() == "succeeded"]
        assert len(ran) < 8
        assert all(job.info().attempts == () for job in capped if job not in ran)
        bench.start_worker()  # long before the record would ring again for what was lost
        all_ran_once(bench, capped)

    @pytest.mark.usefixtures("kept")
    def test_a_killed_worker_loses_nothing_of_it(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(concurrency=10, task_concurrency=OF_TASK)
        bench.start_worker()
        capped = [tasks.sleep_async.enqueue(1.0) for _ in range(8)]
        bench.started(capped[0])
        bench.worker.kill_all()
        bench.start_worker(ready=False)
        for job in capped:
            outcomes = [one.outcome for one in bench.ended(job).attempts]
            assert outcomes[-1:] == ["succeeded"]
            assert set(outcomes[:-1]) <= {"lost", "released"}

    def test_where_it_would_not_hold_it_is_refused(self, new_bench: Callable[..., WorkerBench], target: Target) -> None:
        if target.broker in target.pool.caps:
            pytest.skip(NOT_APPLICABLE + "its caps hold")
        bench = new_bench(concurrency=2, queue_concurrency=json.dumps({"default": 1}))
        worker = bench.start_worker(ready=False)
        if not target.pool.concurrent and target.backend == "celery":
            bench.until(lambda: "serves" in worker.said(), "it has started: it runs one job at a time in any case")
            return
        assert worker.wait(20) == 2
        assert "queue_concurrency['default']=1 (environment QUEUEKIT_QUEUE_CONCURRENCY)" in worker.said()
        assert "--concurrency 1" in worker.said()
