"""`queuekit queues`, `workers`, `purge`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from cli_world import on_terminal

from queuekit import App, Settings
from queuekit.store.redis import RedisStore
from queuekit.testing import tasks

if TYPE_CHECKING:
    from cli_world import World


# ---- queues --------------------------------------------------------------------------------------------------------


def test_what_waits_and_runs_on_each(world: World) -> None:
    world.new("a")
    world.new("b")
    world.new("c", "scheduled")
    world.new("d", "running")
    world.new("e", queue="mail", backend="celery", priority=7)
    world.new("f", queue="mail")
    default, mail, low = world.lines("queues")  # by name, the highest level first
    assert default[:7] == ["default", "0", "rq", "2", "1", "1", ""]
    assert mail[:7] == ["mail", "6", "celery", "1", "0", "0", ""]
    assert low[:4] == ["mail", "0", "rq", "1"]
    rows = {row["queue"]: row for row in world.json("queues") if row["backend"] == "celery" or row["queue"] != "mail"}
    assert rows["default"] == {
        "queue": "default", "level": 0, "backend": "rq", "waiting": 2, "parked": 1, "running": 1, "in_broker": None,
        "workers": 1, "oldest": rows["default"]["oldest"],
    }  # fmt: skip
    assert rows["mail"]["workers"] == 0
    assert rows["default"]["oldest"] < rows["mail"]["oldest"]
    assert [row["queue"] for row in world.json("queues", "--queue", "mail")] == ["mail", "mail"]


@pytest.mark.parametrize("backend", ["celery", "rq", "dramatiq"])
def test_the_broker_is_asked_where_it_is_known(world: World, backend: str) -> None:
    """By the engine's own adapter, whatever the backend of the settings is."""
    pytest.importorskip(backend)
    settings = Settings(backend=backend, broker_url=world.broker.url, namespace=world.broker.namespace)
    with App(settings).activate() as app:
        for number in range(3):
            tasks.add.enqueue(number)
        app.close()
    world.store.purge(f"{backend}:default:0", 2, "")
    (row,) = world.json("queues", "--broker-url", world.broker.url)
    assert (row["waiting"], row["in_broker"]) == (1, 3)  # two messages are left of jobs that have ended
    (row,) = world.json("queues")
    assert row["in_broker"] is None


def test_a_broker_that_cannot_be_asked_is_said_once(world: World) -> None:
    world.new("a")
    world.new("b", queue="mail")
    result = world.run("queues", "--broker-url", "redis://127.0.0.1:1/0")
    assert result.exit_code == 0
    assert result.stderr.count("the broker of rq cannot be asked") == 1
    assert len(result.stdout.splitlines()) == 2


def test_a_route_of_an_engine_that_is_not_here_is_shown(world: World) -> None:
    world.new("a", backend="carrot")
    result = world.run("queues", "--broker-url", world.broker.url)
    assert result.stdout.startswith("default\t0\tcarrot\t1")
    assert "the broker of carrot cannot be asked" in result.stderr


def test_a_table_of_queues_fits_into_80_columns(world: World) -> None:
    world.new("a", queue="a-queue-with-a-name-that-is-much-too-long-for-it")
    _, (head, row) = on_terminal({**world.environ, "NO_COLOR": "1"}, "queues")
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in (head, row)]
    assert all(len(line) <= 80 for line in plain), plain
    assert plain[0].endswith("WORKERS")
    assert re.search(r"… +0  rq +1 +0 +0  - +\d+ s +0$", plain[1])


def test_no_queue_yet(world: World) -> None:
    result = world.run("queues")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no job was ever recorded" in result.stderr
    assert world.json("queues") == []


# ---- workers -------------------------------------------------------------------------------------------------------


def test_who_is_alive_and_what_it_runs(world: World) -> None:
    assert world.run("workers").stderr == "no worker is alive\n"
    world.new("a", "running")
    about = {"backend": "celery", "queues": ["mail", "default"], "concurrency": 4, "pool": "threads"}
    world.store.beat("other.2.bb", start=True, about=json.dumps(about))
    rows = world.json("workers")
    assert [(row["name"], row["backend"], row["queues"], row["running"], row["jobs"]) for row in rows] == [
        ("host.1.aa", "rq", ["default"], 1, ["a"]),
        ("other.2.bb", "celery", ["mail", "default"], 0, []),
    ]
    assert all(row["alive"] for row in rows)
    lines = world.lines("workers")
    assert lines[1][:4] == ["other.2.bb", "celery", "mail,default", "threads"]
    assert world.json("queues")[0]["workers"] == 1  # on rq


def test_a_worker_without_a_sign_of_life_is_gone(world: World) -> None:
    short = RedisStore(world.broker.url, world.broker.namespace, lease=0.001)
    short.beat("host.1.aa", start=True)
    short.close()
    world.new("a")
    (row,) = world.json("workers")
    assert row["alive"] is False
    _, lines = on_terminal(world.environ, "workers")
    assert "gone" in lines[1]
    assert world.json("queues")[0]["workers"] == 0


# ---- purge ---------------------------------------------------------------------------------------------------------


def test_what_waits_is_cancelled(world: World) -> None:
    for number in range(250):
        world.new(f"j{number}")
    world.new("later", "scheduled", backend="celery", priority=3)
    world.new("again", "retrying")
    world.new("runs", "running")
    world.new("mail", queue="mail")
    result = world.run("purge", "default", "--yes", "--reason", "bad input")
    assert (result.exit_code, result.stdout) == (0, "252 jobs cancelled\n")
    record = world.store.get("later")
    assert record is not None
    assert (record.status, record.reason) == ("cancelled", "bad input")
    assert (world.status("runs"), world.status("mail"), world.status("again")) == ("running", "queued", "cancelled")
    assert world.run("purge", "default", "--yes").stdout == "nothing waits on queue 'default'\n"
    assert world.run("jobs", "retry", "later").exit_code == 0


def test_of_one_engine_only(world: World) -> None:
    world.new("a")
    world.new("b", backend="celery")
    assert world.json("purge", "default", "--backend", "celery", "--yes") == [{"queue": "default", "cancelled": 1}]
    assert (world.status("a"), world.status("b")) == ("queued", "cancelled")


def test_the_question_names_what_there_is(world: World) -> None:
    world.new("a")
    world.new("b", backend="celery")
    world.new("c", "scheduled")
    question = (
        "Cancel 3 jobs on queue 'default' of celery, rq (2 that could run now, 1 scheduled or between two attempts)?"
    )
    result = world.run("purge", "default")
    assert result.exit_code == 2
    assert f"queuekit: {question} Give --yes" in result.stderr
    code, lines = on_terminal(world.environ, "purge", "default", answer="n\n", columns=200)
    assert code == 1
    assert any(line.startswith(f"{question} [y/N]") for line in lines)
    assert world.status("a") == "queued"
    code, lines = on_terminal(world.environ, "purge", "default", answer="y\n")
    assert code == 0
    assert lines[-1].endswith("3 jobs cancelled")
    assert world.status("a") == "cancelled"


def test_an_unknown_queue_is_a_slip(world: World) -> None:
    world.new("a", queue="mail")
    result = world.run("purge", "mial", "--yes")
    assert result.exit_code == 1
    assert "no job was ever recorded on queue 'mial'; the queues are: mail" in result.stderr
