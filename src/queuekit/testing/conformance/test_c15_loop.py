from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from queuekit.testing import tasks
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from queuekit.testing.bench import Bench


class TestC15:
    """Async tasks share one long-lived loop a worker process."""

    clause = "C15"

    def test_a_client_works_from_the_first_job_to_the_last(self, bench: Bench) -> None:
        """In each process: where there are several, each has a loop and a client of its own."""
        seen = [tasks.use_client.enqueue().result(timeout=20) for _ in range(6)]
        seen += [job.result(timeout=20) for job in tasks.use_client.enqueue_many([()] * 6)]
        loops, answered = defaultdict(set), defaultdict(list)
        for one in seen:
            loops[one["pid"]].add(one["loop"])
            answered[one["pid"]].append(one["answered"])
        assert all(len(found) == 1 for found in loops.values())
        assert any(len(found) > 1 for found in answered.values()), "no process has run two of these jobs"
        for numbers in answered.values():
            assert len(set(numbers)) == len(numbers)

    def test_after_a_failure_and_a_time_limit(self, bench: Bench) -> None:
        before = [tasks.use_client.enqueue().result(timeout=20) for _ in range(3)]
        bench.ended(tasks.sleep_async.options(timeout=0.3).enqueue(8.0))
        bench.ended(tasks.follow_async.enqueue(["bug"]))
        after = [tasks.use_client.enqueue().result(timeout=20) for _ in range(3)]
        for one in after:
            assert all(one["loop"] == other["loop"] for other in before if other["pid"] == one["pid"])

    def test_two_at_a_time_are_in_it_together(self, bench: Bench) -> None:
        pool = bench.target.pool
        if not pool.concurrent or pool.processes:
            pytest.skip(NOT_APPLICABLE + f"the pool {pool.name!r} runs one job at a time in a process")
        jobs = tasks.meet_up.enqueue_many([(1.5,), (1.5,)])
        seen = [job.result(timeout=20) for job in jobs]
        assert len({one["loop"] for one in seen}) == 1
        assert max(one["present"] for one in seen) == 2
