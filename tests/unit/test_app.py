from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import queuekit.app as apps
from queuekit import (
    App,
    Backoff,
    BulkEnqueueError,
    ConfigError,
    EnqueueError,
    JobEvent,
    JobFailed,
    PayloadError,
    QueuekitError,
    RetryPolicy,
    RetryRule,
    Settings,
    agent_task,
    configure,
    current_job,
)
from queuekit.adapters import BrokerAway, load_adapter
from queuekit.app import _ahead, current_app
from queuekit.store import Creating, StoreAway
from queuekit.template import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@agent_task(name="app.echo")
def echo(a: int) -> int:
    return a


@pytest.fixture
def app() -> App:
    return App(Settings(backend="memory"))


@pytest.fixture
def _no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "_default", None)


@agent_task(name="app.flaky", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(6))], max_attempts=9))
def flaky() -> int:
    if current_job().attempt < 8:
        raise ConnectionError("not yet")
    return current_job().attempt


@agent_task(name="app.waits")
def waits() -> int:
    return flaky.enqueue().result()


@agent_task(name="app.aecho")
async def aecho(a: int) -> int:
    return a


@agent_task(name="app.blocks")
async def blocks() -> int:
    return aecho.enqueue(1).result()


@agent_task(name="app.awaits")
async def awaits() -> int:
    return await (await aecho.aenqueue(1)).aresult()


@agent_task(name="app.pressed")
def pressed() -> None:
    raise KeyboardInterrupt


# ---- which App -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_default")
def test_configure_makes_the_default_app() -> None:
    app = configure(backend="memory", lease=12)
    assert current_app() is app
    assert app.settings.lease == 12
    with pytest.raises(ConfigError, match="too late"):
        configure(backend="memory")


@pytest.mark.usefixtures("_no_default")
def test_configure_may_be_said_again_before_it_is_used() -> None:
    configure(backend="memory", lease=12)
    assert configure(backend="memory", lease=13).settings.lease == 13


@pytest.mark.usefixtures("_no_default")
def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="lease"):
        configure(backend="memory", leese=12)


def test_an_activated_app_is_used_here_and_not_elsewhere(app: App) -> None:
    elsewhere = []
    with app.activate() as active:
        assert current_app() is active is app
        thread = threading.Thread(target=lambda: elsewhere.append(current_app() is app))
        thread.start()
        thread.join()
    assert elsewhere == [False]


@pytest.mark.usefixtures("_no_default")
def test_without_a_backend_the_error_lists_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUEUEKIT_BACKEND", raising=False)
    with pytest.raises(ConfigError, match="no backend is set.*Installed:.*memory"):
        echo.enqueue(1)


def test_without_a_broker_the_error_has_both_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rq")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"QUEUEKIT_BROKER_URL=.*queuekit worker --dev"):
        _ = App(Settings(backend="rq")).settings


def test_an_engine_that_is_not_installed_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("rq", "queuekit.adapters.rq"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rq", None)  # as if it were not there
    with pytest.raises(ConfigError, match=r"pip install 'queuekit\[rq\]'"):
        load_adapter("rq")


def test_the_engine_of_another_package_is_no_extra_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "queuekit_sidekiq-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: queuekit-sidekiq\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[queuekit.adapters]\nsidekiq = queuekit_sidekiq:Adapter\n")
    (tmp_path / "queuekit_sidekiq.py").write_text("import sidekiq\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs the package 'sidekiq', which is not installed: pip install sidekiq$"):
        load_adapter("sidekiq")


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of .*celery.*rq"):
        load_adapter("sidekiq")


def test_the_memory_clock_is_for_memory_alone(app: App) -> None:
    app.advance(3)
    assert app.run_until_idle() == 0


def test_a_tick_that_is_too_long_for_the_lease_is_refused() -> None:
    pytest.importorskip("rq")
    settings = {"backend": "rq", "broker_url": "redis://127.0.0.1:1/0"}
    with pytest.raises(ConfigError, match=r"tick=0.5 \(default\) is too long for lease=2 \(Settings\(\)\)"):
        _ = App(Settings(**settings, lease=2)).settings
    assert App(Settings(**settings, lease=3)).settings.lease == 3


