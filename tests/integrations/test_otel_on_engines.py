"""OpenTelemetry with real workers: the user's telemetry module, named in the settings, sets up the SDK in the worker and
its children; spans leave by a batch processor that would wait for an hour."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from queuekit import App, Settings
from queuekit.integrations.otel import OpenTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.target import Target

LONG = 40.0

TELEMETRY = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from queuekit.integrations.otel import OpenTelemetry


class Lines(SpanExporter):
    def export(self, spans):
        file = os.open("spans", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for span in spans:
            os.write(file, span.to_json(indent=None).encode() + b"\\n")
        os.close(file)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Lines(), schedule_delay_millis=3_600_000))
trace.set_tracer_provider(provider)
hook = OpenTelemetry()
"""

TASKS = """
import asyncio
from opentelemetry import baggage, trace
from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job
from queuekit.testing.tasks import *  # the bench asks one of them whether the worker is there

tracer = trace.get_tracer("the user's")
policy = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(0.1))], max_attempts=3)


def work():
    with tracer.start_as_current_span("inside"):
        if current_job().attempt == 1:
            raise ConnectionError("away")
        return baggage.get_baggage("tenant")


@agent_task(retry=policy)
def answer() -> str:
    return work()


@agent_task(retry=policy)
async def answer_async() -> str:
    await asyncio.sleep(0.01)
    return work()
"""


def test_a_trace_from_the_caller_to_the_second_attempt(
    target: Target, new_bench: Callable[..., WorkerBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = new_bench()
    module = f"traced_{target.name.replace('-', '_')}"
    (bench.folder / "telemetry.py").write_text(TELEMETRY)
    (bench.folder / f"{module}.py").write_text(TASKS)
    monkeypatch.syspath_prepend(bench.folder)
    tasks: Any = importlib.import_module(module)
    worker = bench.start_worker(module, hooks="telemetry:hook")

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = App(Settings(**bench.settings), hooks=[OpenTelemetry(tracer_provider=provider)])
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with provider.get_tracer("web").start_as_current_span("request") as request, app.activate():
            jobs = [tasks.answer.enqueue(), tasks.answer_async.enqueue()]
    finally:
        context.detach(token)
    assert [job.result(timeout=LONG) for job in jobs] == ["acme", "acme"]
    app.close()
    worker.terminate()
    worker.wait(LONG)

    def spans() -> list[dict[str, Any]]:
        file = bench.folder / "spans"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    bench.until(lambda: len([one for one in spans() if one["name"] == "inside"]) == 4, "all spans have arrived", LONG)
    producers = {span.attributes["messaging.message.id"]: span for span in exporter.get_finished_spans()[:2]}
    trace_id = f"0x{request.get_span_context().trace_id:032x}"
    for job in jobs:
        producer = f"0x{producers[job.id].context.span_id:016x}"
        attempts = [one for one in spans() if one["attributes"].get("messaging.message.id") == job.id]
        attempts.sort(key=lambda one: one["attributes"]["queuekit.attempt"])
        assert [(one["kind"], one["attributes"]["queuekit.outcome"]) for one in attempts] == [
            ("SpanKind.CONSUMER", "retried"),
            ("SpanKind.CONSUMER", "succeeded"),
        ]
        for attempt in attempts:
            assert (attempt["context"]["trace_id"], attempt["parent_id"]) == (trace_id, producer)
            assert [link["context"]["span_id"] for link in attempt["links"]] == [producer]
            (inside,) = [one for one in spans() if one["parent_id"] == attempt["context"]["span_id"]]
            assert inside["name"] == "inside"
    assert "Traceback" not in worker.said()
