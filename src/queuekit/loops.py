"""The one long-lived event loop of a process, on a thread of its own.

Async tasks share it, so that an HTTP client that a module opened once works from the first job to the last. It starts
at first use, and again in a forked child, where threads do not live on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from contextvars import Context

__all__ = ["on_process_loop", "process_loop", "submit"]

log = logging.getLogger("queuekit")

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _forget() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def process_loop() -> asyncio.AbstractEventLoop:
    """The loop, running. Called from any thread."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            loop = asyncio.new_event_loop()
            try:
                threading.Thread(target=_run, args=(loop,), name="queuekit-loop", daemon=True).start()
            except BaseException:  # no more threads: the next attempt tries again
                loop.close()
                raise
            _loop = loop
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """For as long as the process lives. A task's SystemExit or KeyboardInterrupt leaves run_forever() too, and a task
    may call stop(): neither may leave all others hanging."""
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:
            log.debug("a task ended the loop: it goes on", exc_info=True)


def on_process_loop() -> bool:
    """Whether the loop runs the code that asks: nothing may wait here for an async task."""
    try:
        return asyncio.get_running_loop() is _loop
    except RuntimeError:
        return False


def submit(coroutine: Coroutine[Any, Any, T], context: Context) -> tuple[Future[T], Callable[[], object]]:
    """Run the coroutine on the loop in the given context: a future of its result, and a function that cancels it.

    The function may be called from any thread, and also before the loop has come to start the coroutine.
    """
    from concurrent.futures import Future

    loop = process_loop()
    result: Future[T] = Future()
    task: asyncio.Task[T] | None = None

    def done(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            result.set_exception(asyncio.CancelledError())
            return
        error = task.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    def start() -> None:
        nonlocal task
        task = loop.create_task(coroutine, context=context)
        task.add_done_callback(done)

    def cancel() -> None:
        assert task is not None, "the loop calls in the order that it was asked in"
        task.cancel()

    loop.call_soon_threadsafe(start)
    return result, lambda: loop.call_soon_threadsafe(cancel)
