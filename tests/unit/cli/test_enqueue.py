"""`queuekit enqueue`: jobs from the shell."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from cli_world import World, on_terminal
from pydantic import BaseModel

import queuekit.app as apps
from queuekit import App, Settings, agent_task
from queuekit.cli import enqueue
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from queuekit.testing.plugin import Broker


class Page(BaseModel):
    number: int
    day: date | None = None


@agent_task(queue="pages")
def read(page: Page, *, loud: bool = False) -> int:
    return page.number


@agent_task
def add(a: int, b: int = 0) -> int:
    return a + b


@agent_task
def nothing() -> None: ...


ADD, READ = f"{__name__}:add", f"{__name__}:read"


@pytest.fixture
def shell(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With a backend and a broker: the command publishes as any program does."""
    monkeypatch.setattr(apps, "_default", None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    world.environ |= {"QUEUEKIT_BACKEND": "rq", "QUEUEKIT_BROKER_URL": world.broker.url}
    return world


def jsonl(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def given(world: World, ids: list[str]) -> list[Any]:
    messages = [world.message(id) for id in ids]
    return [one.args or one.kwargs for one in messages]


def hint(stderr: str) -> list[str]:
    """The options to go on with."""
    found = re.search(r"To go on, and to double nothing: (--skip \d+ --id \w+)$", stderr, re.MULTILINE)
    assert found is not None, stderr
    return found[1].split()


# ---- one ---------------------------------------------------------------------------------------------------------------


def test_one_job(shell: World) -> None:
    [[id]] = shell.lines("enqueue", ADD, "--args", "[1]", "--kwargs", '{"b": 2}')
    message = shell.message(id)
    assert (message.task, message.args, message.kwargs) == (f"{__name__}.add", [1], {"b": 2})
    assert shell.status(id) == "queued"
    [[id]] = shell.lines("enqueue", f"{__name__}:nothing")
    assert shell.message(id).args == []


def test_values_are_read_as_the_task_declares_them(shell: World) -> None:
    [[id]] = shell.lines("enqueue", READ, "--args", '[{"number": 7, "day": "2030-01-31"}]')
    assert shell.message(id).args == [{"number": 7, "day": "2030-01-31"}]


def test_options(shell: World) -> None:
    options = ["--queue", "fast", "--priority", "9", "--delay", "60", "--expires", "600", "--id", "mine"]
    assert shell.json("enqueue", ADD, "--args", "[1]", *options) == [{"id": "mine", "created": True}]
    record = shell.store.get("mine")
    assert record is not None
    assert (record.status, record.message and shell.message("mine").route) == ("scheduled", "rq:fast:9")
    again = shell.run("enqueue", ADD, "--args", "[1]", *options)
    assert (again.exit_code, again.stdout) == (0, "mine\n")
    assert "1 of 1 had been enqueued before" in again.stderr
    [[id]] = shell.lines("enqueue", ADD, "--args", "[1]", "--at", "2100-01-31T09:00+01:00")
    assert shell.status(id) == "scheduled"
    [[first]] = shell.lines("enqueue", ADD, "--args", "[1]", "--key", "k")
    assert shell.json("enqueue", ADD, "--args", "[2]", "--key", "k") == [{"id": first, "created": False}]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--args", "[1"], "--args: not JSON"),
        (["--args", '{"a": 1}'], "--args: an array in JSON, not an object"),
        (["--kwargs", "[1]"], "--kwargs: an object in JSON, not an array"),
        (["--kwargs", '{"a": NaN}'], "NaN is no JSON"),
        (["--args", "[1]", "--file", "-"], "not both"),
        (["--file", "none.jsonl"], "none.jsonl"),
        (["--args", "[1]", "--skip", "1"], "--skip goes with --file"),
        (["--args", "[1]", "--quiet", "--json"], "not both"),
        (["--args", "[1]", "--priority", "10"], "priority"),
        (["--args", "[1]", "--at", "2100-01-31T09:00"], "no time zone"),
        (["--args", "[1]", "--at", "noon"], "'noon' is no moment"),
        (["--args", "[1]", "--at", "2100-01-31T09:00Z", "--delay", "1"], "delay and at"),
        (["--args", "[1]", "--id", "a b"], "id='a b'"),
        (["--file", "-", "--id", "a" * 113], "at most 112 characters"),
        (["--args", "[1]", "--backend", "memory"], "which ends with this command"),
        (["--args", "[1]", "--backend", "none"], "none"),
    ],
)  # fmt: skip
def test_misuse_is_exit_code_2(shell: World, args: list[str], said: str) -> None:
    result = shell.run("enqueue", ADD, *args, input="[1]\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert shell.store.counts() == []


def test_no_such_task(shell: World) -> None:
    result = shell.run("enqueue", f"{__name__}:ad")
    assert result.exit_code == 2
    assert "did you mean 'add'" in result.stderr.lower()


def test_arguments_that_do_not_fit_are_exit_code_1(shell: World) -> None:
    result = shell.run("enqueue", ADD, "--kwargs", '{"a": "one"}')
    assert result.exit_code == 1
    assert "add(a)" in result.stderr or "'a'" in result.stderr
    result = shell.run("enqueue", ADD, "--kwargs", '{"c": 1}')
    assert result.exit_code == 1
    assert "recorded for another version" not in result.stderr


# ---- many --------------------------------------------------------------------------------------------------------------


def test_a_job_for_each_line(shell: World, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text("\ufeff[1]\n\n" + jsonl([2, 3], {"a": 4}) + '  {"a": 5, "b": 6}', "utf-8")
    ids = [id for [id] in shell.lines("enqueue", ADD, "--file", str(tmp_path / "jobs.jsonl"))]
    assert given(shell, ids) == [[1], [2, 3], {"a": 4}, {"a": 5, "b": 6}]


def test_the_standard_input_and_a_count(shell: World) -> None:
    result = shell.run("enqueue", ADD, "--file", "-", "--quiet", input=jsonl(*([n] for n in range(450))))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "450\n", "")
    (count,) = shell.store.counts()
    assert count.waiting == 450
    assert shell.run("enqueue", ADD, "--file", "-", "--quiet", input="").stdout == "0\n"


def test_options_are_for_each_of_them(shell: World) -> None:
    lines = jsonl(*([{"number": n}] for n in range(3)))
    options = ["--queue", "night", "--priority", "9", "--delay", "60", "--id", "n"]
    args = ["enqueue", READ, "--file", "-", *options, "--json"]
    told = [json.loads(line) for line in shell.run(*args, input=lines).stdout.splitlines()]
    assert told == [{"id": f"n_{n}", "created": True} for n in (1, 2, 3)]
    assert {shell.status(one["id"]) for one in told} == {"scheduled"}
    assert {shell.message(one["id"]).route for one in told} == {"rq:night:9"}
    again = shell.run(*args, input=lines + jsonl([{"number": 3}]))
    assert [json.loads(line)["created"] for line in again.stdout.splitlines()] == [False, False, False, True]
    assert "3 of 4 had been enqueued before" in again.stderr


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"[1", "not JSON: Expecting"),
        (b"[NaN]", "NaN is no JSON"),
        (b'"one"', "an array of arguments, or an object of named ones, not a string"),
        (b"null", "not null"),
        (b"7", "not a number"),
        (b"\xff[1]", "not UTF-8"),
        (b'["one"]', "integer"),
        (b"[]", "is missing"),
        (b'{"a": 1, "c": 1}', "is unknown"),
        (b"[" + b" " * 2000 + b"1]", "longer than 1600 bytes"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_is_named_and_the_rest_can_go_on(
    shell: World, tmp_path: Path, bad: bytes, said: str
) -> None:
    shell.environ["QUEUEKIT_PAYLOAD_LIMIT"] = "200"
    file = tmp_path / "jobs.jsonl"
    good = [b"[%d]" % n for n in range(250)]
    file.write_bytes(b"\n".join([*good[:230], bad, *good[230:]]))
    result = shell.run("enqueue", ADD, "--file", str(file))
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert "jobs.jsonl, line 231: " in first
    assert said in first
    assert "200 jobs were recorded, to line 200. To go on" in second
    ids = result.stdout.splitlines()
    assert len(ids) == 200

    file.write_bytes(b"\n".join([*good[:230], b"", *good[230:]]))
    rest = [id for [id] in shell.lines("enqueue", ADD, "--file", str(file), *hint(second))]
    assert given(shell, ids + rest) == [[n] for n in range(250)]


def test_what_shows_when_it_is_encoded_is_named_too(shell: World) -> None:
    """Its line was read: that it takes too much room is found when the batch is checked."""
    shell.environ["QUEUEKIT_PAYLOAD_LIMIT"] = "100"
    result = shell.run("enqueue", READ, "--file", "-", input=jsonl([{"number": 1}], [{"number": 10**90}], [{}]))
    assert "line 3: " in result.stderr, "lines are read before a batch is checked"
    result = shell.run("enqueue", READ, "--file", "-", input=jsonl([{"number": 1}], [{"number": 10**90}]))
    assert result.exit_code == 1
    assert re.search(r"line 2: .* over the limit of 100 bytes", result.stderr)
    assert "nothing was recorded" in result.stderr


def test_a_line_whose_id_is_of_another_job(shell: World) -> None:
    shell.run("enqueue", ADD, "--args", "[17]", "--id", "n_2")
    result = shell.run("enqueue", ADD, "--file", "-", "--id", "n", input=jsonl([1], [2]))
    assert result.exit_code == 1
    assert "line 2: job 'n_2' exists, and asks for something else" in result.stderr


def test_more_lines_are_skipped_than_there_are(shell: World) -> None:
    result = shell.run("enqueue", ADD, "--file", "-", "--skip", "3", input=jsonl([1], [2]))
    assert result.exit_code == 2
    assert "there are only 2 lines" in result.stderr
    assert shell.run("enqueue", ADD, "--file", "-", "--skip", "2", input=jsonl([1], [2])).exit_code == 0


def test_what_is_recorded_of_a_batch_one_by_one_is_not_skipped_again(
    shell: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hooked.py").write_text(
        "from contextlib import nullcontext\n"
        "class Around:\n"
        "    def __call__(self, event): pass\n"
        "    def around_enqueue(self, event, headers): return nullcontext()\n"
        "hook = Around()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shell.environ["QUEUEKIT_HOOKS"] = "hooked:hook"
    shell.run("enqueue", ADD, "--args", "[17]", "--id", "n_4")
    result = shell.run("enqueue", ADD, "--file", "-", "--id", "n", input="\n" + jsonl([1], [2], [3]))
    assert "line 4: job 'n_4' exists" in result.stderr
    assert "2 jobs were recorded, to line 3." in result.stderr
    assert hint(result.stderr) == ["--skip", "3", "--id", "n"]


def test_a_store_that_goes_away_is_exit_code_3(shell: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from queuekit.store import StoreAway
    from queuekit.store.redis import RedisStore

    create, made, away = RedisStore.create_many, [], True

    def create_many(self: RedisStore, jobs: Any, wires: Any = ()) -> Any:
        made.append(jobs)
        if len(made) >= 2 and away:
            raise StoreAway("it is away", sent=True)
        return create(self, jobs, wires)

    monkeypatch.setattr(RedisStore, "create_many", create_many)
    monkeypatch.setenv("QUEUEKIT_ENQUEUE_TIMEOUT", "2")
    lines = jsonl(*([n] for n in range(450)))
    result = shell.run("enqueue", ADD, "--file", "-", input=lines)
    assert result.exit_code == 3
    assert "200 jobs were recorded, to line 200; of lines 201 to 400 it is not known." in result.stderr
    away = False
    again = shell.run("enqueue", ADD, "--file", "-", *hint(result.stderr), input=lines)
    assert given(shell, result.stdout.split() + again.stdout.split()) == [[n] for n in range(450)]


# ---- as a process ------------------------------------------------------------------------------------------------------

TASKS = """
from queuekit import App, Settings, agent_task

@agent_task
def double(n: int) -> int:
    return 2 * n
"""


def _heed_interrupts() -> None:
    """They are ignored where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, environ: dict[str, str], *args: str) -> subprocess.Popen[str]:
    (folder / "doubled.py").write_text(TASKS)
    return subprocess.Popen(
        [sys.executable, "-m", "queuekit", "enqueue", "doubled.py:double", *args],
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509
    )


def test_nothing_is_read_ahead_of_the_batches(queuekit_broker: Broker, tmp_path: Path) -> None:
    """Its ids come while the pipe is open, and what the system does not hold for it waits until it is asked for."""
    with start(tmp_path, queuekit_broker.environ("rq"), "--file", "-", "--id", "n") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(200):
            process.stdin.write(f"[{n}]\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(200)] == [f"n_{n + 1}\n" for n in range(200)]
        process.stdin.write("[200]\n")
        said, _ = process.communicate(timeout=60)
        assert said == "n_201\n"
        assert process.returncode == 0


def test_who_interrupts_it_is_told_how_to_go_on(queuekit_broker: Broker, tmp_path: Path) -> None:
    with start(tmp_path, queuekit_broker.environ("rq"), "--file", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(jsonl(*([n] for n in range(250))))
        process.stdin.flush()
        ids = [process.stdout.readline().strip() for _ in range(200)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
    assert "200 jobs were recorded, to line 200" in errors
    assert hint(errors) == ["--skip", "200", "--id", ids[0].removesuffix("_1")]


def test_a_reader_who_leaves_early_is_told_too(queuekit_broker: Broker, tmp_path: Path) -> None:
    with start(tmp_path, queuekit_broker.environ("rq"), "--file", "-", "--id", "n") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(jsonl(*([n] for n in range(450))), timeout=60)
        assert process.returncode == 1
    assert hint(errors) == ["--skip", "200", "--id", "n"]
    assert "Traceback" not in errors
    assert "Exception" not in errors


def test_lines_are_taken_batch_by_batch(shell: World) -> None:
    """No more of them than are to be recorded next, however many there are."""
    taken = recorded = 0
    ahead = []

    class Endless:
        name = "endless"

        def readline(self, most: int) -> bytes:
            nonlocal taken
            if taken == 3000:
                return b""
            taken += 1
            ahead.append(taken - recorded)
            return b"[%d]\n" % taken

    class Shown(enqueue._Shown):
        def jobs(self, batch: Any) -> None:
            nonlocal recorded
            recorded += len(batch)

    app = App(Settings(**shell.broker.settings("rq")))
    with app.activate():
        enqueue._many(app, add, Endless(), 0, Shown(as_json=False, quiet=True), {"id": None})  # type: ignore[arg-type]
    app.close()
    assert (recorded, max(ahead)) == (3000, 200)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ["celery", "rq", "dramatiq"])
def test_a_worker_runs_them(queuekit_broker: Broker, tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    environ = queuekit_broker.environ(backend)
    with start(tmp_path, environ, "--file", "-") as process:
        said, errors = process.communicate(jsonl(*([n] for n in range(30))), timeout=60)
    assert process.returncode == 0, errors
    worker = WorkerProcess(["doubled.py"], environ, tmp_path)
    try:
        ask = "import sys, doubled; print([doubled.double.job(id.strip()).result(timeout=100) for id in sys.stdin])"
        done = subprocess.run(
            [sys.executable, "-c", ask], cwd=tmp_path, env=environ, input=said, capture_output=True, text=True
        )
        assert done.stdout.strip() == str([2 * n for n in range(30)]), done.stderr + worker.said()
        worker.terminate()
        worker.wait(60)
    finally:
        worker.kill_all()


def test_the_module_may_configure(queuekit_broker: Broker, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
    said = queuekit_broker.settings("rq")
    (tmp_path / "configured.py").write_text(f"import queuekit\nqueuekit.configure(**{said!r})\n{TASKS}")
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "enqueue", "configured:double", "--args", "[4]", "--id", "four"],
        cwd=tmp_path, env=environ, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "four\n"), done.stderr
    world = World(queuekit_broker)
    assert world.status("four") == "queued"
    world.store.close()


def plain(lines: list[str]) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", "\n".join(lines))


def test_a_bar_on_a_terminal(queuekit_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(TASKS)
    (tmp_path / "jobs.jsonl").write_text(jsonl(*([n] for n in range(450))))
    args = ["enqueue", "doubled.py:double", "--file", "jobs.jsonl", "--id", "n"]
    code, lines = on_terminal(queuekit_broker.environ("rq"), *args, cwd=str(tmp_path))
    said = plain(lines)
    assert code == 0, said
    assert re.search(r"enqueued .*━.* 450/450 ", said), said
    assert {f"n_{n}" for n in (1, 200, 450)} <= set(re.findall(r"n_\d+", said)), "and the ids above it"


def test_no_bar_in_a_pipe(queuekit_broker: Broker, tmp_path: Path) -> None:
    with start(tmp_path, queuekit_broker.environ("rq"), "--file", "-") as process:
        said, errors = process.communicate(jsonl([1], [2]), timeout=60)
    assert (process.returncode, len(said.split()), errors) == (0, 2, "")
