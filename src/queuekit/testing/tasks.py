"""The tasks of the conformance suite: one module for every backend, as a user would write it.

Workers import it by `queuekit worker queuekit.testing.tasks`, the tests to enqueue.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import time
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations
from decimal import Decimal  # noqa: TC003
from typing import Any

from pydantic import BaseModel

from queuekit import Backoff, DoNotRetry, Job, RetryAfter, RetryPolicy, RetryRule, SoftTimeout, agent_task, current_job
from queuekit.testing.journal import note

# ---- errors, and the policy for them --------------------------------------------------------------------------------


class ApiError(Exception):
    """As an SDK raises it: the status says what it means."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"the service answered {status_code}")
        self.status_code = status_code


class RateLimited(ApiError):
    pass


POLICY = RetryPolicy(
    [
        RetryRule("category:auth", action="fail"),
        RetryRule(RateLimited, Backoff(0.3, factor=2)),
        RetryRule("category:timeout", Backoff(0.2, factor=2), max_attempts=3),
        RetryRule("status:5xx", Backoff.fixed(0.25)),
        RetryRule("category:connection", Backoff(0.1, jitter="none")),
    ],
    max_attempts=6,
)
"""Short waits, all kinds of jitter that the default has, and a limit of its own for one kind."""


def meet(word: str) -> None:
    """What happens to an attempt, by the word of the plan."""
    match word.partition(":"):
        case ("ok", _, _):
            return
        case ("status", _, code):
            raise RateLimited(429) if code == "429" else ApiError(int(code))
        case ("timeout", _, _):
            raise TimeoutError("the service took too long")
        case ("connection", _, _):
            raise ConnectionResetError("the service hung up")
        case ("bug", _, _):
            raise KeyError("a bug")
        case ("retry-after", _, seconds):
            raise RetryAfter(float(seconds))
        case ("do-not-retry", _, _):
            raise DoNotRetry("pointless")
        case ("exit", _, _):
            raise SystemExit(3)
        case ("killed", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # until it arrives
        case ("segfault", _, _):
            ctypes.string_at(0)
        case ("memory", _, _):
            _exhaust_memory()
    raise AssertionError(f"no such word in a plan: {word!r}")


def _exhaust_memory() -> None:
    """As far as its process may, which is not far, so that the machine's own memory is not touched; then what the
    kernel does to a process that has more than its container may have."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 64 * 1024 * 1024, resource.RLIM_INFINITY))
    kept = []
    try:
        while True:
            kept.append(bytearray(1024 * 1024))
    except MemoryError:
        meet("killed")


def _step(plan: list[str]) -> str:
    number = current_job().attempt
    note("start")
    word = plan[number - 1] if number <= len(plan) else "ok"
    if word != "ok":
        meet(word)
    note("end")
    return f"attempt {number}"


# ---- what attempts do ----------------------------------------------------------------------------------------------


@agent_task(retry=POLICY)
def follow(plan: list[str]) -> str:
    """Meet plan[n - 1] in attempt n; succeed after the plan's end."""
    return _step(plan)


@agent_task(retry=POLICY)
async def follow_async(plan: list[str]) -> str:
    await asyncio.sleep(0)
    return _step(plan)


@agent_task
def without_policy(plan: list[str]) -> str:
    return _step(plan)


@agent_task(retry=RetryPolicy(on_lost="fail"))
def only_once(plan: list[str]) -> str:
    return _step(plan)


@agent_task(retry=RetryPolicy(max_attempts=1))
def one_attempt(plan: list[str]) -> str:
    return _step(plan)


@agent_task(retry=RetryPolicy(max_attempts=1))
def sleep_in_one_attempt(seconds: float) -> str:
    return sleep(seconds)


@agent_task(retry=RetryPolicy(on_lost="fail"))
def sleep_only_once(seconds: float) -> str:
    return sleep(seconds)


@agent_task
def sleep_after_a_crash(seconds: float) -> str:
    """Kills its process, and sleeps when it is run again."""
    if current_job().attempt == 1:
        note("crash")
        meet("killed")
    return sleep(seconds)


@agent_task
async def sleep_after_a_crash_async(seconds: float) -> str:
    if current_job().attempt == 1:
        note("crash")
        meet("killed")
    return await sleep_async(seconds)


@agent_task(retry=RetryPolicy.for_llm(scale=1 / 100))
async def like_an_agent_waits(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


# ---- values --------------------------------------------------------------------------------------------------------


@agent_task
def add(a: int, b: int = 1) -> int:
    note("start")
    return a + b


@agent_task
async def add_async(a: int, b: int = 1) -> int:
    note("start")
    await asyncio.sleep(0)
    return a + b


class Parcel(BaseModel):
    label: str
    price: Decimal
    sent: datetime


@agent_task
def stamp(parcel: Parcel, raise_by: Decimal, at: datetime) -> Parcel:
    return parcel.model_copy(update={"price": parcel.price + raise_by, "sent": at})


@agent_task
async def price(parcel: Parcel) -> Decimal:
    return parcel.price


@agent_task(private=True)
def confidential(secret: str) -> str:
    return secret.upper()


@agent_task(private=True, retry=RetryPolicy([RetryRule("category:connection", Backoff.fixed(0.1))], max_attempts=2))
def confide_and_fail(secret: str) -> str:
    """Its error quotes the argument, as an SDK's does."""
    raise ConnectionResetError(f"could not send {secret}")


@agent_task(keep_result=False)
def thrown_away() -> str:
    return "nobody reads this"


@agent_task
def unspeakable() -> Any:
    return object()


@agent_task(queue="conformance-other")
def elsewhere() -> str:
    note("start")
    return "other queue"


# ---- time ----------------------------------------------------------------------------------------------------------


@agent_task
def sleep(seconds: float) -> str:
    note("start")
    time.sleep(seconds)
    note("end")
    return "slept"


@agent_task
async def sleep_async(seconds: float) -> str:
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return "slept"


@agent_task
def spin(seconds: float) -> str:
    """Synchronous code that runs one bytecode after the other: what any pool can interrupt."""
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    note("end")
    return "spun"


@agent_task
async def tidy_up_async(seconds: float) -> str:
    """Takes SoftTimeout for what it is meant: the last moment to save what there is."""
    try:
        await asyncio.sleep(seconds)
    except SoftTimeout:
        note("soft")
        return "tidied up"
    return "had time"


@agent_task
def tidy_up(seconds: float) -> str:
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            time.sleep(0.01)
    except SoftTimeout:
        note("soft")
        return "tidied up"
    return "had time"


@agent_task
def cooperative(seconds: float) -> str:
    """Long synchronous code that asks now and then whether it is still wanted."""
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current_job().raise_if_cancelled()
        time.sleep(0.02)
    note("end")
    return "done"


# ---- the world around ----------------------------------------------------------------------------------------------


@agent_task
def look_at_own_record() -> dict[str, Any]:
    """What the store says of this attempt while it runs."""
    info = Job.fetch(current_job().id).info()
    return {"status": str(info.status), "numbers": [one.number for one in info.attempts], "pid": os.getpid()}


class Client:
    """As an AsyncClient is: usable from the loop that it was first used on, with connections that stay open."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests: asyncio.Queue[asyncio.Future[int]] | None = None
        self._count = 0
        self._connection: asyncio.Task[None] | None = None

    async def get(self) -> int:
        """How many requests it has answered, this one included."""
        loop = asyncio.get_running_loop()
        if self._requests is None:
            self._loop, self._requests = loop, asyncio.Queue()
            self._connection = loop.create_task(self._answer(self._requests))
        if loop is not self._loop:
            raise RuntimeError("this client belongs to another event loop")
        answer: asyncio.Future[int] = loop.create_future()
        await self._requests.put(answer)
        return await asyncio.wait_for(answer, 5)

    async def _answer(self, requests: asyncio.Queue[asyncio.Future[int]]) -> None:
        while True:
            answer = await requests.get()
            self._count += 1
            answer.set_result(self._count)


client = Client()


@agent_task
async def use_client() -> dict[str, int]:
    return {"pid": os.getpid(), "loop": id(asyncio.get_running_loop()), "answered": await client.get()}


@agent_task
async def meet_up(seconds: float) -> dict[str, Any]:
    """Two of these at a time see each other where their attempts share a loop."""
    global _present
    _present += 1
    try:
        note("start")
        await asyncio.sleep(seconds)
        return {"pid": os.getpid(), "loop": id(asyncio.get_running_loop()), "present": _present}
    finally:
        _present -= 1


_present = 0
