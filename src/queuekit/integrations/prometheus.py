"""Prometheus: counters and histograms of job events, and gauges of what waits. Extra `prometheus`.

    hooks = ["queuekit.integrations.prometheus:Metrics"]     # in a program that serves its own metrics page
    queuekit worker --metrics-port 9464 tasks                # or a page of the worker's own

A worker is many processes: children that the engine forks, one for each job even, and stewards. Their events go by a
named pipe to one process that counts them and serves the page, so that nothing depends on which process a scrape meets,
and no file is left behind by each child. Where that process is slow or gone, events are dropped: no job waits for it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from queuekit.errors import ConfigError
from queuekit.processes import is_alive, process_name
from queuekit.store import StoreAway

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "prometheus_client":
        raise
    raise ConfigError("Prometheus metrics need prometheus_client: pip install 'queuekit[prometheus]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.events import JobEvent
    from queuekit.settings import Settings
    from queuekit.store import Store

__all__ = ["Forward", "Metrics", "QueueCollector", "main", "start_exporter"]

VARIABLE: Final = "QUEUEKIT_EXPORTER_PIPE"  # the environment variable that names the pipe
OWNER: Final = "QUEUEKIT_EXPORTER_OWNER"  # that of the process that has started it
NAME: Final = "queuekit.integrations.prometheus:Forward"
PIPE_SIZE: Final = 1 << 20  # bytes that wait for the exporter: some thousand events
STARTING: Final = 30.0  # seconds
LOOK: Final = 0.5  # seconds between two looks at the worker
SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


# ---- what is counted -----------------------------------------------------------------------------------------------


class Metrics:
    """A hook that counts in this process: queuekit_job_events_total by kind and category, queuekit_attempt_seconds by
    outcome, queuekit_wait_seconds from when a job could have run until it did."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        job = ("backend", "queue", "task")
        self._events = Counter(
            "queuekit_job_events", "What happened to jobs.", (*job, "kind", "category"), registry=registry
        )
        self._attempts = Histogram(
            "queuekit_attempt_seconds", "How long attempts took.", (*job, "outcome"), buckets=SECONDS, registry=registry
        )
        self._wait = Histogram(
            "queuekit_wait_seconds",
            "How long jobs that could run waited for a worker.",
            job,
            buckets=SECONDS,
            registry=registry,
        )
        self._dropped = Counter(
            "queuekit_events_dropped", "Events of workers that could not be counted.", registry=registry
        )

    def __call__(self, event: JobEvent, /) -> None:
        self.count(*_counted(event))

    def count(
        self,
        kind: str,
        backend: str,
        queue: str,
        task: str,
        category: str,
        duration: float | None,
        waited: float | None,
        dropped: int = 0,
    ) -> None:
        self._events.labels(backend, queue, task, kind, category).inc()
        if duration is not None:
            self._attempts.labels(backend, queue, task, kind).observe(duration)
        if waited is not None:
            self._wait.labels(backend, queue, task).observe(waited)
        if dropped:
            self._dropped.inc(dropped)


def _counted(event: JobEvent) -> tuple[str, str, str, str, str, float | None, float | None]:
    category = event.category.value if event.category else ""
    return event.kind.value, event.backend, event.queue, event.task, category, event.duration, event.waited


class QueueCollector(Collector):
    """What the store says at each scrape, of one backend's queues: jobs that wait, since when, that are parked and that
    run; dead letters and workers. `queuekit_store_up` is 0, and the others are left out, while the store is away."""

    def __init__(self, store: Store, backend: str) -> None:
        self._store, self._backend = store, backend

    def describe(self) -> list[Any]:
        return []  # registering asks nobody

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("queuekit_store_up", "Whether the store answered.")
        try:
            found = list(self._gauges())
        except StoreAway:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from found

    def _gauges(self) -> Iterator[GaugeMetricFamily]:
        now = self._store.now()
        queues: dict[str, list[float]] = {}
        for one in self._store.counts():
            backend, queue, _ = one.route.split(":")
            if backend == self._backend:
                sums = queues.setdefault(queue, [0, 0, 0, 0])
                sums[0] += one.waiting
                sums[1] += one.parked
                sums[2] += one.running
                sums[3] = max(sums[3], 0 if one.oldest is None else now - one.oldest)
        for place, (name, text) in enumerate(_GAUGES):
            gauge = GaugeMetricFamily(name, text, labels=("backend", "queue"))
            for queue, sums in sorted(queues.items()):
                gauge.add_metric((self._backend, queue), sums[place])
            yield gauge
        yield GaugeMetricFamily("queuekit_dead_letters", "Failed jobs that are kept.", value=self._store.dead_count())
        workers = [one for one in self._store.consumers() if one.until > now]
        yield GaugeMetricFamily("queuekit_workers", "Workers that hold a lease, on all backends.", value=len(workers))


