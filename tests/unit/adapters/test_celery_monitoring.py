"""Celery's events are sent while somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

celery = pytest.importorskip("celery")

from queuekit.adapters.celery import monitoring  # noqa: E402  # Celery may be away

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing.plugin import Broker


@pytest.fixture
def app(queuekit_broker: Broker) -> Iterator[Any]:
    made = celery.Celery("monitored", broker=queuekit_broker.url, set_as_current=False)
    made.events.dispatcher_cls = "queuekit.adapters.celery.monitoring:Dispatcher"
    yield made
    made.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    types: list[str] = []
    monkeypatch.setattr(
        monitoring.EventDispatcher, "send", lambda self, type, *args, **fields: types.append(type), raising=True
    )
    return types


def test_a_tasks_events_wait_for_a_listener(
    app: Any, sent: list[str], queuekit_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(monitoring.time, "monotonic", lambda: now)
    with app.connection_for_write() as connection, redis.Redis.from_url(queuekit_broker.url) as client:
        others = client.pubsub_numpat()  # of tests beside this one
        monkeypatch.setattr(redis.Redis, "pubsub_numpat", lambda self: self.execute_command("PUBSUB NUMPAT") - others)
        dispatcher = app.events.Dispatcher(connection)
        dispatcher.send("worker-heartbeat")
        dispatcher.send("task-received", uuid="1")
        assert sent == ["worker-heartbeat"]
        with client.pubsub() as listener:
            listener.psubscribe("/0.celeryev/*")
            assert listener.get_message(timeout=5)
            dispatcher.send("task-received", uuid="2")
            assert sent == ["worker-heartbeat"]  # not asked for each
            now += monitoring.ASK
            dispatcher.send("task-received", uuid="3")
        assert sent == ["worker-heartbeat", "task-received"]


@pytest.mark.parametrize("error", [redis.exceptions.NoPermissionError("no"), redis.ConnectionError("away")])
def test_they_are_sent_where_it_cannot_be_told(
    app: Any, sent: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numpat(self: object) -> int:
        raise error

    monkeypatch.setattr(redis.Redis, "pubsub_numpat", numpat)
    with app.connection_for_write() as connection:
        app.events.Dispatcher(connection).send("task-received", uuid="1")
    assert sent == ["task-received"]
