from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import WorkerBench
from queuekit.testing.process import send

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job, Task
    from queuekit.testing.bench import Bench

AGENTS = pytest.mark.parametrize("task", [tasks.agent, tasks.agent_async], ids=["sync", "async"])


def paid(bench: Bench, job: Job[list[str]]) -> Counter[str]:
    """How often each step was really done."""
    return Counter(entry.data for entry in bench.journal.entries(job.id, "paid"))


class TestC16:
    """A step that was finished is not done again: a retry, a crash and a stop go on after it."""

    clause = "C16"

    @AGENTS
    def test_a_retry_goes_on_after_it(self, bench: Bench, task: Task[[list[str]], list[str], object]) -> None:
        job = task.enqueue(["connection", "timeout"])
        assert [one.outcome for one in bench.ended(job).attempts] == ["retried", "retried", "succeeded"]
        done = job.result(timeout=0)
        assert set(paid(bench, job).values()) == {1}
        assert set(paid(bench, job)) == {one.partition(" of attempt ")[0] for one in done}
        assert [int(one[-1]) for one in done] == [*[1] * (len(done) - 3), 3, 3, 3]

    @AGENTS
    def test_a_crash_goes_on_after_it(
        self, new_bench: Callable[..., WorkerBench], task: Task[[list[str]], list[str], object]
    ) -> None:
        bench = new_bench()
        bench.start_worker()
        with bench.supervised():
            job = task.enqueue(["killed"])
            info = bench.ended(job, within=60)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        assert set(paid(bench, job).values()) == {1}
        assert [int(one[-1]) for one in job.result(timeout=0)][-4:] == [1, 2, 2, 2]

    def test_a_large_result_lies_outside_of_the_record_and_is_not_paid_for_twice(self, bench: Bench) -> None:
        """By the setting blobs. A crash, where there is a process to crash."""
        real = isinstance(bench, WorkerBench)
        with bench.supervised() if isinstance(bench, WorkerBench) else nullcontext():
            job = tasks.large_agent.enqueue(["killed" if real else "connection"])
            info = bench.ended(job, within=60)
        assert [one.outcome for one in info.attempts] == ["lost" if real else "retried", "succeeded"]
        said = "text of attempt 1 "
        assert job.result(timeout=0) == [said, len(said) + 2 * 1024 * 1024]
        assert paid(bench, job) == {"text": 1}
        (put,), (got,) = (bench.journal.entries(job.id, what) for what in ("put", "get"))
        assert (put.data, put.attempt, got.attempt) == (got.data, 1, 2)

    def test_a_stopped_worker_leaves_it_to_the_next(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(grace=0.5)
        bench.start_worker()
        job = tasks.slow_agent.enqueue(time.time() + 6)
        bench.started(job)
        bench.worker.terminate()
        bench.worker.wait(15)
        bench.start_worker(ready=False)
        assert [one.outcome for one in bench.ended(job, within=60).attempts] == ["released", "succeeded"]
        assert paid(bench, job) == {"plan": 1, "think": 1}

    def test_a_dead_letter_that_is_revived_goes_on_after_it(self, bench: Bench) -> None:
        job = tasks.agent.enqueue(["bug"])
        assert bench.ended(job).status == "failed"
        bench.app.revive(job.id)
        assert bench.ended(job).status == "succeeded"
        assert set(paid(bench, job).values()) == {1}

    def test_one_that_comes_too_late_is_not_kept(self, new_bench: Callable[..., WorkerBench]) -> None:
        """Its worker was frozen for longer than the lease: the job has gone on elsewhere meanwhile."""
        bench = new_bench(lease=1.5)
        frozen = bench.start_worker()
        job = tasks.slow_agent.enqueue(time.time() + 3.0)
        entry = bench.started(job)
        pids = frozen.freeze()
        try:
            bench.start_worker(ready=False)
            bench.started(job, attempt=2, within=20)
            info = bench.ended(job)
        finally:
            send(signal.SIGCONT, *pids)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        assert job.result(timeout=0) == ["plan of attempt 1", "think of attempt 2"]
        gone = Path(f"/proc/{entry.pid}")
        bench.until(lambda: not gone.exists() or paid(bench, job)["think"] == 2, "the first attempt is over")
        assert tasks.add.enqueue(1).result(timeout=20) == 2
        assert not [one for one in bench.journal.entries(job.id, "end") if one.attempt == 1]
        assert bench.ended(job) == info
