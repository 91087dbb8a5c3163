"""The steward as a process, with a worker that has nothing else, on a server of the tests' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, Settings, agent_task
from queuekit.processes import is_alive, process_name, start_time
from queuekit.steward import Steward, _Outage
from queuekit.store import Beat, StoreAway
from queuekit.testing.servers import RedisServer, find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE = 30.0
LEASE = 60.0  # so long that whatever is seen here was not seen by it


@agent_task(name="steward.nothing")
def nothing() -> None: ...


WORKER = """
import json, os, sys, time
from queuekit import App, Settings, agent_task
from queuekit.execution import Delivery, Held
from queuekit.message import Doorbell

@agent_task(name="steward.nothing")
def nothing() -> None: ...

app = App(Settings.from_json(sys.argv[1]))
worker = app.worker()
worker.start()

def claim(header):
    held = worker.execution.claim(Delivery(Doorbell.from_header(header), [], {}))
    assert isinstance(held, Held), held

def forked(header):
    pid = os.fork()
    if not pid:
        if header is not None:
            claim(header)
        time.sleep(600)
    return pid

for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class Parent:
    """A worker process that does what it is told, line by line."""

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, settings.to_json()],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.steward: int = self.do("worker._steward.pid")
        self.pids = {self.steward}

    def do(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end_of_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)

    def end(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        binary = find_server("valkey")
    except LookupError as error:
        pytest.skip(str(error))
    with RedisServer(binary, tmp_path_factory.mktemp("steward") / "data") as server:
        yield server


@pytest.fixture
def app(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[App]:
    server.start()
    settings = Settings(
        backend="rq", broker_url=server.url, namespace=request.node.name[-40:].strip("_"), lease=LEASE, tick=0.05
    )
    app = App(settings)
    yield app
    app.close()


@pytest.fixture
def parent(app: App) -> Iterator[Parent]:
    parent = Parent(app.settings)
    yield parent
    parent.end()


def until(true: Callable[[], Any], what: str) -> Any:
    late = time.monotonic() + DEADLINE
    while not (found := true()):
        assert time.monotonic() < late, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    return not is_alive(f"{pid}:")


def job(app: App) -> tuple[str, dict[str, Any]]:
    """The id of a job that is queued, and its doorbell."""
    with app.activate():
        id = nothing.enqueue().id
    record = app.store.get(id)
    assert record is not None
    bell = {
        "v": 1, "id": id, "task": nothing.name, "pseq": record.pseq, "epoch": app.store.epoch(), "route": record.route,
        "timeout": None, "own_policy": False, "private": False,
    }  # fmt: skip
    return id, bell


def runs(app: App, id: str) -> list[str]:
    record = app.store.get(id)
    assert record is not None
    return [attempt.outcome for attempt in record.attempts()]


def in_broker(app: App) -> int:
    return app.adapter.depth("rq:default:0") or 0


def test_a_killed_worker_is_seen_at_once_and_its_job_published_again(app: App, parent: Parent) -> None:
    id, bell = job(app)
    before = in_broker(app)
    parent.do(f"claim({bell!r})")
    assert runs(app, id) == ["running"]
    parent.kill()
    until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    until(lambda: in_broker(app) == before + 1, "its job is published again")
    until(lambda: gone(parent.steward), "the steward leaves")


def test_a_killed_child_is_seen_while_its_parent_lives(app: App, parent: Parent) -> None:
    id, bell = job(app)
    child = parent.do(f"forked({bell!r})")
    parent.pids.add(child)
    until(lambda: runs(app, id) == ["running"], "the child has claimed")
    os.kill(child, signal.SIGKILL)  # a zombie: nobody waits for it
    until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    assert not gone(parent.steward)


def test_children_that_die_with_their_worker_have_died_together(app: App, parent: Parent) -> None:
    """Whichever of these deaths is seen first: one that died alone would be to blame."""
    jobs = [job(app) for _ in range(2)]
    children = [parent.do(f"forked({bell!r})") for _, bell in jobs]
    parent.pids.update(children)
    until(lambda: [runs(app, id) for id, _ in jobs] == [["running"]] * 2, "the children have claimed")
    time.sleep(0.2)  # the steward has heard of both by then
    for child in children:
        os.kill(child, signal.SIGKILL)
    parent.kill()
    until(lambda: [runs(app, id) for id, _ in jobs] == [["lost"]] * 2, "their attempts are lost")
    records = [app.store.get(id) for id, _ in jobs]
    assert [record.attempts()[0].company for record in records if record] == [1, 1]


def test_a_child_that_outlives_its_parent_does_not_hide_its_death(app: App, parent: Parent) -> None:
    id, bell = job(app)
    parent.do(f"claim({bell!r})")
    pipe = parent.do("os.readlink(f'/proc/self/fd/{worker._pipe}')")
    child = parent.do("forked(None)")
    parent.pids.add(child)
    until(lambda: pipe not in _open(child), "the child closes the pipe")
    parent.kill()
    until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    until(lambda: gone(parent.steward), "the steward leaves")
    assert not gone(child)


def _open(pid: int) -> set[str]:
    found = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(one.readlink()))
    return found


def test_a_killed_steward_is_started_again_and_does_its_work(app: App, parent: Parent) -> None:
    id, bell = job(app)
    parent.do(f"claim({bell!r})")
    os.kill(parent.steward, signal.SIGKILL)
    until(lambda: gone(parent.steward), "the steward is gone")

    def another() -> int:
        """watch() is called now and then: a process counts as dead a moment before its parent may collect it."""
        parent.do("worker.watch()")
        return 0 if (pid := parent.do("worker._steward.pid")) == parent.steward else pid

    second = until(another, "another steward is started")
    parent.pids.add(second)
    assert runs(app, id) == ["running"]  # the worker's lease was not ended with its steward
    parent.kill()
    until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    until(lambda: gone(second), "the second steward leaves")


def test_signals_do_not_end_it_before_its_worker(app: App, parent: Parent) -> None:
    """Not while it starts either."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(parent.steward, number)
    id, bell = job(app)
    parent.do(f"claim({bell!r})")
    parent.kill()
    until(lambda: runs(app, id) == ["lost"], "it goes on watching")
    until(lambda: gone(parent.steward), "and leaves after its worker")


def test_it_outlives_an_outage_of_store_and_broker(app: App, parent: Parent, server: RedisServer) -> None:
    server.kill()
    time.sleep(0.3)  # it finds that out, several times
    assert not gone(parent.steward)
    server.start()
    with app.activate():
        id = nothing.options(delay=0.1).enqueue().id
    until(lambda: app.store.status(id) == "queued", "what is due is published")


def test_a_worker_that_dies_while_the_store_is_away_is_told_of_when_it_is_back(
    app: App, parent: Parent, server: RedisServer
) -> None:
    id, bell = job(app)
    parent.do(f"claim({bell!r})")
    server.kill()
    parent.kill()
    server.start()
    until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    until(lambda: gone(parent.steward), "the steward leaves")


def test_a_worker_that_left_in_good_order_has_lost_nothing(app: App, parent: Parent) -> None:
    id, bell = job(app)
    parent.do(f"type(worker.execution.execute(Delivery(Doorbell.from_header({bell!r}), [], {{}}))).__name__")
    parent.end_of_input()
    until(lambda: gone(parent.steward), "the steward leaves")
    assert runs(app, id) == ["succeeded"]


def test_files_in_the_current_folder_are_no_modules_of_the_steward(app: App, tmp_path: Path) -> None:
    """A user's queue.py or redis.py."""
    for name in ("queue", "redis", "select", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(1)\n")
    id, bell = job(app)
    parent = Parent(app.settings, folder=tmp_path)
    try:
        parent.do(f"claim({bell!r})")
        parent.kill()
        until(lambda: runs(app, id) == ["lost"], "its attempt is lost")
    finally:
        parent.end()


def test_without_a_worker_that_says_what_to_do_it_leaves() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "queuekit.steward"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- in this process -----------------------------------------------------------------------------------------------


class FakeStore:
    def __init__(self) -> None:
        self.beats, self.dead, self.left, self.away = 0, [""], 0, 0
        self.processes: tuple[str, ...] = ()
        self.cancelled: tuple[str, ...] = ()
        self.over: tuple[tuple[str, str], ...] = ()
        self.found: list[str] = []
        self.known, self.name, self.seen = True, "first", True
        self.about = ""

    def beat(self, worker: str, *, start: bool = False, dead: Any = (), found: Any = (), about: str = "") -> Beat:
        self.beats += 1
        self.dead += [*dead, *found]
        self.found += found
        self.about = about or self.about
        processes = tuple(one for one in self.processes if one not in self.dead)
        return Beat(start or self.known, processes, ("j",) * len(self.cancelled), (), self.cancelled, self.over)

    def epoch(self) -> str:
        return self.name

    def leave(self, worker: str, *, seen: bool = True) -> list[str]:
        self.seen = seen
        if self.away:
            self.away -= 1
            raise StoreAway("away", sent=False)
        self.left += 1
        return ["left"]


class FakeTicker:
    def __init__(self) -> None:
        self.go, self.ticks = threading.Event(), 0
        self.told: list[str] = []
        self.go.set()

    def tell(self, ids: list[str]) -> None:
        self.told += ids

    def tick(self) -> None:
        self.ticks += 1
        self.go.wait(DEADLINE)


class InProcess:
    def __init__(self, parent: str = "") -> None:
        self.store, self.ticker = FakeStore(), FakeTicker()
        end, self.pipe = os.pipe()
        self.end = end
        settings = Settings(backend="memory", tick=0.02, lease=DEADLINE)
        about = '{"pool": "threads", "clock": 1.0}'
        parent = parent or process_name()
        self.steward = Steward(self.store, self.ticker, "w", parent, settings, end, about=about)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.steward.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        if self.pipe:
            os.close(self.pipe)
            self.pipe = 0

    def leave(self) -> None:
        self.close()
        self.ticker.go.set()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


@pytest.fixture
def here() -> Iterator[InProcess]:
    here = InProcess()
    yield here
    here.leave()
    os.close(here.end)


def test_beats_go_on_while_a_tick_takes_its_time(here: InProcess) -> None:
    """Also where a dead child asks for one at once: a long backlog would cost the worker its lease."""
    here.ticker.go.clear()
    until(lambda: here.ticker.ticks, "a tick begins")
    here.store.processes = ("1:0",)  # init, at another time: dead
    until(lambda: "1:0" in here.store.found, "the dead process is told of, as one that was found so")
    beats = here.store.beats
    until(lambda: here.store.beats > beats + 3, "the beats go on")


def test_it_says_whether_it_has_seen_its_worker_alive(here: InProcess) -> None:
    until(lambda: here.store.beats, "it beats")
    here.leave()
    assert here.store.seen
    late = InProcess(parent="1:0")  # dead before its steward was there
    try:
        late.leave()
        assert (late.store.left, late.store.seen) == (1, False)
    finally:
        os.close(late.end)


def test_a_child_that_runs_on_after_a_cancel_is_killed_and_its_parent_is_not(
    here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        here.store.cancelled = (process_name(), f"{child.pid}:{start_time(child.pid)}")
        beats = here.store.beats
        until(lambda: here.store.beats > beats + 3, "it was asked")
        assert child.poll() is None  # it has its time
        monkeypatch.setattr("queuekit.steward.CANCELLED", 0.0)
        until(lambda: child.poll() is not None, "it is killed")
        assert child.returncode == -signal.SIGKILL
    here.store.cancelled = ()


@pytest.mark.parametrize("drains", [False, True])
def test_a_process_over_its_limit_is_killed_unless_it_is_the_workers_and_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    with sleeper() as child, sleeper() as parent:
        here = InProcess(f"{parent.pid}:{start_time(parent.pid)}")
        try:
            if drains:
                os.write(here.pipe, b"drained")
            here.store.over = tuple((str(one.pid), f"{one.pid}:{start_time(one.pid)}") for one in (child, parent))
            beats = here.store.beats
            until(lambda: here.store.beats > beats + 3, "they are over their limits")
            assert (child.poll(), parent.poll()) == (None, None)  # they have their time
            monkeypatch.setattr("queuekit.steward.OVER", (0.0, 0.0))
            until(lambda: child.poll() is not None, "the child is killed")
            assert child.returncode == -signal.SIGKILL
            beats = here.store.beats
            if drains:
                until(lambda: here.store.beats > beats + 3, "the beats go on")
                assert parent.poll() is None
            else:
                until(lambda: parent.poll() is not None, "the worker is killed")
                until(lambda: here.store.left, "its steward sees it")
        finally:
            here.leave()
            os.close(here.end)
            child.kill()
            parent.kill()


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_an_outage_is_said_at_its_begin_seldom_and_at_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("queuekit.steward.time.monotonic", lambda: now)
    outage = _Outage("tick")
    outage.over()
    for _ in range(100):  # one each half second
        outage.goes_on(StoreAway("away", sent=False))
        now += 0.5
    outage.over()
    outage.over()
    outage.goes_on(StoreAway("away", sent=False))
    assert [one.getMessage() for one in caplog.records] == [
        "no tick: away",
        "no tick: away",
        "the first tick for 50 s",
        "no tick: away",
    ]


def test_a_store_that_came_back_empty_is_told_from_a_lease_that_was_lost(
    here: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    until(lambda: here.store.beats, "it beats")
    for said, epoch in [("taken for gone", "first"), ("came back empty (epoch second, first before)", "second")]:
        here.store.name, here.store.known = epoch, False
        until(lambda said=said: said in caplog.text, said)  # type: ignore[misc]
        here.store.known = True
        beats = here.store.beats
        until(lambda beats=beats: here.store.beats > beats + 1, "it goes on")  # type: ignore[misc]
    assert "goes to quarantine (store_lost)" in caplog.text
    said_anew = json.loads(here.store.about)
    assert said_anew["pool"] == "threads"
    assert abs(said_anew["clock"] - time.time()) < DEADLINE, "its clock as it is now, and not when the worker started"


def test_it_leaves_when_the_pipe_is_closed_even_if_the_store_is_away(here: InProcess) -> None:
    here.store.away = 2
    here.leave()
    assert here.store.left == 1
    assert here.store.away == 0


def test_it_ends_nothing_before_the_children_of_its_worker_are_gone(
    here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has just been taken up is known to the store alone."""
    alive = {"11:0"}
    monkeypatch.setattr("queuekit.steward.is_alive", lambda process: process in alive or process == here.steward.parent)
    here.store.processes = ("11:0",)
    monkeypatch.setattr("queuekit.steward.DYING", DEADLINE)
    here.close()
    time.sleep(0.2)
    assert here.store.left == 0
    alive.clear()
    until(lambda: here.store.left, "it leaves")


def test_a_child_that_does_not_die_keeps_nobody(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.steward.DYING", 0.05)
    here.store.processes = (process_name(),)
    here.leave()
    assert here.store.left == 1


def test_what_was_lost_at_the_end_is_told_after_a_long_tick(here: InProcess) -> None:
    here.ticker.go.clear()
    ticks = here.ticker.ticks
    until(lambda: here.ticker.ticks > ticks, "a tick begins")
    here.close()
    until(lambda: here.store.left, "its worker is gone")
    assert here.ticker.told == []
    here.leave()
    assert here.ticker.told == ["left"]


def test_it_holds_no_descriptor_of_processes_that_are_over(here: InProcess) -> None:
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    try:
        names = [process_name_of(child.pid) for child in children]
        here.store.processes = tuple(names)
        until(lambda: set(names) <= set(here.steward._watched._fds), "it watches them")
    finally:
        for child in children:
            child.kill()
            child.wait()
    until(lambda: set(names) <= set(here.store.dead), "it tells of their death")
    until(lambda: not set(names) & set(here.steward._watched._fds), "it lets them go")


def process_name_of(pid: int) -> str:
    from queuekit.processes import start_time

    return f"{pid}:{start_time(pid)}"
