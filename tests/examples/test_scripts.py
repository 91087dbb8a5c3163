"""Each script on each backend, as a reader runs it: the worker in one process, the script in another."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from examples_place import EXAMPLES, Place, environment, installed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from queuekit.demo.endpoint import Endpoint
    from queuekit.testing.process import WorkerProcess

SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NO_SCRIPTS = {
    "model_endpoint.py": "serves until it is stopped: every test here talks to what it serves",
    "fastapi_app.py": "an application, run by a server: test_fastapi_app.py",
    "fastapi_events.py": "another one: test_fastapi_events.py",
}


def check_first_job(said: str) -> None:
    assert said.startswith("Summary(words=8, longest='published', made_at=datetime")
    assert "Who saw it? Nobody knows.\nsucceeded " in said


def check_smart_retry(said: str) -> None:
    assert "answer to 'hello' in attempt 4" in said
    assert re.findall(r"^  attempt (\d): (\w+)", said, re.MULTILINE) == [
        ("1", "retried"),
        ("2", "retried"),
        ("3", "retried"),
        ("4", "succeeded"),
        ("1", "failed"),
    ]
    assert "rule 'auth' does not retry" in said


def check_process_document(said: str) -> None:
    lines = said.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == ["minutes", "incident", "contract", "letter"]
    assert lines[0].startswith("minutes: The committee met on Monday and agreed to publish the figures. (17 words")
    assert re.fullmatch(r"\w+ is a dead letter: auth: openai.AuthenticationError", lines[4])
    attempts = [int(found) for found in re.findall(r"\[attempt (\d)\]", said)]
    assert len(attempts) == 4
    assert max(attempts) > 1, "nothing was retried"


def check_run_agent_workflow(said: str) -> None:
    assert "How do bees find home? Answer the question with these facts." in said
    assert "(plan, research, write)" in said
    assert re.search(r"^\w+: succeeded, attempt \d", said, re.MULTILINE)


def check_research_agent(said: str) -> None:
    first, second = said.splitlines()
    assert first.startswith("6 findings. Question 1 of Which 6 questions does one have to ask about this?")
    found = re.fullmatch(r"6 questions, (\d+) attempts at them", second)
    assert found is not None
    assert 6 < int(found[1]) < 60, "the endpoint refuses some, and what was answered is not asked again"


def steps_of(said: str) -> list[tuple[str, str, int]]:
    found = re.findall(r"^  (\w+) +(\w+) +attempts: (\d+)$", said, re.MULTILINE)
    return [(name, status, int(attempts)) for name, status, attempts in found]


def check_long_workflow(said: str) -> None:
    assert re.search(r"^\d+ words in how-do-bees-find-home-\w{6}\.txt$", said, re.MULTILINE)
    assert re.search(r"stopped: job \w+-1 has failed; nothing is reserved any more$", said, re.MULTILINE)
    assert [(name, status) for name, status, _ in steps_of(said)[4:8]] == [
        (name, "succeeded") for name in ("reserve", "research", "write", "publish")
    ]
    assert steps_of(said)[12:] == [
        ("reserve", "succeeded", 1),
        ("research", "failed", 1),
        ("write", "cancelled", 0),
        ("publish", "cancelled", 0),
    ]


def check_nightly_refresh(said: str) -> None:
    first, *others = said.splitlines()
    assert re.fullmatch(r"nightly-refresh would come at 20\d\d-\d\d-\d\d 0[12]:00 UTC", first)
    assert others == ["12 documents have changed: {'embedded': 12}", "12 documents are in the index"]


def check_analyze_conversation(said: str) -> None:
    assert said == "quick: 3 of 3 turns, complete\nslow: 0 of 3 turns, partial\ncareless: time_limit\n"


def check_fan_out(said: str) -> None:
    first, second = said.splitlines()
    assert first == (
        "36 sections, from '0: Section 0 says what happened on day 0 of the journey.' "
        "to '35: Section 35 says what happened on day 35 of the journey.'"
    )
    retried = re.fullmatch(r"(\d+) of 36 needed more than one attempt", second)
    assert retried is not None
    assert 0 < int(retried[1]) < 36


def check_checkpoint(said: str) -> None:
    first, *attempts = said.splitlines()
    found = re.fullmatch(r"\{'pages': 24, 'attempts': (\d+)\}", first)
    assert found is not None
    assert len(attempts) == int(found[1]) > 2
    done = [int(number) for number in re.findall(r"(\d+) of 24 pages", said)]
    assert done == sorted(set(done)), "an attempt lost what the one before had saved"
    assert attempts[-1].endswith("succeeded: all pages")


def test_every_example_is_run() -> None:
    checked = {name.removeprefix("check_") + ".py" for name in globals() if name.startswith("check_")}
    assert checked | set(NO_SCRIPTS) == set(SCRIPTS)


@pytest.fixture
def check(script: str) -> Callable[[str], None]:
    return globals()[f"check_{script.removesuffix('.py')}"]


RUN = [name for name in SCRIPTS if name not in NO_SCRIPTS]

# Its limits come out of the scale too: a busy machine may take seconds for three quick calls.
SLOWER = {"analyze_conversation.py": "0.08"}


def scaled(place: Place, script: str) -> Place:
    return replace(place, environ={**place.environ, "SCALE": SLOWER.get(script, place.environ["SCALE"])})


@pytest.mark.parametrize("script", RUN)
def test_on_an_engine(place: Place, worker: WorkerProcess, script: str, check: Callable[[str], None]) -> None:
    check(scaled(place, script).run(script))


@pytest.mark.parametrize("script", RUN)
def test_on_the_memory_backend(endpoint: Endpoint, tmp_path: Path, script: str, check: Callable[[str], None]) -> None:
    installed("openai")
    check(scaled(Place("memory", environment(endpoint, "memory", tmp_path), tmp_path), script).run(script))


def test_a_workflow_is_asked_for_from_other_processes(
    place: Place, worker: WorkerProcess, until: Callable[..., object]
) -> None:
    script = "run_agent_workflow.py"
    id = place.run(script, "start", "Why is the sky blue?").strip()
    until(lambda: place.run(script, "status", id).startswith("succeeded, attempt "), "the workflow has succeeded")
    said = place.run(script, "result", id)
    assert said.startswith("Why is the sky blue? Answer the question with these facts.")
    assert place.run(script, "cancel", id) == "it is over\n"


def test_a_workflow_is_cancelled_from_another_process(place: Place, worker: WorkerProcess) -> None:
    script = "run_agent_workflow.py"
    command = "from run_agent_workflow import *; print(run_agent_workflow.options(delay=600).enqueue('').id)"
    id = place.run("-c", command).strip()
    assert place.run(script, "status", id).startswith("scheduled, attempt 0")
    assert place.run(script, "cancel", id) == "it will end\n"
    assert place.run(script, "status", id).startswith("cancelled")


def articles(place: Place, end: str) -> list[str]:
    return sorted(path.name for path in (place.folder / "articles").glob(f"*{end}"))


def test_each_step_of_an_article_is_retried_by_itself(place: Place, endpoint: Endpoint, worker: WorkerProcess) -> None:
    script = "long_workflow.py"
    command = "from long_workflow import *; print(*(start('Why is it dark at night?') for _ in range(3)))"
    for id in place.run("-c", command).split():
        name = f"why-is-it-dark-at-night-{id[:6]}"
        assert re.fullmatch(rf"\d+ words in {name}\.txt\n", place.run(script, "result", id))
        failures = [
            len(endpoint.plan.failures(f"{name}-long_workflow.{step}")) if step in {"research", "write"} else 0
            for step in ("reserve", "research", "write", "publish")
        ]
        assert [attempts - 1 for _, _, attempts in steps_of(place.run(script, "status", id))] == failures
    assert place.run(script, "cancel", id) == "it is over\n"
    assert articles(place, ".reserved") == []


def test_an_article_is_cancelled_and_its_slot_given_back(
    place: Place, endpoint: Endpoint, worker: WorkerProcess, until: Callable[..., object]
) -> None:
    script = "long_workflow.py"
    id = place.run(script, "start", "A silent one").strip()
    asked = (place.backend, f"a-silent-one-{id[:6]}-long_workflow.research")
    until(lambda: endpoint.calls[asked], "the model was asked, which never answers")
    assert articles(place, ".reserved") == [f"a-silent-one-{id[:6]}.reserved"]
    assert place.run(script, "cancel", id) == "it will end\n"
    assert place.run(script, "result", id) == f"job {id}: no longer wanted; nothing is reserved any more\n"
    assert articles(place, ".reserved") == []
    assert [status for _, status, _ in steps_of(place.run(script, "status", id))] == ["succeeded", *["cancelled"] * 3]


def test_an_article_is_cancelled_before_anything_was_reserved(endpoint: Endpoint, tmp_path: Path) -> None:
    installed("openai")
    place = Place("memory", environment(endpoint, "memory", tmp_path), tmp_path)
    said = place.run("-c", "from long_workflow import *; id = start('Why?'); print(cancel(id), result(id), status(id))")
    assert re.search(r"^it will end job \w+: no longer wanted; nothing is reserved any more", said)
    assert [step[1:] for step in steps_of(said)] == [("cancelled", 0)] * 3  # the first is on the line before


TWICE = """
from nightly_refresh import *
done = [refresh.job(schedules.run_now("nightly-refresh").id) for _ in range(2)]
jobs = {id for one in done for id in one.result(timeout=100).jobs}
print(*sorted(Job.wait_all([update.job(id) for id in jobs], timeout=100)))
"""
AT_ONCE = """
from nightly_refresh import *
write_samples()
one, two = [job.result() for job in [refresh.enqueue(), refresh.enqueue()]]
print(len(one.jobs), one == two)
"""
DAILY = """
from nightly_refresh import *
from queuekit.app import current_app
write_samples()
schedules.register()
current_app().advance(25 * 3600)
print(schedules.find("nightly-refresh").last_job, len(indexed()))
current_app().run_until_idle()
print(*indexed())
"""
BY_THE_SECOND = """
from nightly_refresh import *
from queuekit import Every
index().close()
schedules.add("by-the-second", refresh.bind(), Every(1))
"""


def log_of(place: Place) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(place.folder / "knowledge" / "index.db", timeout=30)) as db:
        return db.execute("SELECT name, what FROM refreshed ORDER BY at").fetchall()


def test_two_refreshes_at_once_embed_each_document_once(
    place: Place, endpoint: Endpoint, worker: WorkerProcess
) -> None:
    place.run("nightly_refresh.py")
    before = len(log_of(place))
    folder = place.folder / "knowledge"
    names = [f"chapter-{number}.txt" for number in range(3, 9)]
    calls = {name: endpoint.calls[place.backend, f"embed-{name}"] for name in names}
    for name in names:
        (folder / name).write_text(f"Another text of {name}.")
    (folder / "chapter-11.txt").unlink()
    said = place.run("-c", TWICE).split()
    assert (said.count("embedded"), said.count("removed")) == (6, 1)
    new = log_of(place)[before:]
    assert sorted(new) == [("chapter-11.txt", "removed"), *((name, "embedded") for name in names)]
    # The endpoint has failed for each name when it was first asked, if at all.
    assert {name: endpoint.calls[place.backend, f"embed-{name}"] - count for name, count in calls.items()} == (
        dict.fromkeys(names, 1)
    )


def test_what_changes_is_refreshed_by_the_clock(
    place: Place, worker: WorkerProcess, until: Callable[..., object]
) -> None:
    place.run("-c", BY_THE_SECOND)
    try:
        for text in ("It came late.", "And it was changed."):
            before = len(log_of(place))
            (place.folder / "knowledge" / "late.txt").write_text(text)
            until(lambda before=before: log_of(place)[before:] == [("late.txt", "embedded")], "it was embedded")
    finally:
        place.run("-c", "from nightly_refresh import *; schedules.remove('by-the-second')")
        (place.folder / "knowledge" / "late.txt").unlink()


def test_the_night_comes_at_three_in_berlin(endpoint: Endpoint, tmp_path: Path) -> None:
    installed("openai")
    said = Place("memory", environment(endpoint, "memory", tmp_path), tmp_path).run("-c", DAILY)
    job, embedded, *names = said.split()
    assert re.fullmatch(r"nightly-refresh-20\d{6}T0[12]0000000Z", job)
    assert (embedded, len(names)) == ("0", 12)


def test_two_refreshes_at_once_share_the_jobs_of_their_documents(endpoint: Endpoint, tmp_path: Path) -> None:
    installed("openai")
    place = Place("memory", environment(endpoint, "memory", tmp_path), tmp_path)
    assert place.run("-c", AT_ONCE) == "12 True\n"
