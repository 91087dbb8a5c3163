"""queuekit beside an RQ application that was not written for it: RQ's own command, connection and queues."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

pytest.importorskip("rq", reason="RQ is not installed")

from rq import Queue  # noqa: E402
from rq.job import Job as NativeJob  # noqa: E402
from rq.job import JobStatus  # noqa: E402
from rq.registry import FinishedJobRegistry  # noqa: E402
from rq.serializers import JSONSerializer  # noqa: E402

from queuekit import App, Job, Settings  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import SLACK  # noqa: E402
from queuekit.testing.journal import Journal  # noqa: E402
from queuekit.testing.outages import BACK  # noqa: E402
from queuekit.testing.plugin import a_server  # noqa: E402
from queuekit.testing.process import WorkerProcess, living, send  # noqa: E402
from queuekit.testing.proxy import Proxy  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.servers import RedisServer

OURS = "queuekit.adapters.rq.Worker"

NATIVE = """
from pathlib import Path

def work(folder, n):
    (Path(folder) / str(n)).touch()
    return n * n
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with a_server(tmp_path_factory.mktemp("server")) as server:
        yield server


class Beside:
    """A folder with the user's module, a namespace, and the processes that were started there."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.connection = redis.Redis.from_url(server.url)
        self.connection.flushall()
        self.namespace = f"beside_{secrets.token_hex(4)}"
        self.settings: dict[str, Any] = {"namespace": self.namespace, "lease": 2.0, "tick": 0.2, "grace": 5.0}
        self.app = App(Settings(backend="rq", broker_url=server.url, **self.settings), redis=self.connection)
        self.journal = Journal(folder / "journal")
        (folder / "native_tasks.py").write_text(NATIVE)
        self.processes: list[WorkerProcess] = []

    def rq(self, *words: str, **settings: Any) -> WorkerProcess:
        """`rq worker WORDS`, as its user starts it."""
        ours = {"modules": tasks.__name__, **self.settings, **settings}
        process = WorkerProcess(
            (),
            {
                "PATH": "/usr/bin:/bin",
                "QUEUEKIT_TEST_JOURNAL": str(self.journal.path),
                **{f"QUEUEKIT_{name.upper()}": str(value) for name, value in ours.items()},
            },
            self.folder,
            command=["rq", "worker", "--url", self.server.url, *words],
        )
        self.processes.append(process)
        return process

    def queue(self, name: str = "default", level: int = 0) -> str:
        return f"queuekit.{self.namespace}.{name}.p{level}"

    def until(self, true: Callable[[], Any], within: float = 30.0) -> Any:
        end = time.monotonic() + within
        while not (found := true()):
            said = "\n".join(process.said()[-3000:] for process in self.processes)
            assert time.monotonic() < end, said
            time.sleep(0.05)
        return found

    def refused(self, *words: str, **settings: Any) -> str:
        process = self.rq(*words, **settings)
        assert process.wait(30) == 1
        return process.said()

    def close(self) -> None:
        for process in self.processes:
            process.kill_all()
        self.app.close()
        self.connection.close()


@pytest.fixture
def beside(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    made = Beside(server, tmp_path)
    monkeypatch.setenv("QUEUEKIT_TEST_JOURNAL", str(made.journal.path))
    with made.app.activate():
        yield made
    made.close()


# ---- side by side --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OURS, "queuekit.adapters.rq.SimpleWorker"])
def test_ten_native_jobs_and_ten_of_ours_on_one_redis(beside: Beside, kind: str) -> None:
    native = Queue("default", connection=beside.connection)
    theirs = [native.enqueue("native_tasks.work", str(beside.folder), n) for n in range(10)]
    ours = tasks.add.enqueue_many([(n, n) for n in range(10)])
    beside.rq("default")
    worker = beside.rq("--worker-class", kind, f"queuekit.{beside.namespace}.default")

    assert [job.result(timeout=40) for job in ours] == [2 * n for n in range(10)]
    beside.until(lambda: all(job.get_status() is JobStatus.FINISHED for job in theirs))
    assert [job.return_value() for job in theirs] == [n * n for n in range(10)]
    assert len(FinishedJobRegistry(queue=native).get_job_ids()) == 10
    assert beside.app.store.quarantined(10) == []

    family = beside.until(lambda: worker.stewards() and worker.family())
    worker.terminate()
    assert worker.wait(20) == 0
    beside.until(lambda: not [pid for pid in family if pid in worker.family()])  # no orphan


def test_what_the_command_line_says_of_classes_and_serializers_is_not_taken(beside: Beside) -> None:
    job = tasks.add.enqueue(1, 2)
    beside.rq("-w", OURS, "-j", "rq.job.Job", "--queue-class", "rq.Queue", "-S", "pickle", "default")
    assert job.result(timeout=40) == 3


def test_the_pool_command_runs_several(beside: Beside) -> None:
    process = WorkerProcess(
        (),
        {
            "PATH": "/usr/bin:/bin",
            "QUEUEKIT_TEST_JOURNAL": str(beside.journal.path),
            "QUEUEKIT_MODULES": tasks.__name__,
            **{f"QUEUEKIT_{name.upper()}": str(value) for name, value in beside.settings.items()},
        },
        beside.folder,
        command=["rq", "worker-pool", "--url", beside.server.url, "-w", OURS, "-n", "2", "default"],
    )
    beside.processes.append(process)
    first, second = tasks.sleep.enqueue(3.0), tasks.sleep.enqueue(3.0)
    for job in (first, second):
        job.result(timeout=40)
    one, other = first.info().attempts[0], second.info().attempts[0]
    assert one.worker != other.worker
    process.terminate()
    assert process.wait(20) == 0
    beside.until(lambda: not process.family())


def test_burst_ends_when_the_queues_are_empty(beside: Beside) -> None:
    jobs = tasks.add.enqueue_many([(n,) for n in range(3)])
    worker = beside.rq("-w", OURS, "--burst", "default")
    assert worker.wait(40) == 0
    assert [job.result(timeout=0) for job in jobs] == [1, 2, 3]


def test_max_jobs_ends_it_too(beside: Beside) -> None:
    jobs = tasks.add.enqueue_many([(n,) for n in range(3)])
    worker = beside.rq("-w", OURS, "--max-jobs", "2", "default")
    assert worker.wait(40) == 0
    assert [str(job.status()) for job in jobs] == ["succeeded", "succeeded", "queued"]


def test_a_broker_that_goes_silent_for_ever(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's own command leaves for an outage; with ours its worker goes on."""
    with Proxy(server.port) as proxy:
        made = Beside(server, tmp_path)
        monkeypatch.setenv("QUEUEKIT_TEST_JOURNAL", str(made.journal.path))
        try:
            with made.app.activate():
                worker = made.rq("-w", OURS, "--url", proxy.url(server.url), "default")
                assert tasks.add.enqueue(1).result(timeout=40) == 2
                proxy.silence()
                proxy.restore(old="silent")
                assert tasks.add.enqueue(2).result(timeout=BACK + SLACK) == 3
                assert worker.exit_code is None
        finally:
            made.close()


