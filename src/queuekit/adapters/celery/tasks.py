"""The Celery app, and the Celery task that each of ours becomes: it hands a delivery to the execution, and says the
outcome in Celery's words."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError

from queuekit.adapters.celery.broker import BACKSTOP
from queuekit.errors import ConfigError
from queuekit.execution import Delivery, Dropped, Ended, Failed, Released, Retried, Stale, Succeeded, Unrecorded
from queuekit.job import JobStatus
from queuekit.message import HEADER, Doorbell, InvalidMessage, as_text
from queuekit.retry import describe_error
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from queuekit.adapters.celery.broker import Broker
    from queuekit.execution import Outcome
    from queuekit.store import Store
    from queuekit.task import Task as AgentTask
    from queuekit.worker import Worker

    AnyTask = AgentTask[..., Any, Any]

__all__ = ["ADOPTED", "UNKNOWN", "DoorbellTask", "Said", "TaskFailed", "adopt", "compile_task", "make_app", "said_of"]

UNKNOWN: Final = "queuekit.unknown"  # runs what this worker has no task for: the execution hands it back
ADOPTED: Final = "native"  # in our header, for a message that a native producer sent
SOCKET_TIMEOUT: Final = 5.0  # seconds that the events of a worker may wait for a broker that has gone silent
FOLLOW: Final = 60.0  # seconds that the end of an attempt is waited for whose process died

log = logging.getLogger("queuekit.celery")


class TaskFailed(Exception):
    """A task's error as Celery is told it. Not the error itself: Celery would pickle it from a child to its parent,
    which for an SDK's errors fails, or runs their constructors."""


class DoorbellTask(Task):  # type: ignore[misc]  # Celery has no types
    """A task of ours as Celery knows it. All that decides about acknowledgement, retries and results is set here, for
    the task: an app's own settings for all tasks do not reach it."""

    abstract = True
    Request = "queuekit.adapters.celery.link:DoorbellRequest"  # by name: a producer has no use for it
    acks_late = True
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = True
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    ignore_result = True
    store_errors_even_if_ignored = False
    track_started = False
    serializer = "json"
    max_retries = 0
    rate_limit = 0  # none, whatever the app's default is
    typing = False
    timeout: float | None = None  # seconds; of the task itself
    broker: Broker | None = None
    home = ""  # the queue, in queuekit's words
    level = 0
    worker: Worker | None = None  # set by a worker, for the app's tasks all at once
    around: Any = staticmethod(nullcontext)  # a context manager for each run: signals in a child

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """What a native producer calls. With the setting `adopt` the message becomes a job where it is received.

        Raises:
            TypeError: the setting is off.
        """
        if self.broker is None or not self.broker.settings.adopt:
            raise TypeError(
                f"{self.name} is a queuekit task: enqueue it with its enqueue(). With the setting adopt=true a native "
                "message starts it too"
            )
        queue = self.broker.queue(self.home, self.level)
        route = {"queue": queue, "exchange": "", "routing_key": queue.name, "serializer": "json"}
        priority = None if self.broker.queue_per_level else self.broker.priority(self.level)
        return super().apply_async(args, kwargs, *more, **{"priority": priority, **options, **route})

    def run(self, /, *args: Any, **kwargs: Any) -> Any:
        header = getattr(self.request, HEADER, None)
        if self.worker is None or header is None:
            raise RuntimeError(f"{self.name} is a queuekit task: it runs in a queuekit worker")
        around: AbstractContextManager[Any] = self.around()
        with around:
            if self.worker.stopping.is_set():
                raise Reject("the worker stops", requeue=True)
            if ADOPTED in header:
                delivery = self._adopt(header[ADOPTED], args, kwargs)
            else:
                source = (self.request.delivery_info or {}).get("routing_key")
                delivery = Delivery(Doorbell.from_header(header), list(args), kwargs, str(source or ""))
            outcome = self.worker.execution.execute(delivery)
            return self._say(outcome, delivery.bell)

    def _adopt(self, found: dict[str, Any], args: Any, kwargs: Any) -> Delivery:
        """The delivery for a native message. Celery is told by an exception where there is none."""
        assert self.worker is not None
        request = self.request
        name = request.shadow or request.task  # what is not known here has been renamed
        try:
            delivery = adopt(self, id=request.id, name=name, found=found, args=args, kwargs=kwargs)
        except InvalidMessage as error:
            told = as_text({"task": name, "id": request.id, "args": args, "kwargs": kwargs})
            if not self.worker.quarantine(told, str(error), source=found["queue"]):
                raise Reject(str(error), requeue=True) from None
            raise Ignore(f"put aside: {error}") from None
        if isinstance(delivery, Unrecorded):
            raise Reject(delivery.reason, requeue=True)
        return delivery

    def _say(self, outcome: Outcome, bell: Doorbell) -> Any:
        said = said_of(outcome, bell)
        if said is not None:
            self.keep(bell.id, said.state, said.result, self.request)
        match outcome:
            case Succeeded():
                assert said is not None
                return said.result
            case Retried(delay=delay, reason=reason, error=error):
                assert said is not None
                # Nothing is published by this: the steward does, when the time has come.
                told = f"again in {delay:g} s" + ("" if bell.private else f": {reason}")
                raise Retry(told, exc=said.result, when=delay) from (None if bell.private else error)
            case Failed(error=error):
                assert said is not None
                raise said.result from (None if bell.private else error)
            case Released(reason=reason):
                raise Retry(f"handed back: {reason}", when=0)
            case Ended(reason=reason):
                with suppress(Exception):  # for monitors; the record has it
                    self.send_event("task-revoked", retry=False, terminated=True, signum=None, expired=False)
                raise Ignore(f"cancelled: {reason}")
            case Dropped(reason=reason):
                raise Ignore(f"dropped: {reason}")
            case Stale():
                self.keep_what_the_record_says(bell.id)
                raise Ignore("somebody else had ended the attempt")
            case Unrecorded(reason=reason):
                raise Reject(reason, requeue=True)

    @property
    def _keeps(self) -> bool:
        return self.broker is not None and self.broker.settings.celery_result

    def keep(self, id: str, state: str, result: Any, request: Any = None) -> None:
        """With the setting celery_result: in the app's result backend, under the job's id. A backend that is away costs
        the copy and not the job: the record has the outcome already."""
        if not self._keeps:
            return
        try:
            self.backend.store_result(id, result, state, request=request)
        except Exception as error:
            log.warning("job %s: its outcome could not be stored in Celery's result backend: %s", id, error)

    def keep_what_the_record_says(self, id: str) -> None:
        """For a job whose process died, as soon as a steward has ended the attempt. Returns at once."""
        if self._keeps and self.worker is not None:
            store = self.worker.store
            threading.Thread(target=self._follow, args=(id, store), name="queuekit-result", daemon=True).start()

    def _follow(self, id: str, store: Store) -> None:
        until = time.monotonic() + FOLLOW
        while time.monotonic() < until:
            time.sleep(0.3)
            try:
                record = store.get(id)
            except StoreAway:
                continue
            if record is None or record.status is JobStatus.succeeded:
                return
            if record.status is not JobStatus.running:
                state = {JobStatus.failed: "FAILURE", JobStatus.cancelled: "REVOKED"}.get(record.status, "RETRY")
                self.keep(id, state, TaskFailed(record.reason or "its process died"))
                return


