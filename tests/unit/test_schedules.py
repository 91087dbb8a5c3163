"""Schedules: when they tick, which ticks are fired, and how they are declared, recorded and handled."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from queuekit import (
    App,
    At,
    ConfigError,
    Cron,
    DuplicateJob,
    Every,
    PayloadError,
    QueuekitError,
    Scheduled,
    Settings,
    agent_task,
    schedules,
)
from queuekit.events import EventKind
from queuekit.message import InvalidMessage
from queuekit.schedules.spec import MOST_MISSED, Spec, due_ticks, tick_id
from queuekit.schedules.when import ticks, when_of

if TYPE_CHECKING:
    from queuekit import JobEvent

BERLIN = ZoneInfo("Europe/Berlin")
ran: list[Any] = []


@agent_task(name="scheduled.note")
def note(what: str = "nothing") -> str:
    ran.append(what)
    return what


@pytest.fixture(autouse=True)
def app(queuekit_memory: App) -> App:
    ran.clear()
    queuekit_memory._memory("").clock.advance_to(4_000_000_000.0)  # a whole second, which no Every below misses
    return queuekit_memory


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def berlin(when: Any, after: str, n: int) -> list[str]:
    found, at = [], ms(after)
    for _ in range(n):
        at = when.next(at)
        found.append(datetime.fromtimestamp(at / 1000, BERLIN).strftime("%m-%d %H:%M%z"))
    return found


# ---- when ----------------------------------------------------------------------------------------------------------


def test_a_fixed_time_that_the_clocks_jump_over_comes_at_the_jump() -> None:
    """29 March 2026: 02:00 is 03:00."""
    nightly = Cron("30 2 * * *", tz="Europe/Berlin")
    assert berlin(nightly, "2026-03-28T00:00Z", 3) == ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]
    assert berlin(Cron("0 3 * * *", tz="Europe/Berlin"), "2026-03-28T12:00Z", 2) == [
        "03-29 03:00+0200", "03-30 03:00+0200"
    ]  # fmt: skip


def test_a_fixed_time_that_comes_twice_comes_once() -> None:
    """25 October 2026: 03:00 is 02:00 again."""
    nightly = Cron("30 2 * * *", tz="Europe/Berlin")
    assert berlin(nightly, "2026-10-24T12:00Z", 2) == ["10-25 02:30+0200", "10-26 02:30+0100"]


def test_what_ticks_all_day_follows_the_time_that_passes() -> None:
    often = Cron("*/30 * * * *", tz="Europe/Berlin")
    assert berlin(often, "2026-03-29T00:29Z", 3) == ["03-29 01:30+0100", "03-29 03:00+0200", "03-29 03:30+0200"]
    assert berlin(often, "2026-10-25T00:00Z", 4) == [
        "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100", "10-25 03:00+0100"
    ]  # fmt: skip


def test_a_tick_is_never_at_or_before_the_moment_asked_for() -> None:
    for when in (Cron("0 3 * * *"), Cron("30 2 * * *", "Europe/Berlin"), Every(0.25), Every(timedelta(hours=1))):
        at = ms("2026-10-24T00:00Z")
        for _ in range(50):
            following = when.next(at)
            assert following is not None and following > at
            assert when.next(following - 1) == following
            at = following


def test_an_interval_ticks_at_the_same_moments_for_everybody() -> None:
    assert Every(3600).next(ms("2026-01-01T00:10Z")) == ms("2026-01-01T01:00Z")
    assert Every(0.25).next(1000) == 1250
    assert list(islice(ticks(Every(1), 1000, 10**9), 3)) == [1000, 2000, 3000]


def test_one_moment_comes_once() -> None:
    once = At(datetime(2030, 1, 1, tzinfo=UTC))
    assert once.next(0) == ms("2030-01-01T00:00Z")
    assert once.next(ms("2030-01-01T00:00Z")) is None


@pytest.mark.parametrize(
    "when", [Cron("*/5 8-17 * * MON-FRI", "Europe/Berlin"), Every(90), At(datetime(2030, 1, 1, tzinfo=UTC))]
)
def test_it_is_written_and_read(when: Any) -> None:
    assert when_of(json.loads(json.dumps(when.to_dict())), "here") == when
    assert str(when) and hash(when) == hash(when_of(when.to_dict(), "here"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cron("0 3 * *"), "0 3"),
        (lambda: Cron("61 * * * *"), "minute"),
        (lambda: Cron("0 0 31 2 *"), "never|day"),
        (lambda: Cron(5), "Cron\\(5\\)"),  # type: ignore[arg-type]
        (lambda: Cron("* * * * *", "Mars/Base"), "tz='Mars/Base'"),
        (lambda: Every(0.01), "0.1 seconds"),
        (lambda: Every(True), "number"),
        (lambda: Every(1e12), "400 days"),
        (lambda: At(datetime(2030, 1, 1)), "time zone"),
        (lambda: At("tomorrow"), "a datetime"),  # type: ignore[arg-type]
        (lambda: when_of({}, "here"), "here: give one of"),
        (lambda: when_of({"cron": "* * * * *", "every": 3}, "here"), "cron and every"),
        (lambda: when_of({"every": 3, "tz": "UTC"}, "here"), "tz is for cron"),
        (lambda: when_of({"at": "soon"}, "here"), "2030-01-31"),
        (lambda: Scheduled(3), "Cron"),  # type: ignore[arg-type]
        (lambda: Scheduled(Every(3), missed="maybe"), "skip, once, all"),  # type: ignore[arg-type]
        (lambda: Scheduled(Every(3), name="a b"), "name='a b'"),
        (lambda: Scheduled(Every(3), args="ab"), "args='ab'"),
        (lambda: agent_task(name="scheduled.bad", schedule="daily")(lambda: None), "Cron"),
        (lambda: agent_task(name="scheduled.bad", schedule=[Every(1), Every(2)])(lambda: None), "two of the name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


# ---- which ticks are fired -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "fired"),
    [("skip", [80, 90, 100]), ("once", [80, 90, 100]), ("all", [10, 20, 30, 40, 50, 60, 70, 80, 90, 100])],
)
def test_what_is_late_but_within_a_lease_is_fired(missed: Any, fired: list[int]) -> None:
    made, following = due_ticks(Every(10), missed, 10_000, 105_000, 34_000)
    assert made == [at * 1000 for at in fired]
    assert following == 110_000


@pytest.mark.parametrize(
    ("missed", "fired"), [("skip", []), ("once", [10_000]), ("all", [10_000 + 60_000 * n for n in range(5)])]
)
def test_what_was_missed_by_more_than_a_lease(missed: Any, fired: list[int]) -> None:
    class Minutely:
        def next(self, after: int) -> int:
            return ((after - 10_000) // 60_000 + 1) * 60_000 + 10_000

        def to_dict(self) -> dict[str, Any]:
            return {}

    assert due_ticks(Minutely(), missed, 10_000, 300_000, 30_000) == (fired, 310_000)


def test_what_was_missed_for_long_has_a_limit_and_comes_in_parts() -> None:
    now = 10_000_000
    first, following = due_ticks(Every(1), "all", 1000, now, 30_000)
    assert first == [now - MOST_MISSED * 1000 + 1000 * n for n in range(1, 101)]
    assert following == first[-1] + 1000
    assert due_ticks(
        At(datetime(1990, 1, 1, tzinfo=UTC)), "skip", ms("1990-01-01T00:00Z"), ms("1990-01-02T00:00Z"), 30_000
    ) == ([], None)
    assert due_ticks(
        At(datetime(1990, 1, 1, tzinfo=UTC)), "once", ms("1990-01-01T00:00Z"), ms("1990-01-02T00:00Z"), 30_000
    )[0]


def test_a_ticks_job_has_one_id() -> None:
    assert tick_id("nightly", ms("2026-11-29T03:00Z")) == "nightly-20261129T030000000Z"
    assert tick_id("n" * 90, 1_700_000_000_250).endswith("-20231114T221320250Z")


# ---- on the memory backend -----------------------------------------------------------------------------------------


def test_each_tick_is_a_job(app: App) -> None:
    assert schedules.add("often", note.bind("tick"), Every(10))
    assert not schedules.add("often", note.bind("tick"), Every(10))
    app.advance(35)
    assert app.run_until_idle() == 3
    assert ran == ["tick"] * 3
    found = schedules.find("often")
    assert found is not None
    assert (found.task, found.queue, found.backend, found.source, found.paused) == (
        "scheduled.note", "default", "memory", "run time", False
    )  # fmt: skip
    assert found.last_job is not None
    info = app.store.get(found.last_job)
    assert info is not None and json.loads(info.message)["headers"] == {"queuekit-schedule": "often"}
    assert found.next_at is not None and found.last_at is not None
    assert found.next_at - found.last_at == timedelta(seconds=10)


def test_waiting_for_jobs_makes_none(app: App) -> None:
    """A schedule never ends: to run until nothing is left to do ends all the same."""
    schedules.add("often", note.bind("tick"), Every(1))
    job = note.options(delay=100).enqueue("late")
    assert app.run_until_idle() == 1
    assert job.result() == "late"
    assert ran == ["late"]


def test_pause_resume_and_remove(app: App) -> None:
    schedules.add("often", note.bind("tick"), Every(10))
    assert schedules.pause("often")
    app.advance(100)
    assert app.run_until_idle() == 0
    assert schedules.resume("often")
    app.advance(10)
    assert app.run_until_idle() == 1
    assert schedules.remove("often")
    app.advance(100)
    assert app.run_until_idle() == 0
    assert (schedules.pause("often"), schedules.resume("often"), schedules.remove("often")) == (False,) * 3


def test_now(app: App) -> None:
    schedules.add("often", note.bind("now"), Every(10))
    schedules.pause("often")
    job = schedules.run_now("often")
    assert job.id.startswith("often-now-")
    assert job.result() == "now"
    with pytest.raises(QueuekitError, match="no schedule 'other'"):
        schedules.run_now("other")


def test_a_key_keeps_one_job_at_a_time(app: App) -> None:
    schedules.add("often", note.options(key="one").bind("tick"), Every(10))
    app.advance(35)
    with pytest.raises(DuplicateJob):
        schedules.run_now("often")
    assert app.run_until_idle() == 1
    app.advance(10)
    assert app.run_until_idle() == 1


def test_one_moment_at_run_time_lets_the_schedule_go(app: App) -> None:
    at = datetime.fromtimestamp(app.store.now() + 5, UTC)
    schedules.add("once", note.bind("once"), At(at))
    app.advance(4)
    assert schedules.find("once") is not None
    app.advance(1)
    assert app.run_until_idle() == 1
    assert schedules.list() == []


@pytest.mark.parametrize(("missed", "count"), [("skip", 3), ("once", 3), ("all", 10)])
def test_missed_while_nobody_was_there(app: App, missed: Any, count: int) -> None:
    schedules.add("often", note.bind("tick"), Every(10), missed=missed)
    memory = app._memory("")
    memory.clock.advance(105)
    app.advance(0)
    assert app.run_until_idle() == count


def test_the_hooks_hear_of_it() -> None:
    told: list[JobEvent] = []
    heard = App(Settings(backend="memory"), hooks=[told.append])
    with heard.activate():
        schedules.add("often", note.bind("tick"), Every(10))
        heard.advance(10)
        schedules.run_now("often")
    assert [one.kind for one in told] == [EventKind.enqueued] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "x"}, "id"), ({"delay": 3}, "delay"), ({"at": datetime.now(UTC)}, "at in"),
        ({"expires": datetime.now(UTC) + timedelta(1)}, "expires"), ({"key": "k", "on_duplicate": "debounce", "delay": 3}, "delay|debounce"),
    ],
)  # fmt: skip
def test_options_that_no_schedule_can_have(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        schedules.add("often", note.options(**options).bind("x"), Every(10))


def test_what_add_refuses() -> None:
    with pytest.raises(ConfigError, match="name='a b'"):
        schedules.add("a b", note.bind(), Every(10))
    with pytest.raises(ConfigError, match="task.bind"):
        schedules.add("a", note, Every(10))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="when=10"):
        schedules.add("a", note.bind(), 10)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="missed="):
        schedules.add("a", note.bind(), Every(10), missed="no")  # type: ignore[arg-type]


# ---- declared ------------------------------------------------------------------------------------------------------


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Any:
    from queuekit import scheduling, task

    registry: dict[str, Any] = {}
    monkeypatch.setattr(task, "_registry", registry)
    monkeypatch.setattr(scheduling, "find_task", registry.get)
    monkeypatch.setattr(scheduling, "registered_tasks", lambda: list(registry.values()))
    return registry


def declare(schedule: Any, name: str = "scheduled.declared") -> Any:
    return agent_task(name=name, schedule=schedule)(lambda what="nothing": ran.append(what))


def test_on_the_task_and_in_the_settings(declared: Any) -> None:
    both = App(
        Settings(backend="memory", schedules={"hourly": {"task": "scheduled.declared", "every": 3600, "args": ["set"]}})
    )
    with both.activate():
        declare([Every(10), Scheduled(Every(20), name="other", args=["twenty"], missed="once")])
        schedules.register()
        assert {(one.name, one.source, one.missed) for one in schedules.list()} == {
            ("scheduled-declared", "task", "skip"), ("other", "task", "once"), ("hourly", "settings", "skip")
        }  # fmt: skip
        both.advance(20)
        both._memory("")._execution._find = declared.get  # type: ignore[union-attr]
        both.run_until_idle()
        assert sorted(ran) == ["nothing", "nothing", "twenty"]
        with pytest.raises(ConfigError, match="is declared on a task"):
            schedules.add("other", note.bind(), Every(3))


def test_what_is_declared_no_more_is_let_go(declared: Any, app: App) -> None:
    declare([Every(10), Scheduled(Every(20), name="other")])
    declare(Every(5), name="scheduled.elsewhere")
    schedules.register()
    schedules.add("mine", note.bind(), Every(7))
    schedules.pause("scheduled-declared")
    declared.clear()
    declare(Every(30))
    schedules.register()
    found = {one.name: one for one in schedules.list()}
    assert set(found) == {"scheduled-declared", "mine", "scheduled-elsewhere"}  # of that task nothing is known here
    assert (found["scheduled-declared"].when, found["scheduled-declared"].paused) == (Every(30), True)


def test_what_does_not_fit_its_task_is_said_before_a_worker_starts(declared: Any) -> None:
    agent_task(name="scheduled.typed", schedule=Scheduled(Every(10), args=[1]))(_typed)
    with App(Settings(backend="memory")).activate() as app, pytest.raises(PayloadError):
        app.worker()


def _typed(when: datetime) -> None: ...


def test_two_of_one_name(declared: Any) -> None:
    declare(Scheduled(Every(10), name="same"))
    declare(Scheduled(Every(10), name="same"), name="scheduled.second")
    with pytest.raises(ConfigError, match="two schedules of the name 'same'"):
        schedules.register()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"every": 3}, "task=None"),
        ({"task": "a.b"}, "one of cron"),
        ({"task": "a.b", "every": 3, "when": 4}, "unknown when"),
    ],
)
def test_a_table_that_cannot_be(declared: Any, table: Any, said: str) -> None:
    with App(Settings(backend="memory", schedules={"x": table})).activate(), pytest.raises(ConfigError, match=said):
        schedules.register()


# ---- signed --------------------------------------------------------------------------------------------------------


def test_a_schedule_is_signed_and_nobody_elses_is_fired() -> None:
    signed = App(Settings(backend="memory", signing_key="0123456789abcdef" * 4))
    with signed.activate():
        schedules.add("often", note.bind("signed"), Every(10))
        signed.advance(10)
        signed.run_until_idle()
        assert ran == ["signed"]
        (row,) = signed.store.schedules()
        forged = json.loads(row.text)
        forged["message"] = forged["message"].replace('"signed"', '"forged"')
        assert signed.store.put_schedule("often", json.dumps(forged), "w", row.due, declared=False) == "changed"
        signed._memory("").clock.advance(10)
        signed._memory("")._ticker.fire(30)
        assert signed.run_until_idle() == 0
        with pytest.raises(QueuekitError, match="is not run"):
            schedules.run_now("often")


class Bound:
    """A codec that takes what it made for this very job alone."""

    def encode(self, data: bytes, context: Any) -> bytes:
        return f"{context.job_id}|{context.kind}|".encode() + data

    def decode(self, data: bytes, context: Any) -> bytes:
        id, kind, rest = data.split(b"|", 2)
        assert (id.decode(), kind.decode()) == (context.job_id, context.kind)
        return rest


def test_arguments_that_a_codec_has_encoded_are_those_of_each_tick() -> None:
    encoded = App(Settings(backend="memory", codec=Bound()))
    with encoded.activate():
        schedules.add("often", note.bind("secret"), Every(10))
        assert "secret" not in encoded.store.schedules()[0].text
        encoded.advance(20)
        encoded.run_until_idle()
        assert ran == ["secret"] * 2
        assert schedules.run_now("often").result() == "secret"


def test_the_message_of_another_schedule_or_job_is_none(app: App) -> None:
    schedules.add("often", note.bind("x"), Every(10))
    (row,) = app.store.schedules()
    with pytest.raises(InvalidMessage, match="was made for schedule-of-often"):
        Spec.of("other", row.text).job("other-1", None)
    with pytest.raises(InvalidMessage, match="version"):
        Spec.of("often", '{"v":2}')
    with pytest.raises(InvalidMessage):
        Spec.of("often", "nonsense")
