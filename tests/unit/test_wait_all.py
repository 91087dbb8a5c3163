"""Waiting for many jobs: one conversation with the store for all, results in order, and a clear word on what failed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from queuekit import (
    App,
    DoNotRetry,
    Job,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobNotReady,
    RetryAfter,
    Settings,
    agent_task,
    current_job,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@agent_task(name="wait_all.double")
def double(a: int) -> int:
    if a < 0:
        raise DoNotRetry(f"{a} is too small")
    return 2 * a


@agent_task(name="wait_all.late")
def late(a: int) -> int:
    if current_job().attempt == 1:
        raise RetryAfter(3600)
    return a


def gather(jobs: Sequence[Job[int]], how: str, **options: object) -> list[object]:
    if how == "wait_all":
        return Job.wait_all(jobs, **options)
    return asyncio.run(Job.await_all(jobs, **options))


@pytest.fixture(params=["wait_all", "await_all"])
def how(request: pytest.FixtureRequest) -> str:
    return request.param


def test_results_come_in_the_order_of_the_jobs(queuekit_memory: App, how: str) -> None:
    jobs = double.enqueue_many([(number,) for number in range(30)])
    assert gather(jobs[::-1], how) == [2 * number for number in range(30)][::-1]
    assert gather((job for job in jobs), how, timeout=0) == [2 * number for number in range(30)]


def test_of_no_jobs_there_are_no_results(queuekit_memory: App, how: str) -> None:
    assert gather([], how) == []


def test_one_job_may_stand_in_the_list_twice(queuekit_memory: App, how: str) -> None:
    job = double.enqueue(1)
    assert gather([job, double.enqueue(2), job], how) == [2, 4, 2]


def test_a_wait_of_a_retry_is_waited_for(queuekit_memory: App, how: str) -> None:
    assert gather([late.enqueue(1), double.enqueue(1)], how) == [1, 2]


def test_a_failed_job_is_raised_by_its_name_and_the_others_run_on(queuekit_memory: App, how: str) -> None:
    jobs = [double.enqueue(1), double.options(id="bad").enqueue(-1), double.enqueue(3)]
    with pytest.raises(JobFailed, match=r"job bad \(wait_all.double\) failed in attempt 1: .*-1 is too small"):
        gather(jobs, how)
    assert jobs[2].result() == 6


def test_what_failed_can_be_had_as_values(queuekit_memory: App, how: str) -> None:
    cancelled = double.options(delay=60).enqueue(5)
    cancelled.cancel("no longer needed")
    jobs = [double.enqueue(1), double.enqueue(-1), cancelled, double.job("nobody"), double.enqueue(2)]
    one, failed, ended, unknown, two = gather(jobs, how, return_exceptions=True)
    assert (one, two) == (2, 4)
    assert isinstance(failed, JobFailed)
    assert failed.error_message == "-1 is too small"
    assert isinstance(ended, JobCancelled)
    assert isinstance(unknown, JobNotFound)


class Waiting(App):
    """Of a backend with workers, none of which is there."""

    def run_next(self) -> bool:
        return False


def test_the_time_is_for_all_together(how: str) -> None:
    app = Waiting(Settings(backend="memory"))
    with app.activate():
        first, second, third = double.enqueue_many([(1,), (2,), (3,)])
        App.run_next(app)
        with pytest.raises(JobNotReady, match=f"2 of 3 jobs have not ended; the first is {second.id}"):
            gather([first, second, third], how, timeout=0)
        values = gather([first, second, third], how, timeout=timedelta(milliseconds=5), return_exceptions=True)
    assert values[0] == 2
    assert [type(value) for value in values[1:]] == [JobNotReady, JobNotReady]


def test_all_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    app = Waiting(Settings(backend="memory"))
    with app.activate():
        jobs = double.enqueue_many([(number,) for number in range(20)])
        asked: list[int] = []
        read = app.store.statuses

        def statuses(ids: Sequence[str]) -> list[object]:
            asked.append(len(ids))
            for _ in range(10):
                App.run_next(app)
            return read(ids)

        monkeypatch.setattr(app.store, "statuses", statuses)
        monkeypatch.setattr(Job, "status", None)  # and never one by one
        assert gather(jobs, how) == [2 * number for number in range(20)]
    assert asked == [20, 10]  # those that have ended are not asked for again


def test_jobs_of_two_apps_are_gathered_each_from_its_own(how: str) -> None:
    jobs = []
    for number in (1, 2):
        with App(Settings(backend="memory")).activate():
            jobs.append(double.enqueue(number))
    assert gather(jobs, how) == [2, 4]


def test_a_store_that_is_away_is_no_value(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from queuekit.store import StoreAway

    def away(*_: object) -> None:
        raise StoreAway("gone", sent=False)

    with App(Settings(backend="memory")).activate() as app:
        job = double.enqueue(1)
        job.result()
        monkeypatch.setattr(app.store, "result", away)
        with pytest.raises(StoreAway):
            gather([job], how, return_exceptions=True)
