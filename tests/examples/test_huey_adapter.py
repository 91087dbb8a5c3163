"""examples/huey_adapter as its reader has it: a package that is installed, and the shipped suite on it.

Installed beside this environment and not into it: an entry point more would be a target more for everybody's suite.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from examples_place import EXAMPLES, Place, installed

from queuekit.testing.process import WorkerProcess
from queuekit.testing.servers import RedisServer

pytestmark = pytest.mark.xdist_group("examples-huey")

# What the example stands for on its own, of the clauses that its how-to takes minutes for.
CLAUSES = {
    "C1": "test_c01_one_module",
    "C2": "test_c02_attempts",
    "C4": "test_c04_fence",
    "C9": "test_c09_results",
    "C12": "test_c12_stop",
    "C13": "test_c13_foreign_messages",
    "C16": "test_c16_steps",
    "C17": "test_c17_workflows",
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds the package and its entry point."""
    installed("huey", "hatchling", "pip")
    folder = tmp_path_factory.mktemp("huey-adapter")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(folder), str(EXAMPLES / "huey_adapter")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # PYTEST_: what pytest-xdist tells its workers is not for a pytest in a process of its own.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUEUEKIT_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(folder)}


@pytest.mark.timeout(900)
def test_a_table_comes_out_and_every_clause_passes(
    adapter: dict[str, str], queuekit_server: RedisServer, tmp_path: Path
) -> None:
    """The server is asked for so that its want skips this by name; the suite starts one of its own."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"),
            *(f"queuekit.testing.conformance.{module}" for module in CLAUSES.values()),
            *("--queuekit-backend=huey", "--queuekit-foreign=queuekit_huey_foreign", f"--queuekit-report={report}"),
        ],
        cwd=tmp_path,
        env={**adapter, "QUEUEKIT_TEST_REQUIRE_SERVICES": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    table = json.loads(report.read_text())["table"]
    cells = {clause: row["huey"] for clause, row in table.items()}
    assert list(cells) == list(CLAUSES)
    assert {clause: cell for clause, cell in cells.items() if not re.fullmatch(r"PASSED \d+", cell)} == {}


# The user's own Huey, with somebody who listens to it: what monitors and error trackers do.
TASKS = """
    import os
    from huey import MemoryHuey
    from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job
    from queuekit_huey import install

    mine = MemoryHuey("mine")
    install(mine)

    @mine.signal()
    def heard(signal, task, error=None):
        with open(os.environ["HEARD"], "a") as file:
            print(signal, task.name.rpartition(".")[2], list(task.args), repr(error), file=file)

    @agent_task
    async def double(number: int) -> int:
        return 2 * number

    @agent_task(private=True)
    def secret(text: str) -> None:
        raise ValueError(text)

    @agent_task(retry=RetryPolicy([RetryRule(ConnectionError, Backoff(0.01))], max_attempts=2))
    def flaky() -> str:
        if current_job().attempt == 1:
            raise ConnectionError("once")
        return "done"
"""


@pytest.fixture
def place(adapter: dict[str, str], queuekit_server: RedisServer, tmp_path: Path) -> Place:
    (tmp_path / "jobs.py").write_text(textwrap.dedent(TASKS))
    more = {
        "QUEUEKIT_BACKEND": "huey",
        "QUEUEKIT_BROKER_URL": queuekit_server.url,
        "QUEUEKIT_NAMESPACE": tmp_path.name,
        "QUEUEKIT_TICK": "0.2",
        "QUEUEKIT_LEASE": "5",
        "HEARD": str(tmp_path / "heard"),
    }
    return Place("huey", {**adapter, **more}, tmp_path)


@pytest.fixture
def worker(place: Place) -> Iterator[WorkerProcess]:
    process = WorkerProcess(["jobs.py"], place.environ, place.folder)
    yield process
    process.kill_all()


ASK = """
from jobs import double, flaky, secret
print(double.enqueue(21).result(timeout=60), flaky.enqueue().result(timeout=60))
try:
    secret.enqueue("a password").result(timeout=60)
except Exception as error:
    print(type(error).__name__)
"""


def test_those_who_listen_to_the_users_own_huey_hear_how_jobs_end(
    place: Place, worker: WorkerProcess, until: Callable[..., object]
) -> None:
    assert place.run("-c", ASK, cwd=place.folder).split() == ["42", "done", "JobFailed"]
    heard = place.folder / "heard"
    until(lambda: heard.read_text().count("\n") == 8, "eight signals")
    assert heard.read_text().splitlines() == [
        "executing double [21] None",
        "complete double [21] None",
        "executing flaky [] None",
        "retrying flaky [] None",
        "executing flaky [] None",
        "complete flaky [] None",
        "executing secret ['(private)'] None",
        "error secret ['(private)'] Exception('ValueError')",
    ]
    worker.terminate()
    assert worker.wait(40) == 0


def test_a_message_that_comes_twice_is_no_second_success(
    place: Place, queuekit_server: RedisServer, until: Callable[..., object]
) -> None:
    place.run("-c", "from jobs import double; double.enqueue(1)", cwd=place.folder)
    client = redis.Redis.from_url(queuekit_server.url)
    key = f"huey.redis.queuekit.{place.environ['QUEUEKIT_NAMESPACE']}.default.0"
    (message,) = client.lrange(key, 0, -1)
    assert json.loads(message)["args"] == [1]  # readable
    client.lpush(key, message)
    worker = WorkerProcess(["jobs.py"], place.environ, place.folder)
    try:
        until(lambda: client.llen(key) == 0, "both are taken")
        worker.terminate()  # it ends what it has
        assert worker.wait(40) == 0
    finally:
        worker.kill_all()
        client.close()
    assert (place.folder / "heard").read_text().splitlines() == [
        "executing double [1] None",
        "complete double [1] None",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"QUEUEKIT_POOL": "process"}, "pool='process': the backend huey has thread: its children outlive"),
        ({"QUEUEKIT_BROKER_URL": "sentinel://127.0.0.1:1/one/0"}, "broker_url: huey is run on redis://"),
    ],
    ids=["pool", "broker"],
)
def test_what_it_cannot_run_is_refused_with_a_reason(place: Place, more: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "worker", "jobs.py"],
        cwd=place.folder,
        env={**place.environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert said in done.stderr
