"""One attempt, from the claim to its recorded outcome.

An adapter hands over a delivery and gets an outcome, a value:

    claim   ask the store for the attempt: a Held, or Dropped with the reason
    run     the function: async on the process's one loop, sync in place
    decide  on an exception the policy says retry, fail or pass
    record  one atomic step in the store, under the fence; then the adapter may acknowledge

While the store is away, claim and record wait for it: a delivery is not acknowledged before, and an outcome that was
reached is not thrown away.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
import signal
import threading
import time
import traceback
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from queuekit.context import JobContext, running
from queuekit.errors import ConfigError, JobCancelled, PayloadError, StaleAttempt, StepError
from queuekit.events import EventKind, Hooks, JobEvent, event_of, said_of
from queuekit.execution.apart import read_outcome
from queuekit.execution.inputs import InputError, fill
from queuekit.execution.outcomes import (
    Delivery,
    Dropped,
    Ended,
    Failed,
    Held,
    Outcome,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.execution.steps import Steps
from queuekit.execution.stops import Attendant, Stop
from queuekit.job import moment
from queuekit.limits import HardLimit, Interrupted, Limits, limited, under_limits
from queuekit.loops import submit
from queuekit.message import HEADER, ID_PATTERN, InvalidMessage, Message, Publication, as_text, split_route
from queuekit.payload.encoding import Undecodable
from queuekit.processes import BACKSTOP, process_name
from queuekit.retry import (
    Category,
    Fail,
    Lost,
    Pass,
    Retry,
    RetryPolicy,
    RetryState,
    TimeLimit,
    describe_error,
    uniform,
)
from queuekit.store import (
    Busy,
    Cancelled,
    Claimed,
    Done,
    Early,
    Followed,
    IfEnded,
    Missing,
    NewJob,
    NoLease,
    Store,
    StoreAway,
    StoreLost,
    Suspect,
    Unreadable,
    Unseen,
)
from queuekit.store.ends import parse_end, write_end

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator, Iterable, Sequence

    from queuekit.events import Around
    from queuekit.execution.apart import Apart
    from queuekit.retry.describe import ErrorInfo
    from queuekit.settings import Settings
    from queuekit.store import Claim, Created, Taken
    from queuekit.task import Task

    Claiming = Generator[Callable[[], Claim], Any, Held | Outcome]

__all__ = [
    "Delivery",
    "Dropped",
    "Ended",
    "Execution",
    "Failed",
    "Held",
    "Outcome",
    "Released",
    "Retried",
    "Stale",
    "Succeeded",
    "Unrecorded",
]

log = logging.getLogger("queuekit")

NO_POLICY: Final = RetryPolicy()
FIRST: Final = RetryState()
LOST: Final = Lost("the worker that ran it died")  # never raised: what each claim plans for
OVER: Final = TimeLimit("over its time limit, ended from outside")
MOST_PLANS: Final = 200
PLANNED: Final[dict[type[Exception], ErrorInfo]] = {type(error): describe_error(error) for error in (LOST, OVER)}

SWALLOWED: Final = 1.0  # seconds that async code has to end after its hard limit, where no process ends for it
STORE_AWAY_PAUSE: Final = 0.5
KILLED: Final = 3.0  # seconds after a cancel at which it is, where synchronous code has not ended


class _Unfit(Exception):
    """The recorded arguments are not what the task of this worker takes."""

    def __init__(self, what: str, cause: Exception) -> None:
        super().__init__(what)
        self.what, self.cause = what, cause

    def told(self, message: Message) -> str:
        """Without the values, where they are not to be seen."""
        if not message.hidden or isinstance(self.cause, Undecodable):
            return f"{self.what}: {self.cause}"
        parameter = getattr(self.cause, "parameter", None)
        return f"{self.what}: {type(self.cause).__name__} (private), parameter {parameter!r}"


class _Forged(InvalidMessage):
    """Nobody who may enqueue wrote this record."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A claimed attempt once it has begun. What it runs as, and how it is told to stop."""

    held: Held
    limits: Limits
    stop: Stop
    steps: Steps
    context: contextvars.Context
    around: Around | None


@dataclass(slots=True, eq=False)
class Recording:
    """An outcome that is to be recorded by `step`, one operation of the store. `until`: how long a worker that stops
    waits for a store that is away, by time.monotonic(). `leave`: from what stands around it, once it is recorded."""

    held: Held
    end: str
    step: Callable[[], bool | Cancelled | Followed]
    outcome: Outcome
    until: float | None = None
    leave: Callable[[], None] | None = None


