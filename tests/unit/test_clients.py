"""No name server that is silent keeps anybody longer than a connection may; and connections that are kept."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import App, EnqueueError, Settings, agent_task
from queuekit.clients import ask_all, await_name, connect, one_try

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


# ---- connections that are kept ------------------------------------------------------------------------------------------


@pytest.fixture
def client(queuekit_broker: Any) -> Iterator[Any]:
    made = connect(queuekit_broker.url, **one_try(2.0), decode_responses=True)
    yield made
    made.close()
    made.connection_pool.disconnect()


def test_one_connection_serves_all_that_one_thread_asks(client: Any) -> None:
    (mine,) = ask_all(client, [("CLIENT", "ID")])
    assert ask_all(client, [("CLIENT", "ID"), ("PING",)]) == [mine, "PONG"]
    assert client.client_id() == mine
    with client.pipeline(transaction=False) as pipe:
        pipe.client_id()
        assert pipe.execute() == [mine]
    assert ask_all(client, [("CLIENT", "ID")]) == [mine]


def test_an_error_of_the_server_is_an_answer_and_the_connection_goes_on(client: Any) -> None:
    mine, wrong, after = ask_all(client, [("CLIENT", "ID"), ("NONSENSE",), ("CLIENT", "ID")])
    assert isinstance(wrong, redis.ResponseError)
    assert mine == after
    assert ask_all(client, [("CLIENT", "ID")]) == [mine]


def test_one_that_the_server_has_closed_is_not_given(client: Any) -> None:
    (mine,) = ask_all(client, [("CLIENT", "ID")])
    other = redis.Redis(connection_pool=redis.ConnectionPool(**client.connection_pool.connection_kwargs))
    other.client_kill_filter(_id=str(mine))
    other.close()
    (now,) = ask_all(client, [("CLIENT", "ID")])
    assert now != mine


def test_one_whose_answer_was_not_read_is_not_given(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine,) = ask_all(client, [("CLIENT", "ID")])
    kind = client.connection_pool.connection_class
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(kind, "read_response", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        ask_all(client, [("ECHO", "of somebody else")])
    assert ask_all(client, [("ECHO", "mine")]) == ["mine"]
    assert ask_all(client, [("CLIENT", "ID")]) != [mine]


def test_after_a_fork_each_process_has_its_own(client: Any) -> None:
    (mine,) = ask_all(client, [("CLIENT", "ID")])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(ask_all(client, [("CLIENT", "ID")])[0]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 100)) != mine
    assert ask_all(client, [("CLIENT", "ID")]) == [mine]
    os.close(read)
    os.close(write)
