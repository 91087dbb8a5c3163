"""Limits are real time by nature; these tests wait for tenths of seconds and assert no upper bound."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from queuekit import SoftTimeout
from queuekit.limits import HardLimit, Limits, can_interrupt, limited, under_limits


def runs(test: Any) -> Any:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def in_thread(work: Any) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def spin() -> None:
    """Python code that never blocks."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        pass
    raise AssertionError("nobody interrupted it")


async def forever() -> None:
    await asyncio.sleep(8)
    raise AssertionError("nobody interrupted it")


@runs
async def test_soft_async() -> None:
    limits = Limits(0.05, 5)

    async def work() -> str:
        try:
            await forever()
        except SoftTimeout:
            await asyncio.sleep(0)  # there is time to finish up
            return "finished up"
        return "no"

    assert await limited(work(), limits) == "finished up"
    assert (limits.soft_passed, limits.hard_passed) == (True, False)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@runs
async def test_soft_async_passes_through_except_exception() -> None:
    async def work() -> None:
        try:
            await forever()
        except Exception:
            pytest.fail("an SDK would have swallowed it")

    with pytest.raises(SoftTimeout):
        await limited(work(), Limits(0.05, None))


@runs
async def test_soft_async_cancels_what_is_awaited() -> None:
    cancelled = []

    async def child() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def work() -> None:
        await asyncio.gather(child(), child())

    with pytest.raises(SoftTimeout):
        await limited(work(), Limits(0.05, None))
    assert cancelled == [1, 1]


@runs
async def test_hard_async() -> None:
    limits = Limits(None, 0.05)
    task = asyncio.ensure_future(limited(forever(), limits))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limits.hard_passed


@runs
async def test_a_real_cancel_is_no_soft_timeout() -> None:
    limits = Limits(5, 6)
    task = asyncio.ensure_future(limited(forever(), limits))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limits.soft_passed
    assert not limits.hard_passed


@runs
async def test_no_limits_async() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    assert await limited(work(), Limits(None, None)) == 3


@runs
async def test_errors_pass_async() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await limited(work(), Limits(5, 6))


@pytest.mark.parametrize("blocking", [True, False])
def test_main_thread(blocking: bool) -> None:
    assert can_interrupt()
    limits = Limits(0.05, 0.15)
    seen = []

    def work() -> None:
        with under_limits(limits):
            try:
                time.sleep(8) if blocking else spin()
            except SoftTimeout:
                seen.append("soft")
            time.sleep(8) if blocking else spin()

    with pytest.raises(HardLimit):
        work()
    assert seen == ["soft"]
    assert limits.hard_passed


def test_main_thread_a_swallowed_hard_limit_comes_again() -> None:
    seen = []
    with pytest.raises(HardLimit), under_limits(Limits(None, 0.05)):
        try:
            time.sleep(8)
        except HardLimit:
            seen.append(1)
        time.sleep(8)
    assert seen == [1]


def test_nothing_is_left_behind_in_the_main_thread() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    with under_limits(Limits(0.05, 0.06)):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread() -> None:
    limits = Limits(0.05, 0.15)
    seen = []

    def work() -> None:
        assert not can_interrupt()
        with under_limits(limits):
            try:
                spin()
            except SoftTimeout:
                seen.append("soft")
            spin()

    with pytest.raises(HardLimit):
        in_thread(work)
    assert seen == ["soft"]


def test_nothing_strikes_another_thread_after_its_limits_are_over() -> None:
    def work() -> None:
        for _ in range(20):
            try:
                with under_limits(Limits(0.001, 0.002)):
                    until = time.monotonic() + 0.002
                    while time.monotonic() < until:
                        pass
            except (SoftTimeout, HardLimit):
                pass
        time.sleep(0.05)

    in_thread(work)
