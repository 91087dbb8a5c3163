"""One attempt, for every answer of the store and every end of a task. The memory store, no worker, no waiting."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import (
    Backoff,
    Category,
    DoNotRetry,
    PayloadError,
    RetryPolicy,
    RetryRule,
    Settings,
    agent_task,
    current_job,
)
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
from queuekit.execution.apart import read_outcome, write_outcome
from queuekit.job import JobStatus
from queuekit.message import Message, Publication
from queuekit.retry import describe_error
from queuekit.store import NewJob, StoreAway, Unreadable
from queuekit.store.ends import write_end
from queuekit.store.memory import MemoryStore
from queuekit.task import Task, find_task

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


OPTIONS: dict[str, Any] = {
    "queue": "q",
    "retry": None,
    "timeout": None,
    "soft_timeout": None,
    "result_ttl": None,
    "keep_result": True,
    "priority": 0,
    "private": False,
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


def unfit(bench: Bench, **options: Any) -> Delivery:
    """A job that was enqueued by a program where `what` was a number."""
    delivery = bench.job(**options)
    bench.store._jobs["j"].message = replace(bench.message, args=[12345]).seal()
    return delivery


def test_arguments_that_do_not_fit_here_are_handed_back_and_cost_no_attempt(bench: Bench) -> None:
    """A deploy changed the signature: this worker is not yet, or no longer, of the program that enqueued."""
    outcome = bench.execution.execute(unfit(bench))
    assert isinstance(outcome, Released)
    assert "arguments that were recorded" in outcome.reason
    assert "'what'" in outcome.reason
    assert (bench.status(), bench.attempts()) == ("queued", [(1, "released", None, None)])
    assert bench.store._jobs["j"].attempt == 0


def test_the_worker_whose_task_takes_them_runs_the_job(bench: Bench) -> None:
    delivery = unfit(bench)
    assert isinstance(bench.execution.execute(delivery), Released)

    def other_version(what: int) -> int:
        return what + 1

    task = Task(other_version, **OPTIONS, name="execution.do", unimportable=None, aliases=())
    bench.clock.advance(1)
    assert bench.another("x", find=lambda _: task).execute(delivery) == Succeeded(12346, "12346")
    assert [one[:2] for one in bench.attempts()] == [(1, "released"), (1, "succeeded")]


def test_arguments_that_fit_nowhere_become_a_dead_letter_that_names_the_parameter(bench: Bench) -> None:
    delivery = unfit(bench)
    assert isinstance(bench.execution.execute(delivery), Released)
    bench.clock.advance(3601)
    outcome = bench.execution.execute(delivery)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, PayloadError)
    assert outcome.error.parameter == "what"
    assert bench.status() == "failed"


def test_a_payload_error_of_the_task_itself_is_no_reason_to_hand_back(bench: Bench) -> None:
    """It enqueues another task with what does not fit that one: this fails here and in every worker."""
    DEEDS["nested"] = lambda: do.codec(1000).encode_arguments((3,), {})
    assert isinstance(bench.run("nested"), Failed)


def test_private_arguments_that_do_not_fit_are_not_quoted(bench: Bench) -> None:
    delivery = unfit(bench, private=True)
    first = bench.execution.execute(delivery)
    assert isinstance(first, Released)
    bench.clock.advance(3601)
    last = bench.execution.execute(delivery)
    assert isinstance(last, Failed)
    record = bench.store.get("j")
    assert record is not None
    assert "'what'" in first.reason
    assert "'what'" in record.reason
    assert "12345" not in f"{first.reason} {last.reason} {record.reason} {record.attempts()!r}"


def test_a_record_of_another_version_is_handed_back_untouched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = bench.job()
    answers = iter([Unreadable(9, ended=False), Unreadable(9, ended=True)])
    monkeypatch.setattr(bench.store, "claim", lambda **_: next(answers))
    assert bench.execution.execute(delivery) == Released("this worker reads no records of version 9")
    assert bench.execution.execute(delivery) == Dropped("it has failed: this worker reads no records of version 9")


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


def test_a_doorbell_without_a_record_goes_to_quarantine(bench: Bench) -> None:
    """It has expired, or somebody has made it up."""
    delivery = bench.job()
    bench.store._jobs.clear()
    assert isinstance(bench.execution.execute(delivery), Dropped)
    (kept,) = bench.store.quarantined(5)
    assert (kept.reason, kept.source) == ("marked as ours, and this store has no record of it (any more)", "memory:q:0")
    assert json.loads(kept.raw)["queuekit"]["id"] == "j"


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


@pytest.mark.parametrize("of", ["private", "left_out"])
def test_but_not_with_placeholders_for_arguments(bench: Bench, of: str) -> None:
    delivery = bench.job()
    other = Bench(store_lost="adopt")
    outcome = other.execution.execute(replace(delivery, bell=replace(delivery.bell, **{of: True})))
    assert isinstance(outcome, Dropped)
    assert len(other.store.quarantined(5)) == 1


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


def test_a_plan_may_be_spared_where_only_its_attempts_are_used_up(bench: Bench) -> None:
    def plans(policy: RetryPolicy) -> tuple[float | None, bool]:
        lost, limit = bench.execution._plans(policy, "j", "")
        assert not limit.spare
        return lost.delay, lost.spare

    assert plans(RetryPolicy(max_attempts=1)) == (None, True)
    assert plans(RetryPolicy(max_attempts=2)) == (0.0, False)
    assert plans(RetryPolicy(on_lost="fail", max_attempts=1)) == (None, False)
    assert plans(RetryPolicy([RetryRule("category:lost", action="fail")])) == (None, False)
    assert plans(RetryPolicy([RetryRule("category:lost", Backoff.fixed(1))], max_attempts=1)) == (None, True)


# ---- suspects ------------------------------------------------------------------------------------------------------


class FakeApart:
    """A process that says what it is told to."""

    pid = 1

    def __init__(self, *said: dict[str, Any], code: int = 0) -> None:
        self.said, self.code = list(said), code
        self.killed = False
        self.told: list[Any] = []

    def hear(self) -> dict[str, Any] | None:
        if not self.said:
            raise EOFError
        return self.said.pop(0)

    def stop(self) -> None:
        self.told.append("stop")

    def cancel(self, reason: str) -> None:
        self.told.append(reason)

    def kill(self) -> None:
        self.killed = True

    def end(self) -> int:
        return self.code


def suspected(bench: Bench, process: FakeApart | OSError, **job: Any) -> tuple[Execution, Delivery]:
    """An execution that shares its process, and the delivery of a job that was lost before."""
    delivery = bench.job(**job)
    assert isinstance(bench.another("gone").claim(delivery), Held)
    bench.store.leave("gone")

    def apart(held: Held) -> Any:
        if isinstance(process, OSError):
            raise process
        return process

    shared = Execution(
        bench.store,
        bench.settings,
        find=bench.execution._find,
        worker=lambda: "w",
        renew=lambda: bench.store.beat("w", start=True) and None,  # type: ignore[func-returns-value]
        stopping=bench.stopping,
        apart=apart,
    )
    return shared, delivery


def test_a_suspect_runs_apart_and_its_outcome_is_told_here(bench: Bench) -> None:
    process = FakeApart({"claimed": 2, "started": 1_000_000.0}, {"outcome": "Succeeded", "text": "7"})
    shared, delivery = suspected(bench, process)
    held = shared.claim(delivery)
    assert isinstance(held, Held)
    assert held.apart == delivery
    assert bench.status() == "retrying"  # the process claims it
    assert shared.run(held) == Succeeded(7, "7")
    assert shared.attendant.running() == []


def test_without_a_process_of_its_own_it_runs_nowhere_here(bench: Bench) -> None:
    shared, delivery = suspected(bench, OSError("no more processes"))
    outcome = shared.execute(delivery)
    assert outcome == Released("this worker cannot start a process to run it alone in: no more processes")
    record = bench.store.get("j")
    assert record is not None
    assert (record.status, record.attempt, record.suspect) == (JobStatus.queued, 1, 1)


def test_a_process_that_ends_before_it_has_claimed(bench: Bench) -> None:
    shared, delivery = suspected(bench, FakeApart(code=3))
    outcome = shared.execute(delivery)
    assert outcome == Released("this worker cannot run it alone: the process for it ended at once (3)")


def test_a_process_that_was_stopped_before_it_has_claimed(bench: Bench) -> None:
    shared, delivery = suspected(bench, FakeApart())
    bench.stopping.set()
    assert shared.execute(delivery) == Unrecorded("the worker stops")


def test_a_process_that_dies_is_for_the_steward(bench: Bench) -> None:
    shared, delivery = suspected(bench, FakeApart({"claimed": 2, "started": 1_000_000.0}, code=-9))
    assert shared.execute(delivery) == Stale()


def test_what_this_worker_does_not_know_needs_no_process(bench: Bench) -> None:
    shared, delivery = suspected(bench, OSError("must not be started"))
    shared._find = lambda _: None
    outcome = shared.execute(delivery)
    assert outcome == Released("this worker does not know the task 'execution.do'")


def test_another_suspect_here_makes_it_wait(bench: Bench) -> None:
    shared, delivery = suspected(bench, FakeApart())
    bench.store._jobs["j"].suspect = 2
    beside = bench.job(id="k")
    assert isinstance(shared.claim(beside), Held)
    bench.store._jobs["k"].suspect = 2
    assert shared.execute(delivery) == Dropped("it runs alone next, and another such job runs here")


def test_outcomes_travel_as_json() -> None:
    for outcome in (
        Succeeded({"a": [1]}, '{"a": [1]}'),
        Succeeded(None, None),
        Dropped("why"),
        Unrecorded("why"),
        Released("why"),
        Ended("why"),
        Stale(),
    ):
        assert read_outcome(json.loads(json.dumps(write_outcome(outcome)))) == outcome
    try:
        raise LookupError("no page")
    except LookupError as error:
        told = [Retried(2.5, "again", error), Failed("enough", error)]
    for one in told:
        found = read_outcome(json.loads(json.dumps(write_outcome(one))))
        assert isinstance(found, type(one))
        assert isinstance(found, (Retried, Failed))
        assert found.reason == one.reason
        assert (describe_error(found.error).error_type, str(found.error)) == ("builtins.LookupError", "no page")
        assert 'raise LookupError("no page")' in found.error.__notes__[0]


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


def test_what_is_over_its_limit_is_not_handed_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not count, at any number of deployments. It ends with the process, by its limit."""

    def hands() -> None:
        (stop,) = bench.execution.attendant.running()
        stop.limit = 0.0
        assert bench.execution.release_running("the worker stops") == 1
        assert bench.status() == "running"
        bench.clock.advance(60)
        assert bench.store.leave("w") == ["j"]

    monkeypatch.setitem(DEEDS, "hand", hands)
    assert bench.run("hand", timeout=60) == Stale()
    assert bench.attempts()[0][:3] == (1, "retried", Category.time_limit)


