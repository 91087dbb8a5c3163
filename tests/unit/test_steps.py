"""Steps of a job, attempt by attempt, on the memory backend."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import (
    App,
    Backoff,
    ConfigError,
    JobFailed,
    RetryPolicy,
    RetryRule,
    Settings,
    StaleAttempt,
    StepChanged,
    StepError,
    StepUnknown,
    agent_task,
    current_job,
)
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

POLICY = RetryPolicy(
    [RetryRule(ConnectionError, Backoff.fixed(1)), RetryRule("category:rate_limit", Backoff.fixed(1))], max_attempts=4
)

did: Counter[str] = Counter()
keys: list[str] = []
code: Callable[[], Any]
acode: Callable[[], Awaitable[Any]]


class Busy(Exception):
    status_code = 429


@agent_task(name="steps.run", retry=POLICY)
def run() -> Any:
    return code()


@agent_task(name="steps.arun", retry=POLICY)
async def arun() -> Any:
    return await acode()


def do(what: str, error: Exception | None = None) -> str:
    did[what] += 1
    keys.append(current_job().idempotency_key)
    if error is not None:
        raise error
    return what.upper()


async def ado(what: str, error: Exception | None = None) -> str:
    await asyncio.sleep(0)
    return do(what, error)


def first_time() -> bool:
    return current_job().attempt == 1


def fail_once() -> None:
    if first_time():
        raise ConnectionError("away")


@pytest.fixture(autouse=True)
def app() -> Iterator[App]:
    did.clear()
    keys.clear()
    made = App(Settings(backend="memory", steps_limit=2000))
    with made.activate():
        yield made
    made.close()


def play(app: App, what: Callable[[], Any], *, result: bool = True) -> Any:
    """The result of a job that runs this in each of its attempts."""
    global code
    code = what
    job = run.enqueue()
    app.run_until_idle()
    return job.result(timeout=0) if result else job


def aplay(app: App, what: Callable[[], Awaitable[Any]]) -> Any:
    global acode
    acode = what
    job = arun.enqueue()
    app.run_until_idle()
    return job.result(timeout=0)


# ---- what it is for ------------------------------------------------------------------------------------------------


def test_a_retry_goes_on_after_the_last_finished_step(app: App) -> None:
    def task() -> list[str]:
        step = current_job().step
        out = [step("plan", do, "plan")]
        out += [step("draft", do, f"draft {n}") for n in range(3)]
        fail_once()
        return [*out, step("draft", do, "last")]

    assert play(app, task) == ["PLAN", "DRAFT 0", "DRAFT 1", "DRAFT 2", "LAST"]
    assert set(did.values()) == {1}


def test_an_async_one_too_and_gathered(app: App) -> None:
    """The order of the calls counts, and not the order in which they end."""
    event = asyncio.Event()

    async def slow(what: str) -> str:
        await event.wait()
        return do(what)

    async def last(what: str) -> str:
        event.set()
        return do(what)

    async def task() -> list[str]:
        step = current_job().astep
        out = await asyncio.gather(step("part", slow, "a"), step("part", slow, "b"), step("part", last, "c"))
        fail_once()
        return [*out, await step("end", ado, "d")]

    assert aplay(app, task) == ["A", "B", "C", "D"]
    assert set(did.values()) == {1}


def test_of_what_was_gathered_only_what_failed_runs_again(app: App) -> None:
    async def task() -> list[str]:
        step = current_job().astep
        error = ConnectionError("away") if first_time() else None
        calls = [step("part", ado, "a"), step("part", ado, "b", error), step("part", ado, "c")]
        out = await asyncio.gather(*calls, return_exceptions=True)
        for one in out:
            if isinstance(one, Exception):
                raise one
        return [str(one) for one in out]

    assert aplay(app, task) == ["A", "B", "C"]
    assert did == {"a": 1, "b": 2, "c": 1}


def test_what_runs_beside_a_step_that_fails_is_paid_for_and_kept(app: App) -> None:
    """gather() raises the first error and lets the others run; none of them begins another step."""
    begun = asyncio.Event()

    async def slow(what: str) -> str:
        begun.set()
        await asyncio.sleep(0.05)
        return do(what)

    async def fails() -> str:
        await begun.wait()
        return do("fails", ConnectionError("away") if first_time() else None)

    async def task() -> list[str]:
        step = current_job().astep

        async def chapter() -> str:
            first = await step.options(key=1)("part", slow, "slow")
            return first + await step.options(key=2)("part", ado, "after it")

        return [*await asyncio.gather(step("fails", fails), chapter())]

    async def in_a_group() -> list[str]:
        """A TaskGroup cancels the others: that is its meaning."""
        async with asyncio.TaskGroup() as group:
            step = current_job().astep
            parts = [group.create_task(step("fails", fails)), group.create_task(step("slow", slow, "slow"))]
        return [part.result() for part in parts]

    assert aplay(app, task) == ["FAILS", "SLOWAFTER IT"]
    assert did == {"fails": 2, "slow": 1, "after it": 1}
    did.clear()
    begun.clear()
    assert aplay(app, in_a_group) == ["FAILS", "SLOW"]
    assert did == {"fails": 2, "slow": 1}


def test_a_step_of_an_attempt_that_has_ended_does_not_begin(app: App) -> None:
    left: list[Any] = []

    async def late() -> str:
        await asyncio.sleep(0.05)
        return await current_job().astep("late", ado, "late")

    async def task() -> None:
        left.append(asyncio.create_task(late()))

    async def look() -> None:
        with pytest.raises(StaleAttempt):
            await left[0]

    aplay(app, task)
    aplay(app, look)
    assert did == {}


def test_a_failed_step_runs_again(app: App) -> None:
    def task() -> str:
        current_job().step("plan", do, "plan")
        return current_job().step("draft", do, "draft", ConnectionError("away") if first_time() else None)

    assert play(app, task) == "DRAFT"
    assert did == {"plan": 1, "draft": 2}


def test_a_revived_job_goes_on_from_its_steps_and_with_other_arguments_anew(app: App) -> None:
    broken = True

    def task() -> str:
        current_job().step("plan", do, "plan")
        if broken:
            raise ValueError("a bug")
        return current_job().step("draft", do, "draft")

    job = play(app, task, result=False)
    assert job.status() == "failed"
    broken = False
    app.revive(job.id)
    app.run_until_idle()
    assert (job.result(timeout=0), did) == ("DRAFT", {"plan": 1, "draft": 1})

    broken = True
    job = play(app, task, result=False)
    app.revive(job.id, arguments=([], {}))
    app.run_until_idle()
    assert did == {"plan": 3, "draft": 1}


# ---- results -------------------------------------------------------------------------------------------------------


def test_results_are_of_their_declared_type_and_none_is_one(app: App) -> None:
    def nothing() -> None:
        did["nothing"] += 1

    def day() -> date:
        did["day"] += 1
        return date(2026, 1, 2)

    def task() -> list[str]:
        found = [current_job().step("nothing", nothing), current_job().step("day", day)]
        fail_once()
        return [repr(one) for one in found]

    assert play(app, task) == ["None", "datetime.date(2026, 1, 2)"]
    assert did == {"nothing": 1, "day": 1}


class Model:
    def ask(self, what: str, *, loud: bool = False) -> str:
        return do(what + "!" * loud)


def test_methods_partials_lambdas_and_keywords(app: App) -> None:
    model = Model()

    def task() -> list[str]:
        step = current_job().step
        out = [
            step("ask", model.ask, "a", loud=True),
            step("part", functools.partial(do, "b")),
            step("lambda", lambda: do("c")),
        ]
        fail_once()
        return out

    assert play(app, task) == ["A!", "B", "C"]
    assert set(did.values()) == {1}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "step .*cannot travel as JSON|step .*object"),
        ("x" * 3000, r"the steps of job \w+ take 3002 bytes, over the limit of 2000.*steps_limit"),
    ],
)
def test_what_cannot_be_kept_ends_the_job(app: App, value: object, said: str) -> None:
    with pytest.raises(JobFailed, match=said):
        play(app, lambda: current_job().step("make", lambda: value))


def test_a_result_is_never_larger_than_a_payload() -> None:
    app = App(Settings(backend="memory", payload_limit=100))
    with app.activate(), pytest.raises(JobFailed, match="over the limit of 100 bytes"):
        play(app, lambda: current_job().step("make", lambda: "x" * 100))
    app.close()


def test_a_payload_codec_encodes_what_is_kept() -> None:
    class Reverse:
        def encode(self, data: bytes, context: Any, /) -> bytes:
            assert context.kind in {"arguments", "result", "step"}
            return data[::-1]

        def decode(self, data: bytes, context: Any, /) -> bytes:
            return data[::-1]

    app = App(Settings(backend="memory", codec=Reverse()))
    seen: list[Any] = []

    def task() -> str:
        found = current_job().step("plan", do, "secret")
        seen.append(app.store.steps(current_job().id))
        fail_once()
        return found

    with app.activate():
        assert play(app, task) == "SECRET"
    assert (did["secret"], len(seen)) == (1, 2)
    assert "SECRET" not in str(seen)
    app.close()


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        ("", ""),
        ("a text", "the step has no signature"),
        ("another step's", "the signature of the step is of none of the keys here"),
    ],
)
def test_what_is_kept_is_signed_where_there_is_a_key(forged: str, said: str) -> None:
    """Who can write to the store, and has no key, gives no step a result: neither his own nor another step's."""
    app = App(Settings(backend="memory", signing_key="a-key-that-nobody-can-guess-7"))

    def task() -> list[str]:
        step = current_job().step
        out = [step("plan", do, "plan"), step("draft", do, "draft")]
        kept = app.store._jobs[current_job().id].steps  # type: ignore[attr-defined]
        if forged:
            text = '"forged"' if forged == "a text" else kept["plan#0"].text
            kept["draft#0"] = replace(kept["draft#0"], text=text)
        fail_once()
        return out

    with app.activate():
        if forged:
            with pytest.raises(JobFailed, match=f"step 'draft#0' of job .*: {said}"):
                play(app, task)
        else:
            assert play(app, task) == ["PLAN", "DRAFT"]
        assert did == {"plan": 1, "draft": 1}
    app.close()


