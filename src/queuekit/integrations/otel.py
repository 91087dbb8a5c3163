"""OpenTelemetry: spans and metrics of jobs, and the caller's context carried to the task. Extra `otel`.

    hooks = ["queuekit.integrations.otel:OpenTelemetry"]            # in the settings
    App(hooks=[OpenTelemetry(tracer_provider=...)])                 # or with providers of your own

It follows the messaging semantic conventions (opentelemetry.io/docs/specs/semconv/messaging): a producer span around
the record of a job, a consumer span around each attempt, which is current inside the task. All attempts of a job are
children of its producer span, to which they are linked as well, so that a retry stays in the trace of its job.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from queuekit.errors import ConfigError
from queuekit.events import EventKind

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "opentelemetry":
        raise
    raise ConfigError("queuekit.integrations.otel needs opentelemetry-api: pip install 'queuekit[otel]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from queuekit.events import JobEvent

__all__ = ["OpenTelemetry"]

FLUSH: Final = 2000  # milliseconds for each provider, in a child that is about to end
# Jobs of agents take from milliseconds to hours; the conventions' own boundaries end at 10 s.
SECONDS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
FAILURES: Final = frozenset({EventKind.retried, EventKind.failed, EventKind.lost})

_attempt: ContextVar[Span | None] = ContextVar("queuekit_otel_attempt", default=None)


class OpenTelemetry:
    """See queuekit.JobInstrument for when what is called.

    Args:
        tracer_provider, meter_provider: the global ones where None.

    Metrics, in seconds where they are times: messaging.client.sent.messages, messaging.process.duration (by outcome),
    queuekit.job.events (by kind) and queuekit.job.wait, from when a job could have run until it did.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._given = (tracer_provider, meter_provider)
        self._tracer = trace.get_tracer("queuekit", tracer_provider=tracer_provider)
        meter = metrics.get_meter("queuekit", meter_provider=meter_provider)
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Jobs that were enqueued.")
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "How long attempts took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._events = meter.create_counter("queuekit.job.events", "{event}", "What happened to jobs.")
        self._wait = meter.create_histogram(
            "queuekit.job.wait",
            "s",
            "How long jobs that could run waited for a worker.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )

    def __call__(self, event: JobEvent, /) -> None:
        said = {**_where(event), "queuekit.task": event.task, "queuekit.backend": event.backend}
        if event.kind in FAILURES and event.error_type:
            said["error.type"] = event.error_type
        self._events.add(1, {**said, "queuekit.event": event.kind.value})
        if event.kind is EventKind.enqueued:
            self._sent.add(1, {**said, "messaging.operation.name": "send"})
        if event.waited is not None:
            self._wait.record(event.waited, said)
        if event.duration is None:
            return
        outcome = {"messaging.operation.name": "process", "queuekit.outcome": event.kind.value}
        self._duration.record(event.duration, {**said, **outcome})
        span = _attempt.get()
        if span is not None:
            self._conclude(span, event)

    @staticmethod
    def _conclude(span: Span, event: JobEvent) -> None:
        span.set_attribute("queuekit.outcome", event.kind.value)
        if event.delay is not None:
            span.set_attribute("queuekit.delay", event.delay)
        if event.kind in FAILURES:
            span.set_attribute("error.type", event.error_type or "_OTHER")
            span.set_status(Status(StatusCode.ERROR, event.reason))

    @contextmanager
    def around_enqueue(self, event: JobEvent, headers: MutableMapping[str, str], /) -> Iterator[None]:
        """A producer span, current for as long as the job is being recorded."""
        with self._tracer.start_as_current_span(
            f"send {event.queue}", kind=SpanKind.PRODUCER, attributes=_about(event, "send")
        ):
            propagate.inject(headers)
            yield

    @contextmanager
    def around_attempt(self, event: JobEvent, /) -> Iterator[None]:
        """A consumer span, current inside the task, with the caller's baggage."""
        caller = propagate.extract(event.headers)
        producer = trace.get_current_span(caller).get_span_context()
        span = self._tracer.start_span(
            f"process {event.queue}",
            context=caller,
            kind=SpanKind.CONSUMER,
            links=[Link(producer)] if producer.is_valid else [],
            attributes={
                **_about(event, "process"),
                "messaging.client.id": event.worker,
                "queuekit.attempt": event.attempt,
                "queuekit.wait": event.waited or 0.0,
            },
        )
        # Nothing is detached and no variable is reset: the attempt's context ends with the attempt.
        otel_context.attach(trace.set_span_in_context(span, caller))
        _attempt.set(span)
        try:
            yield
        except BaseException as error:
            span.record_exception(error)
            raise
        finally:
            span.end()

    def flush(self) -> None:
        tracers, meters = self._given
        for provider in (tracers or trace.get_tracer_provider(), meters or metrics.get_meter_provider()):
            flush: Any = getattr(provider, "force_flush", None)  # the API's own providers have none
            if flush is not None:
                flush(FLUSH)


def _where(event: JobEvent) -> dict[str, Any]:
    return {"messaging.system": "queuekit", "messaging.destination.name": event.queue}


def _about(event: JobEvent, operation: str) -> dict[str, Any]:
    return {
        **_where(event),
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.message.id": event.job_id,
        "queuekit.task": event.task,
        "queuekit.backend": event.backend,
    }
