"""What is done by hand is told to the hooks of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit.testing.journal import VARIABLE, Journal

if TYPE_CHECKING:
    from pathlib import Path

    from cli_world import World

HOOKS = "queuekit.testing.journal:note_event"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "journal"))
    return Journal(tmp_path / "journal")


def told(journal: Journal) -> list[tuple[str, str, str | None]]:
    return sorted((entry.job, entry.event, entry.data.get("reason")) for entry in journal.entries())


def test_cancel_and_retry(world: World, journal: Journal) -> None:
    for id, status in (("waits", "queued"), ("later", "scheduled"), ("runs", "running"), ("dead", "failed")):
        world.new(id, status)
    world.run("jobs", "cancel", "waits", "later", "runs", "dead", "nobody", "--reason=enough", QUEUEKIT_HOOKS=HOOKS)
    world.run("jobs", "retry", "dead", "runs", QUEUEKIT_HOOKS=HOOKS)
    assert told(journal) == [
        ("dead", "event:enqueued", "revived"),
        ("later", "event:cancelled", "enough"),
        ("waits", "event:cancelled", "enough"),
    ]


def test_purge(world: World, journal: Journal) -> None:
    for id, status in (("waits", "queued"), ("later", "scheduled"), ("runs", "running")):
        world.new(id, status)
    world.run("purge", "default", "--yes", QUEUEKIT_HOOKS=HOOKS)
    assert told(journal) == [
        ("later", "event:cancelled", "the queue was purged"),
        ("waits", "event:cancelled", "the queue was purged"),
    ]


def test_where_the_hooks_are_not_installed_the_command_works(world: World) -> None:
    world.new("waits")
    done = world.run("jobs", "cancel", "waits", QUEUEKIT_HOOKS="no.such:hook")
    assert (done.exit_code, world.store.status("waits")) == (0, "cancelled")
    assert (
        "queuekit: the hooks are not told: hooks='no.such:hook': there is no module 'no.such' on the path"
        in done.stderr
    )
