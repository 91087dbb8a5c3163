"""`queuekit dead`: the quarantine, all at once, and other arguments."""

from __future__ import annotations

import json
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_world import on_terminal

if TYPE_CHECKING:
    from cli_world import World

TASKS = """
from queuekit import agent_task

@agent_task
def summarise(text: str, *, pages: int = 1) -> str:
    return text
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the editor's files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def editor(folder: Path, *texts: str) -> str:
    """A command that writes these texts into the file, one each time that it is opened; what it saw it keeps."""
    script = folder / "editor.py"
    script.write_text(
        "import sys, pathlib, json\n"
        f"here, texts = pathlib.Path({str(folder)!r}), {list(texts)!r}\n"
        "n = len(list(here.glob('seen*')))\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "(here / f'seen{n}').write_text(json.dumps([file.read_text(), oct(file.stat().st_mode & 0o777)]))\n"
        "file.write_text(texts[n])\n"
    )
    return f"{sys.executable} {script}"


def arguments(*args: object, **kwargs: object) -> str:
    return json.dumps({"args": args, "kwargs": kwargs})


# ---- list, show ----------------------------------------------------------------------------------------------------


def test_dead_letters_alone_are_listed(world: World) -> None:
    world.new("a", "failed", task="tasks.a")
    world.new("b", "failed", task="tasks.b")
    world.new("c", "cancelled")
    world.new("d")
    assert {line[0] for line in world.lines("dead", "list")} == {"a", "b"}
    assert [line[0] for line in world.lines("dead", "list", "--task", "tasks.b")] == ["b"]
    assert [row["id"] for row in world.json("dead", "list", "-n", "1")] == ["b"]


def test_a_dead_letter_is_shown_and_nothing_else(world: World) -> None:
    world.new("a", "failed")
    world.new("b")
    assert world.json("dead", "show", "a") == world.json("jobs", "show", "a")
    result = world.run("dead", "show", "b")
    assert result.exit_code == 1
    assert "job b is queued, and no dead letter: see `queuekit jobs show b`" in result.stderr
    assert world.run("dead", "show", "nobody").exit_code == 1


def test_the_quarantine_is_listed(world: World) -> None:
    for number in range(230):
        world.store.quarantine(f"raw {number}\tx\x1b", f"reason {number}", source="queuekit.app.default")
    first, *_ = world.lines("dead", "list", "--quarantine", "-n", "205")
    assert first[1:] == ["10", "queuekit.app.default", "reason 229", "raw 229 x\\x1b"]
    rows = world.json("dead", "list", "--quarantine", "-n", "205")
    assert (len(rows), rows[0]["raw"], rows[0]["bytes"]) == (205, "raw 229\tx\x1b", 10)
    assert set(rows[0]) == {"when", "bytes", "source", "reason", "raw"}
    assert world.run("dead", "list", "--quarantine", "--task", "x").exit_code == 2
    code, lines = on_terminal(world.environ, "dead", "list", "--quarantine", "-n", "1")
    assert code == 0
    assert "reason 229" in lines[1]
    assert "raw 229 x\\x1b" in lines[2]


def test_an_empty_quarantine(world: World) -> None:
    assert world.lines("dead", "list", "--quarantine") == []
    assert on_terminal(world.environ, "dead", "list", "--quarantine") == (0, ["the quarantine is empty"])


# ---- all at once ---------------------------------------------------------------------------------------------------


def test_all_of_a_task_are_queued_again(world: World) -> None:
    for number in range(120):
        world.new(f"a{number}", "failed", task="tasks.a")
    world.new("b", "failed", task="tasks.b")
    result = world.run("dead", "retry", "--all", "--task", "tasks.a", "--backend", "celery", "--yes")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 120
    assert [line[0] for line in world.lines("dead", "list")] == ["b"]
    assert world.message("a7").backend == "celery"


def test_all_is_asked_about(world: World) -> None:
    world.new("a", "failed")
    world.new("b", "failed")
    result = world.run("dead", "retry", "--all")
    assert result.exit_code == 2
    assert "Queue 2 dead letters again? Give --yes" in result.stderr
    code, lines = on_terminal(world.environ, "dead", "retry", "--all", "--backend", "celery", answer="n\n")
    assert code == 1
    assert any("Queue 2 dead letters again on celery? [y/N]" in line for line in lines)
    assert (world.status("a"), world.status("b")) == ("failed", "failed")
    code, lines = on_terminal(world.environ, "dead", "retry", "--all", answer="y\n")
    assert code == 0
    assert (world.status("a"), world.status("b")) == ("queued", "queued")
    assert world.run("dead", "retry", "--all", "--yes").stderr == "there is no such dead letter\n"


@pytest.mark.parametrize(
    "args", [[], ["a", "--all"], ["a", "--task", "x"], ["a", "b", "--edit"], ["--all", "--edit"], ["a", "--edit", "--arguments", "-"]],
)  # fmt: skip
def test_what_does_not_go_together(world: World, args: list[str]) -> None:
    world.new("a", "failed")
    assert world.run("dead", "retry", *args).exit_code == 2
    assert world.status("a") == "failed"


# ---- other arguments -----------------------------------------------------------------------------------------------


def test_the_editor_has_the_arguments_and_what_it_leaves_is_queued(world: World, scratch: Path, tmp_path: Path) -> None:
    world.new("a", "failed", args=["grüße", {"n": 1}], kwargs={"lang": "de"})
    result = world.run("dead", "retry", "a", "--edit", EDITOR=editor(tmp_path, arguments("other", lang="en")))
    assert result.exit_code == 0, result.output
    seen, mode = json.loads((tmp_path / "seen0").read_text())
    assert json.loads(seen) == {"args": ["grüße", {"n": 1}], "kwargs": {"lang": "de"}}
    assert "grüße" in seen
    assert mode == "0o600"
    message = world.message("a")
    assert (message.args, message.kwargs, message.task) == (["other"], {"lang": "en"}, "tasks.work")
    assert world.status("a") == "queued"
    assert "cannot be imported here: the arguments are not checked" in result.stderr
    assert list(scratch.iterdir()) == []  # no prompts are left lying about


def test_arguments_that_were_left_alone_are_said_to_be(world: World, scratch: Path) -> None:
    world.new("a", "failed", args=["x"])
    result = world.run("dead", "retry", "a", "--edit", "--backend", "celery", EDITOR="true")
    assert (result.exit_code, result.stderr) == (0, "the arguments are as they were\n")
    assert (world.message("a").args, world.message("a").backend) == (["x"], "celery")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{nonsense", "not JSON"),
        ('{"args": [NaN], "kwargs": {}}', "NaN is no JSON"),
        ("[1]", 'not {"args": [...], "kwargs": {...}}'),
        ('{"args": [1]}', 'not {"args": [...], "kwargs": {...}}'),
        ('{"args": {}, "kwargs": {}}', '"args" is a list'),
        (arguments("x" * 2_000_000), "more than payload_limit=1048576"),
        (arguments(1), "argument 'text'"),
        (arguments("x", pages="many"), "argument 'pages'"),
        (arguments("x", page=1), "did you mean 'pages'"),
        (arguments(), "argument 'text' is missing"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_lost(
    world: World, scratch: Path, tmp_path: Path, text: str, why: str
) -> None:
    """Checked against the task, whose module is in the current folder."""
    Path("tasks_of_edit.py").write_text(TASKS)
    world.new("a", "failed", task="tasks_of_edit.summarise", args=["old"])
    result = world.run("dead", "retry", "a", "--edit", EDITOR=editor(tmp_path, text))
    assert result.exit_code == 1
    assert why in result.stderr
    (kept,) = scratch.iterdir()
    assert kept.read_text() == text
    assert f"--arguments {kept} takes it" in result.stderr
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert (world.status("a"), world.message("a").args) == ("failed", ["old"])

    result = world.run("dead", "retry", "a", "--arguments", str(kept))
    assert (result.exit_code, world.status("a")) == (1, "failed")
    kept.write_text(arguments("new", pages=3))
    result = world.run("dead", "retry", "a", "--arguments", str(kept))
    assert (result.exit_code, result.stderr) == (0, "")
    assert (world.message("a").args, world.message("a").kwargs) == (["new"], {"pages": 3})
    sys.modules.pop("tasks_of_edit", None)


def test_arguments_come_from_the_standard_input(world: World) -> None:
    world.new("a", "failed")
    result = world.run("dead", "retry", "a", "--arguments", "-", input=arguments(7))
    assert result.exit_code == 0
    assert world.message("a").args == [7]


def test_on_a_terminal_the_editor_opens_again_on_what_was_written(world: World, scratch: Path, tmp_path: Path) -> None:
    world.new("a", "failed", args=["old"])
    environ = {**world.environ, "EDITOR": editor(tmp_path, "{half", arguments("new"))}
    code, lines = on_terminal(environ, "dead", "retry", "a", "--edit", answer="y\n")
    assert code == 0, lines
    assert any("Edit again? [Y/n]" in line for line in lines)
    assert json.loads((tmp_path / "seen1").read_text())[0] == "{half"
    assert world.message("a").args == ["new"]
    assert list(scratch.iterdir()) == []


def test_a_private_job_is_edited_on_demand(world: World, scratch: Path, tmp_path: Path) -> None:
    world.new("a", "failed", args=["secret"], private=True)
    command = editor(tmp_path, arguments("other"))
    result = world.run("dead", "retry", "a", "--edit", EDITOR=command)
    assert result.exit_code == 2
    assert "--reveal" in result.stderr
    assert world.run("dead", "retry", "a", "--edit", "--reveal", EDITOR=command).exit_code == 0
    assert world.message("a").args == ["other"]
    assert world.message("a").private


def test_a_job_that_does_not_wait_for_it_is_not_edited(world: World, scratch: Path, tmp_path: Path) -> None:
    world.new("a", "succeeded")
    world.new("coded", "failed", payload="c2VjcmV0")
    for id, why in (("a", "is succeeded"), ("coded", "encoded by a payload codec"), ("nobody", "no job")):
        result = world.run("dead", "retry", id, "--edit", EDITOR=editor(tmp_path, arguments(1)))
        assert result.exit_code == 1
        assert why in result.stderr
    assert not list(tmp_path.glob("seen*"))


def test_an_editor_that_fails_changes_nothing(world: World, scratch: Path, tmp_path: Path) -> None:
    world.new("a", "failed")
    result = world.run("dead", "retry", "a", "--edit", EDITOR="false")
    assert (result.exit_code, world.status("a"), list(scratch.iterdir())) == (1, "failed", [])
    command = editor(tmp_path, arguments("new"))
    with (tmp_path / "editor.py").open("a") as script:
        script.write("sys.exit(1)\n")
    result = world.run("dead", "retry", "a", "--edit", EDITOR=command)
    assert (result.exit_code, world.status("a")) == (1, "failed")
    (kept,) = scratch.iterdir()
    assert kept.read_text() == arguments("new")
    assert str(kept) in result.stderr