# ---- stopping ------------------------------------------------------------------------------------------------------


def started(beside: Beside, job: Job[Any]) -> None:
    beside.until(lambda: beside.journal.entries(job.id, "start"))


def test_sigterm_lets_the_running_job_end_and_takes_no_more(beside: Beside) -> None:
    worker = beside.rq("-w", OURS, "default")
    first = tasks.sleep.enqueue(2.0)
    started(beside, first)
    second = tasks.add.enqueue(1)
    worker.terminate()
    assert worker.wait(20) == 0
    assert str(first.status()) == "succeeded"
    assert str(second.status()) == "queued"
    beside.until(lambda: not worker.family())


def test_what_does_not_end_within_the_grace_is_released(beside: Beside) -> None:
    worker = beside.rq("-w", OURS, "default", grace=1.0)
    job = tasks.sleep.enqueue(60.0)
    started(beside, job)
    worker.terminate()
    assert worker.wait(20) == 0
    assert [one.outcome for one in job.info().attempts] == ["released"]
    beside.until(lambda: not worker.family())


def test_a_second_sigterm_hands_back_at_once(beside: Beside) -> None:
    worker = beside.rq("-w", OURS, "default", grace=60.0)
    job = tasks.sleep.enqueue(60.0)
    started(beside, job)
    worker.terminate()
    beside.until(lambda: "stopping" in worker.said())
    time.sleep(0.7)
    worker.terminate()
    assert worker.wait(20) == 0
    assert [one.outcome for one in job.info().attempts] == ["released"]


