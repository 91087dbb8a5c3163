"""The web service under a real server, in front of the real worker: enqueue, poll, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from examples_place import Place, installed
from examples_service import Service, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.process import WorkerProcess
    from queuekit.testing.servers import RedisServer


@pytest.fixture
def service(place: Place, tmp_path: Path) -> Iterator[Service]:
    installed("fastapi", "uvicorn")
    with serve("fastapi_app:app", place.environ, tmp_path / "uvicorn.log") as running:
        yield running


def test_a_request_is_a_job_that_is_polled(
    service: Service, worker: WorkerProcess, until: Callable[..., object]
) -> None:
    made = service.ask("POST", "/summaries", {"name": "minutes", "text": "The committee met on Monday in the north."})
    assert made.status == 202
    path = made.headers["location"]
    assert path == f"/summaries/{made.body['id']}"
    until(lambda: service.ask("GET", path).body["status"] == "succeeded", "the job has succeeded")
    said = service.ask("GET", path).body
    assert said["summary"]["text"].startswith("The committee met on Monday in the north.")
    assert (said["error"], said["summary"]["document"]) == (None, "minutes")
    assert service.ask("DELETE", path).status == 409  # it is over


def test_a_failed_job_says_why(service: Service, worker: WorkerProcess, until: Callable[..., object]) -> None:
    path = service.ask("POST", "/summaries", {"name": "refused", "text": "The key is not accepted."}).headers[
        "location"
    ]
    until(lambda: service.ask("GET", path).body["status"] == "failed", "the job has failed")
    assert "AuthenticationError" in service.ask("GET", path).body["error"]


def test_the_same_request_twice_is_one_job(service: Service) -> None:
    order = {"name": "letter", "text": "We thank you for the patience that you have shown."}
    first, second = (service.ask("POST", "/summaries", order, **{"Idempotency-Key": "one"}) for _ in range(2))
    assert first.status == second.status == 202
    assert first.body["id"] == second.body["id"] == "one"
    assert service.ask("POST", "/summaries", {**order, "text": "No."}, **{"Idempotency-Key": "one"}).status == 409


def test_an_unknown_job_is_404_and_nonsense_is_422(service: Service) -> None:
    assert service.ask("GET", "/summaries/nobody").status == 404
    assert service.ask("DELETE", "/summaries/nobody").status == 404
    assert service.ask("POST", "/summaries", {"name": 1}).status == 422


def test_a_waiting_job_is_cancelled(service: Service, place: Place) -> None:
    command = "from process_document import *; print(process_document.options(delay=600).enqueue('a', 'b').id)"
    id = place.run("-c", command).strip()
    cancelled = service.ask("DELETE", f"/summaries/{id}")
    assert (cancelled.status, cancelled.body["status"]) == (202, "cancelled")


def test_while_the_store_is_away_it_says_try_again(
    place: Place, new_server: Callable[[], RedisServer], tmp_path: Path
) -> None:
    installed("fastapi", "uvicorn")
    server = new_server()
    environ = {**place.environ, "QUEUEKIT_BROKER_URL": server.url, "QUEUEKIT_ENQUEUE_TIMEOUT": "1"}
    with serve("fastapi_app:app", environ, tmp_path / "uvicorn.log") as running:
        server.kill()
        answer = running.ask("POST", "/summaries", {"name": "a", "text": "b"}, **{"Idempotency-Key": "mine"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.body == {"detail": "try again", "job": "mine"}
        server.start()
        assert (
            running.ask("POST", "/summaries", {"name": "a", "text": "b"}, **{"Idempotency-Key": "mine"}).status == 202
        )
