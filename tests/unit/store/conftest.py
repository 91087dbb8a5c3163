"""Every test that asks for `world` runs on every store: memory, Valkey and Redis.

The servers are started by the test session itself. Where a binary is not there its tests are skipped with the reason;
with QUEUEKIT_TEST_REQUIRE_SERVICES=1 they fail instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import World, binary_of

from queuekit.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REDIS_KINDS = ("redis:valkey", "redis:redis")
KINDS = ("memory", *REDIS_KINDS)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RedisServer]]:
    """One server of a kind for the whole session; each test takes a namespace of its own on it."""
    running: dict[str, RedisServer] = {}

    def get(kind: str) -> RedisServer:
        if kind not in running:
            server = RedisServer(binary_of(kind), tmp_path_factory.mktemp("server") / "data")
            server.start()
            running[kind] = server
        return running[kind]

    yield get
    for server in running.values():
        server.kill()


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, shared_server: Callable[[str], RedisServer]) -> Iterator[World]:
    kind: str = request.param
    with World(kind, None if kind == "memory" else shared_server(kind)) as made:
        yield made


@pytest.fixture(params=REDIS_KINDS)
def redis_world(request: pytest.FixtureRequest, shared_server: Callable[[str], RedisServer]) -> Iterator[World]:
    with World(request.param, shared_server(request.param)) as made:
        yield made


@pytest.fixture(params=REDIS_KINDS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill, freeze and empty."""
    with RedisServer(binary_of(request.param), tmp_path / "data") as server:
        yield server
