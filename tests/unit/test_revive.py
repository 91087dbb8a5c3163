"""Bringing a job back from Python: on another engine, with other arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit import JobFailed, QueuekitError, agent_task
from queuekit.message import InvalidMessage, Message
from queuekit.store.memory import MemoryStore
from queuekit.store.revival import revive, with_arguments

if TYPE_CHECKING:
    from queuekit import App, Job


@agent_task(name="revived.divide")
def divide(a: int, *, by: int) -> int:
    return a // by


@pytest.fixture
def failed(queuekit_memory: App) -> Job[int]:
    job = divide.enqueue(6, by=0)
    with pytest.raises(JobFailed):
        job.result()
    return job


def test_with_other_arguments(queuekit_memory: App, failed: Job[int]) -> None:
    assert queuekit_memory.revive(failed.id, arguments=([6], {"by": 3})) == failed
    assert failed.result() == 2
    assert [one.outcome for one in failed.info().attempts] == ["failed", "succeeded"]


def test_on_another_engine_its_stewards_publish_it(queuekit_memory: App, failed: Job[int]) -> None:
    queuekit_memory.revive(failed.id, backend="rq")
    assert (failed.info().backend, failed.status()) == ("rq", "queued")
    assert not queuekit_memory.run_next()  # it is not published here
    (taken,) = queuekit_memory.store.take_lost("rq:default:0", 10)  # and there at the next tick
    assert Message.open(taken.message).id == failed.id


def test_back_on_this_one(queuekit_memory: App, failed: Job[int]) -> None:
    queuekit_memory.revive(failed.id, backend="rq", arguments=([4], {"by": 2}))
    failed.cancel()
    queuekit_memory.revive(failed.id)
    assert failed.result() == 2


def test_what_a_codec_encoded_is_not_replaced(failed: Job[int]) -> None:
    text = Message("a", "t", [], {}, "default", "rq", payload="eA==").seal()
    with pytest.raises(QueuekitError, match="payload codec"):
        with_arguments(text, [1], {})
    with pytest.raises(InvalidMessage):
        with_arguments("nonsense", [1], {})


def test_all_else_of_the_message_stays(queuekit_memory: App, failed: Job[int]) -> None:
    record = queuekit_memory.store.get(failed.id)
    assert record is not None
    before = Message.open(record.message)
    after = Message.open(with_arguments(record.message, ["ü", "\ud83e"], {"by": None}))
    assert (after.args, after.kwargs) == (["ü", "\ud83e"], {"by": None})
    same = ("id", "task", "queue", "backend", "priority", "result_ttl", "private", "headers")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]


def test_of_two_who_bring_it_back_one_does(queuekit_memory: App, failed: Job[int]) -> None:
    """The record that both have read is old by the time of the second."""
    store = queuekit_memory.store
    assert isinstance(store, MemoryStore)
    record = store.get(failed.id)
    assert record is not None
    revive(store, record, None)
    with pytest.raises(QueuekitError, match="is queued: only a job that failed or was cancelled"):
        revive(store, record, None)