@pytest.mark.parametrize("task", ["execution.do", "execution.ado"])
def test_what_goes_on_over_its_limit_is_told_once_and_ends_nothing_in_the_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr("queuekit.execution.Attendant.EVERY", 0.01)
    monkeypatch.setattr("queuekit.execution.stops.BACKSTOP", 0.0)
    told: list[str] = []
    execution = Execution(
        bench.store,
        bench.settings,
        find=find_task,
        worker=lambda: "w",
        renew=lambda: bench.store.beat("w", start=True) and None,  # type: ignore[func-returns-value]
        leave=lambda held: told.append(held.message.id),
    )

    def swallows() -> None:
        looks = 0
        while looks < 20:  # it is told of once, however long it goes on
            try:
                threading.Event().wait(0.005)
            except BaseException:
                pass
            looks += bool(told)
        assert (execution.stuck, execution.only_stuck) == ({"j"}, True)
        assert bench.status() == "running"

    async def aswallows() -> None:
        swallows()

    monkeypatch.setitem(DEEDS, "swallow", swallows if task == "execution.do" else aswallows)
    outcome = in_time(lambda: execution.execute(bench.job("swallow", task=task, timeout=0.05)))
    assert isinstance(outcome, Retried)  # it has ended after all, before the process did
    assert bench.attempts()[0][:3] == (1, "retried", Category.time_limit)
    assert told == ["j"]
    assert (execution.stuck, execution.only_stuck) == (frozenset(), True)


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


