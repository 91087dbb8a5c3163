"""queuekit beside a Dramatiq system that was not written for it: Dramatiq's own command runs both."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")

from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.results import Results  # noqa: E402
from dramatiq.results.backends import RedisBackend  # noqa: E402

import queuekit.app as apps  # noqa: E402
from queuekit import App, Settings  # noqa: E402
from queuekit.adapters.dramatiq import install  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import SLACK  # noqa: E402
from queuekit.testing.journal import VARIABLE, Journal  # noqa: E402
from queuekit.testing.outages import BACK  # noqa: E402
from queuekit.testing.process import WorkerProcess, living, send  # noqa: E402
from queuekit.testing.proxy import Proxy  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit import Job
    from queuekit.testing.rabbit import RabbitServer
    from queuekit.testing.servers import RedisServer

HERE = Path(__file__).parent


class Shop:
    """The running system: its broker as its producers see it, and the workers that a test starts."""

    def __init__(self, folder: Path, broker_url: str, store_url: str) -> None:
        self.folder, self.broker_url, self.store_url = folder, broker_url, store_url
        self.native = self.make_broker()
        self.results = RedisBackend(url=store_url)
        self.native.add_middleware(Results(backend=self.results))
        self.journal = Journal(folder / "journal")
        self.namespace = f"test_{secrets.token_hex(4)}"
        self.settings: dict[str, Any] = {"namespace": self.namespace, "lease": 15.0, "tick": 0.2, "grace": 5.0}
        self.app = App(Settings(backend="dramatiq", broker_url=broker_url, store_url=store_url, **self.settings))
        self.workers: list[WorkerProcess] = []

    def make_broker(self) -> Any:
        if self.broker_url.startswith("amqp"):
            from dramatiq.brokers.rabbitmq import RabbitmqBroker

            return RabbitmqBroker(url=self.broker_url, confirm_delivery=True)
        return RedisBroker(url=self.broker_url)

    def start(
        self, *options: str, module: str = "dramatiq_both", environ: dict[str, str] | None = None, **settings: Any
    ) -> WorkerProcess:
        """`dramatiq dramatiq_both`, as the system's owner starts it."""
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
        environ = {
            **theirs,
            **(environ or {}),
            "PYTHONPATH": str(HERE),
            "SHOP_BROKER": self.broker_url,
            "SHOP_RESULTS": self.store_url,
            "SHOP_JOURNAL": str(self.folder / "shop"),
            VARIABLE: str(self.journal.path),
        }
        if self.store_url != self.broker_url:
            settings.setdefault("store_url", self.store_url)
        for name, value in {**self.settings, **settings}.items():
            environ[f"QUEUEKIT_{name.upper()}"] = str(value)
        command = ["dramatiq", module, "--processes", "1", "--threads", "2", *options]
        worker = WorkerProcess((), environ, self.folder, command=command)
        self.workers.append(worker)
        return worker

    def send(self, actor: str, *args: Any, queue: str = "default", **options: Any) -> Any:
        """As a producer that knows the actor's name and queue alone."""
        return self.native.enqueue(
            dramatiq.Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options=options)
        )

    def result(self, message: Any, within: float = 40.0) -> Any:
        return message.get_result(backend=self.results, block=True, timeout=round(within * 1000))

    def events(self, event: str) -> list[dict[str, Any]]:
        path = self.folder / "shop"
        lines = path.read_text().splitlines() if path.exists() else []
        return [one for one in map(json.loads, lines) if one["event"] == event]

    def until(self, true: Callable[[], Any], what: str, within: float = 40.0) -> Any:
        end = time.monotonic() + within
        while not (found := true()):
            said = "\n".join(worker.said()[-4000:] for worker in self.workers)
            assert time.monotonic() < end, f"not within {within} s: {what}\n{said}"
            time.sleep(0.05)
        return found

    def started(self, job: Job[Any]) -> Any:
        return self.until(lambda: self.journal.entries(job.id, "start"), f"job {job.id} has started")

    def gone(self, *workers: WorkerProcess) -> None:
        self.until(lambda: not any(worker.family() for worker in workers), "all of their processes have ended", 15)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill_all()
            print(f"worker {worker.pid}, exit code {worker.exit_code}:\n{worker.said()[-6000:]}")  # where a test fails
        self.app.close()
        self.native.close()