@pytest.mark.parametrize("kind", [OURS, "queuekit.adapters.rq.SimpleWorker"])
def test_three_signals_in_a_row_leave_no_process_and_no_scheduler(beside: Beside, kind: str) -> None:
    worker = beside.rq("-w", kind, "--with-scheduler", "default", grace=1.0)
    job = tasks.sleep.enqueue(60.0)
    started(beside, job)
    family = worker.family()
    worker.terminate(times=3)
    assert worker.wait(1 + 5 + SLACK) == 0
    assert [one.outcome for one in job.info().attempts] == ["released"]
    beside.until(lambda: not worker.family(), within=5)
    beside.until(lambda: not living(family))


@pytest.mark.parametrize("kind", [OURS, "queuekit.adapters.rq.SimpleWorker"])
def test_a_job_that_goes_on_over_its_limit_ends_with_its_process(beside: Beside, kind: str) -> None:
    worker = beside.rq("-w", kind, "default")
    job = tasks.overstay.options(timeout=0.5).enqueue("blocks")
    started(beside, job)
    if kind != OURS:
        assert worker.wait(40) == 75
        worker = beside.rq("-w", kind, "default")
    assert job.result(timeout=60) == []  # none of the first attempt's processes runs any more
    assert [one.category for one in job.info().attempts] == ["time_limit", None]
    assert worker.exit_code is None


def test_a_killed_worker_leaves_nobody_behind_and_its_job_runs_again(beside: Beside) -> None:
    worker = beside.rq("-w", OURS, "default")
    job = tasks.sleep.enqueue(3.0)
    started(beside, job)
    worker.kill()
    beside.until(lambda: not worker.family())
    beside.rq("-w", OURS, "default")
    job.result(timeout=40)
    assert [one.outcome for one in job.info().attempts] == ["lost", "succeeded"]