# ---- names and order -----------------------------------------------------------------------------------------------


def test_a_step_with_a_key_is_found_wherever_it_is_called(app: App) -> None:
    def task() -> list[str]:
        chapters = ["a", "b", "c"] if first_time() else ["c", "new", "a", "b"]
        step = current_job().step
        out = [step.options(key=one)("chapter", do, one) for one in chapters]
        fail_once()
        return out

    assert play(app, task) == ["C", "NEW", "A", "B"]
    assert set(did.values()) == {1}


def test_a_changed_order_is_an_error_that_says_what_differs(app: App) -> None:
    def inserted() -> None:
        step = current_job().step
        step("plan", do, "plan")
        if not first_time():
            step("search", do, "search")
        step("draft", do, "draft")
        fail_once()

    with pytest.raises(JobFailed, match=r"step 2 of job \w+ was 'draft#0' in attempt 1, and now it is 'search#0'"):
        play(app, inserted)
    assert did == {"plan": 1, "draft": 1}


def test_a_step_that_moved_to_where_none_was_kept(app: App) -> None:
    def task() -> None:
        step = current_job().step
        if not first_time():
            step("search", do, "search")
            step("draft", do, "draft")
            return
        with pytest.raises(ConnectionError):
            step("plan", do, "plan", ConnectionError("away"))
        with pytest.raises(ConnectionError):
            step("look", do, "look", ConnectionError("away"))
        step("draft", do, "draft")
        raise ConnectionError("away")

    with pytest.raises(JobFailed, match=r"step 'draft#0' of job \w+ was step 3 in attempt 1, and now it is step 2"):
        play(app, task)