@pytest.fixture
def shop_on(
    queuekit_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Shop]]:
    made: list[Shop] = []
    with ExitStack() as stack:

        def make(broker_url: str) -> Shop:
            shop = Shop(tmp_path, broker_url, queuekit_server.url)
            made.append(shop)
            monkeypatch.setenv(VARIABLE, str(shop.journal.path))
            stack.enter_context(shop.app.activate())
            return shop

        yield make
    for shop in made:
        shop.close()


@pytest.fixture
def shop(shop_on: Callable[[str], Shop], queuekit_server: RedisServer) -> Shop:
    shop = shop_on(queuekit_server.url)
    shop.native.client.flushdb()  # the native queues have the same names in each test
    return shop


@pytest.fixture
def shop_on_rabbitmq(shop_on: Callable[[str], Shop], queuekit_rabbitmq: RabbitServer) -> Shop:
    return shop_on(f"amqp://guest:guest@127.0.0.1:{queuekit_rabbitmq.port}/%2F")


def ten_and_ten(shop: Shop) -> None:
    """Ten native messages, one for each actor of the system, and ten jobs."""
    native = [
        (shop.send("order", 1), 10),
        (shop.send("invoice", 2), "invoice 2"),
        (shop.send("mail", "you", queue="shop.mail"), {"to": "you"}),
        (shop.send("stock", 4), 5),
        (shop.send("flaky", 5), 5),
        (shop.send("double", 6), 12),
        (shop.send("total", 3, 4, queue="shop.reports"), 7),
    ]
    first = dramatiq.Message(queue_name="default", actor_name="order", args=(7,), kwargs={}, options={})
    then = dramatiq.Message(queue_name="default", actor_name="chained", args=(), kwargs={}, options={})
    pipeline = dramatiq.pipeline([first, then], broker=shop.native).run()
    shop.send("endless")
    shop.send("hold", 0.1)
    jobs = [tasks.add.enqueue(n) for n in range(6)]
    jobs += [
        tasks.add_async.enqueue(6),
        tasks.add.options(priority=9).enqueue(7),
        tasks.add.options(delay=1).enqueue(8),
    ]
    retried = tasks.follow.enqueue(["status:429"])

    assert [job.result(timeout=40) for job in jobs] == list(range(1, 10))
    assert retried.result(timeout=60) == "attempt 2"
    for message, expected in native:
        assert shop.result(message) == expected
    assert shop.result(pipeline.messages[-1]) == 71
    shop.until(lambda: shop.events("held"), "the slow one has ended")
    shop.until(lambda: shop.events("time limit"), "the endless one has met its time limit")
    assert [one["retries"] for one in shop.events("flaky")] == [0, 1, 2]


@pytest.mark.parametrize("which", ["shop", "shop_on_rabbitmq"])
def test_ten_native_actors_and_ten_jobs_in_one_worker(which: str, request: pytest.FixtureRequest) -> None:
    shop: Shop = request.getfixturevalue(which)
    worker = shop.start()
    ten_and_ten(shop)
    assert len({entry.pid for entry in shop.journal.entries()}) == 1
    assert {one["pid"] for one in shop.events("process")} == {shop.journal.entries()[0].pid}
    assert len(worker.stewards()) == 1
    # The user's middleware is told of the process and of the worker once, by the user's own broker.
    assert (len(shop.events("process_boot")), len(shop.events("worker_boot"))) == (1, 1)
    assert shop.app.store.quarantined(10) == []

    running = tasks.sleep.enqueue(3)
    shop.started(running)
    worker.terminate()
    # Dramatiq's command looks once a second whether it was told to stop.
    shop.until(lambda: "Shutting down..." in worker.said(), "it stops")
    later = tasks.add.enqueue(1)
    assert worker.wait(30) == 0
    assert [attempt.outcome for attempt in running.info().attempts] == ["succeeded"]
    assert later.status() == "queued"
    shop.gone(worker)


