"""Servers as they are deployed: with TLS, with users, behind sentinels, as a cluster, on a socket."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis
from deploy_helpers import SETTINGS, Certificates, TlsNode, TlsServer, Watcher, binary, default_target

from queuekit.testing.bench import WorkerBench
from queuekit.testing.servers import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=["server alone", "client too"])
def tls(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsServer]:
    clients = request.param == "client too"
    with TlsServer(binary(), tmp_path_factory.mktemp("tls"), certificates, clients=clients) as server:
        yield server


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """A server with these words on its command line."""
    with ExitStack() as stack:

        def make(*options: str) -> RedisServer:
            return stack.enter_context(RedisServer(binary(), tmp_path_factory.mktemp("server"), options=options))

        yield make


@pytest.fixture
def watched(
    start: Callable[..., RedisServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RedisServer, RedisServer, Watcher]]:
    """A master, its replica and a sentinel that has seen both."""
    master = start()
    replica = start("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
    with Watcher(binary(), tmp_path_factory.mktemp("sentinel"), master) as watcher:
        client = redis.Redis(port=watcher.port, decode_responses=True)
        end = time.monotonic() + 60
        while client.sentinel_master("main")["num-slaves"] < 1 or not _in_step(master):
            assert time.monotonic() < end
            time.sleep(0.2)
        client.close()
        yield master, replica, watcher


def _in_step(master: RedisServer) -> bool:
    with redis.Redis.from_url(master.url) as client:
        found = client.info("replication")
        return found["connected_slaves"] == 1 and found["slave0"]["state"] == "online"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    with ExitStack() as stack:
        yield _three(
            lambda options: stack.enter_context(RedisServer(binary(), tmp_path_factory.mktemp("node"), options=options))
        )


@pytest.fixture
def tls_cluster(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """The same with TLS."""
    with ExitStack() as stack:
        yield _three(
            lambda options: stack.enter_context(
                TlsNode(binary(), tmp_path_factory.mktemp("node"), certificates, options=options)
            )
        )


def _three(make: Callable[[list[str]], RedisServer]) -> list[RedisServer]:
    buses = [str(free_port()) for _ in range(3)]
    nodes = [make(["--cluster-enabled", "yes", "--cluster-port", bus]) for bus in buses]
    clients: list[Any] = [redis.Redis.from_url(node.url, decode_responses=True) for node in nodes]
    bounds = [0, 5461, 10923, 16384]
    for number, client in enumerate(clients):
        client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, buses[0])
    end = time.monotonic() + 60
    while any(client.cluster("info")["cluster_state"] != "ok" for client in clients):
        assert time.monotonic() < end
        time.sleep(0.1)
    for client in clients:
        client.close()
    return nodes


@pytest.fixture
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., WorkerBench]]:
    """A bench on the default pool of an engine, in use."""
    with ExitStack() as stack:

        def make(engine: str, **settings: Any) -> WorkerBench:
            target = default_target(engine)
            bench = WorkerBench(target, tmp_path_factory.mktemp(engine), **{**SETTINGS, **settings})
            stack.callback(bench.close)
            stack.enter_context(bench.in_use())
            return bench

        yield make


@pytest.fixture
def namespace() -> str:
    return f"test_{secrets.token_hex(4)}"
