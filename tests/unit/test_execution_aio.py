"""Many attempts at a time: the memory store, no worker, no waiting but for what is to happen."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Backoff, Category, RetryPolicy, RetryRule, Settings, agent_task, current_job
from queuekit.adapters.memory import VirtualClock
from queuekit.events import Hooks
from queuekit.execution import Delivery, Dropped, Ended, Execution, Failed, Outcome, Released, Retried, Succeeded
from queuekit.execution.aio import Runner
from queuekit.execution.caps import Caps, Room
from queuekit.execution.outcomes import Unrecorded
from queuekit.message import Message, Publication
from queuekit.store import NewJob, StoreAway
from queuekit.store.memory import MemoryStore
from queuekit.task import find_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queuekit.events import JobEvent
    from queuekit.execution.aio import K

PATIENCE = 20.0  # seconds, where something goes wrong
POLICY = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(5)), RetryRule("category:time_limit")], max_attempts=2)
GATES: dict[str, asyncio.Event] = {}
seen: list[Any] = []


@agent_task(name="aio.do", retry=POLICY)
async def do(what: str) -> Any:
    return await DEEDS[what]()


@agent_task(name="aio.sync", retry=POLICY)
def in_thread(what: str) -> str:
    return threading.current_thread().name


async def seven() -> int:
    return 7


async def context() -> list[Any]:
    await asyncio.sleep(0)
    return [current_job().id, current_job().attempt, id(asyncio.get_running_loop())]


async def away() -> None:
    raise ConnectionError("away")


async def bug() -> None:
    raise TypeError("a bug")


async def for_ever() -> None:
    seen.append(current_job().id)
    await asyncio.Event().wait()


async def stubborn() -> None:
    seen.append(current_job().id)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")


async def leave() -> None:
    raise SystemExit(3)


DEEDS = {
    "seven": seven, "context": context, "away": away, "bug": bug, "for ever": for_ever, "stubborn": stubborn,
    "leave": leave,
}  # fmt: skip


class Store(MemoryStore):
    """Counts its conversations, and is away where it is told to be."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.away: dict[str, int] = {}  # how often still, by operation
        self.conversations: list[int] = []

    def together(self, calls: Sequence[Callable[[], K]]) -> list[K | StoreAway]:
        if calls:
            self.conversations.append(len(calls))
        answers: list[K | StoreAway] = []
        for call in calls:
            try:
                answers.append(call())
            except StoreAway as error:
                answers.append(error)
        return answers

    def _unless_away(self, operation: str) -> None:
        if self.away.get(operation, 0) > 0:
            self.away[operation] -= 1
            raise StoreAway("away", sent=False)

    def claim(self, **asked: Any) -> Any:
        self._unless_away("claim")
        return super().claim(**asked)

    def finish(self, *asked: Any) -> bool:
        self._unless_away("finish")
        return super().finish(*asked)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, caps: Caps | None = None) -> None:
        monkeypatch.setattr("queuekit.execution.aio.STORE_AWAY_PAUSE", 0.001)
        self.store = Store(VirtualClock(1_000_000))
        self.stopping = threading.Event()
        self.execution = Execution(
            self.store,
            Settings(backend="memory", grace=0.1),
            find=find_task,
            worker=lambda: "w",
            renew=lambda: self.store.beat("w", start=True) and None,  # type: ignore[func-returns-value]
            stopping=self.stopping,
            leave=lambda _: None,
        )
        self.outcomes: dict[str, Outcome] = {}
        self.begun: list[str] = []
        self._more = threading.Condition()
        self.runner: Runner[str] = Runner(self.execution, 10, self.begun.extend, self._settled, caps)

    def _settled(self, said: Sequence[tuple[str, Outcome]]) -> None:
        with self._more:
            self.outcomes.update(said)
            self._more.notify_all()

    def job(self, id: str, what: str = "seven", *, task: str = "aio.do", **options: Any) -> tuple[str, Delivery]:
        message = Message(id=id, task=task, args=[what], kwargs={}, queue="q", backend="memory", **options)
        made = self.store.create(NewJob(id, message.seal(), message.digest, message.route, "t", 60))
        bell = Publication(message, made.pseq or 0, made.number, made.epoch).doorbell
        return id, Delivery(bell, message.args, message.kwargs)

    def wait(self, *ids: str) -> list[Outcome]:
        with self._more:
            assert self._more.wait_for(lambda: self.outcomes.keys() >= set(ids), PATIENCE), self.outcomes
        return [self.outcomes[id] for id in ids]

    def run(self, what: str = "seven", **options: Any) -> Outcome:
        self.runner.take([self.job("j", what, **options)])
        (outcome,) = self.wait("j")
        return outcome

    def started(self, id: str) -> None:
        until = threading.Event()
        for _ in range(int(PATIENCE * 200)):
            if id in seen:
                return
            until.wait(0.005)
        raise AssertionError(f"{id} has not started")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    seen.clear()
    return Bench(monkeypatch)