@dataclass(frozen=True, slots=True)
class Said:
    """An outcome in Celery's words: the state, and the result or the error with it."""

    state: str
    result: Any


def said_of(outcome: Outcome, bell: Doorbell) -> Said | None:
    """None: Celery's state of it is left alone."""
    private = bell.private
    match outcome:
        case Succeeded(text=text):
            return Said("SUCCESS", None if text is None or private else json.loads(text))
        case Retried(error=error):
            return Said("RETRY", _told(error, private))
        case Failed(reason=reason, error=error):
            return Said("FAILURE", _told(error, private, reason))
        case Released(reason=reason):
            return Said("RETRY", TaskFailed(f"handed back: {reason}"))
        case Ended(reason=reason):
            return Said("REVOKED", TaskRevokedError(reason))
        case _:
            return None


def adopt(
    task: DoorbellTask, *, id: Any, name: str, found: dict[str, Any], args: Any, kwargs: Any
) -> Delivery | Unrecorded:
    """The delivery for a native message that was `found` somewhere. Raises InvalidMessage."""
    assert task.worker is not None
    assert task.broker is not None
    priority = task.broker.level(found["queue"], found["priority"], task.level)
    queue = task.broker.base(found["queue"])
    return task.worker.execution.adopt(id=id, task=name, args=list(args), kwargs=kwargs, queue=queue, priority=priority)


def _told(error: BaseException, private: bool, reason: str = "") -> TaskFailed:
    said = describe_error(error)
    if private:
        return TaskFailed(f"{said.error_type} (private)")
    return TaskFailed(f"{said.error_type}: {said.message}" + (f" ({reason})" if reason else ""))


def make_app(broker: Broker) -> Any:
    """An app of our own. It is not the current one: a program's own Celery app stays that."""
    app = Celery("queuekit", set_as_current=False)
    app.events.dispatcher_cls = "queuekit.adapters.celery.monitoring:Dispatcher"
    app.conf.update(
        broker_url=broker.url(),
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


def compile_task(app: Any, name: str, broker: Broker, task: AnyTask | None = None) -> Any:
    """The Celery task of that name, registered once.

    Raises:
        ConfigError: the app has a task of its own under that name.
    """
    known = app.tasks.get(name)
    if isinstance(known, DoorbellTask):
        return known
    if known is not None:
        raise ConfigError(
            f"the Celery app has a task {name!r} of its own ({type(known).__module__}), so that the @agent_task of the "
            "same name cannot be registered: give one of them another name="
        )
    timeout = None if task is None else task.timeout
    options = {
        "name": name,
        "abstract": False,
        "broker": broker,
        "timeout": timeout,
        "home": "default" if task is None else task.queue,
        "level": 0 if task is None else task.priority,
        "time_limit": None if timeout is None else timeout + BACKSTOP,
    }
    return app.register_task(type(name, (DoorbellTask,), options)())
