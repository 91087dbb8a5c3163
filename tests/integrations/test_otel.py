"""OpenTelemetry on the memory backend, with the real SDK and its in-memory exporter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from queuekit import App, Backoff, RetryPolicy, RetryRule, Settings, agent_task, current_job
from queuekit.integrations.otel import OpenTelemetry

POLICY = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))], max_attempts=3)
PROVIDERS: list[TracerProvider] = []


def _work(what: str) -> str:
    with PROVIDERS[-1].get_tracer("the user's").start_as_current_span("inside"):
        if what == "flaky" and current_job().attempt == 1:
            raise ConnectionError("the secret prompt")
        if what == "bad":
            raise ValueError("the secret prompt")
    return str(baggage.get_baggage("tenant"))


@agent_task(name="otel.do", retry=POLICY, queue="agents")
def do(what: str) -> str:
    return _work(what)


@agent_task(name="otel.ado", retry=POLICY, queue="agents")
async def ado(what: str) -> str:
    await asyncio.sleep(0)
    return _work(what)


@agent_task(name="otel.secretly", private=True)
def secretly(what: str) -> str:
    return _work("bad")


class Seen:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.hook = OpenTelemetry(tracer_provider=self.provider, meter_provider=self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [one for found in data.resource_metrics for scope in found.scope_metrics for one in scope.metrics]
        return {one.name: list(one.data.data_points) for one in metrics}


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    PROVIDERS.append(seen.provider)
    yield seen
    PROVIDERS.remove(seen.provider)
    seen.provider.shutdown()
    seen.meters.shutdown()


@pytest.fixture
def app(seen: Seen) -> Iterator[App]:
    with App(Settings(backend="memory"), hooks=[seen.hook]).activate() as app:
        yield app


@pytest.mark.parametrize("task", [do, ado], ids=["sync", "async"])
def test_a_retry_stays_in_the_trace_of_its_caller(app: App, seen: Seen, task: Any) -> None:
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with seen.provider.get_tracer("web").start_as_current_span("request") as request:
        job = task.enqueue("flaky")
    context.detach(token)
    app.run_until_idle()
    assert job.result() == "acme"  # the caller's baggage, in the second attempt
    web, producer, first, inside_first, second, inside_second = seen.spans
    assert [span.name for span in seen.spans] == [
        "request", "send agents", "process agents", "inside", "process agents", "inside",
    ]  # fmt: skip
    assert len({span.context.trace_id for span in seen.spans}) == 1
    assert web.context == request.get_span_context()
    assert (producer.kind, first.kind, second.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CONSUMER)
    assert producer.parent.span_id == web.context.span_id
    for attempt, inside in ((first, inside_first), (second, inside_second)):
        assert attempt.parent.span_id == producer.context.span_id
        assert [link.context.span_id for link in attempt.links] == [producer.context.span_id]
        assert inside.parent.span_id == attempt.context.span_id
    assert job.info().attempts[0].delay == first.attributes["queuekit.delay"]
    assert not trace.get_current_span().get_span_context().is_valid  # nothing is left behind


def test_the_attributes_are_those_of_the_conventions(app: App, seen: Seen) -> None:
    job = do.enqueue("flaky")
    app.run_until_idle()
    producer, first, _, second, _ = seen.spans
    common = {
        "messaging.system": "queuekit",
        "messaging.destination.name": "agents",
        "messaging.message.id": job.id,
        "queuekit.task": "otel.do",
        "queuekit.backend": "memory",
    }
    assert dict(producer.attributes) == {
        **common, "messaging.operation.name": "send", "messaging.operation.type": "send"
    }  # fmt: skip
    ours = {**common, "messaging.operation.name": "process", "messaging.operation.type": "process"}
    ours |= {"messaging.client.id": "memory", "queuekit.wait": 0.0}
    delay = job.info().attempts[0].delay
    assert dict(first.attributes) == {
        **ours,
        "queuekit.attempt": 1,
        "queuekit.outcome": "retried",
        "queuekit.delay": delay,
        "error.type": "builtins.ConnectionError",
    }
    assert dict(second.attributes) == {**ours, "queuekit.attempt": 2, "queuekit.outcome": "succeeded"}
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    (event,) = first.events
    assert event.name == "exception"
    assert event.attributes["exception.message"] == "the secret prompt"


def test_a_private_task_shows_no_message(app: App, seen: Seen) -> None:
    secretly.enqueue("a")
    app.run_until_idle()
    attempt = next(span for span in seen.spans if span.kind is SpanKind.CONSUMER)
    assert attempt.attributes["error.type"] == "builtins.ValueError"
    assert attempt.status.status_code is StatusCode.ERROR
    assert "secret prompt" not in attempt.to_json()


def test_metrics_by_task_queue_and_outcome(app: App, seen: Seen) -> None:
    do.enqueue_many([("flaky",), ("bad",), ("fine",)])
    app.advance(4)
    app.run_until_idle()
    points = seen.points()
    assert [point.value for point in points["messaging.client.sent.messages"]] == [3]
    kinds = {point.attributes["queuekit.event"]: point.value for point in points["queuekit.job.events"]}
    assert kinds == {"enqueued": 3, "started": 4, "retried": 1, "failed": 1, "succeeded": 2}
    lasted = {point.attributes["queuekit.outcome"]: point for point in points["messaging.process.duration"]}
    assert {outcome: point.count for outcome, point in lasted.items()} == {"retried": 1, "failed": 1, "succeeded": 2}
    assert lasted["failed"].attributes["error.type"] == "builtins.ValueError"
    assert all(point.attributes["queuekit.task"] == "otel.do" for point in lasted.values())
    (waited,) = points["queuekit.job.wait"]
    assert (waited.count, waited.sum) == (4, 12.0)  # three of them for 4 seconds


def test_without_a_provider_the_callers_context_still_travels(seen: Seen) -> None:
    """A program that traces by other means: the API alone passes on what is current."""
    silent = OpenTelemetry()
    told: list[Any] = []
    with App(Settings(backend="memory"), hooks=[silent, told.append]).activate() as app:
        with seen.provider.get_tracer("web").start_as_current_span("request") as request:
            do.enqueue("fine")
        app.run_until_idle()
    carried = told[0].headers["traceparent"].split("-")
    assert carried[1] == f"{request.get_span_context().trace_id:032x}"
    assert carried[2] == f"{request.get_span_context().span_id:016x}"


def test_an_enqueue_that_fails_is_an_error_of_the_producer_span(app: App, seen: Seen) -> None:
    from queuekit import EnqueueError

    do.options(id="j").enqueue("fine")
    with pytest.raises(EnqueueError):
        do.options(id="j").enqueue("other")
    assert [span.status.status_code for span in seen.spans] == [StatusCode.UNSET, StatusCode.ERROR]


def test_a_span_as_json_names_the_job(app: App, seen: Seen) -> None:
    job = do.enqueue("fine")
    assert json.loads(seen.spans[0].to_json())["attributes"]["messaging.message.id"] == job.id
