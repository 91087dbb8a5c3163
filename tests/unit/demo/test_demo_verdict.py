"""The verdict sees what is wrong, each thing by itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from queuekit.demo.plan import Plan
from queuekit.demo.verdict import differences
from queuekit.job import Attempt, JobInfo, JobStatus

ENGINES = ("celery", "rq", "dramatiq")
PLAN = Plan(1, ["a", "b", "c", "d", "e"])
START = datetime(2026, 1, 1, tzinfo=UTC)


def as_planned(id: str) -> JobInfo:
    """A job that went as the plan says, each wait 4 s and half a second late."""
    at, attempts = START, []
    for number, failure in enumerate(PLAN.failures(id), start=1):
        delay = None if failure.final else 4.0
        outcome = "failed" if failure.final else "retried"
        attempts.append(
            Attempt(number, at, at + timedelta(seconds=1), "w", outcome, category=failure.category, delay=delay)
        )
        at += timedelta(seconds=5.5)
    if not PLAN.dead(id):
        attempts.append(Attempt(len(attempts) + 1, at, at + timedelta(seconds=1), "w", "succeeded"))
    status = JobStatus.failed if PLAN.dead(id) else JobStatus.succeeded
    return JobInfo(id, "t", "q", status, tuple(attempts), START, START, at)


class Records:
    engines = ENGINES
    documents = ("a", "b", "c", "d", "e")

    def __init__(self) -> None:
        self.infos = {(engine, id): as_planned(id) for engine in ENGINES for id in self.documents}
        self.results = {key: f"summary of {key[1]}" for key in self.infos}
        self.calls = Counter({key: len(info.attempts) for key, info in self.infos.items()})

    def info(self, engine: str, document: str) -> JobInfo:
        return self.infos[engine, document]

    def result(self, engine: str, document: str) -> object:
        return self.results[engine, document]

    def change(self, engine: str, id: str, n: int, **changes: object) -> None:
        info = self.infos[engine, id]
        attempts = [replace(one, **changes) if i == n else one for i, one in enumerate(info.attempts)]
        self.infos[engine, id] = replace(info, attempts=tuple(attempts))

    def verdict(self) -> str:
        return "\n".join(differences(PLAN, self, self.calls))


RETRIED = next(id for id in Records.documents if PLAN.failures(id) and PLAN.failures(id)[0].retry_after)
DEAD = next(id for id in Records.documents if PLAN.dead(id))


def test_all_as_planned_is_no_difference() -> None:
    assert Records().verdict() == ""


def test_another_delay_on_one_engine_is_seen() -> None:
    records = Records()
    records.change("rq", RETRIED, 0, delay=4.1)
    assert records.verdict() == (f"{RETRIED}: celery has [{said(records, 'celery')}], rq has [{said(records, 'rq')}]")


def said(records: Records, engine: str) -> str:
    from queuekit.demo.verdict import schedule

    return "; ".join(map(str, schedule(records.info(engine, RETRIED))))


def test_the_same_fault_on_all_engines_is_seen() -> None:
    records = Records()
    for engine in ENGINES:
        records.change(engine, RETRIED, 0, category="timeout")
    assert records.verdict().count("and planned was: rate_limit") == 3


def test_a_job_that_ended_otherwise_is_seen() -> None:
    records = Records()
    records.infos["celery", DEAD] = replace(records.info("celery", DEAD), status=JobStatus.succeeded)
    assert f"celery, {DEAD}: is succeeded, and failed was planned" in records.verdict()


def test_a_start_before_the_wait_is_over_is_seen() -> None:
    records = Records()
    records.change("dramatiq", RETRIED, 1, started_at=START + timedelta(seconds=4.9))
    assert records.verdict().startswith(f"dramatiq, {RETRIED}: attempt 1 retried rate_limit, again in 4.000 s, and the")


def test_a_wait_shorter_than_retry_after_is_seen() -> None:
    records = Records()
    for engine in ENGINES:
        records.change(engine, RETRIED, 0, delay=0.5)
    assert records.verdict().count("and Retry-After asked for") == 3


def test_a_call_that_the_record_does_not_know_is_seen() -> None:
    records = Records()
    records.calls["rq", RETRIED] += 2  # a client that retries by itself
    n = len(records.info("rq", RETRIED).attempts)
    assert records.verdict() == f"rq, {RETRIED}: {n} attempts, and {n + 2} calls of the model"


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_another_result_is_seen(engine: str) -> None:
    records = Records()
    records.results[engine, RETRIED] = "something else"
    assert records.verdict() == f"{RETRIED}: celery has another result than {engine}"
