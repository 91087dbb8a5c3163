"""Many attempts at a time in one process: async code on the process's one loop, synchronous code in a thread each.

    the caller's thread    claims what it is given, and starts it
    the loop               runs the code of async tasks, and nothing of ours that could wait
    a thread for each      runs a synchronous one, and decides what came of it
    one thread more        decides what came of the async ones that have ended, and records it of all

What many attempts want of the store at one time goes to it in one conversation (Store.together()): of a job that only
waits it would be nearly all the work.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from queuekit.execution import STORE_AWAY_PAUSE, Execution, Recording
from queuekit.execution.caps import Admission, Caps
from queuekit.execution.outcomes import Dropped, Failed, Held, Unrecorded
from queuekit.limits import Interrupted, limited
from queuekit.loops import process_loop
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.execution import Attempt, Claiming
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Delivery, Outcome
    from queuekit.message import Doorbell
    from queuekit.store import Cancelled, Claim, Followed

__all__ = ["Runner"]

log = logging.getLogger("queuekit")

K = TypeVar("K")

MOST: Final = 128  # outcomes that are recorded in one conversation: the rest of them need not wait for its end
INTERRUPTED: Final = 1.0  # seconds for attempts to end that were interrupted
LITTLE: Final = 16  # places
GATHER: Final = 0.003  # seconds that few free places have to become more
IDLE: Final = 10.0  # seconds after which a thread without work ends
LOOK: Final = 0.02  # seconds between two looks whether all has ended


class _Job(Generic[K]):
    """A delivery without an outcome. `key` is what its adapter knows it by."""

    __slots__ = ("answer", "attempt", "claiming", "delivery", "hidden", "key", "over", "token")

    def __init__(self, key: K, delivery: Delivery) -> None:
        self.key, self.delivery = key, delivery
        self.token = secrets.token_hex(12)  # one for the delivery: a claim whose reply was lost is asked for again
        self.claiming: Claiming | None = None
        self.answer: Claim | None = None
        self.attempt: Attempt | None = None
        self.over = False  # its code has ended, or it is not to run
        self.hidden = True  # what it says is not for the log


class _Deciding(Execution):
    """The same execution: what it would record comes as a value."""

    def __init__(self, execution: Execution) -> None:
        self.__dict__ = execution.__dict__

    def _record(
        self, held: Held, end: str, step: Callable[[], bool | Cancelled | Followed], outcome: Outcome
    ) -> Outcome:
        return cast("Outcome", Recording(held, end, step, outcome))


class _Threads:
    """Daemons: what sits in a blocking call does not keep the process. One that is idle is used again."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def run(self, work: Callable[[], object]) -> None:
        """Call it in one of them. It does not raise."""
        if self._idle.acquire(blocking=False):
            self._work.put(work)
            return
        try:
            threading.Thread(target=self._serve, args=(work,), name="queuekit-job", daemon=True).start()
        except RuntimeError:  # no more threads: here, then, and nothing more is taken meanwhile
            work()

    def _serve(self, work: Callable[[], object]) -> None:
        while True:
            work()
            del work  # the job's arguments are not kept until the next one
            self._idle.release()
            try:
                work = self._work.get(timeout=IDLE)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    return
                work = self._work.get()  # somebody counts on it


