"""How much memory jobs take that wait: in the store, and in the broker of each engine.

    python benchmarks/memory.py                                    100,000 jobs on each engine that is installed
    python benchmarks/memory.py --backend rq --jobs 1000000        a million, on one of them

Starts two servers of its own, which keep nothing on disk, and enqueues jobs whose arguments take 300 bytes. Nobody runs
them. The figures are `used_memory` of the servers, less what they had before the first job.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from collections import deque
from pathlib import Path

import redis

from queuekit import App, Settings, agent_task
from queuekit.settings import installed_backends
from queuekit.testing.servers import RedisServer, find_server

PAYLOAD = secrets.token_urlsafe(300)[:296]  # 300 bytes of JSON with brackets and quotes; RQ compresses what can be


@agent_task
def summarise(text: str) -> str:
    return text


def used(client: redis.Redis) -> int:
    taken: int = client.info("memory")["used_memory"]
    return taken


def measure(backend: str, jobs: int, server: str) -> None:
    options = ["--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(find_server(server), Path(folder) / "broker", options=options) as broker,
        RedisServer(find_server(server), Path(folder) / "store", options=options) as store,
        redis.Redis.from_url(broker.url) as at_broker,
        redis.Redis.from_url(store.url) as at_store,
    ):
        app = App(Settings(backend=backend, broker_url=broker.url, store_url=store.url))
        with app.activate():
            summarise.enqueue(PAYLOAD)  # connections and scripts are there from here on
            before = used(at_broker), used(at_store)
            began = time.monotonic()
            deque(summarise.enqueue_batches((PAYLOAD,) for _ in range(jobs)), maxlen=0)
            seconds = time.monotonic() - began
        route = app.store.routes(backend)[0]
        waiting = app.adapter.depth(route)
        if waiting != jobs + 1:
            raise SystemExit(f"{backend}: {waiting} messages wait, not {jobs + 1}")
        grown = used(at_broker) - before[0], used(at_store) - before[1]
        version = at_store.info("server")
        app.close()
    name = f"{version.get('server_name', 'redis')} {version.get('valkey_version') or version['redis_version']}"
    print(
        f"{backend:9} {jobs:9,} jobs   broker {grown[0] / 2**20:7,.0f} MiB, {grown[0] / jobs:5,.0f} bytes a job   "
        f"store {grown[1] / 2**20:7,.0f} MiB, {grown[1] / jobs:5,.0f} bytes a job   "
        f"({name}; enqueued in {seconds:,.0f} s)",
        flush=True,
    )


def main() -> None:
    engines = [name for name, there in installed_backends().items() if there and name in ("celery", "rq", "dramatiq")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=engines)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--server", choices=["valkey", "redis"], default="redis")
    asked = parser.parse_args()
    for backend in asked.backend or engines:
        measure(backend, asked.jobs, asked.server)


if __name__ == "__main__":
    main()
