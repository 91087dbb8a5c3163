"""The monitors as processes on loopback, and what each of them says of a job.

A view asks a monitor for the publication of an engine's id, and gives the word that the monitor shows for it; None where
it shows nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TASKS_COLUMNS = "--tasks_columns=name,args,uuid,state,result,received,runtime"
READY = 40.0  # seconds: a generous bound, which ends as soon as it answers

# dramatiq_dashboard is a WSGI middleware and has no command of its own. It shows the queues that its broker declares.
DRAMATIQ = """
import sys
from wsgiref.simple_server import make_server
from dramatiq.brokers.redis import RedisBroker
from dramatiq_dashboard import DashboardApp

url, port, *queues = sys.argv[1:]
broker = RedisBroker(url=url)
for queue in queues:
    broker.declare_queue(queue)
make_server("127.0.0.1", int(port), DashboardApp(broker=broker, prefix="")).serve_forever()
"""


class Monitor:
    """One that runs and answers."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    unknown = 404  # its answer where it knows no such job

    def get(self, path: str) -> str | None:
        """None where it says that there is no such thing."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == self.unknown:
                return None
            raise

    def press(self, path: str) -> None:
        """A button: a POST."""
        request = urllib.request.Request(f"{self.url}{path}", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def shows(self, native_id: str) -> str | None:
        raise NotImplementedError


class Flower(Monitor):
    def shows(self, native_id: str) -> str | None:
        found = self.get(f"/api/task/info/{native_id}")
        return None if found is None else json.loads(found)["state"]


class RqDashboard(Monitor):
    """A job's page shows its status, and the lists of its queue show where it stands."""

    unknown = 500  # a NoSuchJobError of RQ's that nobody catches
    lists = ("queued", "started", "finished", "failed", "canceled", "deferred", "scheduled")

    def shows(self, native_id: str) -> str | None:
        page = self.get(f"/0/data/job/{native_id}.json")
        if page is None:
            return None
        told = json.loads(page)
        queue = told["origin"]
        there = [name for name in self.lists if native_id in self._listed(queue, name)]
        status = told["status"]
        return status if there == [status] else f"{status}, listed as {' and '.join(there) or 'nothing'}"

    def _listed(self, queue: str, name: str) -> list[str]:
        page = self.get(f"/0/data/jobs/{queue}/{name}/100/asc/1.json")
        assert page is not None
        return [job["id"] for job in json.loads(page)["jobs"]]


class DramatiqDashboard(Monitor):
    queues: tuple[str, ...] = ()

    def shows(self, native_id: str) -> str | None:
        """The tab in which its message stands. Its pages name a message by an id of the broker's: that of ours is on
        the message's own page."""
        for queue in self.queues:
            for tab in ("standard", "delayed", "failed"):
                page = self.get(f"/queues/{queue}/{tab}") or ""
                links = set(re.findall(rf'href="(/queues/[^"]+/{tab}/[^"]+)"', page))
                if any(native_id in (self.get(link) or "") for link in links):
                    return tab
        return None


@contextmanager
def flower(broker_url: str, folder: Path) -> Iterator[Flower]:
    command = ["celery", f"--broker={broker_url}", "flower", "--address=127.0.0.1", "--port={port}", TASKS_COLUMNS]
    with _started(Flower, command, folder, {"FLOWER_UNAUTHENTICATED_API": "true"}) as monitor:
        yield monitor


@contextmanager
def rq_dashboard(broker_url: str, folder: Path) -> Iterator[RqDashboard]:
    options = ["--bind=127.0.0.1", "--port={port}", f"--redis-url={broker_url}", "--json", "--show-full-args"]
    command = ["rq_dashboard", *options]
    with _started(RqDashboard, command, folder, {}) as monitor:
        yield monitor


@contextmanager
def dramatiq_dashboard(broker_url: str, folder: Path, *queues: str) -> Iterator[DramatiqDashboard]:
    script = folder / "dashboard.py"
    script.write_text(DRAMATIQ)
    with _started(DramatiqDashboard, [str(script), broker_url, "{port}", *queues], folder, {}) as monitor:
        monitor.queues = queues
        yield monitor


@contextmanager
def _started(kind: type[Any], command: list[str], folder: Path, environ: dict[str, str]) -> Iterator[Any]:
    """Ends with the block. Raises RuntimeError with its log where it does not answer."""
    port = free_port()
    given = [part.replace("{port}", str(port)) for part in command]
    module = [] if given[0].endswith(".py") else ["-m"]
    log = folder / f"{kind.__name__}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *module, *given],
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    monitor = kind(port)
    try:
        until = time.monotonic() + READY
        while True:
            try:
                monitor.get("/")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{kind.__name__} does not answer:\n{log.read_text()[-3000:]}") from None
                time.sleep(0.1)
        yield monitor
    finally:
        process.kill()
        process.wait()
