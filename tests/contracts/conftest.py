from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from queuekit.testing.servers import RedisServer, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the tests' own: they may empty it."""
    try:
        binary = find_server("valkey")
    except LookupError as error:
        pytest.skip(str(error))
    server = RedisServer(binary, tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.kill()


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    """Of that server, which is empty."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def connection(client: redis.Redis) -> redis.Redis:
    """RQ's word for it."""
    return client
