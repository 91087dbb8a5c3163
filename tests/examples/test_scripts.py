"""Each script on each backend, as a reader runs it: the worker in one process, the script in another."""

from __future__ import annotations

import re
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