def test_many_are_claimed_in_one_conversation(bench: Bench) -> None:
    ids = [f"j{number}" for number in range(10)]
    bench.runner.take([bench.job(id) for id in ids])
    assert bench.wait(*ids) == [Succeeded(7, "7")] * 10
    assert bench.store.conversations[0] == 10  # the lease was not open
    assert bench.store.conversations[1] == 10
    assert sum(bench.store.conversations[2:]) == 10, "their outcomes"
    assert bench.begun == ids
    assert {bench.store.result(id) for id in ids} == {"7"}


def test_each_has_a_context_of_its_own_and_all_one_loop(bench: Bench) -> None:
    ids = [f"j{number}" for number in range(5)]
    bench.runner.take([bench.job(id, "context") for id in ids])
    found = [one.value for one in bench.wait(*ids) if isinstance(one, Succeeded)]
    assert [one[:2] for one in found] == [[id, 1] for id in ids]
    assert len({one[2] for one in found}) == 1


def test_a_synchronous_task_runs_in_a_thread(bench: Bench) -> None:
    assert bench.run(task="aio.sync") == Succeeded("queuekit-job", '"queuekit-job"')


@pytest.mark.parametrize("task", ["aio.do", "aio.sync"])
def test_the_outcome_is_told_inside_what_stands_around_the_attempt(bench: Bench, task: str) -> None:
    said: list[str] = []

    class Instrument:
        def __call__(self, event: JobEvent, /) -> None:
            said.append(event.kind.value)

        @contextmanager
        def around_attempt(self, event: JobEvent, /) -> Iterator[None]:
            said.append("attempt")
            yield
            said.append("attempt over")

    bench.execution.hooks = Hooks([Instrument()])
    bench.store.away["finish"] = 1
    assert isinstance(bench.run(task=task), Succeeded)
    assert said == ["started", "attempt", "succeeded", "attempt over"]


