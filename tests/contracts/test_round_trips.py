"""What an enqueue waits for, counted on the wire: one round trip where record and broker are one Redis, two elsewhere."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from queuekit import App, JobEvent, Settings, agent_task, confirming
from queuekit.store.redis import RedisStore
from queuekit.testing.plugin import a_server
from queuekit.testing.process import WorkerProcess
from queuekit.testing.proxy import Proxy
from queuekit.ticks import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from queuekit.testing.plugin import Broker
    from queuekit.testing.rabbit import RabbitServer
    from queuekit.testing.servers import RedisServer

DEADLINE = 60.0
ENGINES = ["celery", "rq", "dramatiq"]
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@agent_task(name="round_trips.echo")
def echo(a: int) -> int:
    return a


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Another Redis than the store."""
    with a_server(tmp_path_factory.mktemp("other")) as server:
        yield server


@pytest.fixture
def start(
    queuekit_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], tuple[App, Callable[[], int]]]]:
    """An App with a store and a broker of their own, whose confirmations wait until they are asked for; and the round
    trips so far."""
    monkeypatch.setattr(confirming, "WAIT", DEADLINE)
    monkeypatch.setattr(confirming, "LATE", DEADLINE)
    opened: list[Any] = []

    def start(backend: str, broker_url: str, hooks: Sequence[Any] = ()) -> tuple[App, Callable[[], int]]:
        pytest.importorskip(backend)
        store = Proxy(urlsplit(queuekit_broker.url).port or 6379)
        broker = store if broker_url == queuekit_broker.url else Proxy(urlsplit(broker_url).port or 0)
        proxies = list({store, broker})
        for one in proxies:
            one.start()
        app = App(
            Settings(
                backend=backend,
                broker_url=broker.url(broker_url),
                store_url=store.url(queuekit_broker.url),
                namespace=queuekit_broker.namespace,
            ),
            hooks=hooks,
        )
        opened.extend([*proxies, app])
        return app, lambda: sum(one.turns for one in proxies)

    yield start
    for one in reversed(opened):
        one.close()


def outbox(broker: Broker) -> int:
    """How many doorbells the store takes for not published yet."""
    with redis.Redis.from_url(broker.url) as client:
        found: Any = client.keys(f"queuekit:{{{broker.namespace}}}:outbox:*")
        return sum(client.zcard(key) for key in found)


def check(app: App, turns: Callable[[], int], broker: Broker, most: int, *, many: bool = True) -> None:
    with app.activate():
        echo.enqueue(0)  # connects, and sends the script
        if app._confirmations is not None:
            app._confirmations.flush()
        assert outbox(broker) == 0
        before = turns()
        jobs = [echo.enqueue(n) for n in range(10)]
        assert (turns() - before) / 10 == most
        waiting = outbox(broker)
        before = turns()
        jobs += echo.enqueue_many([(n,) for n in range(400)])
        if many:  # two batches; but each is sent in pieces of some kB, and a server may answer between any two of them
            assert turns() - before < 200
        app.close()
    assert outbox(broker) == 0, "what is told later is told"
    assert waiting == (0 if most == 1 else 10)
    assert {job.status() for job in jobs[:5]} == {"queued"}


@pytest.mark.parametrize("backend", ENGINES)
def test_one_redis(backend: str, start: Any, queuekit_broker: Broker) -> None:
    check(*start(backend, queuekit_broker.url), queuekit_broker, 1)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_hook_that_is_told_of_each_job(backend: str, start: Any, queuekit_broker: Broker) -> None:
    told: list[JobEvent] = []
    check(*start(backend, queuekit_broker.url, [told.append]), queuekit_broker, 1)
    assert len({event.job_id for event in told}) == len(told) == 1 + 10 + 400


@pytest.mark.parametrize("task", [echo, echo.options(queue="q", priority=9), echo.options(delay=60)])
def test_it_hears_the_same_of_a_job_that_is_made_at_length(task: Any, start: Any, queuekit_broker: Broker) -> None:
    class Tracer:
        """For it each job is recorded by itself."""

        def __call__(self, event: JobEvent, /) -> None: ...

        def around_enqueue(self, event: JobEvent, headers: Any, /) -> Any:
            return nullcontext()

    heard = []
    for others in ([], [Tracer()]):
        told: list[JobEvent] = []
        app, _ = start("rq", queuekit_broker.url, [told.append, *others])
        with app.activate():
            jobs = [task.enqueue(1), task.enqueue(2), *task.enqueue_many([(n,) for n in range(300)])]
        assert [event.job_id for event in told] == [job.id for job in jobs]
        heard.append([replace(event, job_id="", at=MOMENT) for event in told])
    assert heard[0] == heard[1]


@pytest.mark.parametrize("backend", ENGINES)
def test_two_redises(backend: str, start: Any, other: RedisServer, queuekit_broker: Broker) -> None:
    check(*start(backend, other.url), queuekit_broker, 2)


