"""`queuekit jobs`: list, show, cancel, retry."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
from cli_world import on_terminal

from queuekit.message import Message
from queuekit.store import NewJob
from queuekit.store.ends import write_end

if TYPE_CHECKING:
    from cli_world import World

LONG = "0123456789abcdef0123456789abcdef"
MOMENT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ")


# ---- list ----------------------------------------------------------------------------------------------------------


def test_in_a_pipe_a_list_is_lines_of_fields_without_a_heading(world: World) -> None:
    world.new("a", "failed", queue="mail", reason="two\nlines\tand a tab")
    world.new("b")
    first, second = world.lines("jobs", "list")
    assert first[:6] == ["b", "queued", "tasks.work", "rq", "default", "0"]
    assert second[:6] == ["a", "failed", "tasks.work", "rq", "mail", "1"]
    assert MOMENT.fullmatch(first[6])
    assert (first[7], second[7]) == ("", "two lines and a tab")


def test_json_lines_have_all_fields(world: World) -> None:
    world.new("a", "failed", priority=7)
    (row,) = world.json("jobs", "list")
    moments = {name: row.pop(name) for name in ("when", "enqueued_at", "started_at", "ended_at")}
    assert row == {
        "id": "a",
        "status": "failed",
        "task": "tasks.work",
        "backend": "rq",
        "queue": "default",
        "level": 6,
        "attempts": 1,
        "ready_at": None,
        "worker": "host.1.aa",
        "reason": "no rule for builtins.ValueError",
    }
    assert all(MOMENT.fullmatch(text) for text in moments.values())
    assert moments["when"] == moments["ended_at"] > moments["enqueued_at"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], "a b c d e f"),
        (["--status", "queued"], "a c e"),
        (["--status", "failed", "--status", "scheduled"], "d f"),
        (["--task", "tasks.mail"], "b"),
        (["--queue", "mail", "--status", "queued"], "c"),
        (["--backend", "celery"], "e"),
        (["--task", "tasks.none"], ""),
    ],
)
def test_what_is_listed(world: World, asked: list[str], found: str) -> None:
    world.new("a")
    world.new("b", "succeeded", task="tasks.mail")
    world.new("c", queue="mail")
    world.new("d", "scheduled", queue="mail")
    world.new("e", backend="celery")
    world.new("f", "failed")
    assert sorted(line[0] for line in world.lines("jobs", "list", *asked)) == found.split()


def test_the_newest_come_first_or_the_oldest(world: World) -> None:
    for id in "abc":
        world.new(id)
    newest = [line[0] for line in world.lines("jobs", "list")]
    assert newest == ["c", "b", "a"]  # also those of one millisecond
    assert [line[0] for line in world.lines("jobs", "list", "--oldest")] == newest[::-1]
    assert [line[0] for line in world.lines("jobs", "list", "-n", "2")] == newest[:2]


def test_more_than_one_conversation(world: World) -> None:
    for number in range(230):
        world.new(f"j{number:03}")
    assert len(world.lines("jobs", "list", "--limit", "1000")) == 230
    assert len(world.lines("jobs", "list", "--limit", "150")) == 150
    assert len(world.lines("jobs", "list")) == 50


def test_an_empty_store_lists_nothing(world: World) -> None:
    assert world.lines("jobs", "list") == []
    assert world.json("jobs", "list") == []
    assert on_terminal(world.environ, "jobs", "list") == (0, [f"no jobs in namespace '{world.broker.namespace}'"])
    assert on_terminal(world.environ, "jobs", "list", "--status", "failed") == (0, ["no such job"])


# ---- on a terminal -------------------------------------------------------------------------------------------------


def test_a_table_fits_into_80_columns_with_the_id_whole(world: World) -> None:
    world.new(LONG, "failed", task="package.tasks.summarise_the_quarterly_report", reason="why " * 50)
    code, (head, row, note) = on_terminal(world.environ, "jobs", "list", "--status", "failed")
    assert code == 0
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in (head, row, note)]
    assert plain[0].split() == ["ID", "TASK", "WHEN"]  # the status was asked for
    assert plain[1].startswith(f"{LONG}  package.tasks.summarise_")
    assert re.search(r"…  \d+ s ago$", plain[1])
    assert plain[2].startswith("  why why why")
    assert plain[2].endswith("…")
    assert all(len(line) <= 80 for line in plain), plain


def test_a_wide_terminal_shows_more(world: World) -> None:
    world.new(LONG, "running")
    _, lines = on_terminal({**world.environ, "NO_COLOR": "1"}, "jobs", "list", columns=130)
    assert re.sub(r"\x1b\[[\d;]*m", "", lines[0]).split() == [
        "ID", "STATUS", "TASK", "BACKEND", "QUEUE", "TRIES", "WHEN",
    ]  # fmt: skip


@pytest.mark.parametrize("no_color", [True, False])
def test_colours_but_where_somebody_wants_none(world: World, no_color: bool) -> None:
    world.new("a", "running")
    environ = {**world.environ, **({"NO_COLOR": "1"} if no_color else {})}
    _, lines = on_terminal(environ, "jobs", "list")
    assert bool(re.search(r"\x1b\[3\d", "\n".join(lines))) is not no_color


def test_what_others_wrote_does_not_reach_the_terminal(world: World) -> None:
    world.new("a", "failed", args=["\x1b]0;title\x07"], error="\x1b[2J\u202egone", reason="\x1b[31mred\x9b1m \ud83e")
    for command in (["jobs", "list"], ["jobs", "show", "a"], ["dead", "list"]):
        _, lines = on_terminal(world.environ, *command)
        text = "\n".join(lines)
        for bad in ("\x1b[2J", "\x1b]0", "\x07", "\u202e", "\x9b", "\x1b[31mred"):
            assert bad not in text, (command, bad)
        assert "\\x1b[31mred" in text


# ---- show ----------------------------------------------------------------------------------------------------------


def test_everything_about_a_job(world: World) -> None:
    world.new("a", "failed", args=["x", 1], kwargs={"lang": "de"}, timeout=60.0, priority=5)
    (row,) = world.json("jobs", "show", "a")
    assert row["arguments"] == {"args": ["x", 1], "kwargs": {"lang": "de"}}
    assert (row["priority"], row["level"], row["timeout"], row["private"]) == (5, 3, 60.0, False)
    (attempt,) = row["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["category"]) == (1, "failed", "unknown")
    assert (attempt["error_type"], attempt["error_message"]) == ("builtins.ValueError", "no such page")
    assert attempt["traceback"] == "Traceback: x"
    text = world.run("jobs", "show", "a").stdout
    for part in (
        "a\n", "tasks.work", "failed", "no rule for builtins.ValueError", "default on rq, priority 5", "timeout 60 s",
        '"x", 1, lang="de"', "attempt 1  failed  unknown", "by host.1.aa", "builtins.ValueError: no such page", "s ago",
        "Traceback: x",
    ):  # fmt: skip
        assert part in text, part
    assert re.search(r"enqueued    20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \(\d+ s ago\)", text)


def test_a_result_and_a_wait(world: World) -> None:
    world.new("done", "succeeded")
    world.new("later", "retrying")
    (row,) = world.json("jobs", "show", "done")
    assert (row["result"], row["result_kept"]) == ({"pages": 3}, True)
    assert '{"pages": 3}' in world.run("jobs", "show", "done").stdout
    text = world.run("jobs", "show", "later").stdout
    assert re.search(r"due +20.* UTC \(in (60|59) s\)", text)
    assert "the next one 60 s later" in text


@pytest.mark.parametrize("status", ["failed", "succeeded"])
def test_a_private_job_is_shown_on_demand(world: World, status: str) -> None:
    world.new("a", status, args=["a secret"], private=True)
    hidden, shown = world.run("jobs", "show", "a").stdout, world.run("jobs", "show", "a", "--reveal").stdout
    assert "a secret" not in hidden
    assert "(private: --reveal shows it)" in hidden
    assert "a secret" in shown
    (row,) = world.json("jobs", "show", "a")
    assert (row["private"], row["arguments"], row.get("result")) == (True, None, None)
    (row,) = world.json("jobs", "show", "a", "--reveal")
    assert row["arguments"]["args"] == ["a secret"]
    assert status == "failed" or row["result"] == {"pages": 3}
    assert "secret" not in world.run("jobs", "list").stdout


def test_what_a_codec_encoded_is_not_shown(world: World) -> None:
    message = Message("a", "tasks.work", [], {}, "default", "rq", payload="c2VjcmV0")
    world.store.create(NewJob("a", message.seal(), "d", message.route, "t", 60.0))
    (row,) = world.json("jobs", "show", "a", "--reveal")
    assert (row["encoded"], row["arguments"]) == (True, None)
    assert "(encoded by a payload codec)" in world.run("jobs", "show", "a", "--reveal").stdout


def test_an_unknown_job_is_exit_code_1(world: World) -> None:
    result = world.run("jobs", "show", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"queuekit: no job 'nobody' in namespace '{world.broker.namespace}'\n"


def test_who_was_lost_with_whom(world: World) -> None:
    for id in "abc":
        world.new(id, "running")
    world.store.leave("host.1.aa")
    (row,) = world.json("jobs", "show", "a")
    assert (row["suspect"], row["attempts"][0]["company"]) == (True, 2)
    text = world.run("jobs", "show", "a").stdout
    assert "suspect     its last attempt was lost: it runs alone until one ends by itself" in text
    assert "lost together with 2 others" in text
    world.store.cancel("a", "enough")
    assert "suspect" not in world.run("jobs", "show", "a").stdout


# ---- cancel --------------------------------------------------------------------------------------------------------


def test_cancel(world: World) -> None:
    world.new("waiting")
    world.new("runs", "running")
    result = world.run("jobs", "cancel", "waiting", "runs", "waiting", "--reason", "asked twice")
    assert result.exit_code == 0
    assert result.stdout == "waiting: cancelled\nruns: runs, and was asked to end\n"
    record = world.store.get("waiting")
    assert record is not None
    assert (record.status, record.reason) == ("cancelled", "asked twice")
    assert world.store.cancel_requested(["runs"]) == {"runs": "asked twice"}
    assert "asked for: asked twice" in world.run("jobs", "show", "runs").stdout


def test_what_cannot_be_cancelled_is_said_and_the_others_are(world: World) -> None:
    world.new("waiting")
    world.new("done", "succeeded")
    result = world.run("jobs", "cancel", "nobody", "done", "waiting")
    assert result.exit_code == 1
    assert "nobody: there is no such job" in result.stderr
    assert "done: has ended already" in result.stderr
    assert world.status("waiting") == "cancelled"
    rows = world.json("jobs", "cancel", "nobody", "done", code=1)
    assert rows == [{"id": "nobody", "outcome": "missing"}, {"id": "done", "outcome": "ended"}]


# ---- retry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["jobs", "dead"])
def test_retry_queues_the_job_for_the_next_tick(world: World, command: str) -> None:
    world.new("a", "failed", args=[1])
    world.new("b", "cancelled")
    result = world.run(command, "retry", "a", "b")
    assert (result.exit_code, result.stdout) == (0, "a: queued on rq, queue default\nb: queued on rq, queue default\n")
    assert [Message.open(one.message).id for one in world.store.take_lost("rq:default:0", 10)] == ["a", "b"]
    assert world.message("a").args == [1]


@pytest.mark.parametrize("command", ["jobs", "dead"])
def test_retry_on_another_engine(world: World, command: str) -> None:
    world.new("a", "failed", queue="mail", priority=9)
    assert world.json(command, "retry", "a", "--backend", "dramatiq") == [
        {"id": "a", "outcome": "queued", "backend": "dramatiq", "queue": "mail"}
    ]
    assert world.message("a").backend == "dramatiq"
    assert [Message.open(one.message).id for one in world.store.take_lost("dramatiq:mail:9", 10)] == ["a"]
    assert world.store.take_lost("rq:mail:9", 10) == []


def test_a_job_is_followed_until_it_has_ended(world: World) -> None:
    world.new("a", "running")
    world.store.progress("a", "a", '[1,4,"page\\tone"]')
    assert re.search(r"progress +1 of 4: page +one", world.run("jobs", "show", "a").stdout)
    assert world.json("jobs", "show", "a")[0]["progress"]["done"] == 1

    def end() -> None:
        time.sleep(0.7)
        world.store.progress("a", "a", '[4,4,"all"]')
        time.sleep(0.7)
        world.store.fail("a", "a", write_end("failed"), "why")

    ender = threading.Thread(target=end)
    ender.start()
    result = world.run("jobs", "show", "a", "--follow")
    ender.join()
    assert result.exit_code == 1
    assert "job a failed: why" in result.stderr
    assert [line.split("\t")[1:] for line in result.stdout.splitlines()] == [
        ["running", "1", "1", "4", "page one"],
        ["running", "1", "4", "4", "all"],
        ["failed", "1", "4", "4", "all"],
    ]
    world.new("b", "succeeded")
    (row,) = world.json("jobs", "show", "b", "--follow")
    assert (row["status"], row["done"]) == ("succeeded", None)
    assert world.run("jobs", "show", "nobody", "--follow").exit_code != 0


def test_a_bar_of_its_progress(world: World) -> None:
    world.new("a", "running")
    world.store.progress("a", "a", '[3,4,"page three"]')
    world.store.finish("a", "a", write_end("succeeded"), "1")
    code, lines = on_terminal(world.environ, "jobs", "show", "a", "--follow")
    assert code == 0
    plain = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line) for line in lines]
    assert any(re.search(r"succeeded .*━.* 3/4 .* page three", line) for line in plain), plain


@pytest.mark.parametrize("group", ["jobs", "dead"])
def test_steps_are_shown_and_kept_by_a_retry_or_not(world: World, group: str) -> None:
    world.new("a", "running")
    world.store.keep_step("a", "a", "plan#0", 1, "1", 100)
    world.store.begin_step("a", "a", "pay:7", None)
    shown = world.json("jobs", "show", "a")[0]["steps"]
    assert [(one["name"], one["finished"], one["attempt"]) for one in shown] == [
        ("plan#0", True, 1),
        ("pay:7", False, 1),
    ]
    assert re.search(r"steps +plan#0, pay:7 \(begun\)", world.run("jobs", "show", "a").stdout)
    world.store.fail("a", "a", write_end("failed"), "why")
    world.run(group, "retry", "a")
    assert set(world.store.steps("a") or ()) == {"plan#0", "pay:7"}
    world.store.cancel("a", "why")
    world.run(group, "retry", "a", "--anew")
    assert (world.status("a"), world.store.steps("a")) == ("queued", {})


def test_what_cannot_be_retried_is_said_and_the_others_are(world: World) -> None:
    world.new("a", "failed")
    world.new("runs", "running")
    result = world.run("jobs", "retry", "nobody", "runs", "a")
    assert result.exit_code == 1
    assert "no job 'nobody'" in result.stderr
    assert "job runs is running: only a job that failed or was cancelled can be revived" in result.stderr
    assert world.status("a") == "queued"
    rows = world.json("jobs", "retry", "nobody", code=1)
    assert (rows[0]["id"], rows[0]["outcome"]) == ("nobody", "refused")


def test_an_unknown_engine_is_refused_before_anything_is_done(world: World) -> None:
    world.new("a", "failed")
    for name in ("carrot", "memory"):
        result = world.run("jobs", "retry", "a", "--backend", name)
        assert result.exit_code == 2
        assert "celery, rq, dramatiq" in result.stderr
    assert world.status("a") == "failed"


# ---- settings and exit codes ---------------------------------------------------------------------------------------


def test_the_store_may_be_named_in_each_of_the_ways(world: World) -> None:
    world.new("a")
    named = ["--namespace", world.broker.namespace]
    nothing = {"QUEUEKIT_STORE_URL": "", "QUEUEKIT_NAMESPACE": ""}
    for where in (["--store-url", world.broker.url], ["--broker-url", world.broker.url]):
        assert world.run("jobs", "list", *where, *named, **nothing).stdout.startswith("a\t")
    with open("queuekit.toml", "w") as file:
        file.write(f'broker_url = "{world.broker.url}"\nnamespace = "{world.broker.namespace}"\n')
    assert world.run("jobs", "list", **nothing).stdout.startswith("a\t")


def test_no_backend_and_no_engine_is_needed(world: World) -> None:
    world.new("a", backend="carrot")
    assert world.run("jobs", "list", QUEUEKIT_BACKEND="").stdout.startswith("a\tqueued\ttasks.work\tcarrot")


@pytest.mark.parametrize("command", ["jobs list", "jobs show a", "jobs cancel a", "dead list", "queues", "workers"])
def test_a_store_that_is_away_is_exit_code_3(world: World, command: str) -> None:
    result = world.run(*command.split(), QUEUEKIT_STORE_URL="redis://:secret@127.0.0.1:1/0")
    assert (result.exit_code, result.stdout) == (3, "")
    assert re.fullmatch(r"queuekit: the store .*\n", result.stderr)
    assert "secret" not in result.stderr


def test_without_a_store_the_remedy_is_said(world: World) -> None:
    result = world.run("jobs", "list", QUEUEKIT_STORE_URL="")
    assert result.exit_code == 2
    assert "QUEUEKIT_BROKER_URL=" in result.stderr
    result = world.run("jobs", "list", QUEUEKIT_STORE_URL="", QUEUEKIT_BACKEND="memory")
    assert result.exit_code == 2
    assert "keeps its jobs in the process" in result.stderr


def test_a_misuse_is_exit_code_2(world: World) -> None:
    for command in (["jobs", "list", "--status", "odd"], ["jobs", "cancel"], ["jobs", "frobnicate"]):
        assert world.run(*command).exit_code == 2


def test_a_reader_that_leaves_early_breaks_nothing(world: World) -> None:
    import subprocess
    import sys

    for number in range(200):
        world.new(f"j{number}", reason="x" * 1000)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m queuekit jobs list -n 200 --json | head -1"],
        env={"PATH": "/usr/bin:/bin", **world.environ}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["status"] == "queued"
    assert "Traceback" not in done.stderr
