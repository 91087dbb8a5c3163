"""Enqueueing from an event loop: in threads of our own, so that a store that is away takes none of the loop's executor,
to which others hand their work, and the loop the look-up of names.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["off_loop"]

T = TypeVar("T")

THREADS: Final = 8  # for each loop; each may have a connection to the store, and one to the broker


class _Pool:
    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="queuekit-enqueue")
        self.moved = 0.0  # time.monotonic() when one of its calls last got through


# They go with their loop: its threads end when nobody has the pool any more.
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()


async def off_loop(call: Callable[[], T], patience: float, refusal: Callable[[], Exception]) -> T:
    """What the call gives, or raises. One that has not begun is taken back where this is cancelled; and where so many
    seconds have passed in which no call got through, `refusal()` is raised in its place: those before it wait for a
    store that is away, each for as long. One that has begun goes on to its end."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = _Pool()
    context = copy_context()

    def run() -> T:
        given = context.run(call)
        pool.moved = time.monotonic()
        return given

    began, future = time.monotonic(), pool.threads.submit(run)
    answer = asyncio.wrap_future(future)
    try:
        while not answer.done():
            left = max(began, pool.moved) + patience - time.monotonic()
            if left <= 0:
                if future.cancel():
                    raise refusal()
                break
            await asyncio.wait([answer], timeout=left)
        return await answer
    except asyncio.CancelledError:
        answer.cancel()
        raise