def test_the_broker_goes_and_comes_back(beside: Beside, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A stock worker leaves for an outage at a heartbeat."""
    with a_server(tmp_path_factory.mktemp("broker")) as broker:
        beside.app.close()
        app = App(
            Settings(backend="rq", broker_url=broker.url, store_url=beside.server.url, **beside.settings),
        )
        worker = beside.rq(
            "--url", broker.url, "-w", OURS, "default", broker_url=broker.url, store_url=beside.server.url
        )
        with app.activate():
            assert tasks.add.enqueue(1, 2).result(timeout=40) == 3
            broker.kill()
            job = tasks.add.enqueue(2, 3)
            time.sleep(3)
            broker.start()
            assert job.result(timeout=40) == 5
        assert worker.exit_code is None
        worker.terminate()
        assert worker.wait(20) == 0
        app.close()


# ---- refused at start ----------------------------------------------------------------------------------------------


def test_a_queue_of_native_jobs_is_refused(beside: Beside) -> None:
    Queue("default", connection=beside.connection).enqueue("native_tasks.work", str(beside.folder), 1)
    said = beside.refused("-w", OURS, "default")
    assert "queue 'default' holds native RQ jobs" in said
    assert f"{OURS} queuekit.{beside.namespace}.default" in said
    assert beside.connection.llen("rq:queue:default") == 1
    assert "default' holds" in beside.refused("-w", OURS)  # the command's own default


def test_a_queue_of_a_native_worker_is_refused(beside: Beside) -> None:
    native = beside.rq("emails")
    beside.until(lambda: "Listening on" in native.said())
    assert "queue 'emails' holds native RQ jobs, or has native workers" in beside.refused("-w", OURS, "emails")


def test_a_native_worker_on_our_queue_is_refused(beside: Beside) -> None:
    native = beside.rq("--serializer", "json", beside.queue())
    beside.until(lambda: "Listening on" in native.said())
    said = beside.refused("-w", OURS, "default")
    assert f"(process {native.pid} on " in said
    assert "is none of queuekit's" in said
    native.kill_all()
    job = tasks.add.enqueue(1, 2)
    beside.rq("-w", OURS, "default")  # RQ still lists the killed one, whose process is gone
    assert job.result(timeout=40) == 3


def test_workers_of_ours_are_no_strangers_to_each_other(beside: Beside) -> None:
    first, second = beside.rq("-w", OURS, "default"), beside.rq("-w", OURS, "default")
    for worker in (first, second):
        beside.until(lambda worker=worker: "serves default" in worker.said())


@pytest.mark.parametrize(
    ("words", "settings", "remedy"),
    [
        (["nobodys"], {}, "queue 'nobodys' is none that a task here names"),
        (["queuekit.other.default"], {}, "set QUEUEKIT_NAMESPACE"),
        (["default"], {"modules": ""}, "QUEUEKIT_MODULES=package.tasks"),
        (["default"], {"modules": "no.such"}, "there is no such module"),
        (["default"], {"backend": "celery"}, "but this is RQ's worker"),
        (["--dequeue-strategy", "round_robin", "default"], {}, "would not be served in order"),
        (["--exception-handler", "os.getpid", "default"], {}, "Leave it out"),
    ],
)
def test_what_cannot_be_is_said(beside: Beside, words: list[str], settings: dict[str, str], remedy: str) -> None:
    assert remedy in beside.refused("-w", OURS, *words, **settings)


def test_a_broker_url_that_leads_elsewhere_is_said(beside: Beside, queuekit_server: RedisServer) -> None:
    said = beside.refused("-w", OURS, "default", broker_url=queuekit_server.url)
    assert "is not where RQ's command was sent to" in said


@pytest.mark.parametrize("name", ["documents", "queuekit.{}.documents", "queuekit.{}.documents.p3"])
def test_names_that_are_taken(beside: Beside, name: str) -> None:
    job = tasks.add.options(queue="documents").enqueue(1, 2)
    beside.rq("-w", OURS, name.format(beside.namespace), queues="documents")
    assert job.result(timeout=40) == 3


# ---- native producers ----------------------------------------------------------------------------------------------


def native_queue(beside: Beside, level: int = 0, **options: Any) -> Queue:
    return Queue(beside.queue(level=level), connection=beside.connection, **options)


def test_a_native_producer_starts_a_task(beside: Beside) -> None:
    beside.rq("-w", OURS, "default", adopt="true")
    queue = native_queue(beside, serializer=JSONSerializer)
    native = queue.enqueue("queuekit.testing.tasks.add", args=[1, 2])
    function = queue.enqueue(tasks.add.native, args=[2], kwargs={"b": 5})
    urgent = native_queue(beside, 9, serializer=JSONSerializer).enqueue("queuekit.testing.tasks.add", args=[3, 3])
    for job, result in ((native, 3), (function, 7), (urgent, 6)):
        beside.until(lambda job=job: beside.app.store.get(job.id))
        assert Job.fetch(job.id).result(timeout=40) == result
        beside.until(lambda job=job: job.get_status() is JobStatus.FINISHED)
        assert job.return_value() == result  # where its producer looks
    assert Job.fetch(urgent.id).info().queue == "default"
    assert beside.app.store.quarantined(10) == []


def test_its_task_decides_about_retries_and_time_limits_and_not_the_native_options(beside: Beside) -> None:
    from rq import Retry

    beside.rq("-w", OURS, "default", adopt="true")
    queue = native_queue(beside, serializer=JSONSerializer)
    slow = queue.enqueue("queuekit.testing.tasks.sleep", args=[3.0], job_timeout=1)
    again = queue.enqueue("queuekit.testing.tasks.follow", args=[["connection"]], retry=Retry(5))
    bad = queue.enqueue("queuekit.testing.tasks.without_policy", args=[["bug"]], retry=Retry(5))
    for native, outcomes in ((slow, ["succeeded"]), (again, ["retried", "succeeded"]), (bad, ["failed"])):
        beside.until(lambda native=native: (record := beside.app.store.get(native.id)) and record.finished)
        assert [one.outcome for one in Job.fetch(native.id).info().attempts] == outcomes


def quarantined(beside: Beside) -> list[str]:
    return [one.reason for one in beside.app.store.quarantined(20)]


def test_pickles_are_never_read(beside: Beside) -> None:
    beside.rq("-w", OURS, "default", adopt="true")
    native = native_queue(beside).enqueue("queuekit.testing.tasks.add", args=[1, 2])  # RQ's default serializer
    beside.until(lambda: quarantined(beside))
    assert "serializer=rq.serializers.JSONSerializer" in quarantined(beside)[0]
    assert beside.app.store.get(native.id) is None


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("os.getpid", {}, "does not know the task 'os.getpid'"),
        ("queuekit.testing.tasks.add", {"args": [1, 2, 3, 4]}, "arguments"),
        ("queuekit.testing.tasks.add", {"args": [1], "job_id": "with.dots"}, "Job ID must only contain"),
    ],
)
def test_what_is_no_task_of_ours_is_put_aside(
    beside: Beside, function: str, options: dict[str, Any], said: str
) -> None:
    beside.rq("-w", OURS, "default", adopt="true")
    if "job_id" in options:  # RQ itself refuses it; what lies in the broker may be anybody's
        id = options.pop("job_id")
        native = NativeJob.create(function, connection=beside.connection, serializer=JSONSerializer, **options)
        beside.connection.hset(f"rq:job:{id}", mapping=native.to_dict())
        beside.connection.rpush(f"rq:queue:{beside.queue()}", id)
    else:
        native_queue(beside, serializer=JSONSerializer).enqueue(function, **options)
    beside.until(lambda: quarantined(beside))
    assert said in quarantined(beside)[0]
    assert tasks.add.enqueue(1, 2).result(timeout=40) == 3  # the worker lives


def test_without_the_setting_nothing_native_runs(beside: Beside) -> None:
    beside.rq("-w", OURS, "default")
    native = native_queue(beside, serializer=JSONSerializer).enqueue("queuekit.testing.tasks.add", args=[1, 2])
    beside.until(lambda: quarantined(beside))
    assert beside.app.store.get(native.id) is None


def test_a_native_job_whose_worker_dies_runs_again(beside: Beside) -> None:
    worker = beside.rq("-w", OURS, "default", adopt="true")
    native = native_queue(beside, serializer=JSONSerializer).enqueue("queuekit.testing.tasks.sleep", args=[3.0])
    beside.until(lambda: beside.journal.entries(native.id, "start"))
    send(signal.SIGKILL, *worker.family())
    beside.rq("-w", OURS, "default", adopt="true")
    beside.until(lambda: (record := beside.app.store.get(native.id)) and record.finished)
    assert [one.outcome for one in Job.fetch(native.id).info().attempts] == ["lost", "succeeded"]


def test_while_the_store_is_away_a_stopped_worker_puts_it_back(
    beside: Beside, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with a_server(tmp_path_factory.mktemp("store")) as store:
        worker = beside.rq("-w", OURS, "default", adopt="true", store_url=store.url)
        beside.until(lambda: "serves default" in worker.said())
        store.kill()
        native_queue(beside, serializer=JSONSerializer).enqueue("queuekit.testing.tasks.add", args=[1, 2])
        beside.until(lambda: "cannot be recorded" in worker.said())
        worker.terminate()
        assert worker.wait(20) == 0
        assert beside.connection.llen(f"rq:queue:{beside.queue()}") == 1


# ---- RQ's own look at it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["-w", OURS]])
def test_rq_info_shows_our_worker(beside: Beside, words: list[str]) -> None:
    worker = beside.rq("-w", OURS, "--name", "agents-1", "default")
    beside.until(lambda: "serves default" in worker.said())
    done = subprocess.run(
        [str(Path(sys.executable).parent / "rq"), "info", "--url", beside.server.url, "--raw", *words],
        cwd=beside.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"worker agents-1 ({socket.gethostname()}" in done.stdout
    assert beside.queue() in done.stdout
