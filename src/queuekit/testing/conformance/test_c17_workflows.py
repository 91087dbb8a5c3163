from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Job, JobCancelled, JobFailed, chain, chord, group
from queuekit.execution import Delivery, Execution, Succeeded
from queuekit.task import find_task
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import Bench, WorkerBench


class TestC17:
    """What follows a job is recorded with its outcome, and starts once, however that one is delivered or lost."""

    clause = "C17"

    def test_a_chain_hands_typed_results_on(self, bench: Bench) -> None:
        retried = tasks.number_after.bind(["connection", "timeout"], 3)
        job = chain(retried, lambda n: tasks.rate.bind(n, of="y"), tasks.points_of, tasks.add).enqueue()
        assert job.result(timeout=30) == 4
        (before,) = job.info().after
        assert Job.fetch(before).result(timeout=0) == 3

    def test_a_chord_fires_once_with_each_member_delivered_three_times(self, bench: Bench) -> None:
        job = chord([tasks.add.bind(n, 0) for n in range(5)], tasks.total).enqueue()
        members = [tasks.add.job(id) for id in job.info().after]
        for member in members:
            bench.ring(bench.publication(member), 2)
        assert job.result(timeout=30) == 10
        for member in members:
            bench.ring(bench.publication(member))
        bench.ring(bench.publication(job), 2)
        bench.settle()
        assert len(bench.journal.entries(job.id, "start")) == len(job.info().attempts) == 1
        assert all(len(member.info().attempts) == 1 for member in members)

    def test_a_failure_stops_what_waits_or_is_gone_on_without(self, bench: Bench) -> None:
        bad, good = tasks.number_after.bind(["bug"], 1), tasks.number_after.bind([], 2)
        stopped = chord([bad, good], tasks.total).then(tasks.add).enqueue()
        with pytest.raises(JobCancelled, match=r"stopped: job .* has failed"):
            stopped.result(timeout=30)
        some = chord([bad.on_failure("skip"), good.on_failure("skip")], tasks.total_of_some).enqueue()
        assert some.result(timeout=30) == "[None, 2]"

    def test_a_step_that_is_retried_by_hand_brings_back_what_it_has_stopped(self, bench: Bench) -> None:
        job = chain(tasks.number_after.bind(["bug"], 1), tasks.add, tasks.add).enqueue()
        assert bench.ended(job).status == "cancelled"
        first = Job.fetch(job.id + "-0")
        with pytest.raises(JobFailed):
            first.result(timeout=0)
        bench.app.revive(first.id)
        assert job.result(timeout=30) == 3

    def test_what_was_done_is_taken_back_in_the_reverse_order(self, bench: Bench) -> None:
        def done(number: int) -> Any:
            return tasks.number_after.bind([], number).compensate(tasks.take_back.bind)

        job = chain(done(1), lambda _: done(2), lambda _: tasks.number_after.bind(["bug"], 3)).enqueue()
        assert bench.ended(job).status == "failed"
        flow = job.id

        def undone() -> list[Any]:
            return [one.data for one in bench.journal.entries(event="took back") if one.job.startswith(flow)]

        bench.until(lambda: len(undone()) == 2, "both are taken back", within=20)
        assert undone() == [2, 1]

    def test_cancel_of_the_whole(self, workers: WorkerBench) -> None:
        made = group([tasks.sleep_async.bind(20.0), tasks.sleep_async.options(delay=15).bind(1.0)]).then(
            tasks.stamp_all
        )
        job = made.enqueue()
        running, parked = (tasks.sleep_async.job(id) for id in job.info().after)
        workers.started(running)
        assert job.cancel("changed my mind", whole=True)
        assert [workers.ended(one, within=10).status for one in (job, running, parked)] == ["cancelled"] * 3
        assert not workers.journal.entries(job.id)
        assert not workers.journal.entries(parked.id)

    def test_a_worker_that_dies_before_it_tells_of_what_follows(self, workers: WorkerBench) -> None:
        """Its outcome is recorded, and it has published nothing."""
        first = tasks.number_after.options(queue="conformance-nobody").bind([], 7)
        job = chain(first, tasks.add).enqueue()
        (id,) = job.info().after
        app = workers.app

        def renew() -> None:
            app.store.beat("one.1.that-dies", start=True)

        dying = Execution(
            app.store,
            app.settings,
            find=find_task,
            worker=lambda: "one.1.that-dies",
            renew=renew,
        )
        outcome = dying.execute(Delivery(workers.publication(tasks.number_after.job(id)).doorbell, [], {}))
        assert isinstance(outcome, Succeeded)
        assert job.result(timeout=10) == 8
        assert len(job.info().attempts) == 1

    def test_a_retry_finds_the_children_that_were_started(self, bench: Bench) -> None:
        job = tasks.starts_children.enqueue(["connection"])
        children = job.result(timeout=30)
        assert list(job.info().children) == children
        for id in children:
            info = bench.ended(Job.fetch(id))
            assert (info.status, len(info.attempts), info.parent, info.root) == ("succeeded", 1, job.id, job.id)

    def test_so_does_the_attempt_after_a_crash(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        bench.start_worker()
        with bench.supervised():
            job = tasks.starts_children.enqueue(["killed"])
            assert [one.outcome for one in bench.ended(job, within=60).attempts] == ["lost", "succeeded"]
            assert list(job.info().children) == job.result(timeout=0)
            for id in job.info().children:
                assert bench.ended(Job.fetch(id), within=30).status == "succeeded"
        assert len(job.info().children) == 3

    def test_a_cancel_reaches_the_children(self, workers: WorkerBench) -> None:
        job = tasks.waits_with_children.enqueue(20.0)
        workers.started(job)
        assert job.cancel("changed my mind")
        for id in [job.id, *job.info().children]:
            assert workers.ended(Job.fetch(id), within=15).status == "cancelled"
        assert len(job.info().children) == 2