# ---- what a task may do to its worker ------------------------------------------------------------------------------


def in_time(work: Callable[[], Any]) -> Any:
    """In a thread, so that what hangs fails."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    return found[0]


def adeed(deed: Callable[[], Any]) -> Callable[[], Any]:
    async def run() -> Any:
        found = deed()
        return await found if asyncio.iscoroutine(found) else found

    return run


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_async_task_that_exits_takes_neither_its_attempt_nor_the_loop_along(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setitem(DEEDS, "exit", adeed(fails(error)))
    monkeypatch.setitem(DEEDS, "return", adeed(lambda: 7))
    outcome = in_time(lambda: bench.run("exit", task="execution.ado"))
    assert isinstance(outcome, Retried)
    assert bench.attempts() == [(1, "retried", Category.lost, 0.0)]
    assert in_time(lambda: bench.run(task="execution.ado", id="k")) == Succeeded(7, "7")


def test_an_async_task_that_stops_the_loop_stops_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEEDS, "stop", adeed(lambda: asyncio.get_running_loop().stop()))
    monkeypatch.setitem(DEEDS, "return", adeed(lambda: 7))
    assert in_time(lambda: bench.run("stop", task="execution.ado")) == Succeeded(None, "null")
    assert in_time(lambda: bench.run(task="execution.ado", id="k")) == Succeeded(7, "7")


def test_a_blocked_loop_does_not_hold_an_attempt_over_its_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the coroutine start when nobody waits for it any more, without a fence."""
    from queuekit.loops import process_loop

    begun, blocked, free = [], threading.Event(), threading.Event()
    monkeypatch.setitem(DEEDS, "begin", adeed(lambda: begun.append(1)))
    monkeypatch.setattr("queuekit.execution.SWALLOWED", 0.05)
    process_loop().call_soon_threadsafe(lambda: blocked.set() or free.wait(20))  # type: ignore[func-returns-value]
    blocked.wait(10)
    try:
        outcome = in_time(lambda: bench.run("begin", task="execution.ado", timeout=0.05))
    finally:
        free.set()
    assert isinstance(outcome, Retried)
    assert bench.attempts()[0][:3] == (1, "retried", Category.time_limit)
    settled = threading.Event()
    process_loop().call_soon_threadsafe(settled.set)
    settled.wait(10)
    assert begun == []


