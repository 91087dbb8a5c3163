"""The tasks of the conformance suite: one module for every backend, as a user would write it.

Workers import it by `queuekit worker queuekit.testing.tasks`, the tests to enqueue.
"""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import resource
import signal
import time
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations
from decimal import Decimal  # noqa: TC003
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from queuekit import (
    Backoff,
    DoNotRetry,
    Job,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    SoftTimeout,
    agent_task,
    current_job,
    group,
)
from queuekit.testing.journal import VARIABLE, Journal, note
from queuekit.testing.process import living

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


# ---- steps ---------------------------------------------------------------------------------------------------------


def pay(what: str) -> str:
    note("paid", what)
    return f"{what} of attempt {current_job().attempt}"


async def pay_async(what: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return pay(what)


@agent_task(retry=POLICY)
def agent(plan: list[str]) -> list[str]:
    """Six steps; after three of them it meets plan[n - 1] in attempt n."""
    step, number = current_job().step, current_job().attempt
    out = [step("plan", pay, "plan")]
    out += [step("draft", pay, f"draft {n}") for n in range(2)]
    if number <= len(plan) and plan[number - 1] != "ok":
        meet(plan[number - 1])
    topics = ["a", "b"] if number % 2 else ["b", "a"]
    out += sorted(step.options(key=topic)("check", pay, f"check {topic}") for topic in topics)
    return [*out, step("report", pay, "report")]


@agent_task(retry=POLICY)
async def agent_async(plan: list[str]) -> list[str]:
    """The same, three steps at a time."""
    step, number = current_job().astep, current_job().attempt
    waits = enumerate((0.2, 0.1, 0.0))
    out = [*await asyncio.gather(*(step("draft", pay_async, f"draft {n}", wait) for n, wait in waits))]
    if number <= len(plan) and plan[number - 1] != "ok":
        meet(plan[number - 1])
    topics = ["a", "b"] if number % 2 else ["b", "a"]
    out += sorted([await step.options(key=topic)("check", pay_async, f"check {topic}") for topic in topics])
    return [*out, await step("report", pay_async, "report")]


async def pay_much() -> str:
    return f"{pay('text')} " + "x" * 2 * 1024 * 1024


@agent_task(retry=POLICY)
async def large_agent(plan: list[str]) -> list[Any]:
    """Its step gives more than payload_limit, and then it meets plan[n - 1] in attempt n."""
    text = await current_job().astep("write", pay_much)
    number = current_job().attempt
    if number <= len(plan):
        meet(plan[number - 1])
    return [text.rstrip("x"), len(text)]


@agent_task
def slow_agent(until: float) -> list[str]:
    """Its second step is over at that moment of this machine's clock."""
    step = current_job().step
    out = [step("plan", pay, "plan")]
    note("start")

    def think() -> str:
        time.sleep(max(until - time.time(), 0.0))
        return pay("think")

    out.append(step("think", think))
    note("end")
    return out


# ---- values --------------------------------------------------------------------------------------------------------


@agent_task
def add(a: int, b: int = 1) -> int:
    note("start")
    return a + b


@agent_task
def tick(what: str) -> None:
    """What a schedule runs."""
    note(what)


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


@agent_task
def deaf(seconds: float) -> str:
    """Takes whatever is raised in it for an error of its own, and goes on."""
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.1)
        except Exception as error:
            note("swallowed", type(error).__name__)
    note("end")
    return "done"


@agent_task
def stubborn(seconds: float) -> str:
    """As `deaf`, and it takes what is no Exception too."""
    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.1)
        except BaseException:
            pass
    note("end")
    return "done"


@agent_task(retry=RetryPolicy([RetryRule("category:time_limit", Backoff.fixed(0.1))], max_attempts=2))
def overstay(how: str) -> list[int]:
    """Goes on over its limits in its first attempt, for a minute if nobody ends it. The second one says which of the
    processes still run that the first one ran in."""
    note("start")
    if current_job().attempt > 1:
        return _left_of_the_first()
    _go_on(how)
    note("end")
    return []


@agent_task(retry=RetryPolicy([RetryRule("category:time_limit", Backoff.fixed(0.1))], max_attempts=2))
async def overstay_async(how: str) -> list[int]:
    """The same. What blocks keeps the loop."""
    note("start")
    if current_job().attempt > 1:
        return _left_of_the_first()
    until = time.monotonic() + 60
    while how == "swallows" and time.monotonic() < until:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            note("swallowed")
    _go_on(how)
    note("end")
    return []


def _go_on(how: str) -> None:
    match how:
        case "swallows":
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    time.sleep(0.1)
                except BaseException:
                    note("swallowed")
        case "blocks":  # in C code that no signal ends
            _deadlock(ctypes.CDLL(None))
        case "holds":  # and that keeps the interpreter's lock: no other thread of its process comes to run
            _deadlock(ctypes.PyDLL(None))


def _deadlock(library: ctypes.CDLL) -> None:
    mutex = ctypes.create_string_buffer(256)  # one that is not recursive is all zeros
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def _left_of_the_first() -> list[int]:
    starts = Journal(Path(os.environ[VARIABLE])).entries(current_job().id, "start")
    return living({entry.pid for entry in starts if entry.attempt == 1})


@agent_task
def ask_model(port: int) -> str:
    """A blocking call of a model on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps({"job": current_job().id}))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@agent_task
async def ask_model_async(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({"job": current_job().id})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        return (await reader.read()).decode()
    finally:
        writer.close()


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


# ---- workflows -----------------------------------------------------------------------------------------------------


class Score(BaseModel):
    points: int
    of: str


@agent_task
def rate(points: int, of: str = "x") -> Score:
    return Score(points=points, of=of)


@agent_task
async def points_of(score: Score) -> int:
    assert isinstance(score, Score)
    return score.points


@agent_task
def total(numbers: list[int]) -> int:
    note("start")
    return sum(numbers)


@agent_task
def total_of_some(numbers: list[int | None]) -> str:
    return repr(numbers)


@agent_task(retry=POLICY)
def number_after(plan: list[str], number: int) -> int:
    """Meets the plan, and gives the number."""
    _step(plan)
    return number


@agent_task
def stamp_all(what: list[str]) -> int:
    note("start")
    return len(what)


@agent_task
def take_back(what: int) -> None:
    note("took back", what)


@agent_task(retry=POLICY)
def starts_children(plan: list[str]) -> list[str]:
    """Starts the same children in each attempt, and then meets the plan; gives their ids."""
    job = current_job()
    children: list[Job[Any]] = [job.enqueue(sleep.bind(0.0)), job.enqueue(add.bind(1), key="by its key")]
    whole = job.enqueue(group([add.bind(1), add.bind(2)]).then(total))
    _step(plan)
    return [*(child.id for child in children), whole.id]


@agent_task
async def waits_with_children(seconds: float) -> None:
    job = current_job()
    await job.aenqueue(sleep_async.bind(seconds))
    await job.aenqueue(sleep_async.options(delay=seconds).bind(seconds))
    note("start")
    await asyncio.sleep(seconds)
