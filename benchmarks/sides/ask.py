"""Asks a side: `python ask.py MODULE ACTION ...` prints what it says as one line of JSON."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import resource
import sys
import time
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from side import Side

BYTES = 90  # with their quotes and brackets about 100 bytes of JSON


def main() -> None:
    module = import_module(sys.argv[1])
    context = getattr(module, "CONTEXT", None)
    asking = _act(module.SIDE, context, *sys.argv[2:])
    if context is not None:
        said = asyncio.run(_within(context, asking))
    else:
        try:
            asking.send(None)  # nothing in it waits for a loop
        except StopIteration as done:
            said = done.value
        else:
            raise TypeError(f"{sys.argv[1]} has async functions, and no CONTEXT")
    print(json.dumps(said))


async def _within(context: AbstractAsyncContextManager[Any], asking: Awaitable[Any]) -> Any:
    async with context:
        return await asking


async def _act(side: Side, context: object, action: str, *rest: str) -> Any:
    if action == "about":
        sleepers = {pool: asdict(one) for pool, one in side.sleepers.items()}
        kept = {"workers": side.workers, "sleepers": sleepers, "stored": side.stored, "many": list(side.many)}
        return {**kept, "later": side.later is not None}
    if action == "enqueue":  # COUNT [BYTES]
        return await _timed(side, side.enqueue, int(rest[0]), "x" * int(rest[1] if rest[1:] else BYTES))
    if action == "many":  # WAY COUNT
        return await _timed(side, side.many[rest[0]], int(rest[1]), "x" * BYTES)
    if action == "sleep":  # COUNT SECONDS
        await _may_wait(side.sleep(int(rest[0]), float(rest[1])))
        return None
    if action == "later":  # COUNT SECONDS
        assert side.later is not None
        await _may_wait(side.later(int(rest[0]), float(rest[1])))
        return None
    if action == "latency":  # COUNT
        return await _latency(side, int(rest[0]), asyncio.sleep if context else time.sleep)
    raise SystemExit(f"{action!r}: about, enqueue, many, sleep, later or latency")


async def _timed(side: Side, call: Callable[[int, str], Any], count: int, text: str) -> dict[str, float]:
    await _may_wait(side.enqueue(1, text))  # connects
    before, began, cpu = _peak(), time.perf_counter(), time.process_time()
    await _may_wait(call(count, text))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"count": count, "seconds": seconds, "cpu": cpu, "peak_before": before, "peak": _peak()}


async def _latency(side: Side, count: int, pause: Callable[[float], Any]) -> list[float]:
    await _may_wait(side.started())
    pauses = random.Random(5)  # noqa: S311
    waits = []
    for _ in range(count):
        # Uneven: what polls is not to be met at the same point of its pause each time.
        await _may_wait(pause(pauses.uniform(0.05, 0.25)))
        began = time.time()
        waits.append(await _may_wait(side.started()) - began)
    return sorted(waits)


async def _may_wait(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _peak() -> int:
    """The most memory that this process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
