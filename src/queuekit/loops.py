"""The one long-lived event loop of a process, on a thread of its own.

Async tasks share it, so that an HTTP client that a module opened once works from the first job to the last. It starts
at first use, and again in a forked child, where threads do not live on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future
    from contextvars import Context

__all__ = ["process_loop", "submit"]

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
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="queuekit-loop", daemon=True).start()
        return _loop


def submit(coroutine: Coroutine[Any, Any, T], context: Context) -> tuple[Future[T], Future[asyncio.Task[T]]]:
    """Run the coroutine on the loop in the given context: futures of its result, and of its task once it runs."""
    from concurrent.futures import Future

    loop = process_loop()
    result: Future[T] = Future()
    started: Future[asyncio.Task[T]] = Future()

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
        task = loop.create_task(coroutine, context=context)
        task.add_done_callback(done)
        started.set_result(task)

    loop.call_soon_threadsafe(start)
    return result, started
