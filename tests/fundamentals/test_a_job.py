"""Read this first: the way of a job, on the memory backend, where a wait takes no time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from queuekit import (
    Backoff,
    Job,
    JobCancelled,
    JobConflict,
    JobFailed,
    JobNotFound,
    JobStatus,
    PayloadError,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    agent_task,
    current_job,
)

if TYPE_CHECKING:
    from queuekit import App


@dataclass
class Document:
    title: str
    published: datetime


@agent_task
def shout(text: str, *, times: int = 1) -> str:
    return text.upper() * times


@agent_task
async def date_of(document: Document) -> datetime:
    await asyncio.sleep(0)
    return document.published


class Overloaded(Exception):
    pass


@agent_task(
    retry=RetryPolicy([RetryRule(Overloaded, Backoff(10, factor=2, jitter="none"))], max_attempts=4),
)
def third_time_lucky() -> int:
    if current_job().attempt < 3:
        raise Overloaded("come again")
    return current_job().attempt


@agent_task
def divide(a: int, b: int) -> float:
    return a / b


@agent_task(retry=RetryPolicy(max_attempts=3))
def asks_for_time() -> str:
    if current_job().attempt == 1:
        raise RetryAfter(90)
    return "done"


@agent_task(result_ttl=60)
def short_lived() -> int:
    return 7


@agent_task
def nested(text: str) -> str:
    return shout.enqueue(text).result()


def test_a_task_is_still_a_function() -> None:
    assert shout("hi", times=2) == "HIHI"
    assert asyncio.run(date_of(Document("a", datetime.min))) == datetime.min
    assert current_job().id == ""  # harmless outside of a job


def test_enqueue_then_result(queuekit_memory: App) -> None:
    job = shout.enqueue("hi", times=2)
    assert job.status() is JobStatus.queued
    assert job.result() == "HIHI"
    assert job.status() is JobStatus.succeeded


def test_types_come_out_as_they_went_in(queuekit_memory: App) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert date_of.enqueue(Document("a", when)).result() == when


async def _ask_async() -> str:
    job = await shout.aenqueue("a")
    return await job.aresult(timeout=5)


def test_the_same_from_async_code(queuekit_memory: App) -> None:
    assert asyncio.run(_ask_async()) == "A"


def test_a_job_is_found_again_by_its_id(queuekit_memory: App) -> None:
    id = shout.enqueue("again").id
    assert Job.fetch(id).result() == "AGAIN"
    assert shout.job(id).result() == "AGAIN"
    with pytest.raises(JobNotFound, match="nobody"):
        Job.fetch("nobody")
    with pytest.raises(JobNotFound):
        shout.job("nobody").status()


def test_a_retry_waits_as_its_rule_says_and_every_attempt_is_kept(queuekit_memory: App) -> None:
    job = third_time_lucky.enqueue()
    assert job.result() == 3
    attempts = job.info().attempts
    assert [(a.number, a.outcome, a.delay) for a in attempts] == [
        (1, "retried", 10.0),
        (2, "retried", 20.0),
        (3, "succeeded", None),
    ]
    assert [b.started_at - a.ended_at for a, b in zip(attempts, attempts[1:], strict=False) if a.ended_at] == [
        timedelta(seconds=10),
        timedelta(seconds=20),
    ]
    assert attempts[0].error_type == f"{__name__}.Overloaded"
    assert attempts[0].error_message == "come again"
    assert "raise Overloaded" in (attempts[0].traceback or "")


def test_an_exception_without_a_rule_fails_at_once(queuekit_memory: App) -> None:
    job = divide.enqueue(1, 0)
    with pytest.raises(JobFailed, match="division by zero") as failed:
        job.result()
    assert failed.value.error_type == "builtins.ZeroDivisionError"
    assert len(failed.value.info.attempts) == 1
    assert job.status() is JobStatus.failed


def test_a_task_may_ask_for_time(queuekit_memory: App) -> None:
    job = asks_for_time.enqueue()
    assert job.result() == "done"
    assert job.info().attempts[0].delay == 90


def test_a_delayed_job_does_not_start_early(queuekit_memory: App) -> None:
    job = shout.options(delay=60).enqueue("later")
    assert job.status() is JobStatus.scheduled
    queuekit_memory.advance(59.9)
    queuekit_memory.run_until_idle(wait=False)
    queuekit_memory.advance(0.1)
    queuekit_memory.run_until_idle(wait=False)
    assert job.status() is JobStatus.succeeded


def test_a_cancelled_job_never_starts(queuekit_memory: App) -> None:
    job = shout.options(delay=60).enqueue("no")
    assert job.cancel("changed my mind")
    assert not job.cancel()
    with pytest.raises(JobCancelled, match="changed my mind"):
        job.result()
    queuekit_memory.advance(120)
    queuekit_memory.run_until_idle()
    assert job.info().attempts == ()


def test_a_job_that_expires_before_it_starts_is_cancelled(queuekit_memory: App) -> None:
    job = shout.options(expires=10).enqueue("no")
    queuekit_memory.advance(11)
    with pytest.raises(JobCancelled, match="expired"):
        job.result()


def test_one_id_is_one_job(queuekit_memory: App) -> None:
    one = shout.options(id="order-17").enqueue("a")
    two = shout.options(id="order-17").enqueue("a")
    assert (one.created, two.created) == (True, False)
    assert one == two
    with pytest.raises(JobConflict, match="asks for something else") as refused:
        shout.options(id="order-17").enqueue("b")
    assert refused.value.recorded is False


def test_what_does_not_fit_is_refused_before_anything_is_written(queuekit_memory: App) -> None:
    with pytest.raises(PayloadError, match="times") as refused:
        shout.enqueue("a", times="2")  # type: ignore[arg-type]
    assert refused.value.parameter == "times"
    assert queuekit_memory.run_until_idle() == 0


def test_enqueue_many_checks_all_before_the_first(queuekit_memory: App) -> None:
    with pytest.raises(PayloadError):
        shout.enqueue_many([("a",), (3,)])
    assert queuekit_memory.run_until_idle() == 0
    jobs = shout.enqueue_many([shout.bind("a", times=2), ("b",)])
    assert [job.result() for job in jobs] == ["AA", "B"]


def test_a_result_expires_and_its_tombstone_stays(queuekit_memory: App) -> None:
    job = short_lived.enqueue()
    assert job.result() == 7
    queuekit_memory.advance(61)
    with pytest.raises(JobNotFound, match="expired"):
        job.result()
    assert job.status() is JobStatus.succeeded


def test_a_job_may_wait_for_another(queuekit_memory: App) -> None:
    assert nested.enqueue("inner").result() == "INNER"


def test_higher_priority_goes_first(queuekit_memory: App) -> None:
    low = shout.enqueue("low")
    high = shout.options(priority=9).enqueue("high")
    queuekit_memory.run_next()
    assert (low.status(), high.status()) == (JobStatus.queued, JobStatus.succeeded)
