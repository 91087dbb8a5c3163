"""One attempt, for every answer of the store and every end of a task. The memory store, no worker, no waiting."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Backoff, Category, DoNotRetry, RetryPolicy, RetryRule, Settings, agent_task, current_job
from queuekit.adapters.memory import VirtualClock
from queuekit.execution import (
    Delivery,
    Dropped,
    Ended,
    Execution,
    Failed,
    Held,
    Outcome,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.job import JobStatus
from queuekit.message import Message, Publication
from queuekit.store import NewJob, StoreAway
from queuekit.store.memory import MemoryStore
from queuekit.task import find_task

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(5)), RetryRule("category:time_limit")], max_attempts=2)


@agent_task(name="execution.do", retry=POLICY)
def do(what: str) -> Any:
    return DEEDS[what]()


@agent_task(name="execution.ado", retry=POLICY)
async def ado(what: str) -> Any:
    return await DEEDS[what]()


def fails(error: BaseException) -> Callable[[], Any]:
    def deed() -> Any:
        raise error

    return deed


DEEDS: dict[str, Callable[[], Any]] = {
    "return": lambda: 7,
    "attempt": lambda: [current_job().id, current_job().attempt],
    "connection": fails(ConnectionError("away")),
    "type": fails(TypeError("a bug")),
    "never": fails(DoNotRetry("enough")),
    "exit": fails(SystemExit(3)),
    "object": object,
}


class Bench:
    """A store with one job on it, and an execution for it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = VirtualClock(1_000_000)
        self.store = MemoryStore(clock=self.clock)
        self.settings = Settings(backend="memory", **settings)
        self.stopping = threading.Event()
        self.execution = self.another()

    def another(self, name: str = "w", find: Any = find_task) -> Execution:
        return Execution(
            self.store,
            self.settings,
            find=find,
            worker=lambda: name,
            renew=lambda: self.store.beat(name, start=True) and None,  # type: ignore[func-returns-value]
            stopping=self.stopping,
        )

    def job(self, what: str = "return", *, task: str = "execution.do", id: str = "j", **options: Any) -> Delivery:
        self.message = Message(id=id, task=task, args=[what], kwargs={}, queue="q", backend="memory", **options)
        made = self.store.create(
            NewJob(
                id, self.message.seal(), self.message.digest, self.message.route, "t", 60, delay=options.get("delay")
            )
        )
        bell = Publication(self.message, made.pseq or 0, made.number, made.epoch).doorbell
        return Delivery(bell, self.message.args, self.message.kwargs)

    def run(self, what: str = "return", **options: Any) -> Outcome:
        return self.execution.execute(self.job(what, **options))

    def status(self, id: str = "j") -> str:
        record = self.store.get(id)
        assert record is not None
        return record.status.value

    def attempts(self, id: str = "j") -> list[tuple[int, str, Category | None, float | None]]:
        record = self.store.get(id)
        assert record is not None
        return [(a.number, a.outcome, a.category, a.delay) for a in record.attempts()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("task", ["execution.do", "execution.ado"])
def test_success(bench: Bench, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def value() -> int:
        return 7

    if task == "execution.ado":
        monkeypatch.setitem(DEEDS, "return", value)
    assert bench.run(task=task) == Succeeded(7, "7")
    assert bench.status() == "succeeded"
    assert bench.store.result("j") == "7"
    assert bench.attempts() == [(1, "succeeded", None, None)]


def test_the_context_is_there_inside_and_gone_after(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setitem(DEEDS, "see", lambda: seen.append(current_job()))
    bench.run("see", timeout=60.0)
    (context,) = seen
    assert (context.id, context.attempt, context.task) == ("j", 1, "execution.do")
    assert context.deadline.timestamp() == 1_000_060
    assert current_job().id == ""


def test_a_result_that_is_not_kept(bench: Bench) -> None:
    assert bench.run(keep_result=False) == Succeeded(7, None)
    assert bench.store.result("j") is None


def test_an_error_with_a_rule_is_parked(bench: Bench) -> None:
    outcome = bench.run("connection")
    assert isinstance(outcome, Retried)
    assert 5 <= outcome.delay <= 6.25
    assert bench.status() == "retrying"
    assert bench.attempts() == [(1, "retried", Category.connection, outcome.delay)]


def test_the_last_attempt_fails(bench: Bench) -> None:
    delivery = bench.job("connection")
    bench.execution.execute(delivery)
    bench.clock.advance(7)
    outcome = bench.execution.execute(delivery)  # the old doorbell does: the job is due
    assert isinstance(outcome, Failed)
    assert bench.status() == "failed"
    assert [a[:2] for a in bench.attempts()] == [(1, "retried"), (2, "failed")]


@pytest.mark.parametrize(("what", "category"), [("type", Category.unknown), ("never", Category.unknown)])
def test_an_error_without_a_rule_fails(bench: Bench, what: str, category: Category) -> None:
    assert isinstance(bench.run(what), Failed)
    assert bench.attempts() == [(1, "failed", category, None)]


def test_a_result_that_cannot_be_encoded_fails_and_says_so(bench: Bench) -> None:
    outcome = bench.run("object")
    assert isinstance(outcome, Failed)
    record = bench.store.get("j")
    assert record is not None
    assert "execution.do" in record.reason
    assert "return" in record.reason


def test_arguments_that_no_longer_fit_fail_and_name_the_parameter(bench: Bench) -> None:
    delivery = bench.job()
    outcome = bench.execution.execute(delivery)
    assert isinstance(outcome, Succeeded)
    bench.message = replace(bench.message, id="k", args=[3])
    made = bench.store.create(NewJob("k", bench.message.seal(), "d", bench.message.route, "t", 60))
    bell = Publication(bench.message, made.pseq or 0, 1, made.epoch).doorbell
    assert isinstance(bench.execution.execute(Delivery(bell, [3], {})), Failed)
    record = bench.store.get("k")
    assert record is not None
    assert "what" in record.reason


def test_a_task_that_exits_its_process_counts_as_lost(bench: Bench) -> None:
    outcome = bench.run("exit")
    assert isinstance(outcome, Retried)
    assert bench.attempts() == [(1, "retried", Category.lost, 0.0)]


def test_a_worker_that_stops_releases(bench: Bench) -> None:
    bench.stopping.set()
    assert isinstance(bench.run("exit"), Released)
    assert bench.attempts() == [(1, "released", None, None)]
    record = bench.store.get("j")
    assert record is not None
    assert (record.status, record.attempt) == (JobStatus.queued, 0)


# ---- time limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["execution.do", "execution.ado"])
def test_over_the_hard_limit(bench: Bench, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asleep() -> None:
        await asyncio.sleep(20)

    monkeypatch.setitem(DEEDS, "sleep", asleep if task == "execution.ado" else lambda: threading.Event().wait(20))
    outcome = bench.run("sleep", task=task, timeout=0.05)
    assert isinstance(outcome, Retried)
    assert bench.attempts()[0][:3] == (1, "retried", Category.time_limit)


def test_a_swallowed_hard_limit_is_one_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow() -> int:
        try:
            threading.Event().wait(20)
        except BaseException:
            return 7
        return 8

    monkeypatch.setitem(DEEDS, "swallow", swallow)
    assert isinstance(bench.run("swallow", timeout=0.05), Retried)


def test_async_code_that_swallows_its_limit_does_not_hold_the_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    async def stubborn() -> None:
        while not over.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    monkeypatch.setitem(DEEDS, "stubborn", stubborn)
    outcome = bench.run("stubborn", task="execution.ado", timeout=0.05)
    over.set()
    assert isinstance(outcome, Retried)


# ---- what the store answers ----------------------------------------------------------------------------------------


def held(bench: Bench, delivery: Delivery, name: str = "w") -> Held:
    found = bench.another(name).claim(delivery)
    assert isinstance(found, Held)
    return found


def test_a_second_delivery_of_a_running_job_is_dropped(bench: Bench) -> None:
    delivery = bench.job()
    held(bench, delivery)
    assert bench.execution.execute(delivery) == Dropped("an attempt is running")
    assert len(bench.attempts()) == 1


def test_a_second_delivery_of_a_finished_job_is_dropped(bench: Bench) -> None:
    delivery = bench.job()
    bench.execution.execute(delivery)
    assert bench.execution.execute(delivery) == Dropped("it has succeeded")
    assert len(bench.attempts()) == 1


def test_a_job_whose_time_has_not_come_is_dropped(bench: Bench) -> None:
    delivery = bench.job("connection")
    bench.execution.execute(delivery)
    assert bench.execution.execute(delivery) == Dropped("its time has not come")


def test_a_cancelled_job_is_dropped(bench: Bench) -> None:
    delivery = bench.job()
    bench.store.cancel("j", "no")
    assert bench.execution.execute(delivery) == Dropped("cancelled: no")


def test_an_expired_record_is_dropped(bench: Bench) -> None:
    delivery = bench.job()
    bench.store._jobs.clear()
    assert isinstance(bench.execution.execute(delivery), Dropped)
    assert bench.store.quarantined(1) == []


def test_a_message_of_a_lost_store_goes_to_quarantine(bench: Bench) -> None:
    delivery = bench.job()
    other = Bench()
    outcome = other.execution.execute(delivery)
    assert isinstance(outcome, Dropped)
    (kept,) = other.store.quarantined(5)
    assert "came back empty" in kept.reason
    assert Message.open(kept.raw).args == ["return"]


def test_or_is_adopted_where_the_settings_say_so(bench: Bench) -> None:
    delivery = bench.job()
    other = Bench(store_lost="adopt")
    assert other.execution.execute(delivery) == Succeeded(7, "7")
    assert other.status() == "succeeded"


def test_an_unknown_task_is_handed_back_and_costs_no_attempt(bench: Bench) -> None:
    delivery = bench.job(task="execution.nobody_knows")
    assert isinstance(bench.execution.execute(delivery), Released)
    record = bench.store.get("j")
    assert record is not None
    assert (record.attempt, record.status) == (0, JobStatus.queued)
    bench.clock.advance(4000)  # past unknown_grace, which counts from the enqueue
    outcome = bench.execution.execute(delivery)
    assert isinstance(outcome, Failed)
    assert bench.status() == "failed"


def test_a_doorbell_that_differs_from_the_record_is_not_believed(bench: Bench) -> None:
    delivery = bench.job("attempt")
    forged = replace(delivery, bell=replace(delivery.bell, timeout=0.001))
    assert isinstance(bench.execution.execute(forged), Released)
    assert "differs" in bench.store.quarantined(1)[0].reason
    assert isinstance(bench.execution.execute(delivery), Succeeded)


def test_an_outcome_after_the_attempt_was_ended_is_stale(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEEDS, "lose", lambda: bench.store.leave("w"))
    assert bench.run("lose") == Stale()
    assert bench.attempts()[0][1] == "lost"


def test_a_policy_in_the_record_outranks_the_task(bench: Bench) -> None:
    own = RetryPolicy([RetryRule(TypeError, Backoff.fixed(1))], max_attempts=3).to_dict()
    assert isinstance(bench.run("type", retry=own), Retried)


def test_a_lost_attempt_follows_the_plan_of_its_policy(bench: Bench) -> None:
    delivery = bench.job("connection")
    bench.execution.execute(delivery)
    bench.clock.advance(7)
    held(bench, delivery)
    bench.store.leave("w")
    assert [a[:2] for a in bench.attempts()] == [(1, "retried"), (2, "lost")]
    assert bench.status() == "failed"  # max_attempts=2 counts crashes too


# ---- a store that is away ------------------------------------------------------------------------------------------


class Away:
    """A store that answers StoreAway for so many calls."""

    def __init__(self, store: MemoryStore, times: int, only: str) -> None:
        self._store, self.left, self._only = store, times, only

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name != self._only:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise StoreAway("away", sent=False)
            return found(*args, **kwargs)

        return call


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.execution.STORE_AWAY_PAUSE", 0.0)


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("only", ["claim", "finish"])
def test_claim_and_outcome_wait_for_the_store(bench: Bench, only: str) -> None:
    delivery = bench.job()
    bench.execution.store = Away(bench.store, 3, only)  # type: ignore[assignment]
    assert bench.execution.execute(delivery) == Succeeded(7, "7")
    assert bench.status() == "succeeded"
    assert len(bench.attempts()) == 1


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("only", ["claim", "finish"])
def test_a_lost_reply_is_asked_for_again(bench: Bench, only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store did the step, and its answer never arrived: the attempt is still ours, and ends once."""
    delivery, real, lost = bench.job(), getattr(bench.store, only), [1]

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if lost:
            lost.pop()
            raise StoreAway("the reply was lost", sent=True)
        return answer

    bench.store.beat("w", start=True)
    monkeypatch.setattr(bench.store, only, call)
    assert bench.execution.execute(delivery) == Succeeded(7, "7")
    assert bench.attempts() == [(1, "succeeded", None, None)]


@pytest.mark.usefixtures("_no_pause")
def test_a_worker_that_stops_does_not_wait_for_ever() -> None:
    bench = Bench(grace=0.0)
    delivery = bench.job()
    bench.stopping.set()
    bench.execution.store = Away(bench.store, 10**9, "claim")  # type: ignore[assignment]
    assert isinstance(bench.execution.execute(delivery), Unrecorded)
    bench.execution.store = Away(bench.store, 10**9, "finish")  # type: ignore[assignment]
    assert isinstance(bench.execution.execute(delivery), Unrecorded)


# ---- cancel and stop -----------------------------------------------------------------------------------------------


def test_a_running_async_task_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.execution.Attendant.EVERY", 0.02)

    async def waits() -> None:
        bench.store.cancel("j", "enough")
        await asyncio.sleep(20)

    monkeypatch.setitem(DEEDS, "wait", waits)
    assert bench.run("wait", task="execution.ado") == Ended("enough")
    assert bench.status() == "cancelled"


def test_a_running_sync_task_learns_of_a_cancel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.execution.Attendant.EVERY", 0.02)

    def looks() -> None:
        bench.store.cancel("j", "enough")
        for _ in range(1000):
            current_job().raise_if_cancelled()
            threading.Event().wait(0.02)

    monkeypatch.setitem(DEEDS, "look", looks)
    assert bench.run("look") == Ended("enough")
    assert bench.status() == "cancelled"


def test_interrupt_in_the_own_thread_releases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> None:
        bench.stopping.set()
        bench.execution.interrupt_running()  # as a signal handler would

    monkeypatch.setitem(DEEDS, "told", told)
    assert isinstance(bench.run("told"), Released)
    assert bench.status() == "queued"


def test_interrupt_of_another_thread_releases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    running = threading.Event()

    def spins() -> None:
        running.set()
        for _ in range(10_000):
            threading.Event().wait(0.005)

    monkeypatch.setitem(DEEDS, "spin", spins)
    delivery, outcomes = bench.job("spin"), []
    thread = threading.Thread(target=lambda: outcomes.append(bench.execution.execute(delivery)))
    thread.start()
    running.wait(10)
    bench.stopping.set()
    bench.execution.interrupt_running()
    thread.join(10)
    assert [type(outcome) for outcome in outcomes] == [Released]


def test_release_running_hands_back_what_cannot_be_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def hands() -> None:
        assert bench.execution.release_running("the worker stops") == 1

    monkeypatch.setitem(DEEDS, "hand", hands)
    assert bench.run("hand") == Stale()
    assert bench.attempts() == [(1, "released", None, None)]


def test_private_errors_stay_private(bench: Bench) -> None:
    bench.run("type", private=True)
    record = bench.store.get("j")
    assert record is not None
    assert "a bug" not in repr(record.attempts())
    assert record.attempts()[0].error_type == "builtins.TypeError"


def test_async_tasks_share_one_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def loop_id() -> int:
        return id(asyncio.get_running_loop())

    monkeypatch.setitem(DEEDS, "loop", loop_id)
    first, second = bench.run("loop", task="execution.ado"), bench.run("loop", task="execution.ado", id="k")
    assert isinstance(first, Succeeded)
    assert isinstance(second, Succeeded)
    assert first.value == second.value  # one loop for the process
