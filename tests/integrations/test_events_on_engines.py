"""Exactly which events come of what, in which order and from which process, on each engine with real workers."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import WorkerBench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit import Job
    from queuekit.testing.journal import Entry
    from queuekit.testing.target import Target

HOOK = "queuekit.testing.journal:note_event"
LONG = 40.0  # seconds that a busy machine may take for what should be there at once


@pytest.fixture(scope="module")
def shared_bench(
    target: Target, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerBench]:
    url = request.getfixturevalue("queuekit_server").url
    bench = WorkerBench(target, tmp_path_factory.mktemp(f"events-{target}"), broker_url=url, hooks=HOOK)
    yield bench
    bench.close()


@pytest.fixture
def workers(shared_bench: WorkerBench) -> Iterator[WorkerBench]:
    shared_bench.ensure_worker()
    with shared_bench.in_use():
        yield shared_bench


def told(bench: WorkerBench, job: Job[Any]) -> list[Entry]:
    """In the order of the facts: a steward may tell of a loss when the next attempt has begun."""
    entries = [entry for entry in bench.journal.entries(job.id) if entry.event.startswith("event:")]
    return sorted(entries, key=lambda entry: entry.at)


def kinds(bench: WorkerBench, job: Job[Any]) -> list[str]:
    return [f"{entry.event.removeprefix('event:')}{entry.attempt or ''}" for entry in told(bench, job)]


def check(bench: WorkerBench, job: Job[Any], expected: str) -> list[Entry]:
    """The events of the job were these, and no others are told while all that was on its way arrives."""
    wanted = expected.split()
    bench.until(lambda: len(kinds(bench, job)) >= len(wanted), f"{job} ends as {expected}", within=LONG)
    bench.settle()
    assert kinds(bench, job) == wanted
    return told(bench, job)


@pytest.mark.parametrize("task", [tasks.add, tasks.add_async], ids=["sync", "async"])
def test_success(workers: WorkerBench, task: Any) -> None:
    job = task.enqueue(1)
    enqueued, started, succeeded = check(workers, job, "enqueued started1 succeeded1")
    (ran,) = workers.journal.entries(job.id, "start")
    assert (enqueued.pid, started.pid, succeeded.pid) == (os.getpid(), ran.pid, ran.pid)
    (attempt,) = job.info().attempts
    for entry in (started, succeeded):
        assert (entry.data["worker"], entry.data["backend"]) == (attempt.worker, workers.target.backend)
    assert started.at == attempt.started_at.timestamp()
    assert succeeded.data["duration"] > 0
    assert started.data["waited"] == (attempt.started_at - job.info().enqueued_at).total_seconds()


@pytest.mark.parametrize("task", [tasks.follow, tasks.follow_async], ids=["sync", "async"])
def test_a_retry(workers: WorkerBench, task: Any) -> None:
    job = task.enqueue(["connection"])
    entries = check(workers, job, "enqueued started1 retried1 started2 succeeded2")
    said = job.info().attempts[0]
    assert (entries[2].data["delay"], entries[2].data["category"]) == (said.delay, "connection")


def test_a_failure(workers: WorkerBench) -> None:
    job = tasks.follow.enqueue(["bug"])
    *_, failed = check(workers, job, "enqueued started1 failed1")
    assert (failed.data["error_type"], failed.data["category"]) == ("builtins.KeyError", "unknown")


def test_a_cancel_before_the_start(workers: WorkerBench) -> None:
    job = tasks.add.options(delay=60).enqueue(1)
    job.cancel("not needed")
    *_, cancelled = check(workers, job, "enqueued cancelled")
    assert (cancelled.data["reason"], "duration" in cancelled.data) == ("not needed", False)


@pytest.mark.parametrize("task", [tasks.cooperative, tasks.sleep_async], ids=["sync", "async"])
def test_a_cancel_of_a_running_job(workers: WorkerBench, task: Any) -> None:
    job = task.enqueue(60)
    workers.started(job, within=LONG)
    job.cancel("changed my mind")
    *_, cancelled = check(workers, job, "enqueued started1 cancelled1")
    assert cancelled.data["reason"] == "changed my mind"


def test_a_private_task(workers: WorkerBench) -> None:
    """Neither prompt nor error stands in an event, nor in what the worker logs."""
    job = tasks.confidential.enqueue("my-secret-prompt")
    bad = tasks.confide_and_fail.enqueue("my-secret-prompt")
    entries = check(workers, job, "enqueued started1 succeeded1")
    entries += check(workers, bad, "enqueued started1 retried1 started2 failed2")
    assert all(entry.data["private"] for entry in entries)
    assert "my-secret-prompt" not in json.dumps([entry.data for entry in entries])
    for worker in workers.workers:
        assert "my-secret-prompt".lower() not in worker.said().lower()


def test_a_worker_that_is_killed(workers: WorkerBench) -> None:
    job = tasks.sleep.enqueue(3.0)
    workers.started(job, within=LONG)
    steward = workers.worker.stewards()[0]
    workers.worker.kill()
    workers.until(lambda: "lost1" in kinds(workers, job), "its steward tells of the loss", within=LONG)
    workers.ensure_worker()
    entries = check(workers, job, "enqueued started1 lost1 started2 succeeded2")
    assert entries[2].pid == steward
    assert (entries[2].data["category"], entries[2].data["delay"]) == ("lost", 0.0)


def test_a_child_that_is_killed(workers: WorkerBench) -> None:
    if not workers.target.pool.processes:
        pytest.skip(f"the pool {workers.target.pool_name!r} has no child processes")
    job = tasks.sleep.enqueue(3.0)
    os.kill(workers.started(job, within=LONG).pid, signal.SIGKILL)
    check(workers, job, "enqueued started1 lost1 started2 succeeded2")


def test_a_job_that_kills_each_of_its_workers(workers: WorkerBench) -> None:
    job = tasks.without_policy.enqueue(["killed"] * 3)
    with workers.supervised():
        entries = check(workers, job, "enqueued started1 lost1 started2 lost2 started3 lost3 failed3")
    assert ["duration" in entry.data for entry in entries[-2:]] == [True, False]
    assert ["delay" in entry.data for entry in entries[-2:]] == [False, False]


@pytest.mark.parametrize("task", [tasks.spin, tasks.sleep_async], ids=["sync", "async"])
def test_a_stop_hands_back(target: Target, new_bench: Callable[..., WorkerBench], task: Any) -> None:
    bench = new_bench(hooks=HOOK, grace=0.5)
    worker = bench.start_worker()
    job = task.enqueue(3.0)
    bench.started(job, within=LONG)
    worker.terminate()
    worker.wait(LONG)
    assert kinds(bench, job) == ["enqueued", "started1", "released1"]
    bench.start_worker()
    check(bench, job, "enqueued started1 released1 started1 succeeded1")


def test_logs_as_json(new_bench: Callable[..., WorkerBench]) -> None:
    """Each line, of all its processes; what is about a job says so in fields."""
    bench = new_bench(log_format="json")
    worker = bench.start_worker()
    job = tasks.follow.enqueue(["connection", "bug"])
    bench.ended(job, within=LONG)
    other = tasks.sleep.enqueue(60)
    bench.started(other, within=LONG)
    steward = worker.stewards()
    worker.kill()
    bench.until(lambda: not set(steward) & set(worker.family()), "the steward has left", within=LONG)
    lines = [json.loads(line) for line in worker.said().splitlines()]
    ours = [one for one in lines if one.get("job_id") == job.id and one["logger"] == "queuekit.jobs"]
    assert [(one["event"], one["task"], one["attempt"]) for one in ours] == [
        ("retried", "queuekit.testing.tasks.follow", 1),
        ("failed", "queuekit.testing.tasks.follow", 2),
    ]
    assert any(one["logger"] == "queuekit.steward" and "has died" in one["message"] for one in lines)
