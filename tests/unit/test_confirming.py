"""What the broker has is told to the store together, and nobody waits for that."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, Settings, agent_task, confirming
from queuekit.confirming import Confirmations
from queuekit.events import Hooks
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEADLINE = 30.0


class Told:
    """A store that is told, and may be away or slow."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[str, int]]] = []
        self.turns = 0
        self.error: Exception | None = None
        self.silent = threading.Event()
        self.silent.set()

    def published(self, route: str, publications: Sequence[tuple[str, int]]) -> None:
        assert len(publications) <= confirming.MOST
        self.told += [(route, one) for one in publications]

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        self.turns += 1
        self.silent.wait(DEADLINE)
        if isinstance(self.error, StoreAway):
            return [self.error for _ in calls]
        if self.error is not None:
            raise self.error
        return [call() for call in calls]


@pytest.fixture
def store() -> Told:
    return Told()


@pytest.fixture
def made(store: Told) -> Iterator[Confirmations]:
    made = Confirmations(store)  # type: ignore[arg-type]
    yield made
    store.silent.set()
    made.flush()


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told before it is asked for."""
    monkeypatch.setattr(confirming, "WAIT", DEADLINE)
    monkeypatch.setattr(confirming, "LATE", DEADLINE)


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "queuekit-confirming"]


def test_it_is_told_by_itself(made: Confirmations, store: Told) -> None:
    made.add("a", [("j", 1)])
    until(lambda: store.told == [("a", ("j", 1))])
    made.add("a", [("k", 2)])
    until(lambda: len(store.told) == 2)


@pytest.mark.usefixtures("_patient")
def test_many_are_told_in_one_conversation(made: Confirmations, store: Told) -> None:
    for n in range(700):
        made.add("a", [(f"j{n}", n)])
        made.add("b", [(f"k{n}", n)])
    assert store.told == []
    made.flush()
    assert store.turns == 1
    assert sorted(store.told) == sorted(
        [("a", (f"j{n}", n)) for n in range(700)] + [("b", (f"k{n}", n)) for n in range(700)]
    )
    assert threads() == [], "it is started again at need"
    made.add("a", [("j", 1)])
    made.flush()
    assert store.turns == 2


def test_its_thread_ends_when_there_is_nothing_to_tell(
    made: Confirmations, store: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "IDLE", 0.01)
    made.add("a", [("j", 1)])
    assert all(one.daemon for one in threads())
    until(lambda: not threads())
    made.add("a", [("k", 1)])
    until(lambda: not threads())
    assert len(store.told) == 2


@pytest.mark.parametrize("error", [StoreAway("away", sent=True), RuntimeError("a bug")])
def test_a_store_that_is_away_drops_them_and_nobody_is_told(
    made: Confirmations, store: Told, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store.error = error
    with caplog.at_level(logging.INFO, "queuekit"):
        made.add("a", [("j", 1)])
        made.flush()
    assert bool(caplog.records) is isinstance(error, RuntimeError)
    store.error = None
    made.add("a", [("k", 1)])
    made.flush()
    assert store.told == [("a", ("k", 1))]


def test_who_ends_does_not_wait_for_a_silent_store(
    made: Confirmations, store: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "PATIENCE", 0.05)
    store.silent.clear()
    made.add("a", [("j", 1)])
    made.flush()
    assert store.told == []


@pytest.mark.usefixtures("_patient")
def test_without_a_thread_it_is_told_at_once(made: Confirmations, store: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter ends: no thread can be started any more."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        made.add("a", [("j", 1)])
    assert store.told == [("a", ("j", 1))]


def test_where_no_thread_runs_whoever_comes_late_tells(
    made: Confirmations, store: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under uWSGI without --enable-threads."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    made.add("a", [("j", 1)])
    assert store.told == []
    monkeypatch.setattr(confirming, "LATE", 0.0)
    made.add("a", [("k", 1)])
    assert store.told == [("a", ("j", 1)), ("a", ("k", 1))]
    made.start_anew()


@pytest.mark.usefixtures("_patient")
def test_a_fork_has_none_of_them_and_can_have_its_own(made: Confirmations, store: Told) -> None:
    made.add("a", [("j", 1)])
    pid = os.fork()  # which lets the thread end
    if not pid:
        code = 1
        try:
            store.told.clear()
            made.add("a", [("k", 1)])
            made.flush()
            code = 0 if store.told == [("a", ("k", 1))] else 2
        finally:
            os._exit(code)
    assert store.told == [("a", ("j", 1))]
    made.add("a", [("l", 1)])
    made.flush()
    assert len(store.told) == 2
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_while_a_silent_store_is_told(made: Confirmations, store: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the parent is none of the child's, and neither is what it has in hand."""
    monkeypatch.setattr(confirming, "PATIENCE", 0.05)
    store.silent.clear()
    made.add("a", [("j", 1)])
    until(lambda: store.turns)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            monkeypatch.setattr(confirming, "PATIENCE", DEADLINE)
            store.silent = threading.Event()
            store.silent.set()
            made.add("a", [("k", 1)])
            made.flush()
            code = 0 if store.told == [("a", ("k", 1))] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    store.silent.set()
    until(lambda: store.told == [("a", ("j", 1))])


@pytest.mark.usefixtures("_patient")
def test_a_process_that_ends_without_exit_handlers_tells_them(made: Confirmations, store: Told) -> None:
    made.add("a", [("j", 1)])
    Hooks().flush()
    assert store.told == [("a", ("j", 1))]


def test_it_keeps_no_app(store: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "IDLE", 0.01)
    made = Confirmations(store)  # type: ignore[arg-type]
    made.add("a", [("j", 1)])
    ref = weakref.ref(made)
    del made
    until(lambda: gc.collect() is not None and ref() is None)
    assert store.told == [("a", ("j", 1))]


@agent_task(name="confirming.echo")
def echo(a: int) -> int:
    return a


def test_in_memory_nobody_is_waited_for() -> None:
    app = App(Settings(backend="memory"))
    with app.activate():
        job = echo.enqueue(1)
        assert app._confirmations is None
        app.advance(60)
    assert job.result(timeout=0) == 1
    assert threads() == []
