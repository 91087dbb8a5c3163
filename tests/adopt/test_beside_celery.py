"""queuekit beside a Celery system that was not written for it: Celery's own command runs both."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery_owner import HERE, Owner  # noqa: E402  # after the check that Celery is there

from queuekit import JobStatus  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import SLACK  # noqa: E402
from queuekit.testing.outages import BACK  # noqa: E402
from queuekit.testing.process import living  # noqa: E402
from queuekit.testing.proxy import Proxy  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuekit.testing.servers import RedisServer


@pytest.fixture
def owner(tmp_path: Path, new_server: Any, queuekit_server: RedisServer) -> Iterator[Owner]:
    # A broker of its own: the system's queues have fixed names. Its results are on one that lives on: Celery's result
    # objects talk to it when they are collected, whenever that is.
    owner = Owner(tmp_path, new_server().url, queuekit_server.url)
    with owner.app.activate():
        yield owner
    owner.close()


POOLS = ["prefork", "threads", "solo"]


@pytest.mark.parametrize("pool", POOLS)
def test_one_worker_runs_ten_of_its_own_and_ten_of_ours(owner: Owner, pool: str) -> None:
    worker = owner.start("-P", pool, *(["-B"] if pool == "prefork" else []))
    ours = [tasks.add.enqueue(number) for number in range(4)]
    ours += [tasks.add_async.enqueue(number) for number in range(4, 7)]
    ours += [tasks.add.options(priority=9).enqueue(7), tasks.add.options(delay=0.5).enqueue(8)]
    ours += [tasks.add.options(queue="conformance-other").enqueue(9)]
    retried = tasks.follow.enqueue(["timeout"])
    native = [owner.send("shop.add", number, 1) for number in range(7)]
    native += [owner.send("shop.report", b"bytes"), owner.send("shop.flaky")]
    chord = owner.send("shop.both", 4)

    assert [one.get(timeout=60) for one in native] == [1, 2, 3, 4, 5, 6, 7, b"BYTESreports", 2]
    assert owner.native.AsyncResult(chord.get(timeout=60)).get(timeout=60) == 12
    assert [job.result(timeout=60) for job in ours] == [number + 1 for number in range(10)]
    assert retried.result(timeout=60) == "attempt 2"
    if pool == "prefork":
        owner.until(lambda: len(owner.events("tick")) >= 2, "the schedule fires")
    assert owner.call("shop.differences") == []
    assert worker.exit_code is None
    assert len(worker.stewards()) == 1
    assert owner.quarantine() == []


def test_queuekits_own_command_runs_both_too(owner: Owner) -> None:
    worker = owner.start_ours(pool="prefork", concurrency=2)
    job = tasks.add.enqueue(1)
    assert owner.call("shop.add", 2, 3) == 5
    assert job.result(timeout=60) == 2
    assert owner.call("shop.differences") == []
    worker.terminate()
    assert worker.wait(20) == 0


def test_limits_of_the_app_do_not_strike_our_jobs(owner: Owner) -> None:
    """The system ends each of its tasks after 3 and 4 seconds."""
    owner.start()
    native = owner.send("shop.sleep", 30)
    job = tasks.sleep.enqueue(5)
    with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
        native.get(timeout=60)
    assert job.result(timeout=60) == "slept"
    assert [one.outcome for one in job.info().attempts] == ["succeeded"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_warm_stop_gives_native_tasks_their_time_and_ours_the_grace(owner: Owner, pool: str) -> None:
    worker = owner.start("-P", pool, grace=0.5)
    ours = tasks.sleep
    # Longer than our own last resort, which has to wait for it; the app's limits are for prefork alone.
    native = owner.send("shop.sleep", 2.5 if pool == "prefork" else 7.0)
    owner.until(lambda: owner.events("sleep"), "the native task runs")  # or ours would take both slots before it
    job = ours.enqueue(60)
    later = [ours.enqueue(60) for _ in range(3)]
    owner.started(job)
    worker.terminate()
    assert worker.wait(30) == 0
    assert native.get(timeout=10) == (2.5 if pool == "prefork" else 7.0)
    assert [one.outcome for one in job.info().attempts] == ["released"]
    assert {one.status() for one in later} == {JobStatus.queued}
    owner.until(lambda: not worker.family(), "its steward has left too")


@pytest.mark.parametrize("pool", POOLS)
def test_three_signals_in_a_row(owner: Owner, pool: str) -> None:
    worker = owner.start("-P", pool, grace=1.0)
    job = tasks.sleep.enqueue(60)
    owner.started(job)
    family = worker.family()
    worker.terminate(times=3)
    assert worker.wait(1 + 5 + SLACK) == 0
    assert [one.outcome for one in job.info().attempts] == ["released"]
    owner.until(lambda: not worker.family(), "its steward has left too", within=5)
    owner.until(lambda: not living(family), "none of them is left")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_job_that_goes_on_over_its_limit_takes_the_worker_along_in_good_order(owner: Owner, pool: str) -> None:
    """A native task is waited for as at any stop; the job is given on when the process is gone."""
    worker = owner.start("-P", pool)
    native = owner.send("shop.sleep", 9.0) if pool == "threads" else None
    if native is not None:
        owner.until(lambda: owner.events("sleep"), "the native task runs")
    job = tasks.overstay.options(timeout=0.5).enqueue("blocks")
    owner.started(job)
    assert worker.wait(40) == 75
    assert native is None or native.get(timeout=10) == 9.0
    owner.start("-P", pool)
    assert job.result(timeout=60) == []  # none of the first attempt's processes runs any more
    assert [one.category for one in job.info().attempts] == ["time_limit", None]


def test_signals_mean_to_a_native_task_what_they_did(owner: Owner) -> None:
    owner.start("-c", "1")
    before = owner.call("shop.handlers")
    assert tasks.add.enqueue(1).result(timeout=60) == 2
    assert owner.call("shop.handlers") == before


def test_one_job_that_celery_is_told_to_end_is_handed_back_and_the_worker_goes_on(owner: Owner) -> None:
    """revoke(terminate=True), as from Flower: Celery sends its child a SIGTERM."""
    owner.start("-c", "1")
    job = tasks.sleep.enqueue(2)
    owner.started(job)
    owner.native.control.revoke(job.id, terminate=True)
    assert job.result(timeout=60) == "slept"
    assert [one.outcome for one in job.info().attempts] == ["released", "succeeded"]
    assert owner.call("shop.add", 1, 1) == 2


def test_a_killed_workers_job_runs_again(owner: Owner) -> None:
    worker = owner.start()
    job = tasks.follow.enqueue(["killed"])  # its child
    assert job.result(timeout=60) == "attempt 2"
    job = tasks.sleep.enqueue(3)
    owner.started(job)
    worker.kill_all()
    owner.start()
    assert job.result(timeout=60) == "slept"
    assert [one.outcome for one in job.info().attempts] == ["lost", "succeeded"]


def test_what_is_foreign_in_our_queues_goes_to_quarantine_and_nothing_of_theirs_does(owner: Owner) -> None:
    import redis

    worker = owner.start()
    prefix = f"queuekit.{owner.namespace}."
    with redis.Redis.from_url(owner.broker_url) as client:
        client.lpush(f"{prefix}default", b"garbage")
    owner.send("shop.add", 1, 1, queue=f"{prefix}default", serializer="json")
    owner.send("shop.unknown", 1, queue="shop")
    assert owner.call("shop.add", 2, 2) == 4
    assert tasks.add.enqueue(1).result(timeout=60) == 2
    found = owner.until(lambda: len(owner.quarantine()) == 2 and owner.quarantine(), "both are put aside")
    assert {"garbage" in one.raw for one in found} == {True, False}
    assert worker.exit_code is None


def test_a_worker_serves_those_of_our_queues_that_it_is_given(owner: Owner) -> None:
    owner.start("-Q", f"shop,queuekit.{owner.namespace}.default")
    other = tasks.elsewhere.enqueue()
    assert tasks.add.enqueue(1).result(timeout=60) == 2
    assert owner.call("shop.add", 1, 1) == 2
    assert other.status() is JobStatus.queued
    assert owner.quarantine() == []


def test_a_worker_that_cannot_run_ours_runs_its_own(owner: Owner) -> None:
    worker = owner.start(environ={"SHOP_SETTINGS": '{"accept_content": ["pickle"]}'})
    assert owner.call("shop.add", 1, 1) == 2
    assert "none of queuekit's: accept_content=['pickle']: queuekit's messages are JSON" in worker.said()
    assert "worker_prefetch_multiplier" not in worker.said()
    assert worker.stewards() == []


def test_a_broker_that_is_restarted_meanwhile(tmp_path: Path, new_server: Any, queuekit_server: RedisServer) -> None:
    server = new_server()
    owner = Owner(tmp_path, server.url, queuekit_server.url)
    try:
        with owner.app.activate():
            worker = owner.start()
            assert tasks.add.enqueue(1).result(timeout=60) == 2
            server.restart()
            job = tasks.add.enqueue(2)
            assert owner.call("shop.add", 2, 2) == 4
            assert job.result(timeout=60) == 3
            assert worker.exit_code is None
    finally:
        owner.close()


def test_a_broker_that_goes_silent_for_ever(tmp_path: Path, new_server: Any, queuekit_server: RedisServer) -> None:
    """With the remedy that check() names: without it the app's own connection keeps the worker's loop."""
    server = new_server()
    options = {"socket_timeout": 5, "socket_connect_timeout": 5, "health_check_interval": 5}
    with Proxy(server.port) as proxy:
        owner = Owner(tmp_path, proxy.url(server.url), queuekit_server.url)
        try:
            with owner.app.activate():
                worker = owner.start(environ={"SHOP_SETTINGS": json.dumps({"broker_transport_options": options})})
                assert tasks.add.enqueue(1).result(timeout=60) == 2
                proxy.silence()
                proxy.restore(old="silent")
                assert tasks.add.enqueue(2).result(timeout=BACK + SLACK) == 3
                assert worker.exit_code is None
                assert "socket_timeout" not in worker.said()
        finally:
            owner.close()


INSTALLED = """
import celery_shop
before = celery_shop.settings()
import celery_both
after = celery_shop.settings()
assert before == after, [name for name in after if before.get(name) != after[name]]
assert len(before) > 150
from queuekit.app import current_app
assert current_app() is celery_both.queuekit_app
assert current_app().settings.broker_url == celery_shop.app.conf.broker_url
import sys
assert not {"queuekit.adapters.celery.beside", "celery.worker.consumer"} & {*sys.modules}
from queuekit.testing.tasks import add
native = add.native
assert native.app is celery_shop.app and native.name == add.name
assert celery_shop.settings() == before
"""


def test_a_producer_installs_it_without_a_worker_and_without_a_change(owner: Owner) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED], env=owner.environ(), cwd=HERE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_job_longer_than_the_apps_visibility_timeout_runs_once(owner: Owner) -> None:
    """A native task that acknowledges late is delivered again while it runs; ours goes by a connection of its own."""
    options = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    changed = {
        "broker_transport_options": options,
        "task_acks_late": True,
        "task_time_limit": None,
        "task_soft_time_limit": None,
    }
    owner.start(environ={"SHOP_SETTINGS": json.dumps(changed)})
    job = tasks.sleep.enqueue(9)
    native = owner.send("shop.sleep", 9)
    assert native.get(timeout=60) == 9
    owner.until(lambda: len(owner.events("sleep")) > 1, "or this test would show nothing: the native task ran again")
    assert job.result(timeout=60) == "slept"
    assert [one.outcome for one in job.info().attempts] == ["succeeded"]
    assert len(owner.journal.entries(job.id, "start")) == 1


def test_a_job_that_kills_the_worker_runs_alone_next(owner: Owner) -> None:
    """In a process of its own beside the threads, which has queuekit's tasks from the same modules."""
    first = owner.start("-P", "threads")
    job = tasks.without_policy.enqueue(["killed", "killed"])
    owner.until(lambda: first.exit_code is not None, "it kills the worker")
    second = owner.start("-P", "threads")
    native = owner.send("shop.sleep", 2.5)
    assert job.result(timeout=60) == "attempt 3"
    assert [one.outcome for one in job.info().attempts] == ["lost", "lost", "succeeded"]
    pids = [entry.pid for entry in owner.journal.entries(job.id, "start")]
    assert pids[0] == first.pid
    assert second.pid not in pids
    assert second.exit_code is None
    assert native.get(timeout=30) == 2.5
