"""Chaos, seeded: workers are killed, messages deleted and doubled, the broker emptied and restarted, while jobs come in.
Afterwards every job that was accepted has ended, and none twice.

    QUEUEKIT_TEST_CHAOS_SECONDS=300 QUEUEKIT_TEST_CHAOS_SEED=7 pytest tests/chaos --queuekit-backend=rq-worker
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import EnqueueError
from queuekit.job import TERMINAL
from queuekit.testing import tasks
from queuekit.testing.report import NOTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer, Server

SECONDS = float(os.environ.get("QUEUEKIT_TEST_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("QUEUEKIT_TEST_CHAOS_SEED", "1"))
MOST_ATTEMPTS = {"follow": 6, "follow_async": 6, "without_policy": 3, "sleep": 3, "sleep_async": 3}


class Chaos:
    def __init__(self, bench: WorkerBench, broker: Server, seed: int) -> None:
        self.bench, self.broker = bench, broker
        self.random = random.Random(seed)
        self.jobs: list[Job[Any]] = []
        self.faults: Counter[str] = Counter()
        self.refused = 0

    # ---- work

    def enqueue(self) -> None:
        plan = self.random.choice([[], [], ["connection"], ["status:429", "timeout"], ["timeout"] * 3, ["bug"]])
        call = self.random.choice(
            [
                tasks.follow.bind(plan),
                tasks.follow_async.bind(plan),
                tasks.without_policy.bind([]),
                tasks.sleep.bind(self.random.uniform(0.05, 0.6)),
                tasks.sleep_async.bind(self.random.uniform(0.05, 0.6)),
                tasks.follow.options(delay=self.random.uniform(0.1, 2)).bind(plan),
            ]
        )
        try:
            self.jobs.append(self.bench.app.enqueue(call))
        except EnqueueError:
            self.refused += 1

    # ---- faults

    def kill_a_child(self) -> bool:
        children = self.bench.worker.children()
        if children:
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(children), 9)
        return bool(children)

    def kill_the_parent(self) -> bool:
        self.bench.worker.kill()
        return True

    def kill_all_of_the_worker(self) -> bool:
        self.bench.worker.kill_all()
        return True

    def kill_the_steward(self) -> bool:
        stewards = self.bench.worker.stewards()
        for pid in stewards:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        return bool(stewards)

    def double_a_message(self) -> bool:
        if not self.jobs:
            return False
        job = self.random.choice(self.jobs[-20:])
        with suppress(ConnectionError):
            self.bench.ring(self.bench.publication(job), times=self.random.randint(1, 3))
        return True

    def delete_a_message(self) -> bool:
        return any(self._delete() for _ in range(3))

    def _delete(self) -> bool:
        if self.bench.target.broker == "rabbitmq":
            return self.broker.lose_one(self.random)  # type: ignore[attr-defined]  # a RabbitServer
        import redis

        with redis.Redis.from_url(self.broker.url) as client:
            keys = list(client.scan_iter(match=f"*queuekit.{self.bench.app.settings.namespace}.*", _type="list"))
            return bool(keys) and client.lpop(self.random.choice(keys)) is not None

    def empty_the_broker(self) -> bool:
        self.broker.empty()
        return True

    def restart_the_broker(self) -> bool:
        self.broker.restart()
        return True

    FAULTS: tuple[tuple[int, Callable[[Chaos], bool]], ...] = (
        (6, kill_a_child),
        (3, kill_the_parent),
        (1, kill_all_of_the_worker),
        (2, kill_the_steward),
        (6, double_a_message),
        (8, delete_a_message),
        (1, empty_the_broker),
        (1, restart_the_broker),
    )

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        weights, faults = zip(*self.FAULTS, strict=True)
        while time.monotonic() < end:
            for _ in range(self.random.randint(1, 4)):
                self.enqueue()
            (fault,) = self.random.choices(faults, weights)
            if fault(self):
                self.faults[fault.__name__.replace("_", " ")] += 1
            time.sleep(self.random.uniform(0.1, 0.8))

    # ---- what came of it

    def summary(self) -> str:
        infos = [job.info() for job in self.jobs]
        statuses = Counter(str(info.status) for info in infos)
        lost = sum(one.outcome == "lost" for info in infos for one in info.attempts)
        ends = Counter(entry.job for entry in self.bench.journal.entries(event="end"))
        return (
            f"chaos on {self.bench.target}, seed {SEED}: {len(self.jobs)} jobs, {self.refused} refused, "
            f"{sum(self.faults.values())} faults ({', '.join(f'{n} x {what}' for what, n in self.faults.most_common())}); "
            f"ended: {dict(statuses)}; attempts lost: {lost}; "
            f"not ended: {sum(info.status not in TERMINAL for info in infos)}; "
            f"ran to their end more than once: {sum(count > 1 for count in ends.values())}"
        )


@pytest.mark.timeout(int(SECONDS * 2) + 240)
def test_chaos(
    new_bench: Callable[..., WorkerBench],
    new_broker: Callable[[], Server],
    new_server: Callable[[], RedisServer],
    record_property: Callable[[str, object], None],
) -> None:
    broker, store = new_broker(), new_server()
    bench = new_bench(broker_url=broker.url, store_url=store.url, enqueue_timeout=2.0)
    bench.start_worker()
    chaos = Chaos(bench, broker, SEED)
    with bench.supervised():
        chaos.run(SECONDS)
        bench.until(lambda: all(job.status() in TERMINAL for job in chaos.jobs[::-1]), Left(chaos), within=120)
    record_property(NOTE, chaos.summary())
    assert chaos.jobs
    for job in chaos.jobs:
        info = job.info()
        name = info.task.rpartition(".")[2]
        # A last attempt that was lost with others does not count, and is made once more, alone.
        spared = Counter(one.number for one in info.attempts if one.outcome == "released" and one.company)
        assert sum(spared.values()) <= 2, info
        numbers = [one.number for one in info.attempts if one.outcome != "released"]
        assert numbers == list(range(1, len(numbers) + 1)), info
        assert len(numbers) <= MOST_ATTEMPTS[name], info
        assert all(one.outcome in {"retried", "lost", "released"} for one in info.attempts[:-1]), info
        for one in info.attempts:  # or the process in which it was to run alone was killed before it began
            assert one.outcome != "released" or one.company or "cannot run it alone" in (one.reason or ""), info
        last = info.attempts[-1]
        assert last.outcome in ({"succeeded"} if info.status == "succeeded" else {"failed", "lost"}), info
        for one, after in zip(info.attempts, info.attempts[1:], strict=False):
            assert one.ended_at is not None
            assert after.started_at >= one.ended_at, info
            assert (after.started_at - one.ended_at).total_seconds() >= (one.delay or 0) - 0.001, info
        starts = Counter(entry.attempt for entry in bench.journal.entries(job.id, "start"))
        assert all(n <= 1 + spared[one] for one, n in starts.items()), f"an attempt began twice: {job.id}: {starts}"
    assert all(bench.app.adapter.depth(route) is not None for route in bench.app.store.routes(bench.target.backend))


class Left:
    """Says what has not ended, when it is asked for."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos

    def __str__(self) -> str:
        left = [job.info() for job in self.chaos.jobs if job.status() not in TERMINAL]
        return f"{self.chaos.summary()}\n" + "\n".join(map(str, left[:5]))