def test_another_type_of_result_than_what_was_kept(app: App) -> None:
    def number() -> int:
        return 7

    def text() -> str:
        return "7"

    def task() -> None:
        current_job().step("make", number if first_time() else text)
        fail_once()

    with pytest.raises(JobFailed, match="does not fit the type of its result any more"):
        play(app, task)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda step: step("a b", do, "x"), "a step's name is 1 to 100 letters"),
        (lambda step: step.options(key="")("a", do, "x"), "a key is an int, or a text of 1 to 200"),
        (lambda step: step.options(key="k" * 201)("a", do, "x"), "a key is an int, or a text of 1 to 200"),
        (lambda step: [step.options(key=1)("a", do, "x") for _ in "ab"], "with the key 1 before"),
        (lambda step: step("a", lambda: step("b", do, "x")), "step 'b' is called within step 'a#0'"),
        (lambda step: step("a", ado, "x"), r"async function: await astep\(\)"),
        (lambda step: step("a", lambda: ado("x")), r"gave something to await: await astep\(\)"),
    ],
)
def test_a_call_that_cannot_be(app: App, call: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(JobFailed, match=said) as error:
        play(app, lambda: call(current_job().step))
    assert (error.value.error_type, len(error.value.info.attempts)) == ("queuekit.errors.StepError", 1)


def test_async_calls_that_cannot_be(app: App) -> None:
    async def blocks() -> None:
        current_job().step("a", do, "x")

    async def plain() -> None:
        await current_job().astep("a", do, "x")  # type: ignore[arg-type]

    with pytest.raises(JobFailed, match="would block the loop"):
        aplay(app, blocks)
    with pytest.raises(JobFailed, match="a function that is not async"):
        aplay(app, plain)


def test_an_option_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r'on_unknown=\'again\' is not "rerun" or "fail"'):
        current_job().step.options(on_unknown="again")  # type: ignore[arg-type]


