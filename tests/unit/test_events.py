"""Which events come of what, on the memory backend; what a hook may do; how one is registered."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import (
    App,
    Backoff,
    Category,
    ConfigError,
    EnqueueError,
    EventKind,
    JobEvent,
    JobFailed,
    RetryPolicy,
    RetryRule,
    Settings,
    agent_task,
    configure,
    current_job,
)
from queuekit import app as apps
from queuekit.events import Hooks, event_of, load_hooks, settled
from queuekit.execution import Delivery, Ended, Execution, Held, Released, Stale
from queuekit.message import Message, Publication
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

POLICY = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(5)), RetryRule("category:time_limit")], max_attempts=2)
seen_by_task: contextvars.ContextVar[str] = contextvars.ContextVar("seen_by_task", default="")


WAIT = object()


def _deed(what: str) -> Any:
    match what:
        case "flaky" if current_job().attempt == 1:
            raise ConnectionError("the secret prompt")
        case "bad":
            raise ValueError("the secret prompt")
        case "cancel":
            apps.current_app().store.cancel(current_job().id, "enough")
            return WAIT
        case "cancel and fail":
            apps.current_app().store.cancel(current_job().id, "enough")
            raise ConnectionError("away")
        case "context":
            return seen_by_task.get()
    return what


@agent_task(name="events.do", retry=POLICY)
def do(what: str) -> Any:
    done = _deed(what)
    while done is WAIT:
        current_job().raise_if_cancelled()
        time.sleep(0.005)
    return done


@agent_task(name="events.ado", retry=POLICY, queue="other")
async def ado(what: str) -> Any:
    done = _deed(what)
    await asyncio.sleep(30 if done is WAIT else 0)
    return done


@agent_task(name="events.secretly", retry=POLICY, private=True)
def secretly(what: str) -> Any:
    return _deed(what)


class Recorder:
    """A hook that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def __call__(self, event: JobEvent, /) -> None:
        self.events.append(event)

    def of(self, id: str) -> list[JobEvent]:
        return [event for event in self.events if event.job_id == id]

    def kinds(self, id: str) -> list[str]:
        return [f"{event.kind}{event.attempt or ''}" for event in self.of(id)]


@pytest.fixture
def told() -> Recorder:
    return Recorder()


@pytest.fixture
def app(told: Recorder) -> Iterator[App]:
    with App(Settings(backend="memory", lease=30), hooks=[told]).activate() as app:
        yield app


# ---- which, and in which order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [do, ado], ids=["sync", "async"])
class TestOrder:
    @pytest.mark.parametrize(
        ("what", "kinds"),
        [
            ("fine", ["enqueued", "started1", "succeeded1"]),
            ("flaky", ["enqueued", "started1", "retried1", "started2", "succeeded2"]),
            ("bad", ["enqueued", "started1", "failed1"]),
            ("cancel", ["enqueued", "started1", "cancelled1"]),
            ("cancel and fail", ["enqueued", "started1", "cancelled1"]),
        ],
    )
    def test_what_an_attempt_does(self, app: App, told: Recorder, task: Any, what: str, kinds: list[str]) -> None:
        job = task.enqueue(what)
        app.run_until_idle()
        assert told.kinds(job.id) == kinds
        for event in told.of(job.id):
            assert (event.task, event.queue, event.backend) == (task.name, task.queue, "memory")
            assert (event.duration is not None) == (event.kind not in {"enqueued", "started"})
            assert (event.worker == "memory") == (event.kind != "enqueued")
            assert event.at.tzinfo is not None

    def test_a_cancel_before_the_start(self, app: App, told: Recorder, task: Any) -> None:
        job = task.enqueue("fine")
        assert job.cancel("not needed")
        assert not job.cancel("again")
        app.run_until_idle()
        assert told.kinds(job.id) == ["enqueued", "cancelled"]
        assert (told.events[-1].reason, told.events[-1].duration) == ("not needed", None)

    def test_a_cancel_between_two_attempts(self, app: App, told: Recorder, task: Any) -> None:
        job = task.enqueue("flaky")
        app.run_until_idle(wait=False)
        job.cancel("not needed")
        assert told.kinds(job.id) == ["enqueued", "started1", "retried1", "cancelled1"]
        assert told.events[-1].duration is None  # it did not run

    def test_a_job_that_has_expired(self, app: App, told: Recorder, task: Any) -> None:
        job = task.options(expires=10).enqueue("fine")
        app.advance(11)
        app.run_until_idle()
        app.adapter.publish([Publication(Message.open(app.store.get(job.id).message), 1, 1, app.store.epoch())])  # type: ignore[union-attr]
        app.run_until_idle()
        assert told.kinds(job.id) == ["enqueued", "cancelled"]
        assert told.events[-1].reason == "expired before it started"

    def test_an_id_that_is_enqueued_again_is_no_new_fact(self, app: App, told: Recorder, task: Any) -> None:
        task.options(id="once").enqueue("fine")
        task.options(id="once").enqueue("fine")
        with pytest.raises(EnqueueError):
            task.options(id="once").enqueue("other")
        assert told.kinds("once") == ["enqueued"]

    def test_a_revival(self, app: App, told: Recorder, task: Any) -> None:
        job = task.enqueue("bad")
        app.run_until_idle()
        app.revive(job.id)
        app.run_until_idle()
        assert told.kinds(job.id) == ["enqueued", "started1", "failed1", "enqueued", "started2", "failed2"]
        assert told.of(job.id)[3].reason == "revived"


