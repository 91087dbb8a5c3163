"""aenqueue(): the loop goes on, and so does its executor, whatever the store does."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from queuekit import App, EnqueueError, PayloadError, Settings, agent_task, chain, current_job, group
from queuekit.offloop import THREADS
from queuekit.store import StoreAway
from queuekit.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.plugin import Broker

DEADLINE = 30.0


def runs(test: Any) -> Any:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@agent_task(name="offloop.echo")
def echo(a: int) -> int:
    return a


class Held:
    """The memory backend's App, whose store answers when it is let go, or after some seconds, or is away."""

    def __init__(self, *, enqueue_timeout: float = DEADLINE) -> None:
        self.app = App(Settings(backend="memory", enqueue_timeout=enqueue_timeout))
        _ = self.app.settings
        self.go = threading.Event()
        self.seconds = DEADLINE
        self.error: Exception | None = None
        self.asked = 0
        self._create = self.app.store.create_many
        self.app.store.create_many = self._held  # type: ignore[method-assign]

    def _held(self, *args: Any) -> Any:
        self.asked += 1
        self.go.wait(self.seconds)
        if self.error is not None:
            raise self.error
        return self._create(*args)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    with made.app.activate():
        yield made
    made.go.set()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110  # a thread makes it so
            await asyncio.sleep(0.005)


@runs
async def test_a_thousand_that_wait_leave_the_loop_and_its_executor_to_others(held: Held) -> None:
    calls = [asyncio.create_task(echo.aenqueue(n)) for n in range(1000)]
    await until(lambda: held.asked == THREADS)
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(100))) == list(range(100))
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    assert not any(call.done() for call in calls)
    held.go.set()
    jobs = await asyncio.gather(*calls)
    assert len({job.id for job in jobs}) == 1000
    assert held.app.run_until_idle() == 1000


@runs
async def test_all_ways_to_enqueue_take_those_threads(held: Held) -> None:
    held.go.set()
    seen: list[str] = []
    create = held.app.store.create_many

    def noted(*args: Any) -> Any:
        seen.append(threading.current_thread().name)
        return create(*args)

    held.app.store.create_many = noted  # type: ignore[method-assign]
    await echo.aenqueue(1)
    await echo.bind(1).aenqueue()
    await current_job().aenqueue(echo.bind(1))
    assert all(name.startswith("queuekit-enqueue") for name in seen)
    assert len(seen) == 3
    assert (await chain(echo.bind(1), echo).aenqueue()).id
    assert len((await group([echo.bind(1)]).aenqueue()).jobs) == 1


@runs
async def test_errors_come_through(held: Held) -> None:
    held.go.set()
    with pytest.raises(PayloadError):
        await echo.aenqueue("no number")  # type: ignore[arg-type]


@runs
async def test_while_others_get_through_it_waits_for_its_turn() -> None:
    """As many at once that the last begins long after enqueue_timeout."""
    held = Held(enqueue_timeout=0.3)
    held.seconds = 0.05
    with held.app.activate():
        jobs = await asyncio.gather(*(echo.aenqueue(n) for n in range(THREADS * 15)))
    assert len(jobs) == THREADS * 15


@runs
async def test_where_none_gets_through_those_that_have_not_begun_are_refused() -> None:
    held = Held(enqueue_timeout=0.2)
    with held.app.activate():
        calls = [asyncio.create_task(echo.options(id=f"j{n}").aenqueue(n)) for n in range(THREADS + 20)]
        begun = calls[:THREADS]
        over = await asyncio.gather(*calls[THREADS:], return_exceptions=True)
        assert not any(call.done() for call in begun)
        held.go.set()
        await asyncio.gather(*begun)
    assert all(isinstance(one, EnqueueError) for one in over)
    assert {(one.recorded, one.job_id) for one in over} == {(False, f"j{n}") for n in range(THREADS, THREADS + 20)}  # type: ignore[union-attr]
    assert "none of them got through. The job was not recorded" in str(over[0])
    assert held.asked == THREADS
    assert held.app.store.get("j0") is not None


@pytest.mark.timeout(60)
@runs
async def test_a_thousand_on_a_silent_store(queuekit_broker: Broker) -> None:
    """One after the other by eights they would take minutes."""
    pytest.importorskip("rq")
    with Proxy(urlsplit(queuekit_broker.url).port or 6379) as proxy:
        settings = queuekit_broker.settings("rq") | {"broker_url": proxy.url(queuekit_broker.url)}
        app = App(Settings(**settings, enqueue_timeout=2.0))
        with app.activate():
            await echo.aenqueue(0)
            proxy.silence()
            over = await asyncio.gather(*(echo.aenqueue(n) for n in range(1000)), return_exceptions=True)
            assert all(isinstance(one, EnqueueError) for one in over)
            assert {one.recorded for one in over} <= {False, None}  # type: ignore[union-attr]
            proxy.restore()
            assert (await echo.aenqueue(1)).status() == "queued"
        app.close()


@runs
async def test_one_that_is_cancelled_before_it_has_begun_is_not_recorded(held: Held) -> None:
    first = [asyncio.create_task(echo.options(id=f"first-{n}").aenqueue(n)) for n in range(THREADS)]
    late = asyncio.create_task(echo.options(id="late").aenqueue(1))
    await until(lambda: held.asked == THREADS)
    for call in (first[0], late):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    held.go.set()
    await asyncio.gather(*first[1:])
    await until(lambda: held.app.store.get("first-0") is not None)  # it had begun, and went on
    assert held.app.store.get("late") is None


@runs
async def test_what_a_cancelled_one_raises_later_is_nobodys(held: Held) -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    held.error = StoreAway("away", sent=True)
    call = asyncio.create_task(echo.aenqueue(1))
    await until(lambda: held.asked == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    held.go.set()
    del call
    await asyncio.sleep(0.1)
    gc.collect()
    await asyncio.sleep(0)
    assert said == []


def test_its_threads_go_with_the_loop() -> None:
    async def one() -> None:
        app = App(Settings(backend="memory"))
        with app.activate():
            await echo.aenqueue(1)

    def threads() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name.startswith("queuekit-enqueue")]

    before = len(threads())
    for _ in range(3):
        asyncio.run(one())
    end = time.monotonic() + DEADLINE
    while len(threads()) > before:
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.01)
