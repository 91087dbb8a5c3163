"""The Django project as it is run: migrated, served, and worked by its own command."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from examples_place import EXAMPLES, Place, installed

from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROJECT = EXAMPLES / "django_project"


@pytest.fixture
def project(place: Place, tmp_path: Path) -> Place:
    """With a database and a namespace of its own, migrated."""
    installed("django")
    more = {"DATABASE": str(tmp_path / "db.sqlite3"), "QUEUEKIT_NAMESPACE": f"django-{tmp_path.name}"}
    made = replace(place, environ={**place.environ, **more}, folder=tmp_path)
    assert "Applying documents.0001_initial... OK" in manage(made, "migrate")
    return made


def manage(project: Place, *command: str) -> str:
    return project.run("manage.py", *command, cwd=PROJECT)


@contextmanager
def running(project: Place, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of manage.py that runs until it is told to stop. Its output is shown where the test fails."""
    log = project.folder / f"{command[0]}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "manage.py", *command],
            cwd=PROJECT,
            env=project.environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        print(log.read_text("utf-8", "replace")[-4000:])


def ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_a_view_enqueues_on_commit_and_the_worker_runs_it(project: Place, until: Callable[..., object]) -> None:
    port = free_port()
    with running(project, "runserver", "--noreload", f"127.0.0.1:{port}"):
        until(lambda: answers(port), "the service answers")
        # Refused after on_commit() was called: with the row the job is taken back.
        assert ask(port, "POST", "/documents", "short")[0] == 400
        status, made = ask(port, "POST", "/documents", "It rained all day. Nobody went out.")
        assert status == 202
        path = f"/documents/{made['id']}"
        assert ask(port, "GET", path)[1]["status"] == "queued"
        with running(project, "queuekit_worker") as worker:
            until(lambda: ask(port, "GET", path)[1]["status"] == "succeeded", "the worker has run the job")
            assert ask(port, "GET", path)[1]["summary"] == "It rained all day"
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        # All rows that there are have a summary: of the one that was refused there is neither a row nor a job.
        assert manage(project, "enqueue_missing") == "0 of 0 were missing\n"


def test_what_was_not_enqueued_after_the_commit_is_enqueued_later(project: Place) -> None:
    code = (
        "from documents.models import Document;"
        "[Document.objects.create(text=f'Page {n} says nothing.') for n in range(3)];"
        "from documents.tasks import enqueue; enqueue(2)"
    )
    manage(project, "shell", "-v", "0", "-c", code)
    assert manage(project, "enqueue_missing") == "2 of 3 were missing\n"
    assert manage(project, "enqueue_missing") == "0 of 3 were missing\n"


def test_the_migrations_are_up_to_date(project: Place) -> None:
    assert manage(project, "makemigrations", "--check", "--dry-run") == "No changes detected\n"


def test_queuekit_takes_its_settings_from_django(project: Place) -> None:
    code = (
        "from django.apps import apps; from django.conf import settings;"
        "queue = apps.get_app_config('documents').queue;"
        "print(queue.settings.grace == settings.QUEUEKIT['grace'] == 20, queue.settings.backend)"
    )
    assert manage(project, "shell", "-v", "0", "-c", code) == f"True {project.backend}\n"
