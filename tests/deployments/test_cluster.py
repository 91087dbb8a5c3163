"""redis+cluster://: the store only. The engines' own keys do not share a slot, and they are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from deploy_helpers import ENGINES, all_of_it

from queuekit import App, ConfigError, Settings
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer


@pytest.mark.parametrize("engine", ENGINES)
def test_the_store_of_each_engine_may_be_a_cluster(
    engine: str,
    cluster: list[RedisServer],
    start: Callable[..., RedisServer],
    bench_of: Callable[..., WorkerBench],
) -> None:
    bench = bench_of(
        engine, broker_url=start().url, store_url=f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster[0].port}"
    )
    all_of_it(bench)
    where = [node for node in cluster if _keys(node, bench.settings["namespace"])]
    assert len(where) == 1  # one hash tag


def test_and_it_may_be_one_with_tls(
    tls_cluster: list[RedisServer], start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    query = tls_cluster[0].url.partition("?")[2]
    store_url = f"rediss+cluster://127.0.0.1:{tls_cluster[0].port}?{query}"
    all_of_it(bench_of("rq", broker_url=start().url, store_url=store_url))


def test_namespaces_are_spread_over_the_nodes(cluster: list[RedisServer]) -> None:
    from queuekit.store.redis import RedisStore

    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    names = [f"spread_{number}" for number in range(12)]
    for name in names:
        store = RedisStore(url, name)
        store.epoch()
        assert abs(store.now() - store.now()) < 60
        store.close()
    assert all(any(_keys(node, name) for name in names) for node in cluster)


def _keys(node: RedisServer, namespace: str) -> list[bytes]:
    with redis.Redis.from_url(node.url) as client:
        return list(client.scan_iter(f"queuekit:{{{namespace}}}:*"))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_broker_on_a_cluster_is_refused_when_a_worker_starts(
    engine: str, cluster: list[RedisServer], bench_of: Callable[..., WorkerBench], start: Callable[..., RedisServer]
) -> None:
    bench = bench_of(engine, broker_url=cluster[0].url, store_url=start().url)
    worker = bench.start_worker(ready=False)
    assert worker.wait(40) == 2
    assert "broker_url leads to a node of a Redis Cluster" in worker.said()


def test_a_cluster_as_the_broker_is_refused_by_its_url() -> None:
    with pytest.raises(ConfigError, match="cannot keep their queues on a Redis Cluster.*the cluster as store_url"):
        Settings(broker_url="redis+cluster://h:7000")


def test_a_store_url_that_leads_to_a_node_is_said(
    cluster: list[RedisServer], start: Callable[..., RedisServer]
) -> None:
    broker = start()
    with pytest.raises(ConfigError, match="redis\\+cluster://"):
        for number in range(20):  # one of them has its keys elsewhere
            settings = Settings(
                backend="rq", broker_url=broker.url, store_url=cluster[0].url, namespace=f"elsewhere_{number}"
            )
            app = App(settings)
            with app.activate():
                tasks.add.enqueue(1)
            app.close()
