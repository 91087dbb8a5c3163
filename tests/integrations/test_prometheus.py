"""Prometheus: what the hook counts and the collector asks, and the page that a real worker serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from queuekit import App, Backoff, ConfigError, RetryPolicy, RetryRule, Settings, agent_task, current_job
from queuekit.integrations import prometheus
from queuekit.integrations.prometheus import Forward, Metrics, QueueCollector, start_exporter
from queuekit.store import StoreAway
from queuekit.testing import tasks
from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.target import Target

LONG = 40.0


@agent_task(
    name="prom.do", queue="agents", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))], max_attempts=2)
)
def do(what: str) -> str:
    if what == "flaky" and current_job().attempt == 1:
        raise ConnectionError("away")
    if what == "bad":
        raise ValueError("no")
    return what


def samples(page: str) -> dict[str, float]:
    """name{label=value,...} of what was counted, without buckets and times of creation."""
    found = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            if not one.name.endswith(("_bucket", "_created", "_sum")):
                labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()) if value)
                found[f"{one.name}{{{labels}}}"] = one.value
    return found


JOB = "backend=memory,queue=agents,task=prom.do"


def test_what_is_counted_in_this_process() -> None:
    registry = CollectorRegistry()
    with App(Settings(backend="memory"), hooks=[Metrics(registry)]).activate() as app:
        do.enqueue_many([("flaky",), ("bad",), ("fine",)])
        app.advance(4)
        app.run_until_idle()
    found = samples(generate_latest(registry).decode())
    kinds = {
        name.partition("kind=")[2].partition(",")[0]: value
        for name, value in found.items()
        if name.startswith("queuekit_job_events_total")
    }
    assert kinds == {"enqueued": 3, "started": 4, "retried": 1, "failed": 1, "succeeded": 2}
    events = "queuekit_job_events_total{backend=memory,category=connection,kind=retried,queue=agents,task=prom.do}"
    assert found[events] == 1
    for outcome, count in (("retried", 1), ("failed", 1), ("succeeded", 2)):
        assert (
            found[f"queuekit_attempt_seconds_count{{backend=memory,outcome={outcome},queue=agents,task=prom.do}}"]
            == count
        )
    assert found[f"queuekit_wait_seconds_count{{{JOB}}}"] == 4
    assert registry.get_sample_value(
        "queuekit_wait_seconds_sum", {"backend": "memory", "queue": "agents", "task": "prom.do"}
    ) == 12.0  # fmt: skip


def page_of(collector: QueueCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return samples(generate_latest(registry).decode())


def test_what_waits() -> None:
    with App(Settings(backend="memory")).activate() as app:
        collector = QueueCollector(app.store, "memory")
        do.enqueue("bad")
        app.run_until_idle()
        do.enqueue_many([("fine",), ("fine",)])
        do.options(priority=9).enqueue("fine")
        do.options(delay=60).enqueue("fine")
        app.advance(7)
        found = page_of(collector)
        queue = "{backend=memory,queue=agents}"
        assert found[f"queuekit_jobs_waiting{queue}"] == 3
        assert found[f"queuekit_jobs_parked{queue}"] == 1
        assert found[f"queuekit_jobs_running{queue}"] == 0
        assert round(found[f"queuekit_oldest_waiting_seconds{queue}"], 2) == 7.0
        assert (found["queuekit_dead_letters{}"], found["queuekit_workers{}"], found["queuekit_store_up{}"]) == (
            1,
            1,
            1,
        )
        assert not [name for name in page_of(QueueCollector(app.store, "rq")) if "jobs_waiting" in name]


def test_while_the_store_is_away_the_page_says_so() -> None:
    class Away:
        def now(self) -> float:
            raise StoreAway("away", sent=False)

    assert page_of(QueueCollector(Away(), "rq")) == {"queuekit_store_up{}": 0}  # type: ignore[arg-type]


# ---- the way to the exporter ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv(prometheus.VARIABLE, str(tmp_path / "pipe"))
    reader = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def count(pipe: int) -> dict[str, float]:
    """What the exporter makes of what lies in the pipe."""
    registry = CollectorRegistry()
    metrics, rest, lives = Metrics(registry), [True, False], prometheus.is_alive
    prometheus.is_alive = lambda _: rest.pop(0)
    try:
        prometheus._count(pipe, metrics, "1:1")
    finally:
        prometheus.is_alive = lives
    return samples(generate_latest(registry).decode())


def test_events_arrive_and_what_does_not_fit_is_counted(pipe: int) -> None:
    forward = Forward()
    with App(Settings(backend="memory"), hooks=[forward]).activate() as app:
        do.enqueue("fine")
        app.run_until_idle()
        found = count(pipe)
        assert sum(value for name, value in found.items() if name.startswith("queuekit_job_events")) == 3
        while not forward._dropped:  # until the pipe is full
            do.enqueue("fine")
        do.enqueue("fine")
        assert forward._dropped == 2
        while True:
            try:
                os.read(pipe, 1 << 20)
            except BlockingIOError:
                break
        do.enqueue("fine")
        assert count(pipe)["queuekit_events_dropped_total{}"] == 2
        assert forward._dropped == 0


def test_without_an_exporter_nothing_waits_and_nothing_fails(
    pipe: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    forward = Forward()
    monkeypatch.setenv(prometheus.VARIABLE, str(tmp_path / "nowhere"))
    with App(Settings(backend="memory"), hooks=[forward]).activate():
        do.enqueue("fine")
        assert forward._dropped == 1
        monkeypatch.delenv(prometheus.VARIABLE)
        do.enqueue("fine")
    assert caplog.records == []


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(prometheus.VARIABLE, raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(backend="rq", broker_url="redis://127.0.0.1:1/0", metrics_port=taken.getsockname()[1])
        with pytest.raises(
            ConfigError, match=r"metrics_port=\d+ \(Settings\(\)\): cannot serve on 127.0.0.1: .*in use"
        ):
            start_exporter(settings.resolve())
    assert prometheus.VARIABLE not in os.environ


# ---- a real worker -------------------------------------------------------------------------------------------------


def test_a_worker_serves_its_metrics(target: Target, new_bench: Callable[..., WorkerBench]) -> None:
    """All its processes count on one page: children, one for each job on RQ, two RQ workers, and the steward."""
    bench = new_bench(concurrency=2)
    port = free_port()
    worker = bench.start_worker(ready=False, metrics_port=port)

    def page() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return samples(answer.read().decode())
        except OSError:
            return {}

    jobs: list[Any] = [tasks.follow.enqueue(["connection"]), tasks.follow.enqueue(["bug"])]
    jobs += tasks.add.enqueue_many([(n,) for n in range(10)])
    lost = bench.target.pool.processes
    if lost:
        jobs.append(tasks.follow.enqueue(["killed"]))
    for job in jobs:
        bench.ended(job, within=LONG)
    backend = bench.target.backend

    def events(task: str, kind: str, category: str = "") -> str:
        parts = {
            "backend": backend, "category": category, "kind": kind, "queue": "default",
            "task": f"queuekit.testing.tasks.{task}",
        }  # fmt: skip
        said = ",".join(f"{name}={value}" for name, value in parts.items() if value)
        return f"queuekit_job_events_total{{{said}}}"

    expected: dict[str, float] = {
        events("add", "started"): 10,
        events("add", "succeeded"): 10,
        events("follow", "retried", "connection"): 1,
        events("follow", "succeeded"): 2 if lost else 1,
        events("follow", "failed", "unknown"): 1,
        "queuekit_dead_letters{}": 1,
        "queuekit_store_up{}": 1,
        f"queuekit_jobs_waiting{{backend={backend},queue=default}}": 0,
    }
    if lost:
        expected[events("follow", "lost", "lost")] = 1  # told by the steward
    bench.until(lambda: expected.items() <= page().items(), f"{expected} stand on the page: {page()}", within=LONG)
    assert page()["queuekit_workers{}"] == (2 if str(bench.target) == "rq-worker" else 1)
    assert page()["queuekit_events_dropped_total{}"] == 0
    worker.terminate()
    worker.wait(LONG)
    bench.until(lambda: not worker.family(), "the exporter leaves after its worker", within=LONG)
    assert page() == {}


def test_the_command_line_says_what_is_missing(tmp_path: Path) -> None:
    """The extra is not installed."""
    (tmp_path / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('No module named prometheus_client', name='prometheus_client')\n"
    )
    (tmp_path / "jobs.py").write_text("from queuekit import agent_task\n@agent_task\ndef t() -> None: ...\n")
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "worker", "jobs", "--backend=rq", "--broker-url=redis://127.0.0.1:1/0",
         "--metrics-port=1"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2,
        "queuekit: Prometheus metrics need prometheus_client: pip install 'queuekit[prometheus]'\n",
    )
