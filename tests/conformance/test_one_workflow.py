"""One workflow over three engines: each step runs where it says, and the results go from one to the next."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from queuekit import App, Job, Settings, chain, chord
from queuekit.job import JobStatus
from queuekit.testing import tasks
from queuekit.testing.plugin import a_server
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

ENGINES = ("celery", "rq", "dramatiq")


@pytest.mark.timeout(180)
def test_each_step_runs_on_its_own_engine(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(a_server(tmp_path / "server"))
        for engine in ENGINES:
            pytest.importorskip(engine)
            environ = {
                **os.environ,
                "QUEUEKIT_BACKEND": engine,
                "QUEUEKIT_BROKER_URL": server.url,
                "QUEUEKIT_TICK": "0.2",
            }
            worker = WorkerProcess([tasks.__name__], environ, tmp_path)
            stack.callback(worker.kill_all)
        app = App(Settings(backend="celery", broker_url=server.url))
        stack.callback(app.close)
        with app.activate():
            on = {engine: tasks.add.options(backend=engine) for engine in ENGINES}
            parts = [on[engine].bind(number) for number, engine in enumerate(ENGINES)]
            job = chain(on["rq"].bind(1), on["dramatiq"], tasks.add).enqueue()
            assert job.result(timeout=120) == 4
            whole = chord(parts, tasks.total.options(backend="rq")).enqueue()
            assert whole.result(timeout=60) == 6
            infos = [Job.fetch(id).info() for id in (*whole.info().after, whole.id)]
            assert [(one.backend, one.status, len(one.attempts)) for one in infos] == [
                (engine, JobStatus.succeeded, 1) for engine in (*ENGINES, "rq")
            ]
