"""What the tests see of the running system: its app as its producers have it, and the workers that they start."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.result import AsyncResult

from queuekit import App, Settings
from queuekit.testing.journal import VARIABLE, Journal
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job

HERE = Path(__file__).parent


del AsyncResult.__del__  # it talks to the result backend whenever it is collected: the test's servers are gone by then


class Owner:
    def __init__(self, folder: Path, broker_url: str, store_url: str, **settings: Any) -> None:
        self.folder = folder
        self.broker_url, self.store_url = broker_url, store_url
        self.native = Celery("owner", broker=broker_url, backend=store_url, set_as_current=False)
        self.native.conf.update(
            task_serializer="pickle",
            result_serializer="pickle",
            accept_content=["json", "pickle"],
            task_default_queue="shop",
            task_routes={"shop.report": {"queue": "reports", "routing_key": "reports"}},
        )
        self.journal = Journal(folder / "journal")
        self.namespace = f"test_{secrets.token_hex(4)}"
        self.settings = {"namespace": self.namespace, "lease": 2.0, "tick": 0.2, "grace": 5.0, **settings}
        self.app = App(Settings(backend="celery", broker_url=broker_url, store_url=store_url, **self.settings))
        self.workers: list[WorkerProcess] = []

    def environ(self, **settings: Any) -> dict[str, str]:
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
        given = {**self.settings, **settings}
        if self.store_url != self.broker_url:
            given["store_url"] = self.store_url
        return {
            **theirs,
            "PYTHONPATH": str(HERE),
            "SHOP_BROKER": self.broker_url,
            "C_FORCE_ROOT": "1",  # the system takes pickles, and a test may run as root
            "SHOP_RESULTS": self.store_url,
            "SHOP_JOURNAL": str(self.folder / "shop"),
            "SHOP_SCHEDULE": str(self.folder / "schedule"),
            VARIABLE: str(self.journal.path),
            **{f"QUEUEKIT_{name.upper()}": str(value) for name, value in given.items()},
        }

    def start(
        self, *options: str, app: str = "celery_both:app", environ: dict[str, str] | None = None, **settings: Any
    ) -> WorkerProcess:
        """`celery -A celery_both:app worker`, as the system's owner starts it."""
        command = ["celery", "-A", app, "worker", "-c", "2", "-l", "INFO", *options]
        return self._started(
            WorkerProcess((), {**self.environ(**settings), **(environ or {})}, self.folder, command=command)
        )

    def start_ours(self, *modules: str, **settings: Any) -> WorkerProcess:
        """`queuekit worker celery_both`."""
        environ = {**self.environ(**settings), "QUEUEKIT_BACKEND": "celery", "QUEUEKIT_BROKER_URL": self.broker_url}
        return self._started(WorkerProcess(modules or ("celery_both",), environ, self.folder))

    def _started(self, worker: WorkerProcess) -> WorkerProcess:
        self.workers.append(worker)
        return worker

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        return self.native.send_task(name, args, **options)

    def call(self, name: str, *args: Any, within: float = 60.0) -> Any:
        """The result of a native task."""
        return self.send(name, *args).get(timeout=within)

    def events(self, event: str) -> list[dict[str, Any]]:
        path = self.folder / "shop"
        lines = path.read_text().splitlines() if path.exists() else []
        return [one for one in map(json.loads, lines) if one["event"] == event]

    def until(self, true: Callable[[], Any], what: str, within: float = 40.0) -> Any:
        end = time.monotonic() + within
        while not (found := true()):
            assert time.monotonic() < end, f"not within {within} s: {what}"
            time.sleep(0.05)
        return found

    def started(self, job: Job[Any]) -> Any:
        return self.until(lambda: self.journal.entries(job.id, "start"), f"job {job.id} has started")

    def quarantine(self) -> list[Any]:
        return self.app.store.quarantined(10)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill_all()
            print(f"worker {worker.pid}, exit code {worker.exit_code}:\n{worker.said()[-8000:]}")  # where a test fails
        self.app.close()
        self.native.close()