def test_what_an_event_says(app: App, told: Recorder) -> None:
    job = do.options(delay=60).enqueue("flaky")
    app.run_until_idle()
    enqueued, first, retried, second, succeeded = told.of(job.id)
    info = job.info()
    assert enqueued.at == info.enqueued_at
    assert enqueued.delay == 60
    assert [first.at, second.at] == [one.started_at for one in info.attempts]
    assert first.at - enqueued.at == timedelta(seconds=60)
    assert (first.waited, second.waited) == (0.0, 0.0)  # the clock jumps to when they are due
    said = info.attempts[0]
    assert (retried.delay, retried.reason) == (said.delay, said.reason)
    assert (retried.category, retried.error_type) == (Category.connection, "builtins.ConnectionError")
    assert succeeded.duration is not None
    assert 0 <= succeeded.duration < 10
    assert (succeeded.delay, succeeded.category, succeeded.error_type, succeeded.reason) == (None, None, None, None)


def test_waiting_counts_from_when_a_job_could_have_run(app: App, told: Recorder) -> None:
    do.enqueue("fine")
    later = do.options(delay=2).enqueue("fine")
    app.advance(7)
    app.run_until_idle()
    assert [event.waited for event in told.events if event.kind is EventKind.started] == [7.0, 5.0]
    assert later.status() == "succeeded"


def test_each_of_many_is_told_once(app: App, told: Recorder) -> None:
    jobs = do.enqueue_many([("a",), ("b",), ("c",)])
    assert [event.job_id for event in told.events] == [job.id for job in jobs]


def test_a_private_task_keeps_its_words(app: App, told: Recorder) -> None:
    for what in ("bad", "flaky"):
        secretly.enqueue(f"{what}")
    app.run_until_idle()
    assert {"failed", "retried", "succeeded"} <= {event.kind for event in told.events}
    assert all(event.private for event in told.events)
    assert "secret prompt" not in json.dumps([event.to_dict() for event in told.events])
    failed = next(event for event in told.events if event.kind is EventKind.failed)
    assert (failed.reason, failed.error_type) == ("unknown", "builtins.ValueError")


# ---- attempts that others end --------------------------------------------------------------------------------------


def start(app: App, job: Any) -> tuple[Execution, Held]:
    """Claim the job in a worker named memory."""
    execution: Execution = app.adapter._execution  # type: ignore[attr-defined]
    execution._renew()
    message = Message.open(app.store.get(job.id).message)  # type: ignore[union-attr]
    bell = Publication(message, 1, 1, app.store.epoch()).doorbell
    held = execution.claim(Delivery(bell, [], {}))
    assert isinstance(held, Held)
    return execution, held


def tell(app: App, ids: list[str]) -> None:
    app.adapter._ticker.tell(ids)  # type: ignore[attr-defined]


def test_a_lost_attempt(app: App, told: Recorder) -> None:
    """As the steward does it: it hears the ids from leave(), and tells."""
    job = do.enqueue("fine")
    for _ in range(2):
        start(app, job)
        app.advance(3)
        tell(app, app.store.leave("memory"))
    assert told.kinds(job.id) == ["enqueued", "lost1", "lost2", "failed2"]  # run() tells of a start
    _, first, second, failed = told.of(job.id)
    assert (first.duration, first.delay, first.category, first.worker) == (3.0, 0.0, Category.lost, "memory")
    assert (second.duration, second.delay) == (3.0, None)
    assert (failed.duration, failed.delay, failed.category) == (None, None, Category.lost)


