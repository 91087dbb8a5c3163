"""The store fails over, or its clock is set: nobody is taken for dead who could not help it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from clock import a_shifted_server, check_clock

from queuekit.testing import tasks
from queuekit.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clock import ShiftedServer

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer


@pytest.fixture
def shifted(tmp_path: Path) -> Iterator[ShiftedServer]:
    with a_shifted_server(tmp_path) as server:
        check_clock(server)
        yield server


def runs(bench: WorkerBench) -> list[Job[Any]]:
    """Jobs that run, in two workers, neither of which may reap the other."""
    bench.start_worker()
    bench.start_worker()
    jobs = [tasks.sleep.enqueue(5.0), tasks.sleep_async.enqueue(5.0)]
    for job in jobs:
        bench.started(job)
    return jobs


def ended_once(bench: WorkerBench, jobs: list[Job[Any]]) -> None:
    for job in jobs:
        assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
        assert len(bench.journal.entries(job.id, "start")) == 1
    assert tasks.add.enqueue(1).result(timeout=30) == 2


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["forward", "back"])
def test_the_clock_of_the_store_is_set(
    new_bench: Callable[..., WorkerBench], shifted: ShiftedServer, seconds: int
) -> None:
    bench = new_bench(store_url=shifted.url)
    jobs = runs(bench)
    shifted.shift(seconds)
    time.sleep(1.0)
    shifted.shift(0)  # and right again
    time.sleep(1.0)
    shifted.shift(seconds)
    ended_once(bench, jobs)


def test_the_store_fails_over(new_bench: Callable[..., WorkerBench], new_server: Callable[[], RedisServer]) -> None:
    """Its address leads to a server that was its replica."""
    master, replica = new_server(), new_server()
    with Proxy(master.port) as proxy, redis.Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", master.port)
        bench = new_bench(store_url=proxy.url(master.url))
        jobs = runs(bench)
        with redis.Redis.from_url(master.url, single_connection_client=True) as first:
            first.set("a write", "of this connection")  # WAIT asks who has what the connection has written
            while first.wait(1, 1000) < 1:
                pass
        proxy.refuse()
        master.kill()
        time.sleep(3.0)
        client.replicaof("NO", "ONE")
        proxy.point(replica.port)
        proxy.restore()
        ended_once(bench, jobs)
