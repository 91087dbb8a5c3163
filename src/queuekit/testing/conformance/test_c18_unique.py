from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, DuplicateJob, JobCancelled, Settings
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job
    from queuekit.testing.bench import Bench, WorkerBench


class TestC18:
    """Of a key there is one job at a time, from enqueue until it has ended, however it ends."""

    clause = "C18"

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_hundred_at_once_are_one(self, workers: WorkerBench) -> None:
        """From four processes, each with an App of its own and ten threads."""
        unique = tasks.add.options(key="c18", delay=1.5)
        answers, ours = os.pipe()

        def enqueue(app: App, n: int) -> None:
            with app.activate():  # a thread starts without it
                job = unique.enqueue(n)
                os.write(ours, f"{job.id} {job.created}\n".encode())  # a line is written at once

        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    app = App(Settings(**workers.settings))
                    with ThreadPoolExecutor(10) as pool:
                        list(pool.map(enqueue, [app] * 25, range(25 * child, 25 * child + 25)))
                finally:
                    os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        os.close(ours)
        with open(answers) as file:
            said = [line.split() for line in file]
        assert len(said) == 100
        assert len({id for id, _ in said}) == 1
        assert [created for _, created in said].count("True") == 1
        job: Job[Any] = tasks.add.job(said[0][0])
        assert workers.ended(job).status == "succeeded"
        assert len(workers.journal.entries(job.id, "start")) == 1

    def test_another_one_comes_after_the_first(self, bench: Bench) -> None:
        unique = tasks.follow.options(key="c18-next")
        first = unique.enqueue(["connection"])
        assert unique.enqueue(["ok"]) == first
        assert [one.outcome for one in bench.ended(first).attempts] == ["retried", "succeeded"]
        second = unique.enqueue(["bug"])
        assert second.created
        assert bench.ended(second).status == "failed"
        assert unique.enqueue(["ok"]).created

    def test_what_a_second_one_does(self, bench: Bench) -> None:
        first = tasks.add.options(key="c18-how", delay=30).enqueue(1)
        with pytest.raises(DuplicateJob) as caught:
            tasks.add.options(key="c18-how", on_duplicate="reject").enqueue(2)
        assert caught.value.job_id == first.id
        second = tasks.add.options(key="c18-how", on_duplicate="replace", delay=30).enqueue(3)
        assert second.created
        with pytest.raises(JobCancelled, match="replaced"):
            first.result(timeout=0)
        third = tasks.add.options(key="c18-how", on_duplicate="debounce", delay=0.3).enqueue(4)
        assert third == second
        bench.ended(third)
        assert third.result(timeout=0) == 5
        assert len(bench.journal.entries(third.id, "start")) == 1

    def test_a_killed_worker_does_not_free_it(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        bench.start_worker()
        unique = tasks.sleep.options(key="c18-lost")
        job = unique.enqueue(1.5)
        bench.started(job)
        bench.worker.kill_all()
        assert unique.enqueue(0.0) == job
        bench.start_worker(ready=False)
        bench.started(job, attempt=2, within=30)
        assert not unique.enqueue(0.0).created
        assert [one.outcome for one in bench.ended(job).attempts] == ["lost", "succeeded"]
        assert unique.enqueue(0.0).created