# ---- what nobody knows ---------------------------------------------------------------------------------------------


def test_a_step_has_a_key_for_those_who_can_tell_two_calls(app: App) -> None:
    def task() -> str:
        step = current_job().step
        assert current_job().idempotency_key == current_job().id
        step("pay", do, "pay")
        return step.options(key="b")("pay", do, "pay b", ConnectionError("away") if first_time() else None)

    play(app, task)
    id = keys[0].partition(":")[0]
    assert keys == [f"{id}:pay#0", f"{id}:pay:b", f"{id}:pay:b"]


@pytest.mark.parametrize(
    ("error", "runs"),
    [(ConnectionError("no answer"), 1), (Busy(), 2)],
    ids=["it may have been done", "it was refused"],
)
def test_careful_steps_do_not_run_again_unless_they_were_refused(app: App, error: Exception, runs: int) -> None:
    def task() -> str:
        pay = current_job().step.options(on_unknown="fail")
        return pay("pay", do, "pay", error if first_time() else None)

    async def atask() -> str:
        pay = current_job().astep.options(on_unknown="fail")
        return await pay("pay", ado, "pay", error if first_time() else None)

    for n, play_it in enumerate([lambda: play(app, task), lambda: aplay(app, atask)], 1):
        if runs == 1:
            with pytest.raises(JobFailed, match="'pay#0' of job .* began in attempt 1, and nobody knows") as failed:
                play_it()
            assert failed.value.error_type == "queuekit.errors.StepUnknown"
        else:
            assert play_it() == "PAY"
        assert did == {"pay": runs * n}


def test_an_unknown_step_can_be_looked_after(app: App) -> None:
    def task() -> str:
        step = current_job().step
        try:
            return step.options(on_unknown="fail")("pay", do, "pay", ConnectionError("no answer"))
        except StepUnknown:
            return step("look", do, "paid?")

    assert play(app, task) == "PAID?"
    assert did == {"pay": 1, "paid?": 1}


# ---- the fence and the store ---------------------------------------------------------------------------------------


def test_a_zombie_keeps_nothing_and_is_told(app: App) -> None:
    told: list[BaseException] = []

    def task() -> None:
        job = current_job()
        job.step("plan", do, "plan")
        (worker,) = [one.name for one in app.store.consumers()]
        app.store.leave(worker)
        try:
            job.step("draft", do, "draft")
        except BaseException as error:
            told.append(error)
            raise

    global code
    code = task
    job = run.enqueue()
    assert app.run_next()
    assert [type(error) for error in told] == [StaleAttempt]
    assert job.info().attempts[0].outcome == "lost"
    assert set(app.store.steps(job.id) or ()) == {"plan#0"}


def test_a_result_waits_for_the_store(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, tries = app.store.keep_step, iter([True, True, False])

    def away(*args: Any) -> Any:
        if next(tries):
            raise StoreAway("away", sent=False)
        return keep(*args)

    monkeypatch.setattr(app.store, "keep_step", away)
    monkeypatch.setattr("queuekit.execution.steps.PAUSE", 0.0)
    assert play(app, lambda: current_job().step("plan", do, "plan")) == "PLAN"
    assert did == {"plan": 1}


def test_steps_in_threads_of_the_task(app: App) -> None:
    """Each is told the job: contexts are copied."""

    def task() -> list[str]:
        import contextvars

        out: dict[int, str] = {}

        def work(n: int) -> None:
            out[n] = current_job().step.options(key=n)("part", do, f"part {n}")

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fail_once()
        return [out[n] for n in range(4)]

    assert play(app, task) == ["PART 0", "PART 1", "PART 2", "PART 3"]
    assert set(did.values()) == {1}


# ---- outside of a worker -------------------------------------------------------------------------------------------


def test_outside_of_a_job_it_is_a_call() -> None:
    job = current_job()
    assert job.step("plan", do, "plan") == "PLAN"
    assert job.step("plan", do, "plan") == "PLAN"
    assert asyncio.run(job.astep("plan", ado, "plan")) == "PLAN"
    assert (did["plan"], job.idempotency_key) == (3, "")
    assert issubclass(StepChanged, StepError)
