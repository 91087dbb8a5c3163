"""The deployment files, played: the signals that systemd and Kubernetes send by what stands in them, in their order.

systemd (systemd.kill(5), systemd.service(5)): KillSignal to the main process, or to all with KillMode=control-group;
what is left after TimeoutStopSec gets SIGKILL: the main process alone with KillMode=process, else all.

Kubernetes ("Termination of Pods"): preStop, then SIGTERM to the first process of each container; SIGKILL to all when
terminationGracePeriodSeconds have passed since the beginning. A container ends with its first process, and the kernel
kills whatever else is in it at once.
"""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from examples_place import installed
from test_deployments import pod, unit

from queuekit import App, Settings
from queuekit.testing import tasks
from queuekit.testing.journal import VARIABLE, Journal
from queuekit.testing.process import WorkerProcess, living, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from queuekit.testing.servers import RedisServer

GRACE = 2.0  # in the place of the files' own, whose timeouts are shortened by as much: the leeway is as written
MODULE = "process_document.py"


def stop_by_systemd(worker: WorkerProcess) -> bool:
    """Whether SIGKILL was needed."""
    service = unit()["Service"]
    mode = service.get("KillMode", "control-group")
    assert service.get("SendSIGKILL", "yes") == "yes"
    first = signal.Signals[service.get("KillSignal", "SIGTERM")]
    send(first, *(worker.family() if mode == "control-group" else [worker.pid]))
    with suppress(subprocess.TimeoutExpired):
        worker.wait(float(service["TimeoutStopSec"]) - Settings().grace + GRACE)
    left = worker.exit_code is None
    send(signal.SIGKILL, *(([worker.pid] if left else []) if mode == "process" else worker.family()))
    return left


def stop_by_kubernetes(worker: WorkerProcess) -> bool:
    worker_pod = pod("summaries-worker")
    (container,) = worker_pod["containers"]
    begun = time.monotonic()
    hook = container.get("lifecycle", {}).get("preStop")
    if hook is not None:
        subprocess.run(hook["exec"]["command"], check=False)
    send(signal.SIGTERM, worker.pid)
    grace = next(float(one["value"]) for one in container["env"] if one["name"] == "QUEUEKIT_GRACE")
    until = begun + worker_pod["terminationGracePeriodSeconds"] - grace + GRACE
    with suppress(subprocess.TimeoutExpired):
        worker.wait(until - time.monotonic())
    left = worker.exit_code is None
    send(signal.SIGKILL, *worker.family())
    return left


class Site:
    def __init__(self, backend: str, url: str, folder: Path) -> None:
        self.folder, self.journal = folder, Journal(folder / "journal")
        settings: dict[str, Any] = {"backend": backend, "broker_url": url, "namespace": folder.name, "tick": 0.2}
        settings |= {"grace": GRACE, "lease": 30.0}
        self.app = App(Settings(**settings))
        self.environ = {f"QUEUEKIT_{name.upper()}": str(value) for name, value in settings.items()}
        self.environ |= {"PATH": "/usr/bin:/bin", VARIABLE: str(self.journal.path)}
        self.workers: list[WorkerProcess] = []

    def start(self, command: Sequence[str]) -> WorkerProcess:
        """As the file says, but for the tasks and the folder of its program."""
        name, *arguments = command
        assert MODULE in arguments
        arguments = [tasks.__name__ if one == MODULE else one for one in arguments]
        self.workers.append(WorkerProcess((), self.environ, self.folder, command=[name.rpartition("/")[2], *arguments]))
        return self.workers[-1]


@pytest.fixture
def site(backend: str, queuekit_server: RedisServer, tmp_path: Path) -> Iterator[Site]:
    installed(backend, "ruamel.yaml")
    made = Site(backend, queuekit_server.url, tmp_path)
    with made.app.activate():
        yield made
    for worker in made.workers:
        worker.kill_all()
        print(worker.said()[-4000:])
    made.app.close()


def test_the_files_stop_a_worker_as_written(site: Site, until: Callable[..., object]) -> None:
    systemd = site.start(unit()["Service"]["ExecStart"].split())
    short, long = tasks.sleep.enqueue(1.0), tasks.sleep.enqueue(60.0)
    until(lambda: len(site.journal.entries(event="start")) == 2, "both run")
    family = systemd.family()
    assert not stop_by_systemd(systemd)
    assert systemd.exit_code == 0
    until(lambda: not living(family), "nothing of it is left", within=5)
    assert [job.status() for job in (short, long)] == ["succeeded", "queued"]
    assert [one.outcome for one in long.info().attempts] == ["released"]

    (container,) = pod("summaries-worker")["containers"]
    kubernetes = site.start(container["args"])
    until(lambda: len(site.journal.entries(long.id, "start")) == 2, "the next one runs what was handed back")
    family = kubernetes.family()
    assert not stop_by_kubernetes(kubernetes)
    assert kubernetes.exit_code == 0
    until(lambda: not living(family), "nothing of it is left", within=5)
    assert [one.outcome for one in long.info().attempts] == ["released", "released"]
    assert long.cancel()


def test_a_killed_main_process_leaves_its_steward_the_last_word(site: Site, until: Callable[..., object]) -> None:
    """What KillMode=process is there for: systemd takes nothing else down, and Restart=always starts another."""
    service = unit()["Service"]
    assert (service["KillMode"], service["Restart"]) == ("process", "always")
    first = site.start(service["ExecStart"].split())
    job = tasks.sleep.enqueue(60.0)
    until(lambda: site.journal.entries(job.id, "start"), "it runs")
    family = first.family()
    first.kill()
    time.sleep(float(service["RestartSec"]))
    site.start(service["ExecStart"].split())
    until(lambda: len(site.journal.entries(job.id, "start")) == 2, "it runs again", within=20)  # the lease is 30 s
    # RQ's worker processes are told by the death of the one that started them, and hand back what they run.
    assert job.info().attempts[0].outcome in {"lost", "released"}
    until(lambda: not living(family), "nothing of the first is left", within=5)
    assert job.cancel()