def test_a_last_attempt_that_was_lost_with_others_is_released(app: App, told: Recorder) -> None:
    jobs = [do.options(retry=RetryPolicy(max_attempts=1)).enqueue("fine") for _ in range(2)]
    for job in jobs:
        start(app, job)
    tell(app, app.store.leave("memory"))
    for job in jobs:
        assert told.kinds(job.id) == ["enqueued", "released1"]
        last = told.of(job.id)[-1]
        assert (last.duration, last.category, last.delay) == (0.0, Category.lost, None)
        assert last.reason == "its worker died with 1 other running: it does not count, and the job runs alone next"


def test_a_lost_attempt_of_a_job_to_be_cancelled(app: App, told: Recorder) -> None:
    job = do.enqueue("fine")
    start(app, job)
    job.cancel("enough")
    tell(app, app.store.leave("memory"))
    assert told.kinds(job.id) == ["enqueued", "lost1", "cancelled1"]
    assert (told.events[-1].reason, told.events[-1].duration) == ("enough", None)


def test_an_attempt_over_its_deadline(app: App, told: Recorder) -> None:
    """Its process was ended for it: the policy runs it once more, and then it fails."""
    job = do.options(timeout=5).enqueue("fine")
    for _ in range(2):
        app.adapter._ticker.tick()  # type: ignore[attr-defined]  # the second attempt is due
        start(app, job)
        app.advance(5)
        tell(app, app.store.leave("memory"))
        app.advance(60)
    assert told.kinds(job.id) == ["enqueued", "retried1", "failed2"]
    assert {event.category for event in told.events[1:]} == {Category.time_limit}
    assert all(event.duration is not None for event in told.events[1:])


def test_a_refused_outcome_is_told_to_nobody(app: App, told: Recorder) -> None:
    job = do.enqueue("fine")
    execution, held = start(app, job)
    app.store.leave("memory")
    assert execution.run(held) == Stale()
    assert told.kinds(job.id) == ["enqueued", "started1"]


def test_a_released_attempt(app: App, told: Recorder) -> None:
    job = do.enqueue("fine")
    execution, held = start(app, job)
    assert isinstance(execution._release(held, "the worker stopped", 0), Released)
    assert told.kinds(job.id) == ["enqueued", "released1"]
    assert told.events[-1].reason == "the worker stopped"


def test_a_release_that_comes_upon_a_cancel_ends_the_job(app: App, told: Recorder) -> None:
    job = do.enqueue("fine")
    execution, held = start(app, job)
    job.cancel("enough")
    assert execution._release(held, "the worker stopped", 0) == Ended("enough")
    assert told.kinds(job.id) == ["enqueued", "cancelled1"]


def test_a_task_that_no_worker_knows_is_started_and_released(app: App, told: Recorder) -> None:
    job = do.enqueue("fine")
    execution = app.adapter._execution  # type: ignore[attr-defined]
    execution._find = lambda name: None
    app.run_next()
    assert told.kinds(job.id) == ["enqueued", "started1", "released1"]


def test_settled_reads_the_newest_attempt_that_was_ended_from_outside(app: App) -> None:
    job = do.enqueue("fine")
    start(app, job)
    record = app.store.get(job.id)
    assert record is not None
    assert settled(record) == []  # it runs


# ---- hooks ---------------------------------------------------------------------------------------------------------


def test_a_hook_that_fails_is_logged_once_and_touches_no_job(caplog: pytest.LogCaptureFixture, told: Recorder) -> None:
    def bad(event: JobEvent) -> None:
        raise SystemExit("no such day")

    with App(Settings(backend="memory"), hooks=[bad, told]).activate() as app:
        jobs = do.enqueue_many([("fine",), ("flaky",)])
        app.run_until_idle()
        assert [job.status() for job in jobs] == ["succeeded", "succeeded"]
    assert told.kinds(jobs[0].id) == ["enqueued", "started1", "succeeded1"]
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert "bad" in record.getMessage()
    assert record.exc_info is not None


def test_nobody_is_told_of_a_job_that_is_refused_or_there_already(app: App, told: Recorder) -> None:
    do.options(id="j").enqueue("fine")
    assert not do.options(id="j").enqueue("fine").created
    with pytest.raises(EnqueueError):
        do.options(id="j").enqueue("other")
    assert told.kinds("j") == ["enqueued"]