class Execution:
    """Runs attempts in one worker. Thread-safe: a pool's threads share it.

    Args:
        worker: the name of the worker's current incarnation; `renew` opens a lease for it where there is none.
        find: the task of a name, or None where this worker does not know it.
        stopping: set when the worker is asked to stop.
        hooks: told of what attempts do.
        apart: starts a process for a suspect. None where this one runs nothing else beside a job: it runs them all.
        leave: ends this process, and is told of the attempt for which: one that goes on BACKSTOP seconds after its hard
            limit. Called by another thread than runs it. None: the process lives on, and somebody else ends it.
        publish: what the end of a job has queued, each with its route. Raises nothing. None: the stewards do.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        find: Callable[[str], Task[..., Any, Any] | None],
        worker: Callable[[], str],
        renew: Callable[[], None],
        stopping: threading.Event | None = None,
        hooks: Hooks | None = None,
        apart: Callable[[Held], Apart] | None = None,
        leave: Callable[[Held], None] | None = None,
        publish: Callable[[Sequence[tuple[str, Taken]]], None] | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.hooks = hooks or Hooks()
        self._find = find
        self._worker = worker
        self._renew = renew
        self.stopping = stopping or threading.Event()
        self._leave = leave
        self.attendant = Attendant(store, self._end_stuck if leave is not None else None, worker)
        self._apart = apart
        self._publish = publish or (lambda _: None)
        self._interrupting = False
        # The policy is kept with its plan: the id of one that is gone is given to another.
        self._first_plans: dict[tuple[int, type], tuple[RetryPolicy, IfEnded | None]] = {}
        self._pid = os.getpid()

    def execute(self, delivery: Delivery) -> Outcome:
        """Claim and run."""
        held = self.claim(delivery)
        return self.run(held) if isinstance(held, Held) else held

    # ---- claim ------------------------------------------------------------------------------------------------------

    def claim(self, delivery: Delivery, *, token: str = "", alone: bool = False) -> Held | Outcome:
        """Ask for the attempt. Anything but Held is the whole outcome already.

        Args:
            token: its fence, where somebody else has made it; one of its own otherwise.
            alone: claim it here though it is a suspect: not to run it.
        """
        # One for the delivery: a claim whose reply was lost is asked for again under it.
        token = token or secrets.token_hex(12)
        while True:
            try:
                return self._claim(delivery, token, alone=alone)
            except StoreAway as error:
                bell = delivery.bell
                log.warning("job %s: cannot be claimed: %s", bell.id, error, extra=_about(bell.id, bell.task))
                if self.stopping.wait(STORE_AWAY_PAUSE):
                    return Unrecorded(str(error))

    def _claim(self, delivery: Delivery, token: str, *, alone: bool) -> Held | Outcome:
        claiming = self.claiming(delivery, token, alone=alone)
        try:
            ask = next(claiming)
            while True:
                ask = claiming.send(ask())
        except StopIteration as end:
            got: Held | Outcome = end.value
            return got

    def claiming(self, delivery: Delivery, token: str, *, alone: bool = False) -> Claiming:
        """claim() in steps: gives each question for the store, is sent the answer, and returns what came of it. What it
        wants of the store besides it asks itself. After a StoreAway it is of no more use: another one under the same
        token goes on from there."""
        bell = delivery.bell
        alone = alone or self._apart is None
        if self.settings.signer is not None:
            try:
                self.settings.signer.check_bell(bell)
            except InvalidMessage as error:
                return self._put_aside(delivery, str(error))
        epoch = bell.epoch
        # The plans need the policy and the state. The doorbell names the task, and a first attempt has no state: that
        # makes it one call. Otherwise the store answers Unseen, with what they have to be made from.
        task, state, timeout = self._find(bell.task), "", bell.timeout
        policy: RetryPolicy | None = None
        if task is not None and not bell.own_policy:
            with suppress(ConfigError):  # it is found again below, and said there
                policy = self._own_policy(task)
        seen = state if policy is not None else "?"
        message: Message | None = None
        unreadable: Exception | None = None
        while True:
            lost, limit = self._plans(policy or NO_POLICY, bell.id, state)
            answer: Claim = yield partial(
                self.store.claim,
                id=bell.id,
                epoch=epoch,
                pseq=bell.pseq,
                route=bell.route,
                worker=self._worker(),
                process=process_name(),
                token=token,
                timeout=timeout,
                seen=seen,
                on_lost=lost,
                on_limit=limit,
                unknown_grace=self.settings.unknown_grace,
                alone=alone,
            )
            match answer:
                case Claimed():
                    break
                case Unseen():
                    seen = answer.state
                    try:
                        message = self._open(answer.message, bell.id)
                        task, timeout = self._find(message.task), message.timeout
                        _state(answer.state)
                        policy, state = self._policy(task, message), answer.state
                    except (InvalidMessage, ConfigError) as error:  # recorded by a later version, or other settings
                        policy, state, unreadable = None, "", error
                case Suspect():
                    if answer.waits:
                        return Dropped("it runs alone next, and another such job runs here")
                    if task is not None:
                        return self._suspected(delivery, task, answer.message, token)
                    alone = True  # it will not run here
                case NoLease():
                    self._renew()
                case StoreLost():
                    # Such doorbells have no arguments to run it with.
                    if self.settings.store_lost != "adopt" or bell.private or bell.left_out:
                        why = f"its record was lost: the store of epoch {epoch} came back empty as {answer.epoch}"
                        self.store.quarantine(self._adopted(delivery).seal(), why, source=_source(delivery))
                        return Dropped(why)
                    epoch = self._adopt(delivery)
                case Unreadable():
                    why = f"reads no records of version {answer.version}"
                    log.warning("job %s: this worker %s", bell.id, why, extra=_about(bell.id, bell.task))
                    if answer.ended:
                        self._tell_without_attempt(delivery, EventKind.failed, f"no other worker came: this one {why}")
                    said = f"this worker {why}"
                    return Dropped(f"it has failed: {said}") if answer.ended else Released(said)
                case Busy():
                    return Dropped("an attempt is running")
                case Early():
                    return Dropped("its time has not come")
                case Done():
                    return Dropped(f"it has {answer.status}")
                case Cancelled():
                    if answer.now:
                        self._tell_without_attempt(delivery, EventKind.cancelled, answer.reason)
                    return Dropped(f"cancelled: {answer.reason}")
                case Missing():
                    return self._put_aside(delivery, "marked as ours, and this store has no record of it (any more)")
        before = FIRST
        try:
            message = message or self._open(answer.message, bell.id)
            before = _state(answer.state)
        except (InvalidMessage, ConfigError) as error:
            unreadable = unreadable or error
        held = Held(
            task=task,
            message=message or self._adopted(delivery),
            token=token,
            number=answer.number,
            state=before,
            started=answer.started,
            created=answer.created,
            clock=time.monotonic(),
            ready=answer.ready,
        )
        if unreadable is not None:
            # A key that this worker does not have yet looks like a forgery: another worker may have it.
            if isinstance(unreadable, _Forged) and not self._waited(held):
                said = f"the record of job {bell.id}: {unreadable}"
                self.store.quarantine(self._told(delivery), said, source=_source(delivery))
            self._tell_started(held)
            return self._hand_back(held, f"cannot run it as it was recorded: {unreadable}")
        if held.message.task != bell.task or held.message.timeout != bell.timeout:
            # The doorbell is not what we sent. The record is; ring again from it.
            why = "the doorbell differs from the job's record"
            self.store.quarantine(self._told(delivery), why, source=_source(delivery))
            self._tell_started(held)
            return self._release(held, "its doorbell differed from the record", 0)
        if task is None:
            self._tell_started(held)
            return self._hand_back(held, f"does not know the task {held.message.task!r}")
        return held

    def _open(self, text: str, id: str) -> Message:
        """The recorded message, which is looked at only once its signature is known to hold. Raises InvalidMessage."""
        if self.settings.signer is not None:
            try:
                self.settings.signer.check(text)
            except InvalidMessage as error:
                raise _Forged(str(error)) from None
        message = Message.open(text)
        if message.id != id:
            raise _Forged(f"its message is that of the job {str(message.id)[:200]!r}")
        return message

    def _put_aside(self, delivery: Delivery, why: str) -> Dropped:
        """Raises StoreAway."""
        bell = delivery.bell
        log.warning("a message goes to quarantine: %s", why, extra=_about(bell.id, bell.task))
        self.store.quarantine(self._told(delivery), why, source=_source(delivery))
        return Dropped(f"put aside: {why}")

    def _told(self, delivery: Delivery) -> str:
        """The delivery as the quarantine keeps it."""
        return as_text({HEADER: delivery.bell.to_header(), "args": delivery.args, "kwargs": delivery.kwargs})

    def _policy(self, task: Task[..., Any, Any] | None, message: Message) -> RetryPolicy:
        if isinstance(message.retry, str):
            return self.settings.retry_policy(message.retry)
        if message.retry is not None:
            return RetryPolicy.from_dict(message.retry)
        return self._own_policy(task) if task is not None else NO_POLICY

    def _own_policy(self, task: Task[..., Any, Any]) -> RetryPolicy:
        if isinstance(task.retry, str):
            return self.settings.retry_policy(task.retry)
        return task.retry if task.retry is not None else NO_POLICY

    def prepare(self, tasks: Iterable[Task[..., Any, Any]]) -> None:
        """Make what is kept of these tasks, so that a process which is forked for one attempt need not."""
        for task in tasks:
            with suppress(ConfigError):  # said where it is claimed
                for error in (LOST, OVER):
                    self._first_plan(self._own_policy(task), error)

    def _plans(self, policy: RetryPolicy, id: str, state: str) -> tuple[IfEnded, IfEnded]:
        before = _state(state)
        now = 0.0 if before.first_failed_at is None else self.store.now()
        u = uniform(self.settings.seed, id, before.attempt)
        lost = None if state else self._first_plan(policy, LOST)
        limit = None if state else self._first_plan(policy, OVER)
        return lost or _plan(policy, before, LOST, now=now, u=u), limit or _plan(policy, before, OVER, now=now, u=u)

    def _first_plan(self, policy: RetryPolicy, error: Lost | TimeLimit) -> IfEnded | None:
        """The plan for a first attempt, where it is the same for every job: made once for a policy, and not at each
        claim. None: its wait is a matter of chance."""
        key = id(policy), type(error)
        found = self._first_plans.get(key)
        if found is None:
            least, most = (_plan(policy, RetryState(), error, now=0.0, u=u) for u in (0.0, 0.999))
            found = (policy, least if least == most else None)
            if len(self._first_plans) < MOST_PLANS:
                self._first_plans[key] = found
        return found[1]

    def _waited(self, held: Held) -> float:
        """Seconds since it was first handed back, not since it was enqueued: a job may have been scheduled for next
        week, or may have run for hours until its worker was stopped for the deploy."""
        record = self.store.get(held.message.id)
        since = held.started
        for start, end in reversed(() if record is None else record.runs):
            if end is not None and not end.get("unknown"):
                break
            since = start["at"]
        return float(held.started - since)

    def _hand_back(self, held: Held, why: str, cause: Exception | None = None) -> Outcome:
        waited = self._waited(held)
        if waited >= self.settings.unknown_grace:
            said = f"no worker could run it for {waited:.0f} s; the last one {why}"
            error: Exception = LookupError(said)
            if isinstance(cause, PayloadError) and not isinstance(cause, Undecodable):
                error = PayloadError(said, parameter=cause.parameter)
            return self._failed(held, error, said, Category.unknown)
        # Each hand-back waits as long as the job has waited so far: seldom asked, and soon when it was just deployed.
        return self._release(held, f"this worker {why}", min(max(waited, 1.0), 300.0), unknown=True)

    def _adopted(self, delivery: Delivery) -> Message:
        backend, queue, level = split_route(delivery.bell.route)
        return Message(
            id=delivery.bell.id,
            task=delivery.bell.task,
            args=delivery.args,
            kwargs=delivery.kwargs,
            queue=queue,
            backend=backend,
            priority=level,
            timeout=delivery.bell.timeout,
        )

    def _adopt(self, delivery: Delivery) -> str:
        message = self._adopted(delivery)
        log.warning("job %s: its record was lost with the store; it is made again from the message", message.id)
        return self._create(*message.encoded(self.settings.payload_codec)).epoch

    def _create(self, message: Message, digest: str) -> Created:
        return self.store.create(
            NewJob(
                id=message.id,
                message=message.seal(self.settings.signer),
                digest=digest,
                route=message.route,
                token=secrets.token_hex(8),
                result_ttl=message.result_ttl,
            )
        )

    # ---- native producers -------------------------------------------------------------------------------------------

    def adopt(
        self, *, id: object, task: object, args: object, kwargs: object, queue: str, priority: int = 0
    ) -> Delivery | Unrecorded:
        """A delivery for a native message that nobody published through queuekit, with the setting `adopt`: its record
        is made now, under the native id, with the options that the task declares. A redelivery finds it.

        While the store is away it waits for it, until the worker stops: Unrecorded then.

        Args:
            queue, priority: where it was found, in queuekit's words: a queue without namespace and level, and 0 to 9.

        Raises:
            InvalidMessage: with the reason, for the quarantine: the setting is off, or there is no such task here, or
                its id, arguments or their types cannot be.
        """
        message, digest = self._from_native(id, task, args, kwargs, queue, priority)
        while True:
            try:
                made = self._create(message, digest)
                break
            except StoreAway as error:
                log.warning("native job %s: cannot be recorded: %s", message.id, error)
                if self.stopping.wait(STORE_AWAY_PAUSE):
                    return Unrecorded(str(error))
        if not made.same:
            raise InvalidMessage(f"job {message.id!r} exists, and asks for something else")
        if made.created and self.hooks:
            self.hooks(event_of(message, EventKind.enqueued, made.at))
        # 0: it has just been numbered, and is no sign that what was published before it has had its turn.
        bell = Publication(message, 0, made.number, made.epoch, self.settings.signer).doorbell
        return Delivery(bell, message.args, message.kwargs)

    def _from_native(
        self, id: object, task: object, args: object, kwargs: object, queue: str, priority: int
    ) -> tuple[Message, str]:
        if not self.settings.adopt:
            raise InvalidMessage("nobody published it through queuekit; the setting adopt=true would run it")
        if not isinstance(id, str) or not ID_PATTERN.match(id):
            raise InvalidMessage(f"its id {str(id)[:80]!r} is not 1 to 128 letters, digits, '_' and '-'")
        found = self._find(task) if isinstance(task, str) else None
        if found is None:
            raise InvalidMessage(f"this worker does not know the task {str(task)[:200]!r}")
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            raise InvalidMessage("its args must be a list and its kwargs a mapping")
        own = found.message(
            id,
            list(args),
            kwargs,
            backend=cast("str", self.settings.backend),
            default_ttl=self.settings.result_ttl,
        )
        # Under the name that its producer knows it by, which may be an alias: a redelivery to a worker from before, or
        # after, the task was renamed finds the same job.
        message = replace(own, task=str(task), queue=queue, priority=priority)
        try:
            size = len(message.seal().encode())
            found.codec(self.settings.payload_limit).decode_arguments(message.args, message.kwargs)
        except (PayloadError, TypeError, ValueError) as error:
            said = "(private)" if message.private or self.settings.codec is not None else str(error)
            raise InvalidMessage(f"its arguments do not fit the task {found.name!r}: {said}") from None
        if size > self.settings.payload_limit:
            raise InvalidMessage(f"it takes {size} bytes, more than payload_limit={self.settings.payload_limit}")
        try:
            return message.encoded(self.settings.payload_codec)
        except Exception as error:  # whatever the user's codec raises
            raise InvalidMessage(f"the payload codec raised {type(error).__qualname__}") from None

    # ---- run --------------------------------------------------------------------------------------------------------

    def run(self, held: Held) -> Outcome:
        """Run the claimed attempt in this thread, and record how it ended."""
        if held.apart is not None:
            return self._run_apart(held, held.apart)
        attempt = self.begin(held)
        task, limits, stop = held.task, attempt.limits, attempt.stop
        assert task is not None
        value: Any = None
        error: BaseException | None = None
        try:
            args, kwargs = self.arguments(held)
            if task.is_async:
                value = self._run_async(attempt, task, args, kwargs)
            else:
                late = (lambda: self._end_child(held, stop)) if os.getpid() != self._pid else None
                main = stop.in_main_thread(late, KILLED)
                with main, stop.in_code(), under_limits(limits, stop.code), stop.code:
                    self.unless_interrupted()
                    if stop.reason is not None:
                        raise JobCancelled(stop.reason)
                    value = attempt.context.run(task.fn, *args, **kwargs)
        except BaseException as raised:
            error = raised
        finally:
            self.attendant.leave(held)
            attempt.steps.close()
        try:
            return self.settle(attempt, value, error)
        finally:
            del error  # its traceback leads back here

    def begin(self, held: Held) -> Attempt:
        """From here on it can be told to stop, and knows its job. Called in the thread that runs synchronous code."""
        message = held.message
        limits = Limits(message.soft_timeout, message.timeout)
        stop = self.attendant.attend(held)
        if limits.hard is not None:
            stop.limit = time.monotonic() + limits.hard
        steps = Steps(self.store, held, self.settings)
        fresh = held.context
        fresh.run(
            running.set,
            JobContext(
                id=message.id,
                attempt=held.number,
                task=message.task,
                deadline=moment(held.started + message.timeout) if message.timeout is not None else None,
                _cancel_reason=partial(getattr, stop.said, "reason"),
                _say=partial(setattr, stop.said, "progress"),
                _steps=steps,
                _fence=held.token,
            ),
        )
        started = self._tell_started(held)
        around = None if started is None else self.hooks.around_attempt(started, fresh)
        return Attempt(held, limits, stop, steps, fresh, around)

    def settle(self, attempt: Attempt, value: Any, error: BaseException | None) -> Outcome:
        """Decide what came of it, and record that."""
        limits, stop, around = attempt.limits, attempt.stop, attempt.around
        if error is None and limits.hard_passed:
            error = HardLimit(f"the limit of {limits.hard} s has passed")
        made: object = None
        try:
            made = outcome = self._decided(attempt, value, error)
            return outcome
        finally:
            if around is not None:
                if stop.goes_on:  # the loop may be in the context just now
                    around.context = attempt.context.copy()
                leave = partial(around.leave, None if attempt.held.message.hidden else error)
                if isinstance(made, Recording):  # the event of the outcome is told inside
                    made.leave = leave
                else:
                    leave()
            del error  # its traceback leads back here

    def _decided(self, attempt: Attempt, value: Any, error: BaseException | None) -> Outcome:
        held, message = attempt.held, attempt.held.message
        assert held.task is not None
        try:
            if error is None:
                return self._on_value(held, held.task, value, attempt.limits, attempt.stop)
            return self._on_error(held, error, attempt.limits, attempt.stop)
        except (Exception, SystemExit) as bug:  # of a result's or an error's own methods: the attempt has to end
            log.exception(
                "job %s: its outcome cannot be told",
                message.id,
                exc_info=None if message.hidden else bug,
                extra=_about(message.id, message.task, held.number),
            )
            said = RuntimeError(f"its outcome cannot be told: {type(bug).__qualname__}")
            return self._failed(held, said, str(said), Category.unknown)
        finally:
            del error  # its traceback leads back here

    def arguments(self, held: Held) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The typed arguments. Raises _Unfit where this worker cannot make them, though the enqueuing program could:
        it has another version of the task. (What never fitted was refused there, and is in no record.)"""
        task, message = held.task, held.message
        assert task is not None
        try:
            args, kwargs = message.arguments(self.settings.payload_codec)
            if message.inputs:
                return self._filled(task, message, args, kwargs)
            return task.codec(self.settings.payload_limit).decode_arguments(args, kwargs)
        except InputError:
            raise
        except (PayloadError, ConfigError) as error:
            raise _Unfit("cannot run it with the arguments that were recorded", error) from error

    def _filled(
        self, task: Task[..., Any, Any], message: Message, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The typed arguments, with the results of other jobs among them. Raises InputError (a PayloadError): one is
        not there, or does not fit."""
        while True:
            try:
                fill(message, args, kwargs, self.store, self.settings)
                break
            except StoreAway as error:
                log.warning("job %s: its inputs wait for the store: %s", message.id, error)
                if self.stopping.wait(STORE_AWAY_PAUSE):
                    raise Interrupted("the worker stops") from error
        try:
            return task.codec(self.settings.payload_limit).decode_arguments(args, kwargs)
        except PayloadError as error:
            if error.parameter is None:
                raise
            raise InputError(str(error), parameter=error.parameter) from error

    def interrupt_running(self) -> None:
        """The worker has to stop: end the user code that runs in this process, so that its attempts are released.

        Async tasks are cancelled; synchronous code gets an Interrupted, at once where a signal handler calls this in
        its own thread, else as soon as it runs Python again. What is about to start does not. Set `stopping` first.
        """
        self._interrupting = True
        here = None
        for stop in self.attendant.running():
            call = stop.call
            if call is not None:
                call()
            elif stop.thread == threading.get_ident():
                here = stop
            else:
                stop.interrupt()
        if here is not None and here.code.locked():
            raise Interrupted("the worker stops")

    def cancel_running(self, reason: str) -> None:
        """Somebody wants what runs here cancelled. For a signal handler in the main thread: synchronous code that runs
        there gets a JobCancelled, out of a blocking call too."""
        for stop in self.attendant.running():
            stop.cancel(reason)

    def _end_child(self, held: Held, stop: Stop) -> None:
        """In a child that the engine has forked, whose main thread runs a cancelled job and does not end it: C code, or
        what takes the error for one of its own. Recorded first, so that the death is nobody's loss."""
        assert stop.reason is not None
        if not isinstance(self._cancelled(held, stop.reason), Ended):
            return
        log.warning(
            "job %s was cancelled and did not end within %g s: its process is killed", held.message.id, KILLED,
            extra=_about(held.message.id, held.message.task, held.number),
        )  # fmt: skip
        self.hooks.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def _end_stuck(self, stop: Stop) -> None:
        """Nothing was recorded: the job is given on when the process is gone, which its steward sees."""
        message = stop.held.message
        log.error(
            "job %s goes on %g s after its limit of %g s: it ends with its process", message.id, BACKSTOP,
            message.timeout, extra=_about(message.id, message.task, stop.held.number),
        )  # fmt: skip
        if os.getpid() == self._pid:
            assert self._leave is not None
            self._leave(stop.held)
            return
        self.hooks.flush()
        os.kill(os.getpid(), signal.SIGKILL)  # a child that the engine has forked, which runs nothing else

    @property
    def stuck(self) -> frozenset[str]:
        """The jobs here whose code goes on for too long after its hard limit, so that the process has to end."""
        return frozenset(stop.held.message.id for stop in self.attendant.running() if stop.stuck)

    @property
    def only_stuck(self) -> bool:
        """Whether nothing runs here that could still end by itself."""
        return all(stop.stuck for stop in self.attendant.running())

    @property
    def interrupting(self) -> bool:
        return self._interrupting

    def go_on(self) -> None:
        """After interrupt_running(): the process does not stop, and what is about to start may."""
        self._interrupting = False

    def unless_interrupted(self) -> None:
        """What is about to start while the worker has to stop does not. Raises Interrupted."""
        if self._interrupting:
            raise Interrupted("the worker stops")

    def release_running(self, reason: str) -> int:
        """Hand back what still runs, before the process exits under it. How many attempts there were. One over its hard
        limit is not handed back, since it would not count: its steward ends it, as it ends all that dies so late."""
        running = self.attendant.running()
        for stop in running:
            if stop.kill is not None:
                stop.kill()
            if not stop.over:
                self._release(stop.held, reason, 0)
        self.hooks.flush()
        return len(running)

    def _run_async(
        self, attempt: Attempt, task: Task[..., Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        fresh, limits, stop = attempt.context, attempt.limits, attempt.stop
        work = fresh.run(task.fn, *args, **kwargs)
        whole = attempt.steps.hold(work)
        try:
            result, cancel = submit(limited(whole, limits), fresh)
        except BaseException:
            whole.close()
            work.close()
            raise

        def call() -> None:
            limits.cancelled = True
            cancel()

        def close(_: object) -> None:
            whole.close()
            if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()  # cancelled before it began

        result.add_done_callback(close)
        stop.call = call
        if self._interrupting:
            call()
        try:
            # Where the process ends for it, an attempt is over when its code is: it swallowed the cancel, or something
            # blocks the loop.
            patience = None if limits.hard is None or self._leave is not None else limits.hard + SWALLOWED
            return result.result(patience)
        except FutureTimeout:
            if result.done():  # the task's own TimeoutError, or just now
                return result.result()
            # It goes on without a fence, or never starts.
            limits.hard_passed = stop.goes_on = True
            cancel()
            raise HardLimit(f"the limit of {limits.hard} s has passed, and the task goes on") from None
        except BaseException:
            if not result.done():  # this thread was interrupted, not the task
                stop.goes_on = True
                call()
            raise

    # ---- alone ------------------------------------------------------------------------------------------------------

    def _suspected(self, delivery: Delivery, task: Task[..., Any, Any], text: str, token: str) -> Held:
        try:
            message = self._open(text, delivery.bell.id)
        except InvalidMessage:  # the claim in the process says so
            message = self._adopted(delivery)
        clock = time.monotonic()
        return Held(task, message, token, 0, RetryState(), 0.0, 0.0, clock, apart=delivery)

    def _run_apart(self, held: Held, delivery: Delivery) -> Outcome:
        """Have a process of its own claim and run it, and wait for that here. It records what comes of it."""
        assert self._apart is not None
        assert held.task is not None
        about = _about(held.message.id, held.message.task)
        try:
            process = self._apart(held)
        except OSError as error:
            return self._not_apart(delivery, f"cannot start a process to run it alone in: {error}")
        log.info(
            "job %s: its last attempt was lost: it runs alone in process %d", delivery.bell.id, process.pid, extra=about
        )
        stop = self.attendant.attend(held)
        last = threading.Timer(KILLED, process.kill)  # of a cancelled task that does not end by itself
        last.daemon = True

        def call() -> None:
            if stop.reason is None or self._interrupting:
                process.stop()
                return
            process.cancel(stop.reason)
            if not held.task.is_async and not last.is_alive():  # type: ignore[union-attr]
                with suppress(RuntimeError):  # a second cancel
                    last.start()

        stop.call, stop.kill = call, process.kill
        if self._interrupting:
            call()
        until: float | None = None
        outcome: Outcome | None = None
        try:
            while outcome is None:
                said = process.hear()
                if said is not None and "claimed" in said:
                    clock = time.monotonic()
                    held = stop.held = replace(held, number=said["claimed"], started=said["started"], clock=clock)
                    if held.message.timeout is not None:
                        until = clock + held.message.timeout + BACKSTOP
                elif said is not None:
                    outcome = read_outcome(said)
                elif until is not None and time.monotonic() > until:  # code that nothing can interrupt
                    process.kill()
        except EOFError:
            pass
        except BaseException:
            process.kill()
            raise
        finally:
            last.cancel()
            self.attendant.leave(held)
            code = process.end()
        if outcome is not None:
            return outcome
        if not held.number:
            if self.stopping.is_set():
                return Unrecorded("the worker stops")
            return self._not_apart(delivery, f"cannot run it alone: the process for it ended at once ({code})")
        if stop.reason is not None and process.killed and not self._interrupting:
            return self._cancelled(held, stop.reason)
        log.warning("job %s: the process that ran it alone has ended (%d)", held.message.id, code, extra=about)
        return Stale()  # its steward has seen it, and ends the attempt

    def _not_apart(self, delivery: Delivery, why: str) -> Outcome:
        """Here it must not run, and the process did not come about: for another worker, or another time."""
        log.warning("job %s: this worker %s", delivery.bell.id, why, extra=_about(delivery.bell.id, delivery.bell.task))
        held = self.claim(delivery, alone=True)
        if not isinstance(held, Held):
            return held
        self._tell_started(held)
        return self._hand_back(held, why)

    # ---- decide -----------------------------------------------------------------------------------------------------

    def _on_value(self, held: Held, task: Task[..., Any, Any], value: Any, limits: Limits, stop: Stop) -> Outcome:
        try:
            # Encoded even where it is not kept: a task that cannot tell its result fails on every setting alike.
            text = task.codec(self.settings.payload_limit).encode_result(value)
        except PayloadError as error:
            return self._failed(held, error, str(error), Category.unknown)
        codec = self.settings.payload_codec
        shown = kept = text if held.message.keep_result else None
        if kept is not None and codec is not None:
            try:
                shown, kept = None, held.message.encode_result(codec, kept)
            except Exception as error:  # of the user's codec: judged as if the task had raised it
                return self._on_error(held, error, limits, stop)
        if held.message.hidden:
            shown = None
        end, signer = write_end("succeeded"), self.settings.signer
        proof = "" if kept is None or signer is None else signer.sign_result(held.message.id, kept)
        return self._record(
            held,
            end,
            lambda: self.store.finish(held.message.id, held.token, end, kept, proof),
            Succeeded(value, shown),
        )

    def _on_error(self, held: Held, error: BaseException, limits: Limits, stop: Stop) -> Outcome:
        if isinstance(error, StaleAttempt):
            return Stale()
        if limits.hard_passed:
            cause: BaseException = TimeLimit(f"over its time limit of {limits.hard} s")
            cause.__cause__ = error
        elif isinstance(error, (asyncio.CancelledError, JobCancelled)) and stop.reason is not None:
            return self._cancelled(held, stop.reason)
        elif isinstance(error, Interrupted) or (isinstance(error, asyncio.CancelledError) and self.stopping.is_set()):
            return self._release(held, "the worker stopped", 0)
        elif isinstance(error, _Unfit):
            return self._hand_back(held, error.told(held.message), error.cause)
        elif isinstance(error, (PayloadError, StepError)):
            return self._failed(held, error, str(error), Category.unknown)
        else:
            cause = error
        policy = self._policy(held.task, held.message)
        now = held.started + (time.monotonic() - held.clock)
        u = uniform(self.settings.seed, held.message.id, held.state.attempt)
        decision = policy.decide(cause, held.state, now=now, u=u)
        if isinstance(decision, Pass):
            if self.stopping.is_set():
                return self._release(held, f"the worker stopped ({type(error).__name__})", 0)
            # A task that ends its process by SystemExit, or cancels itself, did not come to an outcome.
            decision = policy.decide(Lost(f"the task ended by {type(error).__name__}"), held.state, now=now, u=u)
        match decision:
            case Retry():
                end = self._end(held, "retried", cause, decision.category, decision.reason, decision.delay)
                return self._record(
                    held,
                    end,
                    lambda: self.store.retry(
                        held.message.id, held.token, end, decision.delay, decision.state.to_json()
                    ),
                    Retried(decision.delay, decision.reason, error),
                )
            case Fail():
                return self._failed(held, cause, decision.reason, decision.category)
            case Pass():
                raise AssertionError("a policy never passes on a lost attempt")

    def _cancelled(self, held: Held, reason: str) -> Outcome:
        end = write_end("cancelled", reason=reason)
        return self._record(
            held, end, lambda: self.store.cancelled(held.message.id, held.token, end, reason), Ended(reason)
        )

    def _failed(self, held: Held, error: BaseException, reason: str, category: Category) -> Outcome:
        if self._quotes(held, error):
            parameter = getattr(error, "parameter", None)
            reason = f"{category}: queuekit.PayloadError (private), parameter {parameter!r}"
        end = self._end(held, "failed", error, category, reason, None)
        return self._record(
            held, end, lambda: self.store.fail(held.message.id, held.token, end, reason), Failed(reason, error)
        )

    def _quotes(self, held: Held, error: BaseException) -> bool:
        """Whether the error's text quotes a value that nobody is to see: ours does, of a value that does not fit."""
        return isinstance(error, PayloadError) and (held.message.hidden or self.settings.codec is not None)

    def _release(self, held: Held, reason: str, delay: float, *, unknown: bool = False) -> Outcome:
        """`unknown`: not because the worker stopped, but because it knows too little of the job."""
        end = write_end("released", reason=reason, unknown=unknown or None)
        return self._record(
            held, end, lambda: self.store.release(held.message.id, held.token, end, delay), Released(reason)
        )

    def _end(
        self, held: Held, outcome: str, error: BaseException, category: Category, reason: str, delay: float | None
    ) -> str:
        said = describe_error(error)
        private = held.message.private or self._quotes(held, error)
        return write_end(
            outcome,
            error_type=said.error_type,
            error_message="(private)" if private else said.message,
            traceback=None if private else "".join(traceback.format_exception(error))[-20_000:],
            category=category.value,
            reason=category.value if private else reason,
            delay=delay,
        )

    # ---- record -----------------------------------------------------------------------------------------------------

    def _record(
        self, held: Held, end: str, step: Callable[[], bool | Cancelled | Followed], outcome: Outcome
    ) -> Outcome:
        """The outcome, once the store has it; Stale where the fence was not ours any more. A job that was to go on, and
        that somebody has cancelled meanwhile, is Ended."""
        recording = Recording(held, end, step, outcome)
        while True:
            answer: bool | Cancelled | Followed | StoreAway
            try:
                answer = step()
            except StoreAway as error:
                answer = error
            recorded = self.recorded(recording, answer)
            if recorded is not None:
                return recorded
            time.sleep(STORE_AWAY_PAUSE)

    def recorded(self, recording: Recording, answer: bool | Cancelled | Followed | StoreAway) -> Outcome | None:
        """What the store's answer makes of it. None: it is to be asked again in a while."""
        held, outcome = recording.held, recording.outcome
        about = _about(held.message.id, held.message.task, held.number)
        if isinstance(answer, StoreAway):
            log.warning("job %s: its outcome waits for the store: %s", held.message.id, answer, extra=about)
            if not self.stopping.is_set():
                return None
            recording.until = recording.until or time.monotonic() + self.settings.grace
            if time.monotonic() <= recording.until:
                return None
            outcome = Unrecorded(str(answer))
        elif answer:
            if isinstance(answer, Cancelled):
                outcome = Ended(answer.reason)
            elif isinstance(answer, Followed):
                self._publish(answer.taken)
            self._tell_ended(held, recording.end, outcome)
        else:
            log.warning("job %s: attempt %d was ended by somebody else", held.message.id, held.number, extra=about)
            outcome = Stale()
        if recording.leave is not None:
            recording.leave()
        return outcome

    # ---- tell -------------------------------------------------------------------------------------------------------

    def _tell_started(self, held: Held) -> JobEvent | None:
        """The event; None where no hook wants it."""
        if not self.hooks.wants(EventKind.started):
            return None
        event = event_of(
            held.message,
            EventKind.started,
            held.started,
            attempt=held.number,
            worker=self._worker(),
            waited=round(max(held.started - held.ready, 0.0), 3),  # the store's clock counts milliseconds
        )
        self.hooks(event, held.context.copy())
        return event

    def _tell_ended(self, held: Held, end: str, outcome: Outcome) -> None:
        kind = _TOLD_AS[type(outcome)]
        if not self.hooks.wants(kind):
            return
        message, lasted = held.message, time.monotonic() - held.clock
        said = said_of(parse_end(end), private=message.hidden)
        if isinstance(outcome, Ended):
            said |= {"delay": None, "reason": outcome.reason}
        event = event_of(
            message,
            kind,
            held.started + lasted,
            attempt=held.number,
            worker=self._worker(),
            duration=lasted,
            **said,
        )
        self.hooks(event, held.context.copy())  # what around_attempt() has set is seen; another thread may be in it

    def _tell_without_attempt(self, delivery: Delivery, kind: EventKind, reason: str) -> None:
        """A job that this worker's claim has ended before an attempt of it started."""
        if self.hooks:
            message = replace(self._adopted(delivery), private=delivery.bell.private)
            self.hooks(event_of(message, kind, self.store.now(), worker=self._worker(), reason=reason))


_TOLD_AS: Final = {
    Succeeded: EventKind.succeeded,
    Retried: EventKind.retried,
    Failed: EventKind.failed,
    Ended: EventKind.cancelled,
    Released: EventKind.released,
}


def _about(id: str, task: str, attempt: int = 0) -> dict[str, Any]:
    """For a log record: the fields that queuekit.logs knows."""
    return {"job_id": id, "task": task, "attempt": attempt}


def _source(delivery: Delivery) -> str:
    return delivery.source or delivery.bell.route


def _state(text: str) -> RetryState:
    return RetryState.from_json(text) if text else FIRST


def _plan(policy: RetryPolicy, state: RetryState, error: Exception, *, now: float, u: float) -> IfEnded:
    decision = policy.decide(error, state, now=now, u=u)
    assert not isinstance(decision, Pass), "a policy never passes on these"
    again = isinstance(decision, Retry)
    delay, after = None, ""
    if isinstance(decision, Retry):
        # `now` is unknown before the first failure, and when this one will be is known to nobody.
        known = state.first_failed_at is not None
        then = decision.state if known else RetryState(decision.state.attempt, decision.state.counts)
        delay, after = decision.delay, then.to_json()
    lost = decision.category is Category.lost
    said = PLANNED[type(error)]
    end = write_end(
        "lost" if lost else "retried" if again else "failed",
        error_type=said.error_type,
        error_message=said.message,
        category=decision.category.value,
        reason=decision.reason,
        delay=delay,
    )
    spare = lost and not again and _would_go_on(policy, error)
    return IfEnded(delay=delay, state=after, end=end, reason=decision.reason, spare=spare)


def _would_go_on(policy: RetryPolicy, lost: Exception) -> bool:
    """Whether a job is to run again that was lost for the first time: nobody wants it to be paid for once at most."""
    patient = replace(policy, max_attempts=max(policy.max_attempts, 2), max_elapsed=None)
    return isinstance(patient.decide(lost, RetryState(), now=0.0, u=0.0), Retry)
