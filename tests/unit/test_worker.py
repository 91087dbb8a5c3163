"""The worker's side of its steward: starting it, starting it again, and what a fork inherits. The stewards here are
programs that do nothing; the real one is in test_steward.py."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Settings
from queuekit.store import StoreAway
from queuekit.store.memory import MemoryStore
from queuekit.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")


def program(folder: Path, text: str) -> str:
    path = folder / "steward.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """One whose steward reads its input to the end."""
    monkeypatch.setattr("queuekit.worker.sys.executable", program(tmp_path, "exec cat"))
    worker = Worker(MemoryStore(), Settings(backend="rq", broker_url="redis://localhost:1/0"), [], find=lambda _: None)
    yield worker
    worker.after_fork()
    if worker._steward is not None:
        worker._steward.wait(10)


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def ended(worker: Worker) -> None:
    assert worker._steward is not None
    worker._steward.wait(10)


def test_start_opens_the_lease_before_any_claim(worker: Worker) -> None:
    worker.start()
    assert worker.store.beat(worker.name).alive


def test_a_store_that_is_away_does_not_keep_a_worker_from_starting(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreAway("away", sent=False)

    monkeypatch.setattr(worker.store, "beat", away)
    worker.start()
    assert worker._steward is not None


def test_a_steward_that_lives_is_left_alone(worker: Worker) -> None:
    worker.start()
    first = worker._steward
    worker.watch()
    assert worker._steward is first


def test_a_steward_that_died_is_started_again_and_leaves_no_descriptor(worker: Worker) -> None:
    worker.start()
    before, first = descriptors(), worker._steward
    assert first is not None
    first.kill()
    ended(worker)
    worker.watch()
    assert worker._steward is not first
    assert descriptors() == before


def test_a_steward_that_cannot_be_executed_is_said_at_the_start(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuekit.worker.sys.executable", "/nowhere/python")
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        worker.start()
    assert descriptors() == before


def test_a_steward_that_cannot_be_started_again_does_not_take_the_worker_along(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    assert worker._steward is not None
    worker._steward.kill()
    ended(worker)
    with monkeypatch.context() as broken:
        broken.setattr("queuekit.worker.sys.executable", "/nowhere/python")
        before = descriptors()
        worker.watch()
        assert len(descriptors()) == len(before) - 1  # the old pipe, and nothing new
    worker._born -= 60
    worker.watch()
    assert worker._steward.poll() is None


def test_a_steward_that_ends_at_once_is_not_started_without_a_pause(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("queuekit.worker.sys.executable", program(tmp_path, "exit 1"))
    before = descriptors()
    worker.start()  # and a write into a pipe without a reader is no error
    pauses = []
    for _ in range(8):
        ended(worker)
        last = worker._steward
        worker._born = time.monotonic() - worker._pause - 0.001
        worker.watch()
        assert worker._steward is not last
        ended(worker)
        last = worker._steward
        worker._born = time.monotonic()
        worker.watch()
        assert worker._steward is last  # too early
        pauses.append(worker._pause)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    worker.after_fork()
    assert descriptors() == before


def in_child(work: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # threads of other tests
def test_a_forked_child_does_not_hold_the_pipe_and_starts_no_steward(worker: Worker) -> None:
    worker.start()
    pipe = worker._pipe
    assert pipe is not None

    def look() -> bool:
        try:
            os.fstat(pipe)
        except OSError:
            before = worker._steward
            worker.watch()
            return worker._pipe is None and worker._steward is before
        return False

    assert in_child(look)
    os.fstat(pipe)  # still there in the parent


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_pipe_that_somebody_closed_does_not_matter_in_a_fork(worker: Worker) -> None:
    """Programs that become daemons close all descriptors there are."""
    worker.start()
    assert worker._pipe is not None
    os.close(worker._pipe)
    assert in_child(lambda: worker._pipe is None)
    worker._pipe = None


def test_a_worker_that_is_over_is_not_kept_by_a_hook(worker: Worker) -> None:
    other = worker.another()
    other.start()
    other.after_fork()
    ended(other)
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


def stuck(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Have the worker end for a job that goes on over its limit. What it does to its process."""
    did: list[object] = []
    monkeypatch.setattr("queuekit.worker.os.kill", lambda pid, number: did.append((pid, number)))
    monkeypatch.setattr("queuekit.worker.leave", did.append)
    worker._drain(None)  # type: ignore[arg-type]
    return did


def test_a_worker_that_runs_several_jobs_stops_in_good_order_for_one_that_does_not_end(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.shared = True
    read, worker._pipe = os.pipe()
    assert stuck(worker, monkeypatch) == [(os.getpid(), signal.SIGTERM)]
    assert (worker.exit_code, worker.drained.is_set()) == (75, True)
    assert os.read(read, 100) == b"drained"  # its steward need not kill it
    assert stuck(worker, monkeypatch) == []  # for a second one there is nothing more to do
    os.close(read)


def test_a_worker_whose_main_thread_is_stuck_leaves_at_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears no signal; and should leaving hang, its steward has not been told that it ends by itself."""
    read, worker._pipe = os.pipe()
    did: list[int] = []

    def leave(code: int) -> None:
        did.append(code)
        raise SystemExit

    monkeypatch.setattr("queuekit.worker.leave", leave)
    with pytest.raises(SystemExit):
        worker._drain(None)  # type: ignore[arg-type]
    assert did == [75]
    worker.after_fork()
    assert os.read(read, 100) == b""
    os.close(read)


def test_a_worker_that_is_about_to_stop_stops_as_it_was_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.stopping.set()
    assert stuck(worker, monkeypatch) == []
    assert (worker.exit_code, worker.drained.is_set()) == (0, False)


def test_another_worker_has_another_name(worker: Worker) -> None:
    assert worker.another().name != worker.name
    assert worker.another().queues == worker.queues


def test_quarantine_waits_for_the_store_until_the_worker_stops(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.quarantine("raw", "why")
    assert isinstance(worker.store, MemoryStore)
    assert [(one.raw, one.reason) for one in worker.store.quarantined(5)] == [("raw", "why")]

    def away(*_: Any, **__: Any) -> None:
        raise StoreAway("away", sent=False)

    monkeypatch.setattr(worker.store, "quarantine", away)
    worker.stopping.set()
    assert not worker.quarantine("raw", "why")


def test_only_the_start_opens_a_lease(worker: Worker) -> None:
    """A claim that finds none waits for the steward: nobody would beat for what it took."""
    worker.start()
    worker.store.leave(worker.name)
    with pytest.raises(StoreAway, match="its steward has not opened another"):
        worker.execution._renew()
    assert not worker.store.beat(worker.name).alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_worker_that_is_told_to_stop_while_it_imports_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing has begun. As the first process of a container it would not even hear a signal without a handler."""
    (tmp_path / "slow.py").write_text("import time\nopen('imports', 'w').close()\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "queuekit", "worker", "slow.py"]
    environ = {**os.environ, "QUEUEKIT_BACKEND": "celery", "QUEUEKIT_BROKER_URL": "redis://127.0.0.1:1/0"}
    with subprocess.Popen(command, cwd=tmp_path, env=environ) as process:
        until = time.monotonic() + 30
        while not (tmp_path / "imports").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(10) == 0