# ---- enqueue when things are away --------------------------------------------------------------------------------------


class Broken:
    def __init__(self, inner: Any, error: Exception, only: str) -> None:
        self._inner, self._error, self._only, self.calls = inner, error, only, 0

    def __getattr__(self, name: str) -> Any:
        if name != self._only:
            return getattr(self._inner, name)
        self.calls += 1
        raise self._error


@pytest.mark.parametrize(("sent", "recorded"), [(False, False), (True, None)])
def test_a_store_that_is_away(sent: bool, recorded: bool | None) -> None:
    app = App(Settings(backend="memory", enqueue_timeout=0.01))
    app._store = Broken(app.store, StoreAway("away", sent=sent), "create_many")  # type: ignore[assignment]
    with app.activate(), pytest.raises(EnqueueError, match=r"options\(id='known'\)") as refused:
        echo.options(id="known").enqueue(1)
    assert (refused.value.recorded, refused.value.job_id) == (recorded, "known")


def test_a_broker_that_is_away_is_no_error_and_is_not_asked_each_time(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(app.adapter, BrokerAway("away"), "publish")
    app._adapter = broken  # type: ignore[assignment]
    with app.activate(), caplog.at_level(logging.WARNING, "queuekit"):
        jobs = [echo.enqueue(n) for n in range(5)]
    assert [job.status() for job in jobs] == ["queued"] * 5
    assert broken.calls == 1
    assert "published when the broker is back" in caplog.text


def test_an_adapter_that_fails_does_not_undo_what_is_recorded(app: App) -> None:
    app._adapter = Broken(app.adapter, RuntimeError("a bug"), "publish")  # type: ignore[assignment]
    with app.activate():
        assert echo.enqueue(1).status() == "queued"


# ---- workers -----------------------------------------------------------------------------------------------------------


def test_a_pool_that_the_adapter_has_not_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(Settings(backend="memory"))
    monkeypatch.setattr(
        type(app.adapter), "capabilities", replace(app.adapter.capabilities, refused={"forks": "they outlive it"})
    )
    with pytest.raises(ConfigError, match=r"pool='forks': the backend memory has caller: they outlive it$"):
        app.worker(pool="forks")
    with pytest.raises(ConfigError, match=r"pool='spoons': the backend memory has caller$"):
        app.worker(pool="spoons")
    assert app.worker(pool="caller").pool == "caller"


@pytest.mark.parametrize(
    ("settings", "pool"),
    [({}, "async"), ({"broker_url": "amqp://127.0.0.1:1//"}, "async"), ({"pool": "threads"}, "threads")],
    ids=["Redis", "RabbitMQ", "named"],
)
@pytest.mark.parametrize("backend", ["celery", "dramatiq"])
def test_a_worker_of_async_tasks_alone_has_the_pool_for_them(
    backend: str, settings: dict[str, Any], pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    url = "redis://127.0.0.1:1/0"
    app = App(Settings(**{"backend": backend, "broker_url": url, "store_url": url, **settings}))
    monkeypatch.setattr(apps, "registered_tasks", lambda: [aecho])
    assert app.fitting_pool() == pool
    assert app.worker(pool=app.fitting_pool()).pool == pool
    monkeypatch.setattr(apps, "registered_tasks", lambda: [aecho, echo])
    assert app.fitting_pool() == settings.get("pool")
    app.close()


def test_strict_refuses_what_a_pool_cannot_enforce() -> None:
    pytest.importorskip("dramatiq")
    code = (
        "from queuekit import App, Settings, agent_task\n"
        "@agent_task(name='limited', timeout=5)\n"
        "def limited() -> None: ...\n"
        "App(Settings(backend='dramatiq', broker_url='redis://127.0.0.1:1/0', strict=True)).worker()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: strict: in dramatiq's pool 'threads'" in done.stderr
    assert "limited" in done.stderr


def cli(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    env = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
    return subprocess.run(
        [sys.executable, "-m", "queuekit", *args],
        cwd=cwd, env={**env, **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["worker", "x.py"], "no backend is set"),
        (["worker", "x.py", "--backend", "memory"], "no file 'x.py'"),
        (["worker", "nothing", "--backend", "memory"], "no module 'nothing'"),
        (["worker", "empty.py", "--backend", "memory"], "no @agent_task"),
        (["worker", "tasks.py", "--backend", "memory"], "memory backend has no worker"),
        (["worker", "tasks.py", "--backend", "celerey"], "celery"),
        (["worker", "tasks.py", "--backend", "rq", "--broker-url", "sqs://x"], "SQS"),
    ],
)
def test_the_command_line_says_what_is_wrong_and_exits_with_2(tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "empty.py").touch()
    (tmp_path / "tasks.py").write_text("from queuekit import agent_task\n@agent_task\ndef t() -> None: ...\n")
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("queuekit: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_inside_a_users_module_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("import no_such_dependency\n")
    done = cli("worker", "tasks.py", "--backend", "memory", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_dependency'" in done.stderr


@pytest.mark.parametrize(
    ("configured", "args", "said"),
    [
        ("backend='memory'", [], "the memory backend has no worker"),
        (
            "backend='rq', broker_url='redis://127.0.0.1:7/0'",
            ["--backend", "memory"],
            "the memory backend has no worker",
        ),
        ("backend='rq'", [], "broker_url"),
        ("backend='rqq'", [], "'rqq'"),
        ("lease=-1", [], "lease=-1"),
    ],
)
def test_a_worker_goes_by_what_its_module_configures(
    tmp_path: Path, configured: str, args: list[str], said: str
) -> None:
    """Command line > configure() > environment."""
    pytest.importorskip("rq")
    text = f"import queuekit\nqueuekit.configure({configured})\n@queuekit.agent_task\ndef do() -> None: ...\n"
    (tmp_path / "tasks.py").write_text(text)
    done = cli("worker", "tasks.py", *args, cwd=tmp_path, QUEUEKIT_BACKEND="celery")
    assert done.returncode == 2
    assert said in done.stderr
    assert "too late" not in done.stderr


def test_help(tmp_path: Path) -> None:
    done = cli("worker", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "MODULE-or-FILE" in done.stdout


# ---- the memory backend, from more than one place ------------------------------------------------------------------


def test_a_task_that_waits_for_another_ones_retries_is_not_taken_for_dead(app: App) -> None:
    """The clock jumps over the waits, and its worker is alive all the same."""
    with app.activate():
        job = waits.enqueue()
        assert job.result() == 8
        assert [attempt.outcome for attempt in job.info().attempts] == ["succeeded"]


def test_an_async_task_that_blocks_the_loop_for_another_one_is_told_so(app: App) -> None:
    with app.activate():
        job = blocks.enqueue()
        with pytest.raises(JobFailed, match="aresult"):
            job.result()
        assert awaits.enqueue().result() == 1


def test_who_presses_a_key_ends_the_program_and_not_the_attempt(app: App) -> None:
    with app.activate():
        job = pressed.enqueue()
        with pytest.raises(KeyboardInterrupt):
            job.result()
        assert len(job.info().attempts) == 1


def test_jobs_are_enqueued_while_others_run(app: App) -> None:
    """The broker of the memory backend is looked through by one thread and filled by another."""
    errors: list[BaseException] = []
    over = threading.Event()

    def fill() -> None:
        try:
            with app.activate():
                while not over.is_set():
                    echo.enqueue(1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fill) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            app.run_next()
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


# ---- what leaves the process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (EnqueueError("no", recorded=None, job_id="j"), {"recorded": None, "job_id": "j"}),
        (StoreAway("no", sent=True), {"sent": True}),
        (PayloadError("no", parameter="p"), {"parameter": "p"}),
        (BrokerAway("no"), {}),
        (QueuekitError("no", 2), {}),
    ],
)
def test_errors_survive_a_pickle(error: QueuekitError, kept: dict[str, Any]) -> None:
    """One that does not would break a pool of processes."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, str(again)) == (error.args, str(error))
    assert {name: getattr(again, name) for name in kept} == kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # which is what it is about
@pytest.mark.usefixtures("_no_default")
def test_a_lock_that_is_held_at_a_fork_holds_up_nobody_in_the_child() -> None:
    app = configure(backend="memory")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with app._lock, apps._default_lock:
            held.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(20)
            os._exit(0 if current_app().settings.backend == "memory" else 1)
        finally:
            os._exit(2)
    over.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_batch_with_one_that_is_refused_is_not_recorded(app: App) -> None:
    with app.activate():
        first = echo.options(id="first")
        echo.options(id="taken").enqueue(1)
        app.run_until_idle()
        with pytest.raises(EnqueueError, match="'taken' exists") as refused:
            echo.enqueue_many([first.bind(1), echo.options(id="taken").bind(2)])
        assert (refused.value.recorded, refused.value.job_id) == (False, "taken")
        assert app.store.get("first") is None
        with pytest.raises(EnqueueError, match="'first' exists"):
            echo.enqueue_many([first.bind(1), first.bind(2)])
        assert app.store.get("first") is None, "they ask for two things under one id"
        one, other = echo.enqueue_many([first.bind(1), first.bind(1)])
        assert (one.created, other.created) == (True, False)
        assert [one.message.id for one in app.adapter._broker] == ["first"]  # type: ignore[attr-defined]


class Tells:
    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, event: JobEvent, /) -> None:
        self.told.append(event.job_id)


class StandsAround(Tells):
    """For it jobs are recorded one by one."""

    def around_enqueue(self, event: JobEvent, headers: Any, /) -> Any:
        return nullcontext()


def test_of_a_batch_that_is_refused_no_hook_is_told() -> None:
    app = App(Settings(backend="memory"), hooks=[hook := Tells()])
    with app.activate():
        echo.options(id="taken").enqueue(1)
        with pytest.raises(EnqueueError) as refused:
            echo.enqueue_many([echo.options(id="first").bind(1), echo.options(id="taken").bind(2)])
        assert (refused.value.recorded, refused.value.job_id) == (False, "taken")
        assert app.store.get("first") is None
    assert hook.told == ["taken"]


def test_one_by_one_those_before_one_that_is_refused_are_published() -> None:
    app = App(Settings(backend="memory"), hooks=[hook := StandsAround()])
    with app.activate():
        echo.options(id="taken").enqueue(1)
        with pytest.raises(BulkEnqueueError) as refused:
            echo.enqueue_many([echo.options(id="first").bind(1), echo.options(id="taken").bind(2)])
        assert (refused.value.accepted, refused.value.job_id) == (1, "taken")
        assert "first" in [one.message.id for one in app.adapter._broker]  # type: ignore[attr-defined]
    assert hook.told == ["taken", "first"]


# ---- many --------------------------------------------------------------------------------------------------------------


def test_many_are_taken_batch_by_batch(app: App) -> None:
    given, seen = 0, []

    def calls() -> Iterator[tuple[int]]:
        nonlocal given
        for n in range(1000):
            given = n + 1
            yield (n,)

    with app.activate():
        batches = echo.enqueue_batches(calls(), size=30)
        assert given == 0, "nothing is asked for before the first batch is"
        assert len(next(batches)) == 30
        assert given == 30
        jobs = echo.enqueue_many(((n,) for n in range(450)), progress=seen.append)
        app.run_until_idle()
    assert seen == [200, 400, 450]
    assert [job.result(timeout=0) for job in jobs] == list(range(450))


def test_a_batch_that_breaks_says_what_is_recorded(app: App) -> None:
    calls: list[tuple[Any, ...]] = [(n,) for n in range(5)]
    with app.activate():
        with pytest.raises(PayloadError):
            echo.enqueue_many([(object(),), *calls])
        with pytest.raises(BulkEnqueueError, match="the first 4 jobs are recorded.*the next one is not") as broken:
            list(echo.enqueue_batches([*calls, (object(),)], size=2))
        assert isinstance(broken.value.__cause__, PayloadError)
        assert (broken.value.recorded, broken.value.accepted, broken.value.in_doubt) == (False, 4, ())
        assert app.run_until_idle() == 4, "the fifth was in the batch of the one that is no JSON"


def test_a_batch_in_doubt_is_named() -> None:
    class Breaking(Broken):
        def __getattr__(self, name: str) -> Any:
            if name == self._only and self.calls < 1:
                self.calls += 1
                return self._inner.create_many
            return super().__getattr__(name)

    app = App(Settings(backend="memory", enqueue_timeout=0.01))
    app._store = Breaking(app.store, StoreAway("away", sent=True), "create_many")  # type: ignore[assignment]
    with app.activate():
        batches = echo.enqueue_batches([echo.options(id=f"j{n}").bind(n) for n in range(4)], size=2)
        assert [job.id for job in next(batches)] == ["j0", "j1"]
        with pytest.raises(BulkEnqueueError, match="not known whether the next 2 are") as broken:
            next(batches)
        assert (broken.value.recorded, broken.value.accepted) == (None, 2)
        assert (broken.value.job_id, broken.value.in_doubt) == ("j2", ("j2", "j3"))


def test_what_is_recorded_of_a_batch_is_not_in_doubt() -> None:
    app = App(Settings(backend="memory", enqueue_timeout=0.01), hooks=[StandsAround()])
    create, asked = app.store.create_many, []

    def breaking(jobs: Any, wires: Any) -> Any:
        asked.append(jobs)
        if len(asked) == 2:
            raise StoreAway("away", sent=True)
        return create(jobs, wires)

    app.store.create_many = breaking  # type: ignore[method-assign]
    with app.activate(), pytest.raises(BulkEnqueueError) as broken:
        echo.enqueue_many([echo.options(id=f"j{n}").bind(n) for n in range(3)])
    assert (broken.value.accepted, broken.value.in_doubt) == (1, ("j1", "j2"))


def batch_of(count: int) -> Batch:
    return Batch([echo.bind(n) for n in range(count)], [])


class OnItsWay(Creating):
    def __init__(self, said: list[str], name: str) -> None:
        super().__init__(list)
        self._said, self._name = said, name

    def start(self) -> None:
        self._said.append(f"{self._name} is sent")

    def drop(self) -> None:
        self._said.append(f"{self._name} is dropped")


def test_the_next_batch_is_made_while_one_is_on_its_way() -> None:
    said: list[str] = []

    def batches() -> Iterator[Batch]:
        for name in ("first", "second"):
            said.append(f"{name} is made")
            batch = batch_of(1)
            batch.creating = OnItsWay(said, name)
            yield batch

    def record(batch: Batch) -> Batch:
        said.append("recorded")
        return batch

    given = _ahead(batches(), record)
    next(given)
    assert said == ["first is made", "first is sent", "second is made", "recorded"], "and nothing is on its way"
    assert len(list(given)) == 1
    assert said[4:] == ["second is sent", "recorded"]


def test_what_is_on_its_way_is_waited_for_by_nobody_when_the_user_ends_it() -> None:
    said: list[str] = []

    def batches() -> Iterator[Batch]:
        batch = batch_of(1)
        batch.creating = OnItsWay(said, "first")
        yield batch
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(_ahead(batches(), lambda batch: batch))
    assert said == ["first is sent", "first is dropped"]


def test_what_is_on_its_way_comes_before_what_broke() -> None:
    def batches(error: Exception) -> Iterator[Batch]:
        yield batch_of(1)
        raise error

    for error in (PayloadError("no"), KeyError("of the user's iterator")):
        given = _ahead(batches(error), lambda batch: batch)
        assert len(next(given).calls) == 1
        with pytest.raises(type(error)):
            next(given)


def test_nothing_is_recorded_behind_a_batch_that_broke() -> None:
    seen: list[Batch] = []

    def record(batch: Batch) -> Batch:
        seen.append(batch)
        batch.broken = EnqueueError("away", recorded=False, job_id="j") if len(seen) == 2 else None
        return batch

    given = _ahead((batch_of(1) for _ in range(9)), record)
    assert [next(given).broken is None for _ in range(2)] == [True, False]
    given.close()  # type: ignore[attr-defined]
    assert len(seen) == 2


@pytest.mark.parametrize("size", [0, 1001, True, 2.5])
def test_a_size_that_no_batch_can_have(app: App, size: Any) -> None:
    with app.activate(), pytest.raises(ConfigError, match="size="):
        echo.enqueue_batches([], size=size)


def test_an_unknown_log_level_is_refused(tmp_path: Path) -> None:
    done = cli("worker", "tasks", "--log-level", "loud", cwd=tmp_path)
    assert done.returncode == 2
    assert "loud" in done.stderr
