from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from queuekit import App, Category, JobFailed, JobNotFound, QueuekitError, Settings
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import Bench, WorkerBench


class TestC10:
    """A failed job is kept with its arguments and every attempt, and can be revived by hand."""

    clause = "C10"

    def test_what_is_kept(self, bench: Bench) -> None:
        plan = ["connection", "timeout", "status:401"]
        job = tasks.follow.enqueue(plan)
        info = bench.ended(job)
        assert (info.status, info.reason) == ("failed", info.attempts[-1].reason)
        assert [one.outcome for one in info.attempts] == ["retried", "retried", "failed"]
        assert [one.category for one in info.attempts] == [Category.connection, Category.timeout, Category.auth]
        assert [one.error_type for one in info.attempts] == [
            "builtins.ConnectionResetError", "builtins.TimeoutError", "queuekit.testing.tasks.ApiError",
        ]  # fmt: skip
        assert info.attempts[0].error_message == "the service hung up"
        assert [one.delay is None for one in info.attempts] == [False, False, True]
        for one in info.attempts:
            assert one.traceback is not None
            assert "in meet" in one.traceback
            assert one.ended_at is not None
            assert info.enqueued_at <= one.started_at <= one.ended_at
            assert one.worker
        assert info.finished_at is not None
        message = json.loads(bench.record(job).message)
        assert (message["args"], message["kwargs"]) in (([plan], {}), ([], {"plan": plan}))
        assert job.id in bench.app.store.dead(1000)

    def test_the_error_tells_all(self, bench: Bench) -> None:
        with pytest.raises(JobFailed) as caught:
            tasks.follow.enqueue(["status:401"]).result(timeout=20)
        error = caught.value
        assert (error.category, error.error_type) == (Category.auth, "queuekit.testing.tasks.ApiError")
        assert "401" in error.error_message
        assert error.info.attempts[0].outcome == "failed"

    def test_revived(self, bench: Bench) -> None:
        """Its attempts are numbered on, and its retries begin anew."""
        job = tasks.follow.enqueue(["connection", "bug", "connection"])
        assert bench.ended(job).status == "failed"
        again = bench.app.revive(job.id)
        assert again == job
        info = bench.ended(job)
        assert [(one.number, one.outcome) for one in info.attempts] == [
            (1, "retried"), (2, "failed"), (3, "retried"), (4, "succeeded"),
        ]  # fmt: skip
        assert job.result(timeout=0) == "attempt 4"
        assert job.id not in bench.app.store.dead(1000)

    def test_a_cancelled_one_is_revived(self, bench: Bench) -> None:
        job = tasks.add.options(delay=30).enqueue(1)
        job.cancel("not now")
        bench.app.revive(job.id)
        assert job.result(timeout=20) == 2

    def test_only_what_has_failed_or_was_cancelled_can_be(self, bench: Bench) -> None:
        job = tasks.add.enqueue(1)
        bench.ended(job)
        with pytest.raises(QueuekitError, match="succeeded"):
            bench.app.revive(job.id)
        with pytest.raises(JobNotFound):
            bench.app.revive("nobody-enqueued-this")
        assert len(bench.ended(job).attempts) == 1

    def test_revived_on_another_backend(self, new_bench: Callable[..., WorkerBench]) -> None:
        """It failed on one engine; the App of another, on the same store, brings it back there."""
        bench = new_bench()
        other = next((name for name in ("celery", "rq", "dramatiq") if name != bench.target.backend), "rq")
        store = bench.settings["store_url"]  # RQ has no other broker than a Redis
        foreign = App(Settings(**{**bench.settings, "backend": other, "broker_url": store, "pool": None}))
        with foreign.activate():
            job = tasks.without_policy.enqueue([])
            assert job.cancel("the other engine is gone")
        foreign.close()
        bench.app.revive(job.id)
        bench.start_worker()
        info = bench.ended(tasks.without_policy.job(job.id))
        assert (info.status, info.backend) == ("succeeded", bench.target.backend)
