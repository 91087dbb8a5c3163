"""Time limits inside one attempt: the soft one says so once, the hard one ends it.

    async code           both, at the await, by the loop's own clock
    the main thread      both, by SIGALRM: also out of a blocking system call, not out of C code that never returns
    any other thread     both, by an exception that CPython raises between two bytecodes: not out of a blocking call

What goes on all the same ends with its process: execution.stops sees it, and the adapters declare it pool by pool.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
import time
from contextlib import contextmanager
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from queuekit.errors import SoftTimeout

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterator

__all__ = ["HardLimit", "Interrupted", "Limits", "can_interrupt", "limited", "raise_in_thread", "under_limits"]

T = TypeVar("T")

_AGAIN = 1.0  # a hard limit that was swallowed is raised again after so many seconds


class HardLimit(BaseException):
    """Raised inside synchronous code over its hard limit. A BaseException, so that no SDK takes it for an API error."""


class Interrupted(BaseException):
    """Raised inside synchronous code whose worker has to stop now: its attempt is released."""


class SoftCancel(SoftTimeout, asyncio.CancelledError):
    """SoftTimeout as async code gets it. A CancelledError too: TaskGroup, wait_for and their like end what they wait
    for when they see one, and would leave it running, unknown to anybody, for any other error."""

    __module__, __qualname__ = SoftTimeout.__module__, SoftTimeout.__qualname__


class Limits:
    """The two limits of one attempt, in seconds, and whether they have passed.

    `cancelled`: somebody has cancelled it for another reason, after which it is not told of its soft limit.
    """

    __slots__ = ("cancelled", "hard", "hard_passed", "soft", "soft_passed")

    def __init__(self, soft: float | None, hard: float | None) -> None:
        self.soft, self.hard = soft, hard
        self.soft_passed = self.hard_passed = self.cancelled = False

    @property
    def any(self) -> bool:
        return self.soft is not None or self.hard is not None


# ---- asynchronous --------------------------------------------------------------------------------------------------


async def limited(work: Coroutine[Any, Any, T], limits: Limits) -> T:
    """Run `work`; SoftTimeout is raised at its await, and at the hard limit it is cancelled, again each second.

    asyncio can throw nothing but a CancelledError into a task that waits. So the task is cancelled, and on the way into
    `work` the error is changed for a SoftTimeout: what `work` awaited is cancelled, as it has to be.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    started = loop.time()
    timers: dict[str, asyncio.TimerHandle] = {}
    swap = _Swap(limits)

    def soft() -> None:
        if not swap.ending:
            limits.soft_passed = True
            swap.pending = SoftCancel(f"the soft limit of {limits.soft} s has passed")
            task.cancel()

    def hard() -> None:
        limits.hard_passed = True
        task.cancel()
        timers["hard"] = loop.call_later(_AGAIN, hard)

    if limits.soft is not None:
        timers["soft"] = loop.call_later(limits.soft, soft)
    if limits.hard is not None:
        timers["hard"] = loop.call_later(limits.hard, hard)
    try:
        return await _drive(work, swap, task)
    except SoftCancel as error:  # for asyncio it would be a cancelled task
        raise SoftTimeout(*error.args).with_traceback(error.__traceback__) from error.__cause__
    finally:
        if limits.hard is not None and loop.time() - started >= limits.hard:  # it has kept the loop, and its timers
            limits.hard_passed = True
        for timer in timers.values():
            timer.cancel()


class _Swap:
    __slots__ = ("limits", "pending")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pending: BaseException | None = None

    @property
    def ending(self) -> bool:
        return self.limits.hard_passed or self.limits.cancelled


@coroutine
def _drive(work: Coroutine[Any, Any, T], swap: _Swap, task: asyncio.Task[Any]) -> Generator[Any, Any, T]:
    error: BaseException | None = None
    value: Any = None
    while True:
        try:
            waited = work.send(value) if error is None else work.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        error = value = None
        try:
            value = yield waited
        except asyncio.CancelledError as cancelled:
            error = cancelled
            if swap.pending is not None:
                soft, swap.pending = swap.pending, None
                task.uncancel()
                if not swap.ending:  # two cancels at one turn of the loop are one error: the graver one
                    error = soft
        except BaseException as thrown:
            error = thrown