@pytest.mark.parametrize("task", [tasks.sleep, tasks.sleep_async], ids=["blocking", "async"])
def test_what_outlasts_the_grace_is_released(shop: Shop, task: Any) -> None:
    worker = shop.start(grace=0.5)
    job = task.enqueue(60)
    shop.started(job)
    worker.terminate()
    assert worker.wait(30) == 0
    assert [attempt.outcome for attempt in job.info().attempts] == ["released"]
    assert job.status() == "queued"
    shop.gone(worker)


def test_a_second_signal_does_not_wait_and_costs_no_attempt(shop: Shop) -> None:
    """With its AsyncIO middleware, as here, Dramatiq itself never ends after a second signal."""
    worker = shop.start(grace=60)
    job = tasks.sleep.enqueue(60)
    shop.started(job)
    worker.terminate()
    shop.until(lambda: "Shutting down..." in worker.said(), "Dramatiq stops")
    worker.terminate()
    assert worker.wait(10) == 0
    assert [attempt.outcome for attempt in job.info().attempts] == ["released"]
    shop.gone(worker)


@pytest.mark.parametrize("pause", [0.05, 0.7], ids=["at once", "one by one"])
def test_three_signals_in_a_row(shop: Shop, pause: float) -> None:
    worker = shop.start(grace=1.0)
    job = tasks.sleep.enqueue(60)
    shop.started(job)
    family = worker.family()
    worker.terminate(times=3, pause=pause)
    assert worker.wait(1 + 5 + SLACK) == 0
    assert [attempt.outcome for attempt in job.info().attempts] == ["released"]
    shop.gone(worker)
    shop.until(lambda: not living(family), "none of them is left")


def test_a_signal_to_all_processes_leaves_the_grace(shop: Shop) -> None:
    """Each worker process hears it twice, since the main process passes it on."""
    worker = shop.start(grace=20)
    job = tasks.sleep.enqueue(2)
    shop.started(job)
    worker.terminate_all()
    assert worker.wait(30) == 0
    assert [attempt.outcome for attempt in job.info().attempts] == ["succeeded"]
    shop.gone(worker)


def test_a_job_that_goes_on_over_its_limit_takes_the_command_along_in_good_order(shop: Shop) -> None:
    """A native actor is waited for as at any stop; the job is given on when the process is gone."""
    first = shop.start()
    shop.send("hold", 9)
    shop.until(lambda: shop.events("hold"), "the native one runs")
    neighbour = tasks.sleep.enqueue(7.5)
    shop.started(neighbour)
    job = tasks.overstay.options(timeout=0.5).enqueue("blocks")
    shop.started(job)
    assert first.wait(40) == 75
    assert shop.events("held")
    assert [attempt.outcome for attempt in neighbour.info().attempts] == ["succeeded"]
    shop.start()
    assert job.result(timeout=60) == []  # none of the first attempt's processes runs any more
    assert [one.category for one in job.info().attempts] == ["time_limit", None]