def test_an_error_whose_text_ends_the_process_ends_the_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    monkeypatch.setitem(DEEDS, "hostile", fails(Hostile()))
    assert isinstance(bench.run("hostile"), Failed)
    assert bench.attempts() == [(1, "failed", Category.unknown, None)]


def test_text_that_is_no_valid_unicode_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEEDS, "half", fails(TypeError("\ud800")))
    assert isinstance(bench.run("half"), Failed)
    record = bench.store.get("j")
    assert record is not None
    assert record.attempts()[0].error_message == "\ud800"


def test_private_values_stay_out_of_what_cannot_be_encoded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEEDS, "refused", lambda: do.codec(1000).encode_arguments(({"password": "hunter2"},), {}))
    outcome = bench.run("refused", private=True)
    assert isinstance(outcome, Failed)
    record = bench.store.get("j")
    assert record is not None
    assert "what" in outcome.reason  # the parameter is named
    assert "hunter2" not in f"{outcome.reason} {record.reason} {record.attempts()!r}"


# ---- plans, policies and versions ----------------------------------------------------------------------------------


def test_a_crash_before_the_first_failure_does_not_use_up_the_time_for_retries(bench: Bench) -> None:
    policy = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(5))], max_attempts=9, max_elapsed=60).to_dict()
    delivery = bench.job("connection", retry=policy)
    held(bench, delivery)
    bench.store.leave("w")
    bench.clock.advance(1)
    assert isinstance(bench.execution.execute(delivery), Retried)
    bench.clock.advance(50)
    assert isinstance(bench.execution.execute(delivery), Retried)
    bench.clock.advance(50)
    assert isinstance(bench.execution.execute(delivery), Failed)  # and counts from the first that was seen


