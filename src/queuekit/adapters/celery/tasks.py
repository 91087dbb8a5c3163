"""The Celery app, and the Celery task that each of ours becomes: it hands a delivery to the execution, and says the
outcome in Celery's words."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from kombu.transport import TRANSPORT_ALIASES

from queuekit.adapters.celery.broker import BACKSTOP
from queuekit.execution import Delivery, Dropped, Ended, Failed, Released, Retried, Stale, Succeeded, Unrecorded
from queuekit.message import HEADER, Doorbell
from queuekit.retry import describe_error

if TYPE_CHECKING:
    from queuekit.adapters.celery.broker import Broker
    from queuekit.execution import Outcome
    from queuekit.worker import Worker

__all__ = ["UNKNOWN", "DoorbellTask", "TaskFailed", "compile_task", "make_app"]

UNKNOWN: Final = "queuekit.unknown"  # runs what this worker has no task for: the execution hands it back
SOCKET_TIMEOUT: Final = 10.0


class TaskFailed(Exception):
    """A task's error as Celery is told it. Not the error itself: Celery would pickle it from a child to its parent,
    which for an SDK's errors fails, or runs their constructors."""


class DoorbellTask(Task):  # type: ignore[misc]  # Celery has no types
    abstract = True
    acks_late = True
    max_retries = 0
    typing = False
    worker: Worker | None = None  # set by a worker, for the app's tasks all at once
    in_child: Any = None  # a function to run once in a process that the worker forked
    _pid = os.getpid()

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.name} is a queuekit task: enqueue it with its enqueue()")

    def run(self, /, *args: Any, **kwargs: Any) -> Any:
        header = getattr(self.request, HEADER, None)
        if self.worker is None or header is None:
            raise RuntimeError(f"{self.name} is a queuekit task: it runs in a queuekit worker")
        if self.in_child is not None and DoorbellTask._pid != os.getpid():
            DoorbellTask._pid = os.getpid()
            self.in_child()
        if self.worker.stopping.is_set():
            raise Reject("the worker stops", requeue=True)
        bell = Doorbell.from_header(header)
        return self._say(self.worker.execution.execute(Delivery(bell, list(args), kwargs)), bell)

    def _say(self, outcome: Outcome, bell: Doorbell) -> Any:
        private = bell.private
        match outcome:
            case Succeeded(text=text):
                return None if text is None or private else json.loads(text)
            case Retried(delay=delay, reason=reason, error=error):
                # Nothing is published by this: the steward does, when the time has come.
                told = f"again in {delay:g} s" + ("" if private else f": {reason}")
                raise Retry(told, exc=_told(error, private), when=delay) from (None if private else error)
            case Failed(reason=reason, error=error):
                raise _told(error, private, reason) from (None if private else error)
            case Released(reason=reason):
                raise Retry(f"handed back: {reason}", when=0)
            case Ended(reason=reason):
                with suppress(Exception):  # Celery's books; the record has it
                    self.backend.mark_as_revoked(self.request.id, reason, request=self.request, store_result=True)
                    self.send_event("task-revoked", retry=False, terminated=True, signum=None, expired=False)
                raise Ignore(f"cancelled: {reason}")
            case Dropped(reason=reason):
                raise Ignore(f"dropped: {reason}")
            case Stale():
                raise Ignore("somebody else had ended the attempt")
            case Unrecorded(reason=reason):
                raise Reject(reason, requeue=True)


def _told(error: BaseException, private: bool, reason: str = "") -> TaskFailed:
    said = describe_error(error)
    if private:
        return TaskFailed(f"{said.error_type} (private)")
    return TaskFailed(f"{said.error_type}: {said.message}" + (f" ({reason})" if reason else ""))


def make_app(broker: Broker) -> Any:
    """An app of our own. It is not the current one: a program's own Celery app stays that."""
    TRANSPORT_ALIASES["queuekit"] = "queuekit.adapters.celery.transport:Transport"
    app = Celery("queuekit", set_as_current=False)
    app.conf.update(
        broker_read_url=broker.url("queuekit"),
        broker_write_url=broker.url(),
        broker_use_ssl=broker.ssl or False,
        broker_transport_options=broker.transport_options(SOCKET_TIMEOUT),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        worker_send_task_events=True,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=30.0,
    )
    return app


def compile_task(app: Any, name: str, timeout: float | None = None) -> Any:
    """The Celery task of that name, registered once; `timeout` in seconds."""
    known = app.tasks.get(name)
    if isinstance(known, DoorbellTask):
        return known
    options = {"name": name, "abstract": False, "time_limit": None if timeout is None else timeout + BACKSTOP}
    return app.register_task(type(name, (DoorbellTask,), options)())
