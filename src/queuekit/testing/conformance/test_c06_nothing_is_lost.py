from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import LEASE, SLACK
from queuekit.testing.outages import outage

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job
    from queuekit.testing.bench import Bench, WorkerBench
    from queuekit.testing.servers import RedisServer, Server


class TestC6:
    """A job whose enqueue returned ends, through killed workers, restarted brokers and lost messages."""

    clause = "C6"

    def test_enqueued_before_there_is_a_worker(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        jobs = tasks.add.enqueue_many([(n,) for n in range(3)])
        bench.start_worker()
        assert [job.result(timeout=20) for job in jobs] == [1, 2, 3]

    def test_a_route_is_first_in_first_out(self, new_bench: Callable[..., WorkerBench]) -> None:
        """A job that later ones have overtaken for a lease counts as lost."""
        bench = new_bench()
        jobs = tasks.add.enqueue_many([(n,) for n in range(8)])
        bench.start_worker(concurrency=1)
        began = [bench.ended(job).attempts[0].started_at for job in jobs]
        assert began == sorted(began)

    def test_messages_that_were_deleted_are_found_missing(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        """The broker comes back empty; the store is another server."""
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, lease=2.0)
        jobs = tasks.add.enqueue_many([(n,) for n in range(5)])
        broker.restart(empty=True)
        bench.start_worker(ready=False)
        began = bench.app.store.now()
        infos = [bench.ended(job) for job in jobs]
        assert [len(info.attempts) for info in infos] == [1] * 5
        last = max(info.attempts[0].started_at.timestamp() for info in infos)
        assert last - began <= 2.0 + 2.0 + SLACK + 5  # the worker starts meanwhile

    def test_the_broker_is_emptied_under_a_worker(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, lease=2.0)
        bench.start_worker()
        blockers: list[Job[Any]] = [tasks.sleep.enqueue(1.0) for _ in range(4)]
        bench.started(blockers[0])
        jobs = tasks.add.enqueue_many([(n,) for n in range(5)])
        broker.empty()
        with bench.supervised():
            assert all(bench.ended(job, within=40).status == "succeeded" for job in [*blockers, *jobs])

    def test_the_broker_is_restarted(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, lease=2.0)
        bench.start_worker()
        jobs = tasks.follow.enqueue_many([(["connection"],), (["connection", "timeout"],)])
        broker.restart()
        with bench.supervised():
            assert all(bench.ended(job, within=40).status == "succeeded" for job in jobs)

    def test_the_store_is_restarted(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        """A job that ends while the store is away keeps its outcome until it can be recorded."""
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, lease=LEASE)
        bench.start_worker()
        job = tasks.sleep.enqueue(0.5)
        bench.started(job)
        store.kill()
        bench.until(lambda: bench.journal.entries(job.id, "end"), "the job has done its work")
        store.start()
        with bench.supervised():
            info = bench.ended(job)
        assert [one.outcome for one in info.attempts] == ["succeeded"]
        assert len(bench.journal.entries(job.id, "start")) == 1

    def test_an_expired_one_never_starts(self, bench: Bench) -> None:
        job = tasks.add.options(delay=0.4, expires=0.2).enqueue(1)
        assert bench.ended(job).status == "cancelled"
        assert not bench.journal.entries(job.id)

    @pytest.mark.parametrize(("how", "seconds"), [("refused", 5.0), ("silent for ever", 10.0)])
    @pytest.mark.parametrize("what", ["broker", "store"])
    def test_an_outage(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
        what: str,
        how: str,
        seconds: float,
    ) -> None:
        """Several leases long. What was open may never answer again, nor be reset; enqueue keeps its word meanwhile
        (C7), a job that runs is not run again (C4), and workers consume within 30 s of the return."""
        outage(new_bench, new_broker(), new_server(), what=what, how=how, seconds=seconds)
