from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from queuekit.adapters import BrokerAway
from queuekit.adapters.memory import VirtualClock
from queuekit.message import Message
from queuekit.store import NewJob
from queuekit.store.memory import MemoryStore
from queuekit.ticks import BATCH, Ticker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.message import Publication

ROUTE = "fake:q:0"


class FakeAdapter:
    """A broker that is a list."""

    name = "fake"

    def __init__(self) -> None:
        self.sent: list[Publication] = []
        self.away = False

    def publish(self, publications: Sequence[Publication]) -> None:
        if self.away:
            raise BrokerAway("away")
        self.sent.extend(publications)

    def depth(self, route: str) -> int:
        return len(self.sent)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_000_000)


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(lease=30, clock=clock)


@pytest.fixture
def adapter() -> FakeAdapter:
    return FakeAdapter()


@pytest.fixture
def ticker(store: MemoryStore, adapter: FakeAdapter) -> Ticker:
    return Ticker(store, adapter)  # type: ignore[arg-type]


def create(store: MemoryStore, id: str, *, delay: float = 0, text: str | None = None) -> None:
    message = Message(id=id, task="t", args=[], kwargs={}, queue="q", backend="fake")
    store.create(NewJob(id, text or message.seal(), message.digest, ROUTE, id, 60, delay=delay))


def test_what_is_due_is_published_and_what_is_not_is_not(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    create(store, "soon", delay=10)
    create(store, "late", delay=20)
    clock.advance(10)
    ticker.tick()
    assert [one.native_id for one in adapter.sent] == ["soon"]
    ticker.tick()
    assert len(adapter.sent) == 1


def test_more_than_a_batch_goes_out_in_one_tick(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    for n in range(BATCH * 2 + 1):
        create(store, f"j{n}", delay=1)
    clock.advance(1)
    ticker.tick()
    assert len({one.message.id for one in adapter.sent}) == BATCH * 2 + 1


def test_a_job_whose_enqueuer_died_before_it_published_is_published(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    create(store, "orphan")
    ticker.tick()
    assert adapter.sent == []  # its enqueuer may be about to
    clock.advance(5)
    ticker.tick()
    (one,) = adapter.sent
    assert one.native_id == f"orphan-{one.pseq}"  # the first may have been sent, so not its id again


def test_while_the_broker_is_away_nothing_is_lost(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    create(store, "due", delay=1)
    clock.advance(1)
    adapter.away = True
    with pytest.raises(BrokerAway):
        ticker.tick()
    adapter.away = False
    clock.advance(5)
    ticker.tick()
    assert [one.message.id for one in adapter.sent] == ["due"]


def test_a_message_that_vanished_from_an_empty_broker_is_published_again_after_a_lease(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    create(store, "j", delay=1)
    clock.advance(1)
    ticker.tick()
    adapter.sent.clear()  # somebody emptied the broker
    ticker.tick()
    clock.advance(29)
    ticker.tick()
    assert adapter.sent == []
    clock.advance(1)
    ticker.tick()
    assert [one.message.id for one in adapter.sent] == ["j"]


def test_a_message_of_a_later_version_does_not_hold_up_its_neighbours(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    create(store, "j", delay=1, text='{"version":99}')
    create(store, "k", delay=1)
    clock.advance(1)
    ticker.tick()
    assert [one.message.id for one in adapter.sent] == ["k"]


def test_a_message_of_a_later_version_is_published_by_its_frame(
    store: MemoryStore, clock: VirtualClock, adapter: FakeAdapter, ticker: Ticker
) -> None:
    """After a downgrade there may be no other steward, and the job has to come before a worker to be handed back."""
    later = {**json.loads(Message("j", "t", ["secret"], {}, "q", "fake").seal()), "version": 99}
    create(store, "j", delay=1, text=json.dumps(later))
    clock.advance(1)
    ticker.tick()
    (sent,) = adapter.sent
    assert (sent.doorbell.id, sent.doorbell.task, sent.shown) == ("j", "t", (["(private)"], {}))


def test_a_message_that_the_engine_refuses_does_not_hold_up_its_neighbours(
    store: MemoryStore, adapter: FakeAdapter, ticker: Ticker, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = adapter.publish

    def publish(publications: Sequence[Publication]) -> None:
        if any(one.message.id == "bad" for one in publications):
            raise ValueError("cannot be encoded")
        accept(publications)

    monkeypatch.setattr(adapter, "publish", publish)
    for id in ("a", "bad", "b"):
        create(store, id, delay=1)
    clock.advance(2)
    ticker.tick()
    assert {one.message.id for one in adapter.sent} == {"a", "b"}
    clock.advance(6)
    ticker.tick()
    assert len(adapter.sent) == 2  # theirs are cleared from the outbox, and not sent again