@pytest.mark.parametrize("backend", ["celery", "dramatiq"])
def test_rabbitmq(backend: str, start: Any, queuekit_rabbitmq: RabbitServer, queuekit_broker: Broker) -> None:
    """Of many it gives confirmations while others are on their way: those are no round trips that could be counted."""
    check(*start(backend, queuekit_rabbitmq.url), queuekit_broker, 2, many=False)


# ---- processes that end ------------------------------------------------------------------------------------------------

TASKS = """
from pathlib import Path
from queuekit import agent_task, current_job

@agent_task
def note(name: str) -> str:
    with Path("ran").open("a") as file:
        file.write(f"{name} {current_job().attempt}\\n")
    return name

@agent_task
def more() -> None:
    for n in range(5):
        note.options(id=f"more-{n}").enqueue(f"more-{n}")
"""


def run(folder: Path, environ: dict[str, str], code: str) -> None:
    (folder / "noted.py").write_text(TASKS)
    subprocess.run([sys.executable, "-c", f"import noted, os; {code}"], cwd=folder, env=environ, check=True, timeout=60)


@pytest.fixture
def apart(other: RedisServer, queuekit_broker: Broker) -> Callable[[str], dict[str, str]]:
    def environ(backend: str) -> dict[str, str]:
        pytest.importorskip(backend)
        apart = {"broker_url": other.url, "store_url": queuekit_broker.url, "lease": 4, "grace": 2}
        return queuekit_broker.environ(backend, **apart)

    return environ


@pytest.mark.parametrize(
    "code",
    [
        "[noted.note.enqueue(str(n)) for n in range(30)]",
        "[noted.note.enqueue(str(n)) for n in range(30)]; raise SystemExit",
        "import atexit; atexit.register(noted.note.enqueue, 'late'); noted.note.enqueue('in time')",
        "noted.note.enqueue('a'); os.fork() and os.wait(); noted.note.enqueue('b')",
    ],
    ids=["at its end", "by an exception", "in an exit handler", "after a fork"],
)
def test_a_process_that_enqueues_and_ends_tells_what_it_has_published(
    code: str, apart: Callable[[str], dict[str, str]], queuekit_broker: Broker, tmp_path: Path
) -> None:
    run(tmp_path, apart("rq"), code)
    assert outbox(queuekit_broker) == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ENGINES)
def test_what_was_never_told_is_published_again_and_runs_once(
    backend: str,
    apart: Callable[[str], dict[str, str]],
    other: RedisServer,
    queuekit_broker: Broker,
    tmp_path: Path,
) -> None:
    environ = apart(backend)
    untold = "from queuekit import confirming as c; c.WAIT = c.LATE = 60"
    run(tmp_path, environ, f"{untold}; [noted.note.enqueue(str(n)) for n in range(5)]; os._exit(0)")
    assert outbox(queuekit_broker) == 5
    settings = Settings(
        **queuekit_broker.settings(backend) | {"broker_url": other.url, "store_url": queuekit_broker.url}
    )
    store = RedisStore(queuekit_broker.url, queuekit_broker.namespace, clock=lambda: (time.time() + 6) * 1000)
    app = App(settings)
    Ticker(store, app.adapter).tick()  # what a steward does, 6 s later
    (route,) = store.routes(backend)
    assert app.adapter.depth(route) == 10
    app.close()
    worker = WorkerProcess(["noted.py"], environ, tmp_path)
    try:
        until(lambda: sum(one.waiting for one in store.counts()) == 0 and len(ran(tmp_path)) >= 5)
        until(lambda: app.adapter.depth(route) == 0)
        app.close()
        worker.terminate()
        worker.wait(DEADLINE)
    finally:
        worker.kill_all()
        store.close()
    assert sorted(ran(tmp_path)) == [f"{n} 1" for n in range(5)]


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ENGINES)
def test_a_task_that_enqueues_tells_it_too(
    backend: str, apart: Callable[[str], dict[str, str]], queuekit_broker: Broker, tmp_path: Path
) -> None:
    """The jobs are on a queue that nobody serves, so that no claim clears the outbox for it."""
    environ = apart(backend)
    tasks = TASKS.replace("note.options(", "note.options(queue='elsewhere', ")
    if backend == "rq":  # its horse ends with the job, and without exit handlers
        tasks += "from queuekit import confirming\nconfirming.WAIT = confirming.LATE = 60\n"
    (tmp_path / "noted.py").write_text(tasks)
    worker = WorkerProcess(["noted.py"], environ | {"QUEUEKIT_QUEUES": "default"}, tmp_path)
    try:
        ask = "import noted; noted.more.enqueue().result(timeout=60)"
        subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env=environ, check=True, timeout=90)
        time.sleep(0.5)
        assert outbox(queuekit_broker) == 0, worker.said()
        with redis.Redis.from_url(queuekit_broker.url) as client:
            assert client.hget(f"queuekit:{{{queuekit_broker.namespace}}}:job:more-0", "pseq") == b"1"
        worker.terminate()
        worker.wait(DEADLINE)
    finally:
        worker.kill_all()