@pytest.mark.parametrize(
    "recorded",
    [{"version": 3}, {"retry": "a policy of other settings"}, {"retry": {"from": "a later version"}}],
)
def test_what_this_worker_cannot_read_is_handed_back(bench: Bench, recorded: dict[str, Any]) -> None:
    delivery = bench.job()
    bench.store._jobs["j"].message = json.dumps({**json.loads(bench.message.seal()), **recorded})
    own = replace(delivery, bell=replace(delivery.bell, own_policy="retry" in recorded))
    outcome = bench.execution.execute(own)
    assert isinstance(outcome, Released)
    assert "cannot run it" in outcome.reason
    assert bench.store._jobs["j"].attempt == 0
    bench.clock.advance(4000)
    assert isinstance(bench.execution.execute(own), Failed)


def test_the_grace_of_an_unknown_task_counts_from_the_first_hand_back(bench: Bench) -> None:
    delivery = bench.job(task="execution.nobody_knows")
    bench.clock.advance(7 * 86400)  # it waited in a queue, or was scheduled for today
    assert isinstance(bench.execution.execute(delivery), Released)
    bench.clock.advance(1800)
    assert isinstance(bench.execution.execute(delivery), Released)
    bench.clock.advance(1801)
    assert isinstance(bench.execution.execute(delivery), Failed)


def test_the_grace_does_not_count_what_ran_before(bench: Bench) -> None:
    """For hours, until its worker was stopped for the deploy that it is handed back in."""
    delivery = held(bench, bench.job())
    bench.clock.advance(3 * 3600)
    bench.stopping.set()
    assert bench.execution.release_running("the worker stopped") == 0
    assert bench.store.release("j", delivery.token, write_end("released", reason="the worker stopped"), 0)
    strangers = bench.another("x", find=lambda _: None)
    again = Delivery(Publication(bench.message, 1, 1, bench.store.epoch()).doorbell, [], {})
    assert isinstance(strangers.execute(again), Released)
    bench.clock.advance(3601)
    assert isinstance(strangers.execute(again), Failed)


# ---- interrupts and leaks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["execution.do", "execution.ado"])
def test_nothing_starts_once_the_worker_was_interrupted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """A signal may come between the claim and the code: nobody would be there to be told."""
    begun: list[int] = []
    monkeypatch.setitem(
        DEEDS, "begin", (lambda: begun.append(1)) if task == "execution.do" else adeed(asyncio.Event().wait)
    )
    delivery = held(bench, bench.job("begin", task=task))
    bench.stopping.set()
    bench.execution.interrupt_running()
    assert isinstance(in_time(lambda: bench.execution.run(delivery)), Released)
    assert begun == []


def test_a_cancelled_task_may_take_its_time_to_clean_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.execution.Attendant.EVERY", 0.01)
    cleaned = []

    async def waits() -> None:
        bench.store.cancel("j", "enough")
        try:
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0.2)
            cleaned.append(1)

    monkeypatch.setitem(DEEDS, "wait", waits)
    assert bench.run("wait", task="execution.ado") == Ended("enough")
    assert cleaned == [1]


def test_an_execution_leaves_no_thread_and_no_hook_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    monkeypatch.setattr("queuekit.execution.Attendant.EVERY", 0.01)
    bench.run()
    thread, gone = bench.execution.attendant._thread, weakref.ref(bench.execution.attendant)
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()
    assert bench.run(id="k") == Succeeded(7, "7")  # and another is started
    thread = bench.execution.attendant._thread
    if thread is not None:
        thread.join(10)
    del bench.execution
    gc.collect()
    assert gone() is None