def test_a_store_that_goes_away_after_a_cancel_does_not_take_it_back(
    app: App, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = do.enqueue("fine")

    def away(id: str) -> None:
        raise StoreAway("away", sent=False)

    monkeypatch.setattr(app.store, "get", away)
    assert job.cancel("enough")
    assert told.kinds(job.id) == ["enqueued"]  # at most once


class Instrument(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = []
        self.errors: list[BaseException | None] = []

    def __call__(self, event: JobEvent, /) -> None:
        super().__call__(event)
        self.steps.append((event.kind.value, seen_by_task.get()))

    @contextmanager
    def around_enqueue(self, event: JobEvent, headers: MutableMapping[str, str], /) -> Iterator[None]:
        assert event.kind is EventKind.enqueued
        headers["request-id"] = f"r{event.job_id}"
        self.steps.append("enqueue")
        try:
            yield
        finally:
            self.steps.append("enqueue over")

    @contextmanager
    def around_attempt(self, event: JobEvent, /) -> Iterator[None]:
        token = seen_by_task.set(event.headers["request-id"])
        self.steps.append("attempt")
        try:
            yield
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            seen_by_task.reset(token)  # in the context that it was set in
            self.steps.append("attempt over")


@pytest.mark.parametrize("task", [do, ado], ids=["sync", "async"])
def test_an_instrument_stands_around_the_work(task: Any) -> None:
    instrument = Instrument()
    with App(Settings(backend="memory"), hooks=[instrument]).activate() as app:
        job = task.options(id="j").enqueue("context")
        app.run_until_idle()
        assert job.result() == "rj"
        assert instrument.steps == [
            "enqueue",
            ("enqueued", ""),
            "enqueue over",
            ("started", ""),
            "attempt",
            ("succeeded", "rj"),
            "attempt over",
        ]
        assert seen_by_task.get() == ""
        # It travels with the record: every attempt has it, and every event.
        job = task.options(id="k").enqueue("flaky")
        app.run_until_idle()
    assert [event.headers for event in instrument.of("k")] == [{"request-id": "rk"}] * 5
    assert [type(error) for error in instrument.errors] == [ConnectionError]


def test_an_error_of_a_private_task_is_not_shown_to_instruments() -> None:
    instrument = Instrument()
    with App(Settings(backend="memory"), hooks=[instrument]).activate() as app:
        secretly.enqueue("bad")
        app.run_until_idle()
    assert instrument.errors == []
    assert instrument.steps[-1] == "attempt over"


def test_an_instrument_hears_of_an_enqueue_that_fails() -> None:
    class Tracer(Recorder):
        errors: list[str] = []

        @contextmanager
        def around_enqueue(self, event: JobEvent, headers: MutableMapping[str, str], /) -> Iterator[None]:
            try:
                yield
            except EnqueueError as error:
                self.errors.append(error.job_id)
                raise

    with App(Settings(backend="memory"), hooks=[Tracer()]).activate():
        do.options(id="j").enqueue("fine")
        with pytest.raises(EnqueueError):
            do.options(id="j").enqueue("other")
    assert Tracer.errors == ["j"]


@pytest.mark.parametrize("where", ["method", "enter", "exit"])
def test_an_instrument_that_fails_touches_no_job(where: str, caplog: pytest.LogCaptureFixture) -> None:
    class Manager:
        def __enter__(self) -> None:
            if where == "enter":
                raise RuntimeError("broken")

        def __exit__(self, *_: object) -> bool:
            if where == "exit":
                raise RuntimeError("broken")
            return True  # nobody asked

    class Broken(Recorder):
        def around_enqueue(self, event: JobEvent, headers: Any, /) -> Any:
            return self.around_attempt(event)

        def around_attempt(self, event: JobEvent, /) -> Any:
            if where == "method":
                raise RuntimeError("broken")
            return Manager()

    with App(Settings(backend="memory"), hooks=[Broken()]).activate() as app:
        good, bad = do.enqueue_many([("fine",), ("bad",)])
        app.run_until_idle()
        assert good.result() == "fine"
        with pytest.raises(JobFailed):
            bad.result()
    assert len([one for one in caplog.records if "failed; its further" in one.getMessage()]) == 1


def test_a_task_that_goes_on_over_its_limit_cannot_break_the_instrument(caplog: pytest.LogCaptureFixture) -> None:
    """Its context may be in use on the loop when the attempt ends."""
    instrument = Instrument()
    with App(Settings(backend="memory"), hooks=[instrument]).activate() as app:
        job = stubborn.options(timeout=0.2).enqueue()
        app.run_next()
        STOP.append(True)
        assert job.info().attempts[0].category == "time_limit"
    assert [event.kind for event in instrument.events] == ["enqueued", "started", "failed"]


STOP: list[bool] = []


@agent_task(name="events.stubborn")
async def stubborn() -> None:
    while not STOP:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


# ---- registering ---------------------------------------------------------------------------------------------------


def named(event: JobEvent) -> None:
    NAMED.append(event.kind.value)


class Made:
    made = 0

    def __init__(self) -> None:
        Made.made += 1

    def __call__(self, event: JobEvent) -> None:
        NAMED.append(f"made {event.kind}")


NAMED: list[str] = []
HERE = __name__


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(apps, "_default", None)
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    NAMED.clear()
    yield
    apps._default = None


def test_a_hook_by_its_name(clean: None) -> None:
    with App(Settings(backend="memory", hooks=[f"{HERE}:named", f"{HERE}:Made"])).activate() as app:
        do.enqueue("fine")
        app.run_until_idle()
    assert NAMED == [
        "enqueued", "made enqueued", "started", "made started", "succeeded", "made succeeded"
    ]  # fmt: skip
    assert Made.made == 1


@pytest.mark.parametrize("by", ["name", "callable", "both"])
def test_configure_takes_names_and_callables(clean: None, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_HOOKS", f"{HERE}:named")
    hooks: dict[str, list[Callable[..., None] | str]] = {
        "name": [f"{HERE}:Made"],
        "callable": [Made()],
        "both": [f"{HERE}:named", Made()],
    }
    app = configure(backend="memory", hooks=hooks[by])
    do.enqueue("fine")
    assert len(app.hooks) == (1 if by == "name" else 2)
    assert sorted(NAMED) == (["made enqueued"] if by == "name" else ["enqueued", "made enqueued"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.such.module:hook", "there is no module 'no.such.module' on the path"),
        (f"{HERE}:nobody", "has no 'nobody'"),
        (f"{HERE}:HERE", "this cannot be called"),
        ("queuekit.events", "give package.module:name"),
        ("a b:c", "give names without spaces"),
    ],
)
def test_a_hook_that_cannot_be_is_said(clean: None, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = App(Settings(backend="memory", hooks=[name])).hooks


def test_a_module_that_cannot_import_another_says_which(
    clean: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hooks_of_mine.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        load_hooks(["hooks_of_mine:hook"])


def test_without_hooks_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hot path pays where nobody listens: nothing but the question."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an event was made")

    for module in ("app", "execution", "ticks"):
        for name in ("event_of", "settled"):
            if hasattr(sys.modules[f"queuekit.{module}"], name):
                monkeypatch.setattr(f"queuekit.{module}.{name}", never)
    monkeypatch.setattr("queuekit.execution.parse_end", never)
    with App(Settings(backend="memory")).activate() as app:
        assert not app.hooks
        jobs = do.enqueue_many([("fine",), ("flaky",), ("bad",)])
        app.run_until_idle()
        assert [job.status() for job in jobs] == ["succeeded", "succeeded", "failed"]
        job = do.enqueue("fine")
        job.cancel()
        start(app, do.enqueue("fine"))
        tell(app, app.store.leave("memory"))


def test_an_event_as_json() -> None:
    event = event_of(
        Message("j", "t", ["the secret prompt"], {}, "q", "rq", headers={"traceparent": "00-1-2-00"}),
        EventKind.retried,
        1000.5,
        attempt=2,
        delay=0.0,
        category=Category.server,
    )
    assert json.loads(json.dumps(event.to_dict())) == {
        "kind": "retried",
        "job_id": "j",
        "task": "t",
        "queue": "q",
        "backend": "rq",
        "at": "1970-01-01T00:16:40.500000+00:00",
        "attempt": 2,
        "delay": 0.0,
        "category": "server",
        "private": False,
        "headers": {"traceparent": "00-1-2-00"},
    }


def test_hooks_are_true_where_there_are_any() -> None:
    assert not Hooks()
    assert Hooks([named])
