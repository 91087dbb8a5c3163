"""queuekit schedules: list, show, pause, resume, run, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit import App, Every, Settings, agent_task
from queuekit import schedules as api

if TYPE_CHECKING:
    from cli_world import World


@agent_task(name="scheduled_cli.note")
def note(what: str) -> str:
    return what


@pytest.fixture
def often(world: World) -> World:
    app = App(Settings(backend="rq", broker_url=world.broker.url, namespace=world.broker.namespace))
    with app.activate():
        api.add("often", note.options(queue="clock").bind("x"), Every(3600), missed="once")
    app.close()
    return world


def test_none(world: World) -> None:
    assert "there is no schedule" in world.run("schedules", "list").stderr
    assert world.json("schedules", "list") == []


def test_list_and_show(often: World) -> None:
    (line,) = often.lines("schedules", "list")
    assert line[:5] == ["often", "every 3600 s", "scheduled_cli.note", "clock", "rq"]
    (listed,) = often.json("schedules", "list")
    (shown,) = often.json("schedules", "show", "often")
    assert listed == shown
    assert (shown["missed"], shown["source"], shown["paused"], shown["last_job"]) == ("once", "run time", False, None)
    assert "every 3600 s" in often.run("schedules", "show", "often").stdout
    assert often.run("schedules", "show", "other").exit_code == 1


def test_pause_resume_remove(often: World) -> None:
    assert often.json("schedules", "pause", "often", "other", code=1) == [
        {"name": "often", "paused": True}, {"name": "other", "paused": False}
    ]  # fmt: skip
    assert often.lines("schedules", "list")[0][5] == "paused"
    assert often.json("schedules", "resume", "often") == [{"name": "often", "resumed": True}]
    assert often.lines("schedules", "list")[0][5] == "active"
    assert often.run("schedules", "remove", "often").stdout == "often removed\n"
    assert often.run("schedules", "remove", "often").exit_code == 1


def test_run(often: World) -> None:
    (said,) = often.json("schedules", "run", "often")
    record = often.store.get(said["job"])
    assert record is not None
    assert record.route == "rq:clock:0"
    assert often.run("schedules", "run", "other").exit_code == 1