def test_a_native_actor_that_outlasts_ours_is_waited_for(shop: Shop) -> None:
    worker = shop.start(grace=0.5)
    job = tasks.sleep.enqueue(60)
    shop.send("hold", 4)
    shop.started(job)
    shop.until(lambda: shop.events("hold"), "the native one runs")
    worker.terminate()
    assert worker.wait(30) == 0
    assert shop.events("held")
    assert [attempt.outcome for attempt in job.info().attempts] == ["released"]


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_broker_that_goes_silent_for_ever(
    broker: str, shop_on: Callable[[str], Shop], request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("queuekit_server" if broker == "redis" else "queuekit_rabbitmq")
    with Proxy(server.port) as proxy:
        shop = shop_on(proxy.url(server.url if broker == "redis" else "amqp://guest:guest@127.0.0.1:1/%2F"))
        worker = shop.start()
        assert tasks.add.enqueue(1).result(timeout=60) == 2
        proxy.silence()
        proxy.restore(old="silent")
        assert tasks.add.enqueue(2).result(timeout=BACK + SLACK) == 3
        assert worker.exit_code is None


def test_a_job_longer_than_the_brokers_heartbeat_timeout_runs_once(shop: Shop) -> None:
    """The system's own maintenance, with each of its commands, takes us for dead while all our threads are busy, and
    pushes again what they hold: a worker beside is free to take it."""
    options = {"SHOP_OPTIONS": json.dumps({"heartbeat_timeout": 2000, "maintenance_chance": 1_000_000})}
    shop.start(environ=options)
    jobs = [tasks.sleep.enqueue(8) for _ in range(2)]
    for job in jobs:
        shop.started(job)
    shop.start(environ=options)
    after = tasks.add.enqueue(1)
    assert [job.result(timeout=60) for job in [*jobs, after]] == ["slept", "slept", 2]
    time.sleep(1)
    for job in [*jobs, after]:
        assert [one.outcome for one in job.info().attempts] == ["succeeded"]
        assert len(shop.journal.entries(job.id, "start")) == 1


def test_each_process_has_a_steward_and_a_killed_one_loses_nothing(shop: Shop) -> None:
    worker = shop.start("--processes", "2")
    shop.until(lambda: len(worker.stewards()) == 2, "two stewards")
    job = tasks.follow.enqueue(["killed"])
    # Dramatiq stops the whole command when one of its processes has died.
    assert worker.wait(40) != 0
    shop.gone(worker)
    shop.start()
    assert job.result(timeout=40) == "attempt 2"
    assert [attempt.outcome for attempt in job.info().attempts] == ["lost", "succeeded"]


def test_foreign_messages_on_our_queues_and_unknown_ones_on_theirs(shop: Shop) -> None:
    shop.send("os.system", "true", queue=f"queuekit.{shop.namespace}.default.p0")
    shop.send("nobody.declared.this", 1)
    worker = shop.start()
    job = tasks.add.enqueue(1)
    assert job.result(timeout=40) == 2
    shop.until(lambda: shop.app.store.quarantined(10), "the one on our queue is in quarantine")
    # The other one is for Dramatiq to judge.
    shop.until(lambda: "nobody.declared.this" in worker.said(), "Dramatiq says so")
    assert len(shop.app.store.quarantined(10)) == 1


def test_a_worker_that_cannot_run_our_tasks_does_not_start(shop: Shop) -> None:
    worker = shop.start(pool="prefork")
    assert worker.wait(40) != 0
    assert "queuekit's worker cannot start: pool='prefork'" in worker.said()
    shop.gone(worker)


def test_a_worker_that_is_started_by_hand_and_again(
    shop: Shop, queuekit_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that lives on: the steward leaves with the worker."""
    monkeypatch.setattr(apps, "_default", None)
    broker = RedisBroker(url=queuekit_server.url)
    app = install(broker, **shop.settings)
    for n in range(2):
        worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
        worker.start()
        assert tasks.add.enqueue(n).result(timeout=40) == n + 1
        steward = broker.middleware[0]._engine.worker._steward
        assert steward.poll() is None
        worker.stop()
        assert steward.poll() is not None
    waiting = tasks.add.enqueue(3)
    assert app.adapter.depth("dramatiq:default:0") == 1
    assert waiting.status() == "queued"
    broker.close()
    app.close()


def test_without_our_tasks_the_native_actors_run_all_the_same(shop: Shop, tmp_path: Path) -> None:
    worker = shop.start(module="dramatiq_shop")
    assert shop.result(shop.send("order", 1)) == 10
    assert worker.stewards() == []


# ---- native producers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["shop", "shop_on_rabbitmq"])
def test_a_producer_without_queuekit_starts_a_task(which: str, request: pytest.FixtureRequest) -> None:
    """It knows the task's name and queue, and sends through a broker of its own."""
    shop: Shop = request.getfixturevalue(which)
    queue = f"queuekit.{shop.namespace}.default.p"
    worker = shop.start(adopt="true")
    shop.until(worker.stewards, "it is up")  # on RabbitMQ the queues are made by who comes first
    sent = shop.send("queuekit.testing.tasks.add", 1, 2, queue=f"{queue}0")
    high = shop.send("queuekit.testing.tasks.add_async", 3, queue=f"{queue}9")
    failing = shop.send("queuekit.testing.tasks.follow", ["status:429", "ok"], queue=f"{queue}0")
    for message in (sent, high, failing):
        shop.until(lambda message=message: shop.app.store.get(message.message_id), "it has a record")
    assert tasks.add.job(sent.message_id).result(timeout=40) == 3
    assert tasks.add_async.job(high.message_id).result(timeout=40) == 4
    assert tasks.follow.job(failing.message_id).result(timeout=40) == "attempt 2"  # our policy, not Dramatiq's
    assert shop.app.store.quarantined(10) == []

    wrong = shop.send("queuekit.testing.tasks.add", "one", queue=f"{queue}0")
    unknown = shop.send("queuekit.testing.tasks.nothing", 1, queue=f"{queue}0")
    shop.until(lambda: len(shop.app.store.quarantined(10)) == 2, "both are in quarantine")
    assert all(shop.app.store.get(one.message_id) is None for one in (wrong, unknown))


@pytest.mark.parametrize("which", ["shop", "shop_on_rabbitmq"])
def test_the_actor_of_a_task_can_be_sent(which: str, request: pytest.FixtureRequest) -> None:
    shop: Shop = request.getfixturevalue(which)
    shop.start(adopt="true")
    adopting = App(
        Settings(backend="dramatiq", broker_url=shop.broker_url, store_url=shop.store_url, adopt=True, **shop.settings)
    )
    with adopting.activate():
        message = tasks.add.native.send(4, b=5)
    shop.until(lambda: shop.app.store.get(message.message_id), "it has a record")
    assert tasks.add.job(message.message_id).result(timeout=40) == 9
    adopting.close()


def test_a_job_that_kills_the_worker_runs_alone_next(shop: Shop) -> None:
    """In a process of its own beside the threads, which has queuekit's tasks from the same modules."""
    first = shop.start()
    job = tasks.without_policy.enqueue(["killed", "killed"])
    shop.until(lambda: first.exit_code is not None, "it kills the worker, and Dramatiq's command ends with it")
    second = shop.start()
    native = shop.send("double", 4)
    assert job.result(timeout=60) == "attempt 3"
    assert [one.outcome for one in job.info().attempts] == ["lost", "lost", "succeeded"]
    assert shop.result(native) == 8
    assert second.exit_code is None
    assert len({entry.pid for entry in shop.journal.entries(job.id, "start")}) == 3


def test_no_job_runs_before_the_command_has_heard_that_its_process_is_up(shop: Shop) -> None:
    """It waits for that on an event of both processes: one that is killed meanwhile leaves it locked, and the command
    would hang for ever, with no worker."""
    job = tasks.without_policy.enqueue(["killed"])
    first = shop.start(environ={"SHOP_BUSY_PARENT": "yes"})
    shop.until(first.stewards, "its threads are up")
    time.sleep(1)
    assert shop.journal.entries(job.id, "start") == []
    send(signal.SIGCONT, first.pid)
    shop.until(lambda: first.exit_code is not None, "it kills the worker, and Dramatiq's command ends with it")
    shop.start()
    assert job.result(timeout=60) == "attempt 2"
