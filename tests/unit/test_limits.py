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


@pytest.fixture
def gate() -> threading.Lock:
    return threading.Lock()


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


@pytest.mark.parametrize("how", ["group", "wait_for", "timeout"])
def test_soft_async_leaves_nothing_running(how: str) -> None:
    """TaskGroup (and wait_for on Python 3.11) end what they wait for when they see a CancelledError, and only then."""
    cancelled = []

    async def child() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def work() -> str:
        try:
            if how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
            elif how == "wait_for":
                await asyncio.wait_for(child(), 60)
            else:
                async with asyncio.timeout(60):
                    await child()
        except SoftTimeout:
            return "finished up"
        return "no"

    async def test() -> None:
        assert await limited(work(), Limits(0.05, 5)) == "finished up"
        assert cancelled == [1]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(test())


@runs
async def test_soft_async_leaves_the_task_as_itself() -> None:
    async def work() -> None:
        await forever()

    with pytest.raises(SoftTimeout) as caught:
        await limited(work(), Limits(0.05, 5))
    assert type(caught.value) is SoftTimeout  # for asyncio a CancelledError would be a cancelled task
    assert "work" in [entry.name for entry in caught.traceback]


@runs
async def test_both_limits_at_one_turn_of_the_loop_are_the_hard_one() -> None:
    limits = Limits(0.01, 0.02)
    seen = []

    async def work() -> None:
        try:
            await forever()
        except SoftTimeout:
            seen.append("soft")
            await forever()

    task = asyncio.ensure_future(limited(work(), limits))
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251  # something else blocks the loop
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == []
    assert limits.hard_passed


@runs
async def test_a_cancel_outranks_the_soft_limit() -> None:
    limits = Limits(0.01, None)
    seen = []

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            seen.append(type(error))
            await asyncio.sleep(0.05)  # it cleans up, and no soft limit disturbs it
            raise

    def cancel() -> None:
        limits.cancelled = True
        task.cancel()

    task = asyncio.ensure_future(limited(work(), limits))
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251  # both at one turn
    asyncio.get_running_loop().call_soon(cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [asyncio.CancelledError]


@runs
async def test_hard_async_comes_again_when_it_was_swallowed() -> None:
    seen = []

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            seen.append(1)
        await forever()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(limited(work(), Limits(None, 0.02)))
    assert seen == [1]


@runs
async def test_hard_async_counts_though_the_code_kept_the_loop_and_then_returned() -> None:
    async def keeps() -> int:
        time.sleep(0.1)  # noqa: ASYNC251  # it is what is asked about
        return 7

    limits = Limits(None, 0.05)
    assert await asyncio.create_task(limited(keeps(), limits)) == 7
    assert limits.hard_passed


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
def test_main_thread(blocking: bool, gate: threading.Lock) -> None:
    assert can_interrupt()
    limits = Limits(0.05, 0.15)
    seen = []

    def work() -> None:
        with under_limits(limits, gate), gate:
            try:
                time.sleep(8) if blocking else spin()
            except SoftTimeout:
                seen.append("soft")
            time.sleep(8) if blocking else spin()

    with pytest.raises(HardLimit):
        work()
    assert seen == ["soft"]
    assert limits.hard_passed


def test_main_thread_a_swallowed_hard_limit_comes_again(gate: threading.Lock) -> None:
    seen = []
    with pytest.raises(HardLimit), under_limits(Limits(None, 0.05), gate), gate:
        try:
            time.sleep(8)
        except HardLimit:
            seen.append(1)
        time.sleep(8)
    assert seen == [1]


def test_nothing_is_left_behind_in_the_main_thread(gate: threading.Lock) -> None:
    import signal

    before, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    with under_limits(Limits(0.05, 0.06), gate), gate:
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (left > 0)  # somebody else's alarm goes on


def test_another_thread(gate: threading.Lock) -> None:
    limits = Limits(0.05, 0.15)
    seen = []

    def work() -> None:
        assert not can_interrupt()
        with under_limits(limits, gate), gate:
            try:
                spin()
            except SoftTimeout:
                seen.append("soft")
            spin()

    with pytest.raises(HardLimit):
        in_thread(work)
    assert seen == ["soft"]


def test_nothing_strikes_another_thread_after_its_limits_are_over(gate: threading.Lock) -> None:
    def work() -> None:
        for _ in range(20):
            try:
                with under_limits(Limits(0.001, 0.002), gate), gate:
                    until = time.monotonic() + 0.002
                    while time.monotonic() < until:
                        pass
            except (SoftTimeout, HardLimit):
                pass
        time.sleep(0.05)

    in_thread(work)


def gated() -> None:
    gate = threading.Lock()
    limits = Limits(None, 0.01)
    with pytest.raises(HardLimit), under_limits(limits, gate):
        until = time.monotonic() + 0.05
        while time.monotonic() < until:  # not begun: nothing may strike here
            pass
        assert not limits.hard_passed
        with gate:
            spin()
    with under_limits(Limits(None, 0.01), gate):
        with gate:
            pass
        until = time.monotonic() + 0.05
        while time.monotonic() < until:  # at its end: nor here
            pass


def test_limits_strike_only_while_the_gate_is_held() -> None:
    gated()


def test_limits_strike_another_thread_only_while_the_gate_is_held() -> None:
    in_thread(gated)


def test_limits_within_limits_in_the_main_thread() -> None:
    """On the memory backend a task that waits for another one's result runs it in its own thread."""
    outer, inner = threading.Lock(), threading.Lock()
    with pytest.raises(HardLimit, match="0.1 s"), under_limits(Limits(None, 0.1), outer), outer:
        with under_limits(Limits(None, 5), inner), inner:
            pass
        time.sleep(8)


def test_a_watch_whose_end_was_never_said_ends_by_itself(gate: threading.Lock) -> None:
    """A late error may strike the very code that says so; a thread's number is used again by the next thread."""
    watch: list[threading.Thread] = []

    def work() -> None:
        limits = Limits(0.01, 0.02)
        within = under_limits(limits, gate)
        within.__enter__()
        watch.extend(thread for thread in threading.enumerate() if thread.name == "queuekit-limit")
        with pytest.raises((SoftTimeout, HardLimit)), gate:
            spin()
        kept.append(within)

    kept: list[Any] = []
    in_thread(work)
    watch[-1].join(10)
    assert not watch[-1].is_alive()
    kept[0].gen.close()