@contextmanager
def cycles() -> Iterator[list[object]]:
    """What only a search for circles finds: until then it is kept, with the arguments of jobs that have ended."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.freeze()  # what other tests have left, and a thread of theirs may let go of meanwhile
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [one for one in gc.garbage if type(one).__module__.startswith("queuekit.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("hooks", [[], [lambda event: None]], ids=["no hooks", "a hook"])
@pytest.mark.parametrize(("task", "what"), [("aio.do", "seven"), ("aio.do", "context"), ("aio.sync", "seven")])
def test_nothing_of_a_job_that_has_succeeded_leads_back_to_itself(
    bench: Bench, task: str, what: str, hooks: list[Any]
) -> None:
    bench.execution.hooks = Hooks(hooks)
    with cycles() as found:
        bench.run(what, task=task)
        bench.outcomes.clear()
        until = time.monotonic() + PATIENCE
        while bench.runner._jobs and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.01)  # the threads leave their last frames
    assert found == []


def test_a_retry_is_claimed_with_the_state_before_it(bench: Bench) -> None:
    key, delivery = bench.job("j", "away")
    bench.runner.take([(key, delivery)])
    assert isinstance(bench.wait("j")[0], Retried)
    bench.outcomes.clear()
    bench.store._clock.advance(7)  # type: ignore[attr-defined]
    bench.runner.take([(key, delivery)])
    assert isinstance(bench.wait("j")[0], Failed)
    record = bench.store.get("j")
    assert record is not None
    assert [one.outcome for one in record.attempts()] == ["retried", "failed"]


def test_an_error_without_a_rule_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(bench.run("bug"), Failed)
    (said,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert said.exc_info is not None
    assert isinstance(said.exc_info[1], TypeError)


def test_what_is_private_is_not_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    key, delivery = bench.job("j", "bug", private=True)
    bench.runner.take([(key, delivery)])
    assert isinstance(bench.wait("j")[0], Failed)
    assert "TypeError (private)" in caplog.text
    assert "a bug" not in caplog.text


def test_a_task_that_exits_takes_nobody_along(bench: Bench) -> None:
    bench.runner.take([bench.job("j", "leave"), bench.job("k")])
    first, second = bench.wait("j", "k")
    assert isinstance(first, Retried)
    assert second == Succeeded(7, "7")


def test_one_that_is_over_is_dropped_and_the_others_run(bench: Bench) -> None:
    key, delivery = bench.job("j")
    bench.runner.take([(key, delivery)])
    bench.wait("j")
    bench.runner.take([("again", delivery), bench.job("k")])
    again, other = bench.wait("again", "k")
    assert again == Dropped("it has succeeded")
    assert other == Succeeded(7, "7")


def test_over_the_hard_limit(bench: Bench) -> None:
    outcome = bench.run("for ever", timeout=0.05)
    assert isinstance(outcome, Retried)
    record = bench.store.get("j")
    assert record is not None
    assert record.attempts()[0].category is Category.time_limit


def test_a_cancel(bench: Bench) -> None:
    bench.runner.take([bench.job("j", "for ever")])
    bench.started("j")
    assert bench.store.cancel("j", "no more") == "requested"
    assert bench.wait("j") == [Ended("no more")]


def test_arguments_that_do_not_fit_are_handed_back(bench: Bench) -> None:
    key, delivery = bench.job("j")
    message = Message.open(bench.store._jobs["j"].message)
    bench.store._jobs["j"].message = Message(
        id="j", task=message.task, args=[1, 2, 3], kwargs={}, queue="q", backend="memory"
    ).seal()
    bench.runner.take([(key, delivery), bench.job("k")])
    first, second = bench.wait("j", "k")
    assert isinstance(first, Released)
    assert second == Succeeded(7, "7")


def test_while_the_store_is_away_nothing_is_lost(bench: Bench) -> None:
    bench.store.away = {"claim": 15, "finish": 25}
    ids = [f"j{number}" for number in range(10)]
    bench.runner.take([bench.job(id) for id in ids])
    assert bench.wait(*ids) == [Succeeded(7, "7")] * 10
    assert all(len(bench.store.get(id).runs) == 1 for id in ids)  # type: ignore[union-attr]


def test_a_store_that_stays_away_does_not_keep_a_worker_that_stops(bench: Bench) -> None:
    bench.store.away = {"claim": 10**9}
    bench.stopping.set()
    bench.runner.take([bench.job("j"), bench.job("k")])
    assert all(isinstance(one, Unrecorded) for one in bench.wait("j", "k"))
    bench.store.away = {"finish": 10**9}
    bench.runner.take([bench.job("l")])
    assert isinstance(bench.wait("l")[0], Unrecorded), "after the grace"


def test_there_is_room_for_so_many(bench: Bench) -> None:
    assert bench.runner.room() == Room(10)
    bench.runner.take([bench.job(f"j{number}", "for ever") for number in range(9)])
    assert bench.runner.room() == Room(1)
    bench.runner.take([bench.job("k", "for ever")])
    assert bench.runner.room(0.01) is None
    bench.store.cancel("k", "")
    assert bench.runner.room(PATIENCE) == Room(1)
    bench.stopping.set()
    assert bench.runner.end()


def test_a_stop_hands_back_what_runs(bench: Bench) -> None:
    bench.runner.take([bench.job("j", "for ever"), bench.job("k", "for ever")])
    bench.started("j")
    assert bench.runner.busy
    bench.stopping.set()
    bench.runner.drain()
    assert bench.runner.end()
    assert bench.wait("j", "k") == [Released("the worker stopped")] * 2
    assert not bench.runner.busy
    record = bench.store.get("j")
    assert record is not None
    assert (record.status, record.attempt) == ("queued", 0)


def test_what_swallows_its_cancel_is_handed_back_under_it(bench: Bench) -> None:
    bench.runner.take([bench.job("j", "stubborn")])
    bench.started("j")
    bench.stopping.set()
    bench.runner.drain(hurry=lambda: True)
    assert not bench.runner.end()
    record = bench.store.get("j")
    assert record is not None
    assert [one.outcome for one in record.attempts()] == ["released"]


# ---- caps ----------------------------------------------------------------------------------------------------------


def test_a_task_at_its_cap_is_kept_back_and_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    bench = Bench(monkeypatch, Caps(("q",), tasks={"aio.do": 1}))
    ids = ["a", "b", "c"]
    bench.runner.take([*(bench.job(id, "for ever") for id in ids), bench.job("s", task="aio.sync")])
    bench.wait("s")
    bench.started("a")
    for place, id in enumerate(ids):
        assert bench.begun == ["a", "s", *ids[1 : place + 1]]
        for later in ids[place + 1 :]:
            record = bench.store.get(later)
            assert record is not None
            assert record.attempts() == ()
        bench.store.cancel(id, "")
        bench.wait(id)
        assert bench.runner.room(PATIENCE) is not None  # it starts the next
    room = bench.runner.room()
    assert room is not None
    assert (room.most, room.wait) == (10, True)


def test_a_queue_at_its_cap_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    bench = Bench(monkeypatch, Caps(("q", "other"), queues={"q": 2}))
    bench.runner.take([bench.job("a", "for ever"), bench.job("b", "for ever")])
    room = bench.runner.room()
    assert room is not None
    assert (room.of("q"), room.of("other"), room.wait) == (0, 8, False)
    bench.store.cancel("b", "")
    bench.wait("b")
    bench.runner.pause(PATIENCE)  # until then, and no longer
    room = bench.runner.room()
    assert room is not None
    assert (room.of("q"), room.wait) == (1, True)
    bench.stopping.set()
    assert bench.runner.end()


def test_what_is_kept_back_is_given_back_unclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    bench = Bench(monkeypatch, Caps(("q",), tasks={"aio.do": 1}))
    bench.runner.take([bench.job(id, "for ever") for id in ("a", "b", "c")])
    bench.started("a")
    bench.stopping.set()
    assert bench.runner.give_back() == ["b", "c"]
    assert bench.runner.end()
    assert isinstance(bench.outcomes["a"], Released)
    for id in ("b", "c"):
        record = bench.store.get(id)
        assert record is not None
        assert (record.status, record.attempts()) == ("queued", ())


def test_another_message_of_what_is_kept_back_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, Caps(("q",), tasks={"aio.do": 1}))
    _, twin = kept = bench.job("b")
    bench.runner.take([bench.job("a", "for ever"), kept])
    bench.runner.take([("again", twin)])
    assert isinstance(bench.wait("again")[0], Dropped)
    bench.store.cancel("a", "")
    bench.wait("a")
    bench.runner.room(PATIENCE)
    assert bench.wait("b") == [Succeeded(7, "7")]
