"""A native message that nobody published through queuekit becomes a job, where the setting `adopt` is on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Settings, agent_task
from queuekit.adapters.memory import VirtualClock
from queuekit.execution import Delivery, Dropped, Execution, Succeeded, Unrecorded
from queuekit.message import InvalidMessage, Message
from queuekit.store import StoreAway
from queuekit.store.memory import MemoryStore
from queuekit.task import find_task

if TYPE_CHECKING:
    from queuekit.job import Record

RAN: list[int] = []


@agent_task(name="adopt.double", aliases=["adopt.twice"], timeout=30, result_ttl=120, priority=6)
def double(number: int) -> int:
    RAN.append(number)
    return 2 * number


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_000_000)


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    RAN.clear()
    return MemoryStore(clock=clock)


def execution(store: MemoryStore, stopping: threading.Event | None = None, **settings: Any) -> Execution:
    return Execution(
        store,
        Settings(backend="memory", **{"adopt": True, **settings}),
        find=find_task,
        worker=lambda: "w",
        renew=lambda: store.beat("w", start=True) and None,  # type: ignore[func-returns-value]
        stopping=stopping,
    )


def native(**changes: Any) -> dict[str, Any]:
    return {"id": "n-1", "task": "adopt.double", "args": [4], "kwargs": {}, "queue": "q", **changes}


def record(store: MemoryStore) -> Record:
    found = store.get("n-1")
    assert found is not None
    return found


def adopted(execution: Execution, **changes: Any) -> Delivery:
    delivery = execution.adopt(**native(**changes))
    assert isinstance(delivery, Delivery)
    return delivery


def test_it_gets_a_record_and_runs(store: MemoryStore) -> None:
    worker = execution(store)
    delivery = adopted(worker, priority=3)
    assert record(store).status == "queued"
    assert worker.execute(delivery) == Succeeded(8, "8")
    assert record(store).status == "succeeded"
    assert store.result("n-1") == "8"
    message = Message.open(record(store).message)
    assert (message.route, message.timeout, message.result_ttl) == ("memory:q:3", 30, 120)


def test_a_redelivery_finds_the_record(store: MemoryStore) -> None:
    worker = execution(store)
    worker.execute(adopted(worker))
    assert isinstance(worker.execute(adopted(worker)), Dropped)
    assert RAN == [4]


def test_a_renamed_task_keeps_the_name_that_its_producer_knows(store: MemoryStore) -> None:
    """A redelivery, to a worker of before or after the rename, finds the same job."""
    worker = execution(store)
    assert worker.execute(adopted(worker, task="adopt.twice")) == Succeeded(8, "8")
    assert Message.open(record(store).message).task == "adopt.twice"
    before_the_rename = execution(store)
    before_the_rename._find = lambda name: double if name == "adopt.twice" else None
    assert isinstance(before_the_rename.execute(adopted(before_the_rename, task="adopt.twice")), Dropped)


def test_a_worker_that_dies_before_the_claim_loses_nothing(store: MemoryStore, clock: VirtualClock) -> None:
    adopted(execution(store))
    clock.advance(6)  # the outbox entry is overdue
    (taken,) = store.take_lost("memory:q:0", 10)
    assert Message.open(taken.message).id == "n-1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "a b"}, "its id 'a b' is not"),
        ({"id": None}, "its id 'None' is not"),
        ({"task": "os.system"}, "does not know the task 'os.system'"),
        ({"task": ["x"]}, "does not know the task"),
        ({"args": "4"}, "args must be a list"),
        ({"kwargs": None}, "kwargs a mapping"),
        ({"args": ["four"]}, "do not fit the task 'adopt.double'.*number"),
        ({"args": []}, "do not fit the task 'adopt.double'.*number"),
        ({"args": [object()]}, "do not fit the task"),
        ({"args": [float("nan")]}, "do not fit the task"),
        ({"args": [10**2000]}, "takes .* more than payload_limit=2000"),
    ],
)
def test_what_cannot_be_a_job_is_refused_with_the_reason(
    store: MemoryStore, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        execution(store, payload_limit=2000).adopt(**native(**changes))
    assert store.get("n-1") is None


def test_it_is_off_by_default(store: MemoryStore) -> None:
    assert Settings().adopt is False
    with pytest.raises(InvalidMessage, match="the setting adopt=true would run it"):
        execution(store, adopt=False).adopt(**native())


def test_an_id_that_asks_for_something_else_is_refused(store: MemoryStore) -> None:
    worker = execution(store)
    adopted(worker)
    with pytest.raises(InvalidMessage, match="asks for something else"):
        worker.adopt(**native(args=[5]))


def test_it_waits_for_a_store_that_is_away(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(job: object) -> None:
        raise StoreAway("down", sent=False)

    monkeypatch.setattr(store, "create", away)
    stopping = threading.Event()
    stopping.set()
    assert execution(store, stopping).adopt(**native()) == Unrecorded("down")
