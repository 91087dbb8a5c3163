"""The rows of the compile report that follow from an adapter's Capabilities: what queuekit does on every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from queuekit.adapters.caps import cap_rows
from queuekit.adapters.report import Level, Row, broker_of, policy_of, sample
from queuekit.errors import ConfigError, PayloadError
from queuekit.message import BUCKETS, split_route
from queuekit.processes import BACKSTOP, OVER
from queuekit.retry.preview import human, preview
from queuekit.worker import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.adapters import Capabilities, Pool
    from queuekit.message import Message
    from queuekit.settings import Settings
    from queuekit.task import Task

__all__ = ["default_rows"]

NOTHING: Final = "-"
SHOWN_IN: Final = {"C5": "crash_detection", "C8": "timeout", "C9": "result", "C11": "cancel", "C15": "shared_loop"}
"""The field in which a gap that an adapter declares is shown. Others get a row of their own, "contract.C6"."""

OVERLAP: Final = (
    "one valid fence; but code in a process that was frozen or cut off from the store for longer than the lease goes "
    "on beside the next attempt until its process ends, its writes to the record rejected. A side effect that must not "
    "repeat needs the job's id as its key"
)


def default_rows(
    task: Task[..., Any, Any], backend: str, pool: Pool, settings: Settings, capabilities: Capabilities
) -> Iterator[Row]:
    """In the order in which they are shown."""
    message = sample(task, settings, backend).message
    gaps = {}
    for clause, why in capabilities.gaps.items():
        name, _, where = clause.partition(":")
        if where in {"", pool.name, broker_of(settings)}:
            gaps[SHOWN_IN.get(name, f"contract.{name}")] = (name, why)
    for row in (
        *_carried(task, message, settings),
        *_retries(task, settings),
        *_limits(task, message, pool, settings, capabilities),
        *_kept(task, message, settings),
        *_running(task, pool, settings, capabilities),
    ):
        _, why = gaps.pop(row.field, ("", ""))
        yield replace(row, level=Level.degraded, why=why) if why and row.level is not Level.refused else row
    for field, (clause, why) in gaps.items():
        if field.startswith("contract."):  # the task has no such field otherwise
            yield Row(field, clause, Level.degraded, "this clause of the contract does not hold", why)


# ---- what travels --------------------------------------------------------------------------------------------------


def _carried(task: Task[..., Any, Any], message: Message, settings: Settings) -> Iterator[Row]:
    _, queue, level = split_route(message.route)
    yield Row("queue", queue, Level.native, f"the engine's queue for the route {message.route}")
    yield Row(
        "priority",
        str(message.priority),
        Level.emulated,
        f"level {level} of the four that every engine keeps apart: {', '.join(map(str, BUCKETS))}",
    )
    yield Row(
        "id",
        "options(id=), or a new one",
        Level.native,
        "the engine's own id for the first publication; a later one is JOB-NUMBER",
        "an old hash, registry, TTL or revoked list of the engine would swallow a second one under the same id",
    )
    arguments = Row(
        "arguments",
        "private" if message.private else "typed by the signature",
        Level.native,
        "JSON in the message, for monitors to read; what runs comes typed from the record",
    )
    if message.private:
        arguments = replace(arguments, becomes="a placeholder in the message; they come typed from the record")
    try:
        task.check_importable()
        task.codec(settings.payload_limit).check()
    except (ConfigError, PayloadError) as error:
        arguments = Row("arguments", arguments.asked, Level.refused, "no worker takes the task", str(error), "mend it")
    yield arguments


# ---- retries -------------------------------------------------------------------------------------------------------


def _retries(task: Task[..., Any, Any], settings: Settings) -> Iterator[Row]:
    try:
        policy = policy_of(task, settings)
    except ConfigError as error:
        yield Row("retry", repr(task.retry), Level.refused, "no worker takes the task", str(error), "name one there is")
        return
    many = f"{policy.max_attempts} attempts in all, crashes included"
    if policy.max_elapsed is not None:
        many += f", within {human(policy.max_elapsed)} of the first failure"
    yield Row(
        "retry",
        many,
        Level.emulated,
        "queuekit decides after each attempt, and the engine's own retries are off; an error that no rule matches "
        "fails the job",
    )
    for rule in preview(policy).rows:
        asked = ", ".join(rule.on)
        if rule.action == "fail":
            yield Row(f"retry.{rule.rule}", asked, Level.emulated, "fails the job at once")
            continue
        limit = "" if rule.max_attempts is None else f"; its failure {rule.max_attempts} ends the job"
        yield Row(f"retry.{rule.rule}", asked, Level.emulated, f"waits {rule.waited}{limit}")
    yield Row(
        "wait",
        "a retry, options(delay=), options(at=)",
        Level.emulated,
        "parked in the record with its time; a steward publishes it anew when that has come, at most "
        f"{settings.tick:g} s late",
        "a wait that an engine holds comes early, twice, late or never when a process dies",
    )
    yield Row(
        "expires",
        "options(expires=)",
        Level.emulated,
        "kept in the record: a job whose turn comes too late is cancelled instead of started",
    )


# ---- limits --------------------------------------------------------------------------------------------------------


def _limits(
    task: Task[..., Any, Any], message: Message, pool: Pool, settings: Settings, capabilities: Capabilities
) -> Iterator[Row]:
    kind = "async" if task.is_async else "sync"
    for field, seconds in (("timeout", message.timeout), ("soft_timeout", message.soft_timeout)):
        asked = NOTHING if seconds is None else f"{seconds:g} s, {kind}"
        row = _limit(field, asked, task, pool, capabilities)
        if seconds is None:
            row = replace(row, level=Level.emulated, becomes=f"no limit; with one, {row.becomes}", remedy="")
        elif field == "timeout" and row.level is Level.degraded:
            row = row.also("such a call takes its worker along, see overrun; the attempt ends as time_limit", {})
        elif field == "timeout":
            row = row.also("the attempt ends as time_limit", {})
        yield row
    asked = NOTHING if message.timeout is None else f"{message.timeout:g} s, {kind}"
    yield Row("overrun", asked, Level.emulated, _overrun(task, pool, settings))


def _overrun(task: Task[..., Any, Any], pool: Pool, settings: Settings) -> str:
    """What becomes of code over its hard limit that nothing has interrupted."""
    goes_on = "swallows its cancellation, or keeps the loop," if task.is_async else "swallows it, or sits in C code,"
    said = f"what {goes_on} {BACKSTOP:g} s longer ends with its process, and the job is given on after that: "
    child, own = (f"{seconds:g} s" for seconds in OVER)
    locked = "where C code keeps the interpreter's lock"
    if pool.processes:
        return f"{said}the child is killed; {locked}, by its steward, {child} after the limit"
    worker = "the worker, which runs nothing else,"
    if pool.concurrent:
        others = f"lets the others end within the grace ({settings.grace:g} s), hands back the rest"
        worker = f"the worker takes no more jobs, {others}, and"
    return (
        f"{said}{worker} leaves with exit code {TEMPORARY}, to be started again; {locked}, its steward kills it, with "
        f"all that it runs, {own} after the limit"
    )


def _limit(field: str, asked: str, task: Task[..., Any, Any], pool: Pool, capabilities: Capabilities) -> Row:
    error = "SoftTimeout is raised once" if field == "soft_timeout" else "it is interrupted"
    if task.is_async:
        return Row(field, asked, Level.emulated, f"{error} at an await, by the loop's clock")
    if pool.interrupts_sync:
        return Row(field, asked, Level.emulated, f"{error} by SIGALRM, also in a blocking call")
    return Row(
        field,
        asked,
        Level.degraded,
        f"{error} when it next runs Python, and not in a blocking call",
        "it runs in a thread, which nothing can take out of a sleep or a socket's read",
        f"Make it async, give its client a timeout of its own{_or_pool(capabilities, 'interrupts_sync')}",
    )


def _or_pool(capabilities: Capabilities, wanted: str) -> str:
    """Where another pool of the engine would do."""
    pools = [one.name for one in capabilities.pools if getattr(one, wanted)]
    if pools:
        return f", or choose the pool {' or '.join(pools)}"
    return ", or choose a backend with a pool that interrupts" if wanted == "interrupts_sync" else ""


# ---- results -------------------------------------------------------------------------------------------------------


def _kept(task: Task[..., Any, Any], message: Message, settings: Settings) -> Iterator[Row]:
    if message.keep_result:
        yield Row("result", "kept", Level.emulated, "JSON in the record, typed as the function declares it")
    else:
        yield Row("result", "keep_result=False", Level.emulated, "encoded as a check, and thrown away")
    yield Row("result_ttl", human(message.result_ttl), Level.emulated, "the record forgets the result after that time")
    private = "kept out of the engine's fields, of logs and of tracebacks; the record has them"
    yield Row(
        "private",
        "yes" if message.private else NOTHING,
        Level.emulated,
        f"arguments, result and error messages are {private if message.private else 'shown in the engine and in logs'}",
    )


# ---- running -------------------------------------------------------------------------------------------------------


def _running(task: Task[..., Any, Any], pool: Pool, settings: Settings, capabilities: Capabilities) -> Iterator[Row]:
    try:
        again = policy_of(task, settings).on_lost
    except ConfigError:
        again = "retry"
    yield Row(
        "late_ack",
        "always",
        Level.emulated,
        "the outcome is in the record before the message is acknowledged; a message that comes again is dropped",
    )
    yield Row(
        "cancel",
        "Job.cancel()",
        Level.emulated,
        "before its start it never starts; while it runs, "
        + (
            "CancelledError at an await within 2 s"
            if task.is_async
            else "JobCancelled is raised within 2 s, out of a blocking call too"
            + ("; what goes on is killed with its process after 3 s more" if pool.processes else "")
            if pool.interrupts_sync
            else "current_job().raise_if_cancelled() raises, and a function that never asks runs to its end"
        ),
    )
    then = "the job fails" if again == "fail" else "it runs again as a counted attempt"
    with_it, next_time = "this job alone" if pool.processes else "the worker, with all that runs in it", ""
    if again != "fail" and pool.concurrent and not pool.processes:
        next_time = "; what was lost so runs in a process of its own next"
    yield Row(
        "crash_detection",
        f"on_lost={again!r}",
        Level.emulated,
        f"a crash ends {with_it}; the steward sees it, and {then} within 2 s, or within lease + 2 s "
        f"({settings.lease + 2:g} s) where the steward has gone too{next_time}",
    )
    if task.is_async:
        loop = Row(
            "shared_loop", "async", Level.emulated, "one loop for all async jobs of a process, from first to last"
        )
        if not pool.shared_loop:
            loop = Row(
                "shared_loop",
                "async",
                Level.degraded,
                "a new loop for each job: a client that a module keeps open does not work for the next one",
                f"the pool {pool.name!r} has no loop that outlives a job",
                f"Open clients inside the task{_or_pool(capabilities, 'shared_loop')}",
            )
        yield loop
    yield Row("overlap", "one attempt at a time", Level.emulated, OVERLAP)
    concurrency = Row(
        "concurrency",
        NOTHING if settings.concurrency is None else str(settings.concurrency),
        Level.native,
        "as many jobs at a time" if settings.concurrency else "the engine's own default",
    )
    if settings.concurrency is not None and settings.concurrency > 1 and not pool.concurrent:
        concurrency = replace(
            concurrency,
            level=Level.degraded,
            becomes="one job at a time in a worker",
            remedy=f"start more workers{_or_pool(capabilities, 'concurrent')}",
        )
    yield concurrency
    one = None if pool.concurrent else 1
    kept = broker_of(settings) in pool.caps
    yield from cap_rows(task, settings, kept=kept, at_a_time=settings.concurrency or one)
