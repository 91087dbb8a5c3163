"""options(key=): what a second job with the same key does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import (
    App,
    BulkEnqueueError,
    DuplicateJob,
    EnqueueError,
    JobCancelled,
    JobFailed,
    QueuekitError,
    Settings,
    agent_task,
)
from queuekit.events import EventKind
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from queuekit import JobEvent

ran: list[Any] = []


@agent_task(name="unique.note")
def note(what: str) -> str:
    ran.append(what)
    return what


@agent_task(name="unique.other")
def other(what: str) -> str:
    return what


@agent_task(name="unique.broken")
def broken() -> None:
    raise ValueError("no")


@pytest.fixture(autouse=True)
def app(queuekit_memory: App) -> App:
    ran.clear()
    return queuekit_memory


def test_a_second_one_is_the_first() -> None:
    first, second = (note.options(key="a").enqueue(what) for what in ("one", "two"))
    assert (first.created, second.created) == (True, False)
    assert first == second
    assert second.result() == "one"
    assert note.options(key="a").enqueue("three").created
    assert ran == ["one"]


def test_a_key_is_a_tasks_own(app: App) -> None:
    mine, others = note.options(key="a").enqueue("x"), other.options(key="a").enqueue("x")
    assert mine.created and others.created
    record = app.store.get(mine.id)
    assert record is not None and record.key == "unique.note a"


def test_a_second_one_is_refused() -> None:
    once = note.options(key="a", on_duplicate="reject")
    first = once.enqueue("one")
    with pytest.raises(DuplicateJob, match="holds its key 'a'") as caught:
        once.enqueue("two")
    assert (caught.value.job_id, caught.value.recorded) == (first.id, False)
    assert isinstance(caught.value, EnqueueError)
    first.result()
    assert once.enqueue("two").created


def test_the_same_request_again_is_not_refused() -> None:
    once = note.options(key="a", id="mine", on_duplicate="reject")
    first = once.enqueue("one")
    again = once.enqueue("one")
    assert (first.created, again.created, again) == (True, False, first)
    with pytest.raises(DuplicateJob):
        note.options(key="a", id="another", on_duplicate="reject").enqueue("one")


def test_a_second_one_takes_the_place_of_the_first() -> None:
    told: list[JobEvent] = []
    heard = App(Settings(backend="memory"), hooks=[told.append])
    with heard.activate():
        first = note.options(key="a", on_duplicate="replace").enqueue("one")
        second = note.options(key="a", on_duplicate="replace").enqueue("two")
        assert second.created
        assert first != second
        with pytest.raises(JobCancelled, match=f"replaced by job {second.id}"):
            first.result()
        assert second.result() == "two"
    assert ran == ["two"]
    kinds = [(one.kind, one.job_id) for one in told if one.kind in {EventKind.enqueued, EventKind.cancelled}]
    assert kinds == [
        (EventKind.enqueued, first.id), (EventKind.enqueued, second.id), (EventKind.cancelled, first.id)
    ]  # fmt: skip


def test_a_second_one_puts_the_first_off(app: App) -> None:
    late = note.options(key="a", on_duplicate="debounce", delay=10)
    first = late.enqueue("one")
    for what in ("two", "three"):
        app.advance(6)
        again = late.enqueue(what)
        assert (again.created, again) == (False, first)
        assert not app._memory("").run_next(wait=False)
    app.advance(10)
    assert first.result() == "three"
    assert ran == ["three"]
    assert late.enqueue("four").created


def test_put_off_to_a_moment_and_to_another_queue(app: App) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    note.options(key="a", delay=10).enqueue("one")
    job = note.options(key="a", on_duplicate="debounce", at=at, queue="other", priority=9).enqueue("two")
    info = job.info()
    assert (job.created, info.due_at, info.queue, info.priority) == (False, at, "other", 9)
    assert job.result() == "two"


def test_many_at_once(app: App) -> None:
    jobs = note.enqueue_many([note.options(key=key).bind(what) for key, what in ("ax", "ay", "bz")])
    assert [job.created for job in jobs] == [True, False, True]
    assert app.run_until_idle() == 2
    assert ran == ["x", "z"]
    with pytest.raises(BulkEnqueueError) as broken:
        note.enqueue_many([note.options(key="c", on_duplicate="reject").bind(what) for what in "xy"])
    assert isinstance(broken.value.__cause__, DuplicateJob)
    assert broken.value.accepted == 1
    assert app.run_until_idle() == 1  # the one before it is accepted


def test_a_hundred_at_once_give_one(app: App) -> None:
    def enqueue(what: str) -> Any:
        with app.activate():
            return note.options(key="a").enqueue(what)

    with ThreadPoolExecutor(20) as pool:
        jobs = list(pool.map(enqueue, map(str, range(100))))
    assert len({job.id for job in jobs}) == 1
    assert sum(job.created for job in jobs) == 1


def test_it_was_started_while_it_was_to_be_put_off(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two calls of the store the first job has ended: another one is made."""
    late = note.options(key="a", on_duplicate="debounce", delay=10)
    first, prepare = late.enqueue("one"), App.prepare

    def slow(self: App, call: Any, *, in_place_of: str | None = None, **others: Any) -> Any:
        if in_place_of is not None:
            first.result()
        return prepare(self, call, in_place_of=in_place_of, **others)

    monkeypatch.setattr(App, "prepare", slow)
    second = late.enqueue("two")
    assert second.created
    assert second.result() == "two"


def test_a_lost_reply_is_asked_for_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    create, lost = app.store.create, [True]

    def losing(new: Any) -> Any:
        made = create(new)
        if lost:
            lost.pop()
            raise StoreAway("hung up", sent=True)
        return made

    monkeypatch.setattr(app.store, "create", losing)
    assert note.options(key="a", on_duplicate="reject").enqueue("one").created
    lost.append(True)
    late = note.options(key="a", on_duplicate="debounce", delay=10)
    assert not late.enqueue("two").created
    app.run_until_idle()
    assert ran == ["two"]


def test_a_dead_letter_whose_key_another_holds(app: App) -> None:
    first = broken.options(key="a").enqueue()
    with pytest.raises(JobFailed):
        first.result()
    second = broken.options(key="a", delay=5).enqueue()
    with pytest.raises(QueuekitError, match=f"its key 'a' is held by job {second.id}"):
        app.revive(first.id)
    second.cancel()
    assert app.revive(first.id) == first
    assert broken.options(key="a").enqueue() == first


def test_once_an_hour(app: App) -> None:
    hourly = note.options(key="a", key_ttl=timedelta(hours=1))
    first = hourly.enqueue("one")
    first.result()
    assert hourly.enqueue("two") == first
    assert note.options(key="a").enqueue("two") == first  # what holds is what the first one said
    app.advance(3600)
    assert hourly.enqueue("three").created


def test_what_is_put_off_is_signed_and_encoded_anew() -> None:
    signed = App(Settings(backend="memory", signing_key="0123456789abcdef" * 4))
    with signed.activate():
        late = note.options(key="a", on_duplicate="debounce", delay=10)
        late.enqueue("one")
        assert late.enqueue("two").result() == "two"
