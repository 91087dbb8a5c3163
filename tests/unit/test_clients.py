"""No name server that is silent keeps anybody longer than a connection may."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import App, EnqueueError, Settings, agent_task
from queuekit.clients import await_name, connect, one_try

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing.servers import RedisServer

LONG = 30.0


@agent_task
def greet(name: str) -> str:
    return name


class Names:
    """The system's resolver: `silent` until it is let go."""

    def __init__(self, real: Any) -> None:
        self.real, self.asked = real, 0
        self.answers = threading.Event()

    def __call__(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "silent.example":
            return self.real(host, *args, **kwargs)
        self.asked += 1
        assert self.answers.wait(LONG)
        return self.real("127.0.0.1", *args, **kwargs)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answers.set()
    for thread in threading.enumerate():
        if thread.name == "queuekit-dns":
            thread.join()


def test_an_address_is_not_looked_up(names: Names) -> None:
    before = threading.active_count()
    await_name("127.0.0.1", 5.0)
    await_name("::1", 5.0)
    assert threading.active_count() == before


def test_many_wait_for_one_look_up(names: Names) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"no name server has answered for 'silent.example' in 0\.0 s"):
            await_name("silent.example", 0.01)
    assert names.asked == 1
    names.answers.set()
    await_name("silent.example", LONG)


def test_a_name_that_nobody_has_is_for_the_connection_to_say() -> None:
    await_name("no.such.name.invalid", LONG)
    await_name("a" * 300, LONG)  # no name at all


def test_a_connection_waits_no_longer_than_it_may(names: Names, queuekit_server: RedisServer) -> None:
    client = connect(f"redis://silent.example:{queuekit_server.port}/0", **one_try(0.2))
    with pytest.raises(redis.TimeoutError, match="name server"):
        client.ping()
    names.answers.set()
    assert client.ping()
    client.close()


def test_a_name_is_looked_up_for_a_connection_and_not_for_each_command(
    names: Names, queuekit_server: RedisServer
) -> None:
    names.answers.set()
    client = connect(f"redis://silent.example:{queuekit_server.port}/0", **one_try(LONG))
    assert client.ping()
    once = names.asked
    for _ in range(5):
        assert client.ping()
    assert names.asked == once
    client.close()


@pytest.mark.parametrize("backend", ["celery", "rq", "dramatiq"])
@pytest.mark.parametrize("silent", ["store_url", "broker_url"])
def test_enqueue_is_in_time(names: Names, queuekit_server: RedisServer, backend: str, silent: str) -> None:
    """C7: with the store away it says that nothing is recorded; with the broker away the job is accepted."""
    urls: dict[str, Any] = {"store_url": queuekit_server.url, "broker_url": queuekit_server.url}
    urls[silent] = f"redis://silent.example:{queuekit_server.port}/0"
    settings = Settings(backend=backend, enqueue_timeout=1.0, namespace=f"dns-{backend}-{silent}"[:20], **urls)
    with App(settings).activate():
        began = time.monotonic()
        if silent == "store_url":
            with pytest.raises(EnqueueError) as caught:
                greet.enqueue("x")
            assert caught.value.recorded is False
        else:
            assert greet.enqueue("x").status() == "queued"
        assert time.monotonic() - began < LONG / 2
    assert names.asked


def test_enqueue_to_a_rabbitmq_is_in_time(names: Names, queuekit_server: RedisServer) -> None:
    for backend in ("celery", "dramatiq"):
        settings = Settings(
            backend=backend,
            broker_url="amqp://guest:guest@silent.example:5672//",
            store_url=queuekit_server.url,
            enqueue_timeout=1.0,
            namespace=f"dns-amqp-{backend}",
        )
        with App(settings).activate():
            began = time.monotonic()
            assert greet.enqueue("x").status() == "queued"
            assert time.monotonic() - began < LONG / 2
