"""unix://, and a store on another server than the broker."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from deploy_helpers import ENGINES, all_of_it

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer


@pytest.mark.parametrize("db", [0, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_everything_runs_over_a_socket(
    engine: str, db: int, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    with tempfile.TemporaryDirectory(prefix="qk") as folder:  # the path of a socket has 107 bytes at most
        path = Path(folder) / "redis.sock"
        server = start("--unixsocket", str(path), "--requirepass", "sesame")
        bench = bench_of(engine, broker_url=f"unix://:sesame@{path}?db={db}")
        all_of_it(bench)
        with redis.Redis(port=server.port, password="sesame") as client:
            assert set(client.info("keyspace")) == {f"db{db}"}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_store_may_be_another_server(
    engine: str, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    broker, store = start(), start()
    all_of_it(bench_of(engine, broker_url=broker.url, store_url=store.url))
    with redis.Redis.from_url(broker.url) as client:
        assert not list(client.scan_iter("queuekit:{*"))
    with redis.Redis.from_url(store.url) as client:
        assert all(key.startswith(b"queuekit:{") for key in client.scan_iter())