class Runner(Generic[K]):
    """Runs what it is given until each has its outcome.

    Args:
        limit: how many at a time; take() is not given more than room() says.
        begun: told of those that are about to start, by take()'s thread.
        settled: told of outcomes, several at a time, by take()'s thread or another; what it was given is then
            acknowledged. Neither raises, or waits for a broker that is away.
        caps: how many of one queue or task at a time.
    """

    def __init__(
        self,
        execution: Execution,
        limit: int,
        begun: Callable[[Sequence[K]], object],
        settled: Callable[[Sequence[tuple[K, Outcome]]], object],
        caps: Caps | None = None,
    ) -> None:
        self.execution, self.limit = execution, limit
        self._admission: Admission[K] = Admission(caps or Caps())
        self._begun, self._settled = begun, settled
        self._deciding = _Deciding(execution)
        self._jobs: set[_Job[K]] = set()
        self._ended: queue.SimpleQueue[tuple[_Job[K], Any, BaseException | None]] = queue.SimpleQueue()
        self._less = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = _Threads()
        threading.Thread(target=self._record_all, name="queuekit-record", daemon=True).start()

    def room(self, timeout: float = 0.0) -> Room | None:
        """How many more it can start, once those that were kept back have started as they can. Waits so long for an
        attempt to end where there is none. None: still none."""
        self._less.clear()
        self._start_kept()
        if self._admission.room(self._places) is None and timeout:
            self._less.wait(timeout)
        if 0 < self._places <= min(self.limit // 2, LITTLE):
            time.sleep(GATHER)  # it is busy, and more will end by then: what is taken together costs far less
        self._start_kept()
        return self._admission.room(self._places)

    @property
    def _places(self) -> int:
        return self.limit - len(self._jobs)

    def pause(self, seconds: float) -> None:
        """So long, or until an attempt has ended since room() was asked."""
        self._less.wait(seconds)

    # ---- claim ------------------------------------------------------------------------------------------------------

    def take(self, deliveries: Sequence[tuple[K, Delivery]]) -> None:
        """Claim them, and start what was claimed; but keep back those whose task is at its cap. While the store is away
        it waits, until the worker stops."""
        start, dropped = self._admission.admit(deliveries)
        if dropped:
            self._settled(dropped)
        self._take(start)

    def _start_kept(self) -> None:
        if self._admission.kept:
            self._take(self._admission.next(self._places))

    def give_back(self) -> list[K]:
        """What was kept back, and not begun. By the thread that takes, once it takes no more."""
        return self._admission.give_back()

    def _take(self, deliveries: Sequence[tuple[K, Delivery]]) -> None:
        jobs = [_Job(key, delivery) for key, delivery in deliveries]
        self._jobs.update(jobs)
        while jobs:
            jobs = self._claim(jobs)

    def _claim(self, jobs: Sequence[_Job[K]]) -> list[_Job[K]]:
        """One question for each. Those that have another."""
        asking: list[tuple[_Job[K], Callable[[], Claim]]] = []
        held: list[tuple[_Job[K], Held]] = []
        said: list[tuple[_Job[K], Outcome]] = []
        away: list[_Job[K]] = []
        why: StoreAway | None = None
        for job in jobs:
            try:
                got = self._advance(job)
            except StoreAway as error:
                away.append(job)
                why = error
            except Exception as error:
                # The record rings again after a while; a message that came back at once would be here again at once.
                log.exception("job %s cannot be claimed", job.delivery.bell.id)
                said.append((job, Dropped(f"it cannot be claimed: {type(error).__qualname__}")))
            else:
                if isinstance(got, Held):
                    held.append((job, got))
                elif callable(got):
                    asking.append((job, got))
                else:
                    said.append((job, got))
        self._start(held)
        answers = self.execution.store.together([ask for _, ask in asking])
        for (job, _), answer in zip(asking, answers, strict=True):
            if isinstance(answer, StoreAway):
                away.append(job)
                why = answer
            else:
                job.answer = answer
        if why is not None:
            log.warning("%d jobs cannot be claimed: %s", len(away), why)
            for job in away:
                job.claiming = job.answer = None
            if self.execution.stopping.wait(STORE_AWAY_PAUSE):
                said += [(job, Unrecorded(str(why))) for job in away]
                away = []
        self._say(said)
        return away + [job for job, _ in asking if job.claiming is not None]

    def _advance(self, job: _Job[K]) -> Held | Outcome | Callable[[], Claim]:
        if job.claiming is None:
            job.claiming, job.answer = self.execution.claiming(job.delivery, job.token), None
        try:
            return job.claiming.send(job.answer)
        except StopIteration as end:
            got: Held | Outcome = end.value
            return got

    # ---- run --------------------------------------------------------------------------------------------------------

    def _start(self, held: Sequence[tuple[_Job[K], Held]]) -> None:
        if not held:
            return
        self._begun([job.key for job, _ in held])
        ready: list[tuple[_Job[K], tuple[Any, ...], dict[str, Any]]] = []
        for job, one in held:
            assert one.task is not None
            job.hidden = one.message.hidden
            if one.apart is not None or not one.task.is_async:
                self._threads.run(partial(self._in_thread, job, one))
                continue
            job.attempt = self.execution.begin(one)
            try:
                ready.append((job, *self.execution.arguments(one)))
            except (Exception, Interrupted) as error:
                self._end(job, None, error)
        if ready:
            self._loop = process_loop()
            self._loop.call_soon_threadsafe(self._launch, ready)

    def _in_thread(self, job: _Job[K], held: Held) -> None:
        outcome: Outcome
        try:
            outcome = self._deciding.run(held)
        except BaseException as error:  # an Interrupted that came too late for the code
            log.exception("job %s: its thread failed", held.message.id)
            outcome = Unrecorded(f"its thread failed: {type(error).__qualname__}")
        job.over = True
        self._ended.put((job, outcome, None))

    def _launch(self, ready: Sequence[tuple[_Job[K], tuple[Any, ...], dict[str, Any]]]) -> None:
        """In the loop's thread."""
        loop = self._loop
        assert loop is not None
        for job, args, kwargs in ready:
            attempt = job.attempt
            assert attempt is not None
            task = loop.create_task(_code(attempt, args, kwargs), context=attempt.context)
            task.add_done_callback(partial(self._done, job))
            attempt.stop.call = partial(_cancel, loop, attempt, task)
            if self.execution.interrupting:
                task.cancel()

    def _done(self, job: _Job[K], task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._end(job, None, asyncio.CancelledError())
            return
        error = task.exception()
        self._end(job, None if error is not None else task.result(), error)

    def _end(self, job: _Job[K], value: Any, error: BaseException | None) -> None:
        assert job.attempt is not None
        job.over = True
        self.execution.attendant.forget(job.attempt.held)
        self._ended.put((job, value, error))

    # ---- record -----------------------------------------------------------------------------------------------------

    def _record_all(self) -> None:
        while True:
            batch = [self._ended.get()]
            while len(batch) < MOST and not self._ended.empty():
                batch.append(self._ended.get())
            try:
                self._record(batch)
            except Exception:
                log.exception("the outcomes of %d attempts could not be told", len(batch))
            del batch  # the jobs' arguments are not kept until the next one

    def _record(self, batch: Sequence[tuple[_Job[K], Any, BaseException | None]]) -> None:
        said: list[tuple[_Job[K], Outcome]] = []
        waiting: list[tuple[_Job[K], Recording]] = []
        for job, value, error in batch:
            attempt, made = job.attempt, value
            if attempt is not None:  # of the others their thread has decided
                self.execution.attendant.tell(attempt.stop)
                attempt.steps.close()
                made = self._deciding.settle(attempt, value, error)
            if isinstance(made, Recording):
                waiting.append((job, made))
            else:
                said.append((job, made))
        while waiting:
            answers = self.execution.store.together([recording.step for _, recording in waiting])
            late: list[tuple[_Job[K], Recording]] = []
            for (job, recording), answer in zip(waiting, answers, strict=True):
                outcome = self.execution.recorded(recording, answer)
                if outcome is None:
                    late.append((job, recording))
                else:
                    said.append((job, outcome))
            self._say(said)
            waiting, said = late, []
            if waiting:
                time.sleep(STORE_AWAY_PAUSE)
        self._say(said)

    def _say(self, said: Sequence[tuple[_Job[K], Outcome]]) -> None:
        if not said:
            return
        for job, outcome in said:
            job.over = True
            _log(job.delivery.bell, outcome, hidden=job.hidden)
        try:
            self._settled([(job.key, outcome) for job, outcome in said])
        finally:
            self._jobs.difference_update([job for job, _ in said])
            for job, _ in said:
                self._admission.leave(job.delivery.bell)
            self._less.set()

    # ---- stop -------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether something runs that may end before its process does."""
        stuck = self.execution.stuck
        return any(not job.over and job.delivery.bell.id not in stuck for job in tuple(self._jobs))

    def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Wait until all that runs has ended: for the grace, or until `hurry` says so. Set `stopping` first."""
        until = time.monotonic() + self.execution.settings.grace
        while self.busy and time.monotonic() < until and not hurry():
            time.sleep(LOOK)

    def end(self) -> bool:
        """Stop what still runs, and let outcomes be recorded. False: something could not be stopped; it was handed
        back, and ends with the process."""
        if self.busy:
            self.execution.interrupt_running()
        self._wait(lambda: self.busy)
        left = self.execution.release_running("the worker stopped") if self.execution.attendant.running() else 0
        if left:
            log.warning("%d attempts end with this process", left)
        self._wait(lambda: any(job.over for job in tuple(self._jobs)))
        return not self._jobs

    def _wait(self, going: Callable[[], bool]) -> None:
        until = time.monotonic() + INTERRUPTED
        while going() and time.monotonic() < until:
            time.sleep(LOOK)


def _log(bell: Doorbell, outcome: Outcome, *, hidden: bool) -> None:
    """The traceback of a failure, as an engine's own pool logs it. log_event() says the rest."""
    if not isinstance(outcome, Failed):
        return
    error = outcome.error
    said, trace = (f"{type(error).__qualname__} (private)", None) if hidden else (outcome.reason, error)
    about = {"job_id": bell.id, "task": bell.task}
    log.error("job %s of %s has failed: %s", bell.id, bell.task, said, exc_info=trace, extra=about)


async def _code(attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    work = attempt.steps.hold(_call(attempt, args, kwargs))
    return await (limited(work, attempt.limits) if attempt.limits.any else work)


async def _call(attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    assert attempt.held.task is not None
    return await attempt.held.task.fn(*args, **kwargs)


def _cancel(loop: asyncio.AbstractEventLoop, attempt: Attempt, task: asyncio.Task[Any]) -> None:
    """From any thread."""
    attempt.limits.cancelled = True
    loop.call_soon_threadsafe(task.cancel)
