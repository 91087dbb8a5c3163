"""The stream of events under a real server, in front of the real worker: followed, left, come back to."""

from __future__ import annotations

import http.client
import json
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest
from examples_place import Place, environment, installed
from examples_service import Service, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.demo.endpoint import Endpoint
    from queuekit.testing.process import WorkerProcess
    from queuekit.testing.servers import RedisServer

SECTIONS = [f"Section {number} says what happened on day {number} of the journey." for number in range(24)]


@contextmanager
def running(environ: dict[str, str], folder: Path, *options: str) -> Iterator[Service]:
    installed("fastapi", "uvicorn")
    with serve("fastapi_events:app", environ, folder / "uvicorn.log", *options) as service:
        yield service


@pytest.fixture
def service(place: Place, tmp_path: Path) -> Iterator[Service]:
    with running(place.environ, tmp_path) as service:
        yield service


@pytest.fixture
def idle(place: Place, tmp_path: Path) -> dict[str, str]:
    """Where there is no worker: what is started there stays as it is."""
    return {**place.environ, "QUEUEKIT_NAMESPACE": f"idle-{tmp_path.name}"}


class Stream:
    """As a browser reads it: events with their fields, without the comments."""

    def __init__(self, service: Service, path: str, last: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self._connection.request("GET", path, headers={} if last is None else {"Last-Event-ID": last})
        self.answer = self._connection.getresponse()
        self.status = self.answer.status

    def __iter__(self) -> Iterator[dict[str, Any]]:
        fields: dict[str, Any] = {}
        for line in self.answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif fields:
                yield {**fields, "data": json.loads(fields["data"])}
                fields = {}

    def __enter__(self) -> Self:
        assert (self.status, self.answer.getheader("content-type", "").split(";")[0]) == (200, "text/event-stream")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


def start(service: Service, sections: list[str] = SECTIONS, **headers: str) -> str:
    """The path of its events."""
    made = service.ask("POST", "/reports", {"sections": sections}, **headers)
    assert made.status == 202
    assert made.headers["location"] == made.body["events"] == f"/reports/{made.body['id']}/events"
    return made.body["events"]


def check_all(events: list[dict[str, Any]]) -> None:
    first, *sections, last = events
    assert (first["event"], last["event"], {one["event"] for one in sections}) == ("open", "report", {"section"})
    assert first["data"]["total"] == 24
    told = [one["data"] for one in sections]
    assert sorted(one["number"] for one in told) == list(range(24))
    assert [one["done"] for one in told] == list(range(1, 25))
    assert all(one["text"].startswith(f"{one['number']}: Section {one['number']} says what") for one in told)
    assert last["data"]["text"].startswith("24 sections, from '0: Section 0 says what happened on day 0")


def test_a_request_fans_out_and_is_told_of_each_job(service: Service, worker: WorkerProcess) -> None:
    path = start(service)
    with Stream(service, path) as stream:
        events = list(stream)  # the stream ends with the report
    check_all(events)
    # A client that has lost the connection brings along what it was told last, and hears of the rest.
    with Stream(service, path, last=events[10]["id"]) as stream:
        again = list(stream)
    assert again[0]["data"] == {"done": 10, "total": 24}
    told = {one["data"]["number"] for one in events[1:11]}
    assert {one["data"]["number"] for one in again[1:-1]} == set(range(24)) - told
    assert again[-1] == events[-1]
    # A browser comes back at the end of each stream, and stays away after a 204.
    over = Stream(service, path, last=events[-1]["id"])
    assert (over.status, over.answer.read()) == (204, b"")
    over.close()
    with Stream(service, path, last="nonsense") as stream:  # no harm: all of it again
        assert len(list(stream)) == len(events)
    assert service.ask("DELETE", path.removesuffix("/events")).status == 409  # it is over


def test_on_the_memory_backend(endpoint: Endpoint, tmp_path: Path) -> None:
    installed("openai")
    with (
        running(environment(endpoint, "memory", tmp_path), tmp_path) as service,
        Stream(service, start(service)) as stream,
    ):
        check_all(list(stream))


def test_a_section_that_fails_ends_the_report(endpoint: Endpoint, tmp_path: Path) -> None:
    installed("openai")
    environ = environment(endpoint, "memory", tmp_path)
    nowhere = {**environ, "OPENAI_BASE_URL": f"{endpoint.url('memory')}/nowhere"}  # 404, which is not tried again
    with running(nowhere, tmp_path) as service, Stream(service, start(service)) as stream:
        events = list(stream)
    assert "openai.NotFoundError" in events[1]["data"]["error"]
    assert events[-1]["event"] == "report"
    assert "stopped: job " in events[-1]["data"]["error"]


def test_the_same_request_twice_is_one_report(idle: dict[str, str], tmp_path: Path) -> None:
    with running(idle, tmp_path) as service:
        paths = {start(service, **{"Idempotency-Key": "one"}) for _ in range(2)}
        section = service.ask("POST", "/reports", {"sections": SECTIONS}, **{"Idempotency-Key": "one-1"})
        assert section.status == 409  # the id of a job of that report
    assert paths == {"/reports/one/events"}


def test_a_cancel_ends_the_stream(idle: dict[str, str], tmp_path: Path) -> None:
    with running(idle, tmp_path) as service:
        path = start(service)
        with Stream(service, path) as stream:
            events = iter(stream)
            assert next(events)["data"] == {"done": 0, "total": 24}
            assert service.ask("DELETE", path.removesuffix("/events")).status == 202
            *sections, last = list(events)
    assert last["event"] == "report"
    assert "the client asked for it" in last["data"]["error"]
    assert all("the client asked for it" in one["data"]["error"] for one in sections)


def test_what_is_no_report_is_404_and_nonsense_is_422(idle: dict[str, str], tmp_path: Path) -> None:
    with running(idle, tmp_path) as service:
        id = start(service).split("/")[2]
        assert service.ask("GET", "/reports/nobody/events").status == 404
        assert service.ask("GET", f"/reports/{id}-0/events").status == 404  # a section
        assert service.ask("DELETE", "/reports/nobody").status == 404
        assert service.ask("POST", "/reports", {"sections": []}).status == 422


def test_a_client_that_goes_ends_its_stream_and_no_job(idle: dict[str, str], tmp_path: Path) -> None:
    with running(idle, tmp_path) as service:
        path = start(service)
        with Stream(service, path) as stream:
            assert next(iter(stream))["event"] == "open"
        # uvicorn, which was given no limit, waits for each stream that goes on.
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) in {0, -signal.SIGTERM}
    assert "Traceback" not in (tmp_path / "uvicorn.log").read_text()
    with running(idle, tmp_path) as service:
        assert service.ask("DELETE", path.removesuffix("/events")).status == 202  # it was not over