# ---- synchronous ---------------------------------------------------------------------------------------------------


def can_interrupt() -> bool:
    """Whether the code that runs here now can be taken out of a blocking call: only a main thread can."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def under_limits(limits: Limits, gate: threading.Lock) -> Iterator[None]:
    """Raise SoftTimeout once at the soft limit, HardLimit at the hard one and each second after it.

    Only while `gate` is held: `with under_limits(limits, gate), gate: ...`. A lock is released in one step of the
    interpreter. Otherwise a limit could strike after the code and before its end is known here, and what is left
    behind then would go on to strike the engine.
    """
    if not limits.any:
        yield
        return
    with _by_alarm(limits, gate) if can_interrupt() else _by_thread(limits, gate):
        yield


@contextmanager
def _by_alarm(limits: Limits, gate: threading.Lock) -> Iterator[None]:
    started = time.monotonic()
    over = False

    def arm() -> None:
        passed = time.monotonic() - started
        if limits.hard_passed:
            wait = _AGAIN
        elif limits.soft is not None and not limits.soft_passed:
            wait = limits.soft - passed
        elif limits.hard is not None:
            wait = limits.hard - passed
        else:
            return
        signal.setitimer(signal.ITIMER_REAL, max(wait, 0.001))

    def ring(_signal: int, _frame: object) -> None:
        if over:
            return
        if not gate.locked():  # not begun, or at its end
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            return
        passed = time.monotonic() - started
        if limits.hard is not None and passed >= limits.hard:
            limits.hard_passed = True
            arm()
            raise HardLimit(f"the limit of {limits.hard} s has passed")
        if limits.soft is not None and not limits.soft_passed and passed >= limits.soft:
            limits.soft_passed = True
            arm()
            raise SoftTimeout(f"the soft limit of {limits.soft} s has passed")
        arm()

    left, _ = signal.getitimer(signal.ITIMER_REAL)  # of an attempt around this one, on the memory backend
    before = signal.signal(signal.SIGALRM, ring)
    try:
        arm()
        yield
    finally:
        try:  # a limit that strikes right here must not leave its handler to the engine
            over = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)  # None: C code's
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001))


def raise_in_thread(ident: int, error: type[BaseException] | None) -> None:
    """Have CPython raise the error in that thread when it next runs Python; None takes back one that is pending."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), None if error is None else ctypes.py_object(error)
    )


@contextmanager
def _by_thread(limits: Limits, gate: threading.Lock) -> Iterator[None]:
    ident = threading.get_ident()
    lock, over = threading.Lock(), threading.Event()

    def watch() -> None:
        started = time.monotonic()
        moments: list[tuple[float, type[BaseException]]] = []
        if limits.soft is not None:
            moments.append((limits.soft, SoftTimeout))
        if limits.hard is not None and (limits.soft is None or limits.soft < limits.hard):
            moments.append((limits.hard, HardLimit))
        for at, error in moments:
            if over.wait(at - (time.monotonic() - started)):
                return
            if not interrupt(error):
                return
        while limits.hard_passed and not over.wait(_AGAIN):
            if not interrupt(HardLimit):
                return

    def interrupt(error: type[BaseException]) -> bool:
        while True:
            with lock:  # never after the attempt: the exception would strike the engine
                if over.is_set():
                    return False
                if gate.locked():
                    if error is HardLimit:
                        limits.hard_passed = True
                    else:
                        limits.soft_passed = True
                    raise_in_thread(ident, error)
                    return True
                if limits.soft_passed or limits.hard_passed:
                    # At its end. That may never be said: an error that is raised late can strike whoever would.
                    return False
            over.wait(0.001)  # not begun, or at its end

    threading.Thread(target=watch, name="queuekit-limit", daemon=True).start()
    try:
        yield
    finally:
        try:
            over.set()
        finally:  # also where a limit strikes right here
            with lock:
                over.set()
                raise_in_thread(ident, None)  # one that was set and not yet raised
