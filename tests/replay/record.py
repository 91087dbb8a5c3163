"""Record jobs in every state, and the doorbells beside them, as the installed version of queuekit writes them.

    python tests/replay/record.py tests/replay/recorded/message-2.json

It starts a Redis or Valkey of its own and a real worker of each engine, brings jobs into each state, kills the worker
with its steward, enqueues what is to stay queued, and writes down all that is in the server then: JSON, with bytes that
are no text in base64. Run it once before a release that changes a version, and keep what it wrote: that file is what a
store and a broker hold when that release's successor is deployed.

To record with the code of an older commit, put that one's src/ on PYTHONPATH.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parent))

import replay_tasks as tasks

from queuekit import App, Job, JobStatus, RetryPolicy, Settings
from queuekit.message import VERSION, Doorbell
from queuekit.testing.process import WorkerProcess
from queuekit.testing.servers import RedisServer, find_server

ENGINES = ("celery", "dramatiq", "rq")
MODULE = str(Path(__file__).parent / "replay_tasks.py")


def wait(job: Job[Any], *wanted: str) -> None:
    end = time.monotonic() + 60
    while job.status() not in wanted:
        if time.monotonic() > end:
            raise AssertionError(f"{job} is {job.info()}, and not {wanted}")
        time.sleep(0.05)


def record(engine: str, url: str, folder: Path) -> list[dict[str, Any]]:
    """The jobs, with what each has to come to when they are replayed: a status, a result, and how many attempts."""
    settings = {"backend": engine, "broker_url": url, "namespace": f"replay-{engine}", "lease": 30.0, "tick": 0.2}
    jobs: list[dict[str, Any]] = []

    def keep(job: Job[Any], was: str, status: str, result: Any = None, attempts: int = 1) -> None:
        said = {"id": job.id, "task": job.info().task, "was": was, "status": status, "result": result}
        jobs.append({**said, "attempts": attempts})

    coded = {"codec": "replay_tasks:Shifted"} if VERSION >= 2 else {}  # the worker has it, and one of two producers
    with App(Settings(**settings)).activate() as app:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
        environ |= {f"QUEUEKIT_{name.upper()}": str(value) for name, value in {**settings, **coded}.items()}
        worker = WorkerProcess([MODULE], environ, folder)
        try:
            done = tasks.add.enqueue(1, b=41)
            wait(done, JobStatus.succeeded)
            keep(done, "succeeded", "succeeded", 42)
            failed = tasks.broken.enqueue()
            wait(failed, JobStatus.failed)
            keep(failed, "failed", "failed")
            cancelled = tasks.add.options(delay=3600).enqueue(1)
            assert cancelled.cancel("not wanted")
            keep(cancelled, "cancelled", "cancelled", attempts=0)
            again = tasks.second_time.enqueue()
            wait(again, JobStatus.retrying)
            keep(again, "retrying", "succeeded", 2, attempts=2)
            lost = tasks.interrupted.enqueue()
            wait(lost, JobStatus.running)
            keep(lost, "running", "succeeded", 2, attempts=2)
        finally:
            worker.kill_all()
        keep(tasks.add.enqueue(1), "queued", "succeeded", 2)
        keep(tasks.describe.options(priority=9).enqueue("ü😀", tags=["a"]), "queued", "succeeded", {"ü😀": ["a"]})
        keep(tasks.confidential.enqueue("secret"), "queued", "succeeded", "terces")
        keep(tasks.ignored.enqueue(), "queued", "succeeded")
        own = tasks.second_time.options(retry=RetryPolicy(max_attempts=1)).enqueue()
        keep(own, "queued", "failed")  # by the policy in its message, and not by the task's
        keep(tasks.add.options(delay=20).enqueue(2), "scheduled", "succeeded", 3)
        if coded:
            with App(Settings(**settings, **coded)).activate():
                keep(tasks.describe.enqueue("sealed", tags=["b"]), "queued", "succeeded", {"sealed": ["b"]})
                keep(tasks.add.options(delay=20).enqueue(3), "scheduled", "succeeded", 4)
        assert lost.status() is JobStatus.running
        assert again.status() is JobStatus.retrying
        app.close()
    return jobs


def text_of(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _pairs(fields: dict[bytes, bytes]) -> list[list[Any]]:
    return [[text_of(name), text_of(value)] for name, value in fields.items()]


def dump(client: Any) -> dict[str, dict[str, Any]]:
    """Every key: its type, its value, and how many ms it has to live."""
    read = {
        b"string": client.get,
        b"hash": lambda key: _pairs(client.hgetall(key)),
        b"list": lambda key: [text_of(one) for one in client.lrange(key, 0, -1)],
        b"set": lambda key: sorted(text_of(one) for one in client.smembers(key)),
        b"stream": lambda key: [[text_of(at), _pairs(fields)] for at, fields in client.xrange(key)],
        b"zset": lambda key: [[text_of(one), score] for one, score in client.zrange(key, 0, -1, withscores=True)],
    }
    keys = {}
    for key in sorted(client.keys("*")):
        kind = client.type(key)
        value = read[kind](key)
        value = text_of(value) if isinstance(value, bytes) else value
        keys[text_of(key)] = {"type": kind.decode(), "value": value, "pttl": client.pttl(key)}
    return keys


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kind = "redis" if "--redis" in sys.argv else "valkey"
        with RedisServer(find_server(kind), Path(folder) / "data") as server:
            jobs = {engine: record(engine, server.url, Path(folder)) for engine in ENGINES}
            with redis.Redis.from_url(server.url) as client:
                seconds, micros = client.time()
                versions = {
                    "message": VERSION,
                    "doorbell": Doorbell("id", "task", 1, "epoch", "rq:queue:0").to_header()["v"],
                }
                made = {
                    "queuekit": importlib.metadata.version("queuekit"),
                    **{engine: importlib.metadata.version(engine) for engine in ENGINES},
                }
                said = {"made_by": made, "writes": versions, "now_ms": seconds * 1000 + micros // 1000, "jobs": jobs}
                text = json.dumps({**said, "keys": dump(client)}, indent=1, ensure_ascii=False)
                text = text.replace(socket.gethostname(), "recorder").replace(sys.base_prefix, "/usr")
                path.write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
