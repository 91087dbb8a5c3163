"""`queuekit jobs tree`, and cancel --whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from cli_world import on_terminal

from queuekit.message import Message
from queuekit.store import FlowJob, NewFlow, NewJob
from queuekit.store.ends import write_end

if TYPE_CHECKING:
    from cli_world import World


def step(id: str, **more: Any) -> FlowJob:
    message = Message(id, f"tasks.{id}", [], {}, "default", "rq")
    return FlowJob(NewJob(id, message.seal(), message.digest, message.route, "", 60.0), **more)


@pytest.fixture
def tree(world: World) -> World:
    """p has started the child k, and the workflow f of a, b and z, with u to undo a. a has failed."""
    world.new("p")
    world.start("p", "rq:default:0")
    parent = ("p", "p")
    child = Message("k", "tasks.k", [], {}, "default", "rq")
    world.store.create(NewJob("k", child.seal(), child.digest, child.route, "k", 60.0, parent=parent))
    flow = NewFlow("f", "t", 3, ("u",), parent, near="a")
    jobs = [
        step("u", uses=("a",), rule="skip", undoes="a"),
        step("z", after=("a", "b"), uses=("a", "b")),
        step("b", next=("z",), needs=1),
        step("a", next=("z",), needs=2),
    ]
    assert world.store.create_flow(flow, jobs) == []
    world.store.start_flow(flow)
    world.start("a", "rq:default:0")
    world.store.fail("a", "a", write_end("failed"), "no\nrule")
    return world


@pytest.mark.parametrize("asked", ["p", "k", "f", "z", "u"])
def test_the_whole_tree_from_whichever_job_of_it(tree: World, asked: str) -> None:
    result = tree.run("jobs", "tree", asked)
    assert result.stdout.splitlines() == [
        "p  running  tasks.work",
        "  k  queued  tasks.k",
        "  workflow  f  1 to go",
        "    a  failed  tasks.a  no rule",
        "    b  queued  tasks.b",
        "    z  cancelled  tasks.z  after a, b  stopped: job a has failed",
        "    u  waiting  tasks.u  undoes a",
    ]


def test_as_json(tree: World) -> None:
    rows = {(row["kind"], row["id"]): row for row in tree.json("jobs", "tree", "z")}
    assert len(rows) == 7
    assert rows["workflow", "f"] == {
        "id": "f", "kind": "workflow", "depth": 1, "below": "p", "parent": "p", "workflow": None, "open": 1,
        "undoing": False,
    }  # fmt: skip
    z = rows["job", "z"]
    assert (z["after"], z["status"], z["below"], z["parent"], z["on_failure"]) == (
        ["a", "b"],
        "cancelled",
        "f",
        "p",
        "stop",
    )
    assert rows["job", "u"]["undoes"] == "a"


def test_as_mermaid(tree: World) -> None:
    lines = tree.run("jobs", "tree", "p", "--mermaid").stdout.splitlines()
    assert lines[0] == "graph TD"
    assert '  n2(["workflow f"])' in lines
    assert '  n3["tasks.a<br/>a<br/>failed"]:::failed' in lines
    assert {
        "  n3 --> n5",
        "  n4 --> n5",
        "  n0 -.-> n1",
        "  n0 -.-> n2",
        "  n2 -.-> n3",
        "  n6 -. undoes .-> n3",
    } <= set(lines)


def test_on_a_terminal_it_is_drawn(tree: World) -> None:
    code, lines = on_terminal(tree.environ, "jobs", "tree", "f", columns=120)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert [line.split("  ")[0] for line in lines[1:3]] == ["├─ k", "└─ workflow"]
    assert lines[-1].strip().startswith("└─ u")


def test_an_unknown_id(world: World) -> None:
    result = world.run("jobs", "tree", "nobody")
    assert (result.exit_code, "no job and no workflow 'nobody'" in result.stderr) == (1, True)


@pytest.mark.parametrize("asked", ["b", "f"])
def test_cancel_of_the_whole_by_any_of_its_jobs(tree: World, asked: str) -> None:
    assert tree.json("jobs", "cancel", asked, "--whole") == [{"id": asked, "outcome": "cancelled"}]
    assert tree.status("b") == "cancelled"
    assert tree.status("k") == "queued"


def test_cancel_of_the_whole_of_a_job_alone(tree: World) -> None:
    assert tree.json("jobs", "cancel", "k", "--whole") == [{"id": "k", "outcome": "cancelled"}]


def test_one_that_waits_says_for_whom(tree: World) -> None:
    (row,) = tree.json("jobs", "show", "z")
    assert (row["workflow"], row["root"], row["parent"], row["after"]) == ("f", "p", "p", ["a", "b"])
    shown = tree.run("jobs", "show", "u").stdout
    assert "waits for   its workflow" in shown
    (row,) = tree.json("jobs", "show", "p")
    assert row["children"] == ["k", "f"]


def test_one_that_waits_for_a_failed_job_is_not_retried_alone(tree: World) -> None:
    result = tree.run("jobs", "retry", "z")
    assert result.exit_code == 1
    assert "it waits for job a and 1 more. Once these are retried, it goes on after them" in result.stderr
    assert tree.run("jobs", "retry", "a").exit_code == 0
    assert tree.status("z") == "waiting"
