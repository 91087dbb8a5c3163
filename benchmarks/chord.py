"""How soon a chord's body starts after its last member, where the broker delivers every member three times, and what
the workflow costs the store.

    python benchmarks/chord.py --backend dramatiq
    python benchmarks/chord.py --backend rq --pool "" --workers 2 --members 1000

For each number of members it enqueues a chord on a Redis of its own, puts three messages of each member where one was,
starts workers, and prints from the records: how often the body was started (it exits with 1 where that is not once),
the milliseconds from the end of the last member until then, and the store's scripts and its time in them for each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from queuekit import App, Job, Settings, agent_task, chord
from queuekit.message import Message, Publication
from queuekit.testing.servers import RedisServer, find_server


@agent_task(name="chord.member")
def member(n: int) -> int:
    return n


@agent_task(name="chord.body")
def body(numbers: list[int]) -> int:
    return sum(numbers)


def measure(asked: argparse.Namespace, count: int, folder: Path) -> bool:
    options = ["--appendonly", "no", "--save", ""]
    with (
        RedisServer(find_server(asked.server), folder, options=options) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        app = App(Settings(backend=asked.backend, broker_url=server.url, namespace="chord"))
        with app.activate():
            began = time.perf_counter()
            job = chord([member.bind(n) for n in range(count)], body).enqueue()
            enqueued = time.perf_counter() - began
            members = [Job.fetch(id) for id in job.info().after]
            deliver_thrice(app, members, client)
            client.config_resetstat()
            workers = [worker(asked, server.url) for _ in range(asked.workers)]
            try:
                result = job.result(timeout=900)
            finally:
                for process in workers:
                    process.terminate()
                for process in workers:
                    process.wait(60)
            scripts = client.info("commandstats")["cmdstat_evalsha"]
            started = [one.started_at for one in job.info().attempts]
            attempts = [one.info().attempts for one in members]
            ended = [one.ended_at for runs in attempts for one in runs if one.ended_at is not None]
    runs = sum(map(len, attempts))
    wait = 1000 * (started[0] - max(ended)).total_seconds()
    whole = (started[0] - min(runs[0].started_at for runs in attempts)).total_seconds()
    print(
        f"{asked.backend:9} {asked.pool or 'default':8} {count:5} members thrice: body started {len(started)} x, "
        f"{wait:.0f} ms after the last member; {runs} attempts of members in {whole:.1f} s; "
        f"enqueued in {enqueued:.2f} s; {scripts['calls'] / count:.1f} scripts, "
        f"{scripts['usec'] / count:.0f} us of the store for each",
        flush=True,
    )
    return len(started) == 1 and runs == count and result == sum(range(count))


def deliver_thrice(app: App, jobs: list[Job[Any]], client: redis.Redis) -> None:
    """Three messages of each where one was: what follows the last member waits behind two of its own, and no others."""
    while app.store.follow(1000).more:  # what else a steward would start at its next tick
        pass
    for key in client.scan_iter(_type="list"):
        if not key.startswith(b"queuekit:{"):  # the store's
            client.delete(key)
    epoch = app.store.epoch()
    for job in jobs:
        record = app.store.get(job.id)
        assert record is not None
        message = Publication(Message.open(record.message), record.pseq, 1, epoch, app.settings.signer)
        for _ in range(3):
            app.adapter.publish([message])
        app.store.published(record.route, [(job.id, record.pseq)])


def worker(asked: argparse.Namespace, url: str) -> subprocess.Popen[bytes]:
    settings = {"BACKEND": asked.backend, "BROKER_URL": url, "NAMESPACE": "chord"}
    environ = {**os.environ, **{f"QUEUEKIT_{name}": value for name, value in settings.items()}}
    options = ["--log-level", "ERROR"]  # Dramatiq warns of each message that is not run
    if asked.pool:
        options += ["--pool", asked.pool]
    return subprocess.Popen([sys.executable, "-m", "queuekit", "worker", __file__, *options], env=environ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="dramatiq", choices=["celery", "rq", "dramatiq"])
    parser.add_argument("--pool", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--members", type=int, action="append")
    parser.add_argument("--server", choices=["valkey", "redis"], default="redis")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        well = [measure(asked, count, Path(folder) / str(count)) for count in asked.members or [250, 500, 1000]]
    sys.exit(0 if all(well) else "not once")


if __name__ == "__main__":
    main()
