"""What each side of a comparison says of itself: a module with SIDE, and CONTEXT where its functions are async. ask.py
asks it. BENCH_URL names the Redis, which nothing else uses, and in which each side keeps its results too; BENCH_POOL is
the pool that is measured, as the side calls it; BENCH_LOG the file in which tasks that wait say when they begin and
end."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

URL = os.environ["BENCH_URL"]
POOL = os.environ.get("BENCH_POOL", "")


@dataclass
class Sleeper:
    """A worker for jobs that only wait. `places`: how many it runs at a time, where those are fewer than the jobs, so
    that a few rounds of them tell how long all would take."""

    command: list[str]
    places: int | None = None


@dataclass
class Side:
    """The functions may be async where the module has a CONTEXT to run them in.

    Attributes:
        enqueue: `count` jobs, one call each, whose task returns the length of `text`, with its result kept.
        started: enqueues a job that returns time.time(), and waits for that.
        sleep: `count` jobs that wait for `seconds`, by the fastest way that there is.
        stored: where its results are, for a count: ("zcard", key), ("hlen", key) or ("scan", pattern).
        workers: by pool, the command line after `python`.
        sleepers: by pool, workers for `sleep`. "newcomer": one without options.
        many: as `enqueue`, by the ways for many jobs that its documentation names.
        later: `count` jobs that are due at even distances over `seconds`.

    """

    enqueue: Callable[[int, str], Any]
    started: Callable[[], Any]
    sleep: Callable[[int, float], Any]
    stored: tuple[str, str]
    workers: dict[str, list[str]]
    sleepers: dict[str, Sleeper] = field(default_factory=dict)
    many: dict[str, Callable[[int, str], Any]] = field(default_factory=dict)
    later: Callable[[int, float], Any] | None = None


# ---- for the sides' tasks and calls --------------------------------------------------------------------------------


@contextmanager
def running() -> Iterator[None]:
    """Says in the log when a job begins and ends, in one write each, whichever process or thread it is in."""
    _say(1)
    yield
    _say(-1)


def _say(step: int) -> None:
    global _log
    if _log is None:
        _log = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_APPEND)
    os.write(_log, f"{step} {time.time()}\n".encode())


_log: int | None = None


def one_by_one(call: Callable[[Any], object]) -> Callable[[int, Any], None]:
    def run(count: int, argument: Any) -> None:
        for _ in range(count):
            call(argument)

    return run


def await_each(call: Callable[[Any], Awaitable[object]]) -> Callable[[int, Any], Awaitable[None]]:
    async def run(count: int, argument: Any) -> None:
        for _ in range(count):
            await call(argument)

    return run


def gather(call: Callable[[Any], Awaitable[object]]) -> Callable[[int, Any], Awaitable[None]]:
    """A hundred calls at a time: where an async library has no other way for many jobs."""

    async def run(count: int, argument: Any) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(call(argument) for _ in range(min(100, count - start))))

    return run
