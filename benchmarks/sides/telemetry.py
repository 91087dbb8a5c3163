"""OpenTelemetry as a hook, with an SDK that keeps in memory what it is told."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from queuekit.integrations.otel import OpenTelemetry


def tracing() -> OpenTelemetry:
    spans = TracerProvider()
    spans.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    return OpenTelemetry(tracer_provider=spans, meter_provider=MeterProvider([InMemoryMetricReader()]))


traced = tracing()
