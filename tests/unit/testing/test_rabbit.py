"""A RabbitMQ node of a test's own: kept over a restart, frozen, looked into and emptied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit.testing.plugin import a_rabbitmq

if TYPE_CHECKING:
    from pathlib import Path

amqp = pytest.importorskip("amqp", reason="amqp is not installed: pip install 'queuekit[celery]'")


@pytest.mark.timeout(240)
def test_a_node(tmp_path: Path) -> None:
    with a_rabbitmq(tmp_path / "node", consumer_timeout=60_000) as server:
        with server._channel() as channel:
            channel.queue_declare("a.queue", durable=True, auto_delete=False)
            message = amqp.Message("hello", application_headers={"queuekit": {"id": "x"}}, delivery_mode=2)
            channel.basic_publish(message, routing_key="a.queue")
        body, properties = server.values()
        assert body == b"hello"
        assert b'"queuekit": {"id": "x"}' in properties
        pid = server.pid
        server.restart()
        assert server.pid != pid
        assert server.values()[0] == b"hello", "what is durable is kept, and looking takes nothing"
        server.freeze()
        assert not server.answers()
        server.thaw()
        assert server.answers()
        server.empty()
        assert server.queues() == []
        server.stop()
        assert not server.answers()
