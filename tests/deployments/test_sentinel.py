"""sentinel://: the store, and the brokers of RQ and Dramatiq, go with the master. Celery's broker is refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from deploy_helpers import all_of_it

from queuekit import ConfigError, EnqueueError, Settings
from queuekit.testing import tasks
from queuekit.testing.bench import TASKS
from queuekit.testing.journal import VARIABLE
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy_helpers import Watcher

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer

Watched = tuple["RedisServer", "RedisServer", "Watcher"]


def url_of(watcher: Watcher) -> str:
    return f"sentinel://127.0.0.1:1,127.0.0.1:{watcher.port}/main/0"  # the first of them is down


@pytest.mark.parametrize("engine", ["rq", "dramatiq"])
def test_everything_runs_on_the_master_and_on_its_successor(
    engine: str, watched: Watched, bench_of: Callable[..., WorkerBench]
) -> None:
    master, replica, watcher = watched
    bench = bench_of(engine, broker_url=url_of(watcher))
    all_of_it(bench)
    fail_over(master, replica, watcher)
    with bench.supervised():
        job = enqueue_by_and_by()
        assert job.result(timeout=60) == 3
    with redis.Redis.from_url(replica.url) as client:
        assert client.exists(f"queuekit:{{{bench.settings['namespace']}}}:job:{job.id}")


def test_a_store_by_sentinel_serves_a_celery_with_a_broker_of_its_own(
    watched: Watched, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    master, replica, watcher = watched
    bench = bench_of("celery", broker_url=start().url, store_url=url_of(watcher))
    all_of_it(bench)
    fail_over(master, replica, watcher)
    with bench.supervised():
        assert enqueue_by_and_by().result(timeout=60) == 3


def test_rqs_own_command_by_sentinel(watched: Watched, bench_of: Callable[..., WorkerBench]) -> None:
    """By the configuration that RQ takes for it; the steward goes by a URL that is read off the connection."""
    _, _, watcher = watched
    bench = bench_of("rq", broker_url=url_of(watcher))
    (bench.folder / "rq_settings.py").write_text(
        f"SENTINEL = {{'INSTANCES': [('127.0.0.1', {watcher.port})], 'MASTER_NAME': 'main'}}\n"
    )
    environ = {
        "PATH": "/usr/bin:/bin",
        "QUEUEKIT_MODULES": TASKS,
        "QUEUEKIT_NAMESPACE": bench.settings["namespace"],
        "QUEUEKIT_TICK": "0.2",
        VARIABLE: str(bench.journal.path),
    }
    command = ["rq", "worker", "-c", "rq_settings", "-w", "queuekit.adapters.rq.Worker"]
    bench.workers.append(WorkerProcess((), environ, bench.folder, command=command))
    job: Any = tasks.follow.enqueue(["connection"])
    assert [one.outcome for one in bench.ended(job, within=40).attempts] == ["retried", "succeeded"]


def fail_over(master: RedisServer, replica: RedisServer, watcher: Watcher) -> None:
    master.kill()
    client = redis.Redis(port=watcher.port, decode_responses=True)
    end = time.monotonic() + 60
    while client.sentinel_get_master_addr_by_name("main") != ("127.0.0.1", replica.port):
        assert time.monotonic() < end
        time.sleep(0.2)
    client.close()


def enqueue_by_and_by() -> Any:
    end = time.monotonic() + 60
    while True:
        try:
            return tasks.add.options(id="after").enqueue(1, 2)
        except EnqueueError:
            assert time.monotonic() < end


def test_celery_by_sentinel_is_refused_by_name() -> None:
    settings = Settings(backend="celery", broker_url="sentinel://h:26379/main/0")
    with pytest.raises(ConfigError, match="Celery by Sentinel.*backend rq or dramatiq"):
        settings.resolve()
    settings.replace(broker_url="redis://h/0", store_url="sentinel://h:26379/main/0").resolve()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sentinel://h:26379,i:26379", "name of the service"),
        ("sentinel://h/main/x", "name of the service"),
        ("sentinel://h:99999,i/main/0", "port must be between"),
        ("redis://h,i/0", "more than one host is for sentinel://"),
        ("sentinel://h/main?ssl_ca_certs=/ca", "TLS by Sentinel has not been run"),
        ("redis+sentinel://h/main", "write sentinel:// in place of redis\\+sentinel://"),
    ],
)
def test_what_cannot_be_is_said(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        Settings(broker_url=url)


def test_passwords_are_for_the_database_and_others_for_the_sentinels() -> None:
    from queuekit.clients import connect

    pool: Any = connect("sentinel://user:p%40ss@a:1,b/main/3?sentinel_password=s").connection_pool
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("main", 3)
    assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("user", "p@ss")
    asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["username"], one["password"]) for one in asked] == [
        ("a", 1, None, "s"),
        ("b", 26379, None, "s"),
    ]
