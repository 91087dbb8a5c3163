"""What Flower, rq-dashboard and dramatiq_dashboard show for a job, and that docs/reference/states.md says so.

Each monitor is a process of its own, beside a real worker of its engine on a Redis of the test's own.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agents import summarise
from dashboards import dramatiq_dashboard, flower, rq_dashboard
from states import Jobs

from queuekit.job import JobStatus
from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import a_server
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashboards import Monitor

    from queuekit.testing.servers import RedisServer

pytestmark = pytest.mark.timeout(300)

PAGE = Path(__file__).parents[2] / "docs/reference/states.md"
COLUMNS = ("Flower", "rq-dashboard", "dramatiq_dashboard")
NOTHING = "nothing"
SHOWN_WITHIN = 40.0  # seconds; Celery itself takes ten to say that a child was lost


def table(monitor: str) -> dict[str, str]:
    """What the page says that the monitor shows, by the state of the job."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    head = next(number for number, line in enumerate(lines) if all(name in line for name in COLUMNS))
    found = {}
    for line in lines[head + 2 :]:
        state, _, *cells = (cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        if len(cells) != len(COLUMNS):
            break
        found[state] = cells[COLUMNS.index(monitor)]
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with a_server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def make_jobs(server: RedisServer, tmp_path: Path) -> Iterator[Callable[[str], Jobs]]:
    benches: list[WorkerBench] = []

    def make(target: str) -> Jobs:
        found = find_targets((target,))[0]  # on Redis: dramatiq_dashboard knows no other broker
        bench = WorkerBench(
            found, tmp_path / "bench", broker_url=server.url, namespace="prod", grace=1.0, concurrency=3
        )
        benches.append(bench)
        return Jobs(bench)

    yield make
    for bench in benches:
        bench.close()


def seen(monitor: Monitor, ids: dict[str, str], expected: dict[str, str]) -> dict[str, str]:
    """What it shows, as soon as that is what is expected, and at the latest after a while."""
    until = time.monotonic() + SHOWN_WITHIN
    while True:
        shown = {state: monitor.shows(native_id) or NOTHING for state, native_id in ids.items()}
        if shown == {state: expected.get(state) for state in ids} or time.monotonic() > until:
            return shown
        time.sleep(0.5)


def check(monitor: Monitor, jobs: Jobs, name: str) -> None:
    expected = table(name)
    jobs.crash()
    jobs.make()
    shown = seen(monitor, jobs.ids, expected)
    jobs.release()
    shown |= seen(monitor, {"released": jobs.ids["released"]}, expected)
    assert shown == expected


def test_flower(server: RedisServer, make_jobs: Callable[[str], Jobs], tmp_path: Path) -> None:
    pytest.importorskip("flower", reason="Flower is not installed: the extra monitors")
    jobs = make_jobs("celery-prefork")
    with flower(server.url, tmp_path) as monitor, jobs.bench.in_use():
        jobs.start_worker()
        check(monitor, jobs, "Flower")


def test_flower_knows_our_workers_by_their_events_alone(
    server: RedisServer, make_jobs: Callable[[str], Jobs], tmp_path: Path
) -> None:
    """Remote control is off: nobody who can write to the broker tells a worker what to do."""
    pytest.importorskip("flower", reason="Flower is not installed: the extra monitors")
    jobs = make_jobs("celery-prefork")
    with flower(server.url, tmp_path) as monitor, jobs.bench.in_use():
        jobs.start_worker()
        (name,) = json.loads(monitor.get("/api/workers?status=true") or "{}")
        assert name.startswith("queuekit@")
        assert json.loads(monitor.get("/api/workers?refresh=true") or "{}") == {}
        assert monitor.get(f"/worker/{name}") is None
        job = jobs.run("long.txt")
        assert seen(monitor, {"running": job.id}, {"running": "STARTED"}) == {"running": "STARTED"}
        monitor.press(f"/api/task/revoke/{job.id}?terminate=true")
        jobs.bench.ended(summarise.enqueue("report.txt"))  # whatever the worker was told, it has read by now
        assert job.status() is JobStatus.running
        assert monitor.shows(job.id) == "STARTED"


def test_rq_dashboard(server: RedisServer, make_jobs: Callable[[str], Jobs], tmp_path: Path) -> None:
    pytest.importorskip("rq_dashboard", reason="rq-dashboard is not installed: the extra monitors")
    jobs = make_jobs("rq-worker")
    with rq_dashboard(server.url, tmp_path) as monitor, jobs.bench.in_use():
        jobs.start_worker()
        check(monitor, jobs, "rq-dashboard")


def test_requeue_of_rq_dashboard_runs_nothing(
    server: RedisServer, make_jobs: Callable[[str], Jobs], tmp_path: Path
) -> None:
    pytest.importorskip("rq_dashboard", reason="rq-dashboard is not installed: the extra monitors")
    jobs = make_jobs("rq-worker")
    with rq_dashboard(server.url, tmp_path) as monitor, jobs.bench.in_use():
        jobs.start_worker()
        failed = summarise.enqueue("broken.txt")
        jobs.bench.ended(failed)
        jobs.bench.until(lambda: monitor.shows(failed.id) == "failed", "the dashboard shows the failed job")
        monitor.press(f"/job/{failed.id}/requeue")
        jobs.bench.until(
            lambda: (monitor.shows(failed.id) or "").startswith("queued"), "it was put into the queue again"
        )
        jobs.bench.ended(summarise.enqueue("report.txt"))  # behind it in the queue
        info = failed.info()
        assert (info.status, len(info.attempts)) == (JobStatus.failed, 1)


def test_dramatiq_dashboard(server: RedisServer, make_jobs: Callable[[str], Jobs], tmp_path: Path) -> None:
    pytest.importorskip("dramatiq_dashboard", reason="dramatiq_dashboard is not installed: nox -s monitors")
    jobs = make_jobs("dramatiq")
    queues = [f"queuekit.prod.{queue}.p0" for queue in ("documents", "unserved")]
    with dramatiq_dashboard(server.url, tmp_path, *queues) as monitor, jobs.bench.in_use():
        jobs.start_worker()
        check(monitor, jobs, "dramatiq_dashboard")
