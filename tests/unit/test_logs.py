"""Which job a log record is about, and what nobody may read in a log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, Settings, agent_task
from queuekit.logs import JobFilter, JsonFormatter, TextFormatter, log_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

users = logging.getLogger("somebody.elses")


@agent_task(name="logs.do")
def do(what: str) -> str:
    users.warning("about %s", what)
    if what == "bad":
        raise ValueError("no")
    return what


@agent_task(name="logs.ado")
async def ado(what: str) -> str:
    async def child() -> None:
        users.warning("about %s", what)

    await asyncio.gather(child(), asyncio.to_thread(users.warning, "in a thread"))
    return what


@agent_task(name="logs.secretly", private=True)
def secretly(prompt: str) -> str:
    raise ValueError(f"could not answer {prompt}")


class Log:
    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(JobFilter())

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def log() -> Iterator[Callable[[logging.Formatter], Log]]:
    root, level = logging.getLogger(), logging.getLogger().level
    made: list[Log] = []

    def make(formatter: logging.Formatter) -> Log:
        made.append(Log(formatter))
        root.addHandler(made[-1].handler)
        root.setLevel(logging.INFO)
        return made[-1]

    yield make
    for one in made:
        root.removeHandler(one.handler)
    root.setLevel(level)


@pytest.fixture
def app() -> Iterator[App]:
    with App(Settings(backend="memory"), hooks=[log_event]).activate() as app:
        yield app


def test_what_a_task_logs_says_of_which_job(app: App, log: Callable[[logging.Formatter], Log]) -> None:
    seen = log(JsonFormatter())
    do.options(id="j1").enqueue("tea")
    ado.options(id="j2").enqueue("coffee")
    app.run_until_idle()
    users.warning("outside")
    theirs = [one for one in seen.objects if one["logger"] == "somebody.elses"]
    assert [(one["message"], one.get("job_id"), one.get("task"), one.get("attempt")) for one in theirs] in (
        [("about tea", "j1", "logs.do", 1), *rest, ("outside", None, None, None)]
        for rest in (
            [("about coffee", "j2", "logs.ado", 1), ("in a thread", "j2", "logs.ado", 1)],
            [("in a thread", "j2", "logs.ado", 1), ("about coffee", "j2", "logs.ado", 1)],
        )
    )


def test_what_queuekit_logs_of_a_job(app: App, log: Callable[[logging.Formatter], Log]) -> None:
    seen = log(JsonFormatter())
    do.options(id="j").enqueue("bad")
    app.run_until_idle()
    (failed,) = [one for one in seen.objects if one["logger"] == "queuekit.jobs"]
    assert failed.pop("duration") >= 0
    assert failed.pop("time").endswith("+00:00")
    assert failed.pop("message").startswith("job j (logs.do) failed, attempt 1, after 0.0")
    assert failed == {
        "level": "ERROR",
        "logger": "queuekit.jobs",
        "job_id": "j",
        "task": "logs.do",
        "attempt": 1,
        "queue": "default",
        "backend": "memory",
        "worker": "memory",
        "event": "failed",
        "category": "unknown",
        "error_type": "builtins.ValueError",
        "reason": "unknown: builtins.ValueError; no rule matches",
        "private": False,
    }


def test_a_refused_outcome_is_logged_with_its_job(
    app: App, log: Callable[[logging.Formatter], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = log(JsonFormatter())
    monkeypatch.setattr(app.store, "finish", lambda *_: False)
    do.options(id="j").enqueue("tea")
    app.run_next()
    (refused,) = [one for one in seen.objects if one["logger"] == "queuekit"]
    assert (refused["job_id"], refused["task"], refused["attempt"]) == ("j", "logs.do", 1)


def test_lines_for_people(app: App, log: Callable[[logging.Formatter], Log]) -> None:
    seen = log(TextFormatter())
    do.options(id="j").enqueue("tea")
    app.run_until_idle()
    users.warning("outside")
    theirs, ours, outside = (line.split(" ", 2)[2] for line in seen.lines)
    assert theirs == "WARNING somebody.elses [j#1]: about tea"
    assert ours.startswith("INFO queuekit.jobs: job j (logs.do) succeeded, attempt 1, after 0.")
    assert outside == "WARNING somebody.elses: outside"


def test_nobody_reads_of_a_private_task(app: App, log: Callable[[logging.Formatter], Log]) -> None:
    logging.getLogger("queuekit").setLevel(logging.DEBUG)
    try:
        seen = log(JsonFormatter())
        job = secretly.enqueue("the secret prompt")
        app.run_until_idle()
        assert job.status() == "failed"
        assert "failed" in seen.stream.getvalue()
        assert "secret" not in seen.stream.getvalue().replace("secretly", "")
    finally:
        logging.getLogger("queuekit").setLevel(logging.NOTSET)


def test_an_error_is_one_line_of_json(log: Callable[[logging.Formatter], Log]) -> None:
    seen = log(JsonFormatter())
    try:
        raise ValueError("two\nlines")
    except ValueError:
        users.exception("it failed", extra={"what": object})
    (one,) = seen.objects
    assert one["exception"].endswith("ValueError: two\nlines")
    assert "object" in one["what"]