_GAUGES: Final = (
    ("queuekit_jobs_waiting", "Jobs that could run now."),
    ("queuekit_jobs_parked", "Jobs whose time has not come: scheduled, or waiting for a retry."),
    ("queuekit_jobs_running", "Jobs that run."),
    ("queuekit_oldest_waiting_seconds", "How long the first in line has been able to run; 0 where none waits."),
)


# ---- from a worker's processes to the one that counts --------------------------------------------------------------


class Forward:
    """A hook that hands events to the exporter that the environment names. Without one it does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None
        self._dropped = 0
        os.register_at_fork(after_in_child=self._forget_lock)

    def _forget_lock(self) -> None:
        self._lock = threading.Lock()  # the descriptor may be shared: what is written in one piece stays in one piece

    def __call__(self, event: JobEvent, /) -> None:
        path = os.environ.get(VARIABLE)
        if path is None:
            return
        with self._lock:
            line = json.dumps([*_counted(event), self._dropped], separators=(",", ":")).encode() + b"\n"
            try:
                if self._pipe is None:
                    self._pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                if len(line) > select.PIPE_BUF or os.write(self._pipe, line) != len(line):
                    raise BlockingIOError
                self._dropped = 0
            except BlockingIOError:
                self._dropped += 1
            except OSError:  # the exporter is gone
                self._dropped += 1
                if self._pipe is not None:
                    os.close(self._pipe)
                    self._pipe = None


def start_exporter(settings: Settings) -> Settings:
    """Start the process that serves http://METRICS_HOST:METRICS_PORT/metrics for this process, and all that it forks or
    starts. Call it before the worker forks. Gives the settings for the worker: with the hook that forwards. Where the
    parent of this process has started one, that one serves.

    Raises:
        ConfigError: it cannot serve there.
    """
    forwarding = settings.replace(settings.source("metrics_port"), hooks=(*settings.hooks, NAME))
    if os.environ.get(OWNER) == str(os.getppid()):
        return forwarding
    folder = Path(tempfile.mkdtemp(prefix="queuekit-metrics-"))
    pipe = folder / secrets.token_hex(4)
    os.mkfifo(pipe, 0o600)
    exporter = subprocess.Popen(
        [sys.executable, "-P", "-m", "queuekit.integrations.prometheus"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    order = {"settings": settings.to_json(), "parent": process_name(), "pipe": str(pipe)}
    assert exporter.stdin is not None
    assert exporter.stdout is not None
    with exporter.stdin as stdin, suppress(BrokenPipeError):
        stdin.write(json.dumps(order).encode())
    with exporter.stdout as stdout:
        ready, _, _ = select.select([stdout], [], [], STARTING)
        said = stdout.readline().decode().strip() if ready else f"it has not started within {STARTING:g} s"
    if said != "ready":
        exporter.kill()
        exporter.wait()
        shutil.rmtree(folder, ignore_errors=True)
        where = settings.source("metrics_port")
        raise ConfigError(f"metrics_port={settings.metrics_port} ({where}): {said or 'the exporter ended at once'}")
    os.environ[VARIABLE], os.environ[OWNER] = str(pipe), str(os.getpid())
    _exporters.append(exporter)
    return forwarding


_exporters: list[subprocess.Popen[bytes]] = []  # kept, so that nobody warns of one that was forgotten


# ---- the exporter --------------------------------------------------------------------------------------------------


def main() -> int:
    """Count and serve until the worker has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # it leaves after its worker
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    order = json.loads(sys.stdin.read())

    from queuekit.logs import configure_logging
    from queuekit.settings import Settings
    from queuekit.store.redis import RedisStore

    settings = Settings.from_json(order["settings"])
    configure_logging("INFO", settings.log_format)
    assert settings.backend is not None
    assert settings.metrics_port is not None
    registry = CollectorRegistry()
    count = Metrics(registry)
    registry.register(QueueCollector(RedisStore.of(settings), settings.backend))
    pipe = Path(order["pipe"])
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # for writing too: it never ends
    _enlarge(reader)
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        os.write(sys.stdout.fileno(), f"cannot serve on {settings.metrics_host}: {error}\n".encode())
        return 1
    os.write(sys.stdout.fileno(), b"ready\n")
    _count(reader, count, order["parent"])
    shutil.rmtree(pipe.parent, ignore_errors=True)
    return 0


def _count(reader: int, metrics: Metrics, parent: str) -> None:
    rest = b""
    while is_alive(parent):
        ready, _, _ = select.select([reader], [], [], LOOK)
        if not ready:
            continue
        *lines, rest = (rest + os.read(reader, 1 << 16)).split(b"\n")
        for line in lines:
            metrics.count(*json.loads(line))


def _enlarge(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # over what the system allows
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


if __name__ == "__main__":
    sys.exit(main())
