from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuekit.testing import tasks
from queuekit.testing.bench import LEASE, pauses
from queuekit.testing.process import send
from queuekit.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job
    from queuekit.testing.bench import Bench, WorkerBench
    from queuekit.testing.servers import RedisServer, Server


class TestC4:
    """At most one attempt holds a valid fence; a message that comes twice runs nothing."""

    clause = "C4"

    def test_delivered_again_after_the_end(self, bench: Bench) -> None:
        job = tasks.add.enqueue(1)
        before = bench.ended(job)
        bench.ring(bench.publication(job), times=3)
        bench.settle()
        assert bench.ended(job) == before
        assert job.result(timeout=0) == 2
        assert len(bench.journal.entries(job.id, "start")) == 1

    def test_delivered_again_after_a_failure(self, bench: Bench) -> None:
        job = tasks.without_policy.enqueue(["bug"])
        before = bench.ended(job)
        bench.ring(bench.publication(job), times=3)
        bench.settle()
        assert bench.ended(job) == before

    def test_delivered_many_times_before_the_start(self, workers: WorkerBench) -> None:
        blocker = [tasks.sleep.enqueue(0.5) for _ in range(4)]
        job = tasks.add.enqueue(1)
        workers.ring(workers.publication(job), times=5)
        assert [one.outcome for one in workers.ended(job).attempts] == ["succeeded"]
        workers.settle()
        assert len(workers.journal.entries(job.id, "start")) == 1
        assert all(workers.ended(one).status == "succeeded" for one in blocker)

    def test_delivered_again_while_it_runs(self, new_bench: Callable[..., WorkerBench]) -> None:
        """There is a second worker, free to take what comes."""
        bench = new_bench()
        bench.start_worker()
        bench.start_worker()
        for task in (tasks.sleep, tasks.sleep_async):
            job = task.enqueue(1.5)
            bench.started(job)
            bench.ring(bench.publication(job), times=4)
            assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
            bench.settle()
            assert job.result(timeout=0) == "slept"
            assert len(bench.journal.entries(job.id, "start")) == 1

    def test_delivered_again_while_it_waits(self, bench: Bench) -> None:
        job = tasks.without_policy.enqueue(["retry-after:1"])
        bench.until(lambda: len(job.info().attempts) == 1 and job.status() == "retrying", "the job waits")
        bench.ring(bench.publication(job), times=2)
        info = bench.ended(job)
        assert [one.outcome for one in info.attempts] == ["retried", "succeeded"]
        assert pauses(info)[0] >= 0.999

    def test_only_the_fence_may_write(self, workers: WorkerBench) -> None:
        job = tasks.sleep.enqueue(1)
        workers.started(job)
        end = '{"outcome":"succeeded"}'
        assert not workers.app.store.finish(job.id, "not-the-fence", end, '"forged"')
        assert not workers.app.store.fail(job.id, "not-the-fence", end, "forged")
        assert workers.ended(job).status == "succeeded"
        assert job.result(timeout=0) == "slept"

    def test_a_slow_job_is_not_run_again(self, workers: WorkerBench) -> None:
        """Three leases long, in code that lets nothing else in its process run for most of the time."""
        job = tasks.spin.enqueue(2 * LEASE)
        assert [one.outcome for one in workers.ended(job).attempts] == ["succeeded"]
        assert len(workers.journal.entries(job.id, "start")) == 1

    def test_a_connection_that_breaks_under_a_job(
        self, new_bench: Callable[..., WorkerBench], new_broker: Callable[[], Server]
    ) -> None:
        """The broker has its message back, and delivers it again, to a worker that is free too."""
        broker = new_broker()
        with Proxy(broker.port) as proxy:
            bench = new_bench(
                broker_url=proxy.url(broker.url), store_url=new_bench().settings["store_url"], enqueue_timeout=2.0
            )
            bench.start_worker()
            bench.start_worker()
            jobs: list[Job[Any]] = [tasks.sleep.enqueue(4.0), tasks.sleep_async.enqueue(4.0)]
            for job in jobs:
                bench.started(job)
            for _ in range(2):
                proxy.cut()
                time.sleep(1.0)
            jobs.append(tasks.add.enqueue(1))
            for job in jobs:
                assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
            bench.settle()
            assert [len(bench.journal.entries(job.id, "start")) for job in jobs] == [1, 1, 1]

    def test_a_host_that_pauses_loses_nothing(self, new_bench: Callable[..., WorkerBench]) -> None:
        """All is stopped for longer than the lease, and nobody else is there: when it goes on, so does the job."""
        bench = new_bench(lease=1.5)
        worker = bench.start_worker()
        for task in (tasks.sleep, tasks.sleep_async):
            job = task.enqueue(3.0)
            bench.started(job)
            pids = worker.freeze()
            time.sleep(3.5)
            send(signal.SIGCONT, *pids)
            assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
            assert len(bench.journal.entries(job.id, "start")) == 1

    def test_a_store_that_pauses_loses_nothing(
        self, new_bench: Callable[..., WorkerBench], new_server: Callable[[], RedisServer]
    ) -> None:
        """Whoever could not beat for reasons that are not its own is not dead. Two workers: neither reaps the other."""
        store = new_server()
        bench = new_bench(store_url=store.url, lease=1.5)
        bench.start_worker()
        bench.start_worker()
        jobs = [task.enqueue(2.0) for task in (tasks.sleep, tasks.sleep_async)]
        for job in jobs:
            bench.started(job)
        store.freeze()
        time.sleep(4.0)
        store.thaw()
        for job in jobs:
            assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
            assert len(bench.journal.entries(job.id, "start")) == 1

    def test_a_frozen_worker_comes_too_late(self, new_bench: Callable[..., WorkerBench]) -> None:
        """All its processes are stopped for longer than the lease: the job runs elsewhere, and what the first one
        writes when it wakes up is not accepted."""
        bench = new_bench(lease=1.5)
        frozen = bench.start_worker()
        job = tasks.sleep.enqueue(2.5)
        entry = bench.started(job)
        pids = frozen.freeze()
        try:
            assert entry.pid in pids
            bench.start_worker(ready=False)
            second = bench.started(job, attempt=2, within=20)
            assert second.pid not in pids
        finally:
            send(signal.SIGCONT, *pids)
        info = bench.ended(job)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        bench.until(
            lambda: not Path(f"/proc/{entry.pid}").exists() or bench.journal.entries(job.id, "end"),
            "the first attempt is over",
        )
        assert bench.ended(job) == info
        assert tasks.add.enqueue(1).result(timeout=20) == 2
