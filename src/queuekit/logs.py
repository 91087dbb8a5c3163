"""Logs that say which job they are about.

What queuekit logs stands under the logger `queuekit`, with job_id, task and attempt as fields of the record. JobFilter
gives the same fields to what is logged inside a task, by whatever logger.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from queuekit.context import current_job
from queuekit.events import WANTS, EventKind

if TYPE_CHECKING:
    from queuekit.events import JobEvent

__all__ = ["FIELDS", "JobFilter", "JsonFormatter", "TextFormatter", "configure_logging", "log_event"]

FIELDS: Final = ("job_id", "task", "attempt")

log = logging.getLogger("queuekit.jobs")


class JobFilter(logging.Filter):
    """Gives each record `job_id`, `task` and `attempt`: of the job that runs in this context, or what the record says
    itself, or else "", "" and 0. Lets every record pass. Put it on a handler: a logger's filter does not see what comes
    from its children."""

    def filter(self, record: logging.LogRecord) -> bool:
        job = current_job()
        for name, value in zip(FIELDS, (job.id, job.task, job.attempt), strict=True):
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class TextFormatter(logging.Formatter):
    """A line for people; of a record that is about a job, its id and attempt behind the logger's name."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        job = getattr(record, "job_id", "")
        about = f" [{job}#{record.__dict__.get('attempt', 0)}]" if job and job not in record.message else ""
        return f"{self.formatTime(record)} {record.levelname} {record.name}{about}: {record.message}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and what `extra` has given the record."""

    _plain = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        given = {name: value for name, value in vars(record).items() if name not in self._plain}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            said["stack"] = self.formatStack(record.stack_info)
        if not given.get("job_id"):
            given = {name: value for name, value in given.items() if name not in FIELDS}
        return json.dumps({**said, **given}, default=str, ensure_ascii=False)


def configure_logging(level: str, form: str) -> None:
    """For processes of our own: all logs to standard error, as "text" or "json" lines. Nothing where the root logger
    has a handler already."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(JobFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level.upper() != "DEBUG":
        # Each step of a connection at INFO, and each failure as a traceback: whoever asked for it is told it anyway.
        logging.getLogger("pika").setLevel(logging.CRITICAL)


_LEVELS: Final = {
    EventKind.enqueued: logging.DEBUG,
    EventKind.started: logging.DEBUG,
    EventKind.retried: logging.WARNING,
    EventKind.failed: logging.ERROR,
    EventKind.lost: logging.WARNING,
}


def log_event(event: JobEvent) -> None:
    """A hook that logs each event under `queuekit.jobs`: started and enqueued at DEBUG, retried and lost as warnings,
    failed as an error, the rest at INFO. `queuekit worker` has it."""
    level = _LEVELS.get(event.kind, logging.INFO)
    if not log.isEnabledFor(level):
        return
    text = f"job {event.job_id} ({event.task}) {event.kind}"
    if event.attempt:
        text += f", attempt {event.attempt}"
    if event.duration is not None:
        text += f", after {event.duration:.3f} s"
    if event.delay is not None:
        text += f", to start in {event.delay:g} s"
    if event.reason:
        text += f": {event.reason}"
    said = {name: value for name, value in event.to_dict().items() if name not in ("headers", "at", "kind")}
    log.log(level, "%s", text, extra={**said, "event": event.kind.value})


def _wanted(kind: EventKind) -> bool:
    return log.isEnabledFor(_LEVELS.get(kind, logging.INFO))


setattr(log_event, WANTS, _wanted)