def test_a_deploy_ends_the_stream_which_goes_on_elsewhere(idle: dict[str, str], tmp_path: Path) -> None:
    with running(idle, tmp_path, "--timeout-graceful-shutdown", "1") as service:
        path = start(service)
        with Stream(service, path) as stream:
            events = iter(stream)
            assert next(events)["event"] == "open"
            service.process.send_signal(signal.SIGTERM)
            with suppress(http.client.IncompleteRead):  # the connection is lost
                assert list(events) == []
            service.process.wait(20)
    with running(idle, tmp_path) as service, Stream(service, path) as stream:
        events = iter(stream)
        assert next(events)["data"] == {"done": 0, "total": 24}
        assert service.ask("DELETE", path.removesuffix("/events")).status == 202
        assert list(events)[-1]["event"] == "report"


def test_while_the_store_is_away_it_says_so(
    place: Place, new_server: Callable[[], RedisServer], tmp_path: Path, until: Callable[..., object]
) -> None:
    server = new_server()
    environ = {**place.environ, "QUEUEKIT_BROKER_URL": server.url, "QUEUEKIT_ENQUEUE_TIMEOUT": "1"}
    with running(environ, tmp_path) as service:
        path = start(service)
        with Stream(service, path) as stream:
            events = iter(stream)
            assert next(events)["event"] == "open"
            server.kill()
            assert next(events)["event"] == "away"
            for method, at, body in (("POST", "/reports", {"sections": ["a"]}), ("GET", path, None)):
                answer = service.ask(method, at, body)
                assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            server.start()
            until(lambda: service.ask("DELETE", path.removesuffix("/events")).status == 202, "the store is back")
            assert list(events)[-1]["event"] == "report"  # it has gone on
