"""Whether every job ended as planned, and whether the engines agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from queuekit import JobInfo
    from queuekit.demo.plan import Plan

__all__ = ["Records", "Step", "differences", "schedule", "waited"]

ROUNDING: Final = 0.001  # seconds: the record's times have microseconds


class Step(NamedTuple):
    """What must be the same on every engine: an attempt, how it ended, and the seconds until the next may start."""

    attempt: int
    outcome: str
    category: str | None
    delay: float | None

    def __str__(self) -> str:
        why = f" {self.category}" if self.category else ""
        again = f", again in {self.delay:.3f} s" if self.delay is not None else ""
        return f"attempt {self.attempt} {self.outcome}{why}{again}"


def schedule(info: JobInfo) -> tuple[Step, ...]:
    return tuple(
        Step(one.number, one.outcome, None if one.category is None else str(one.category), one.delay)
        for one in info.attempts
    )


def waited(info: JobInfo) -> list[float | None]:
    """After each attempt: the seconds until the next one started, by the store's clock. None after the last."""
    waits: list[float | None] = []
    for one, after in zip(info.attempts, [*info.attempts[1:], None], strict=True):
        ended = one.ended_at
        waits.append(None if after is None or ended is None else (after.started_at - ended).total_seconds())
    return waits


class Records(Protocol):
    """What a Watch knows when all jobs are over."""

    @property
    def engines(self) -> tuple[str, ...]: ...

    @property
    def documents(self) -> tuple[str, ...]: ...

    def info(self, engine: str, document: str) -> JobInfo: ...

    def result(self, engine: str, document: str) -> object: ...


def differences(plan: Plan, records: Records, calls: Mapping[tuple[str, str], int]) -> list[str]:
    """What is not as it should be, a line each; nothing, where all is. `calls`: how many the endpoint has seen."""
    found: list[str] = []
    first, *others = records.engines
    for id in records.documents:
        for engine in records.engines:
            info = records.info(engine, id)
            found += [f"{engine}, {id}: {line}" for line in _against_plan(plan, id, info)]
            if len(info.attempts) != calls[engine, id]:
                found.append(
                    f"{engine}, {id}: {len(info.attempts)} attempts, and {calls[engine, id]} calls of the model"
                )
        for engine in others:
            one, other = schedule(records.info(first, id)), schedule(records.info(engine, id))
            if one != other:
                found.append(f"{id}: {first} has [{_said(one)}], {engine} has [{_said(other)}]")
            if records.result(first, id) != records.result(engine, id):
                found.append(f"{id}: {first} has another result than {engine}")
    return found


def _said(steps: tuple[Step, ...]) -> str:
    return "; ".join(map(str, steps))


def _against_plan(plan: Plan, id: str, info: JobInfo) -> list[str]:
    found: list[str] = []
    planned = JobStatus.failed if plan.dead(id) else JobStatus.succeeded
    if info.status is not planned:
        found.append(f"is {info.status}, and {planned} was planned")
    failures = plan.failures(id)
    categories = [str(failure.category) for failure in failures] + ([] if plan.dead(id) else [None])
    if [step.category for step in schedule(info)] != categories:
        wanted = ", ".join(str(category or "succeeded") for category in categories)
        found.append(f"[{_said(schedule(info))}], and planned was: {wanted}")
        return found
    for failure, step, wait in zip(failures, schedule(info), waited(info), strict=False):
        if step.delay is None:
            continue
        if failure.retry_after is not None and step.delay < failure.retry_after:
            found.append(f"{step}, and Retry-After asked for {failure.retry_after} s")
        if wait is not None and wait < step.delay - ROUNDING:
            found.append(f"{step}, and the next one started after {wait:.3f} s already")
    return found
