"""queuekit: one definition of an AI agent job, run by Celery, RQ or Dramatiq.

    from queuekit import RetryPolicy, agent_task

    @agent_task(retry=RetryPolicy.for_llm(), timeout=300)
    async def summarise(text: str) -> str: ...

    job = summarise.enqueue("...")      # the backend is a setting: QUEUEKIT_BACKEND=rq
    job.result(timeout=60)

Names are loaded at first use: importing queuekit imports no engine, no Redis client and no pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuekit.app import App, configure
    from queuekit.blobs import BlobStore
    from queuekit.context import JobContext, current_job
    from queuekit.errors import (
        BlobAway,
        BulkEnqueueError,
        ConfigError,
        DuplicateJob,
        EnqueueError,
        JobCancelled,
        JobConflict,
        JobFailed,
        JobNotFound,
        JobNotReady,
        PayloadError,
        QueuekitError,
        SoftTimeout,
        StaleAttempt,
        StepChanged,
        StepError,
        StepUnknown,
    )
    from queuekit.events import EventKind, JobEvent, JobHook, JobInstrument
    from queuekit.handle import Job
    from queuekit.job import Attempt, JobInfo, JobStatus, Progress
    from queuekit.payload.encoding import PayloadCodec, PayloadContext
    from queuekit.retry import (
        Backoff,
        Category,
        DoNotRetry,
        Fail,
        Pass,
        Retry,
        RetryAfter,
        RetryPolicy,
        RetryRule,
        RetryState,
    )
    from queuekit.schedules import At, Cron, Every, Schedule, Scheduled
    from queuekit.settings import Settings
    from queuekit.task import Call, Task, agent_task
    from queuekit.workflow import Flow, Group, GroupJob, Node, Workflow, WorkflowJob, chain, chord, group

__all__ = [
    "App",
    "At",
    "Attempt",
    "Backoff",
    "BlobAway",
    "BlobStore",
    "BulkEnqueueError",
    "Call",
    "Category",
    "ConfigError",
    "Cron",
    "DoNotRetry",
    "DuplicateJob",
    "EnqueueError",
    "EventKind",
    "Every",
    "Fail",
    "Flow",
    "Group",
    "GroupJob",
    "Job",
    "JobCancelled",
    "JobConflict",
    "JobContext",
    "JobEvent",
    "JobFailed",
    "JobHook",
    "JobInfo",
    "JobInstrument",
    "JobNotFound",
    "JobNotReady",
    "JobStatus",
    "Node",
    "Pass",
    "PayloadCodec",
    "PayloadContext",
    "PayloadError",
    "Progress",
    "QueuekitError",
    "Retry",
    "RetryAfter",
    "RetryPolicy",
    "RetryRule",
    "RetryState",
    "Schedule",
    "Scheduled",
    "Settings",
    "SoftTimeout",
    "StaleAttempt",
    "StepChanged",
    "StepError",
    "StepUnknown",
    "Task",
    "Workflow",
    "WorkflowJob",
    "agent_task",
    "chain",
    "chord",
    "configure",
    "current_job",
    "group",
]

__version__ = "0.1.0"

_HOMES = {
    "app": ("App", "configure"),
    "blobs": ("BlobStore",),
    "context": ("JobContext", "current_job"),
    "errors": (
        "BlobAway",
        "BulkEnqueueError",
        "ConfigError",
        "DuplicateJob",
        "EnqueueError",
        "JobCancelled",
        "JobConflict",
        "JobFailed",
        "JobNotFound",
        "JobNotReady",
        "PayloadError",
        "QueuekitError",
        "SoftTimeout",
        "StaleAttempt",
        "StepChanged",
        "StepError",
        "StepUnknown",
    ),
    "events": ("EventKind", "JobEvent", "JobHook", "JobInstrument"),
    "handle": ("Job",),
    "job": ("Attempt", "JobInfo", "JobStatus", "Progress"),
    "payload.encoding": ("PayloadCodec", "PayloadContext"),
    "retry": (
        "Backoff",
        "Category",
        "DoNotRetry",
        "Fail",
        "Pass",
        "Retry",
        "RetryAfter",
        "RetryPolicy",
        "RetryRule",
        "RetryState",
    ),
    "schedules": ("At", "Cron", "Every", "Schedule", "Scheduled"),
    "settings": ("Settings",),
    "task": ("Call", "Task", "agent_task"),
    "workflow": ("Flow", "Group", "GroupJob", "Node", "Workflow", "WorkflowJob", "chain", "chord", "group"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
