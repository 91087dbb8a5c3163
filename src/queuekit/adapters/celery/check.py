"""What of a user's Celery settings stands against a promise of queuekit's. They are shown, and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.serialization import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finding", "check"]

JSON = {"json", "application/json"}
OURS = ("acks_late", "acks_on_failure_or_timeout", "reject_on_worker_lost", "retry_on_worker_lost", "rate_limit",
        "ignore_result", "time_limit", "soft_time_limit", "max_retries", "autoretry_for")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting.

    Attributes:
        setting: its name in Celery.
        value: what it is.
        why: what does not hold because of it.
        line: the line to add or to change in the app's configuration.
        fatal: a worker with it cannot run queuekit's tasks, and does not take any; it runs the native ones.
    """

    setting: str
    value: Any
    why: str
    line: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.setting}={self.value!r}: {self.why}. Remedy: {self.line}"


def check(app: Any) -> list[Finding]:
    """What in the app's configuration undoes a promise, with the line that mends it. Nothing is changed."""
    return list(_findings(app.conf))


def _findings(conf: Any) -> Iterator[Finding]:
    accepted = {registry.name_to_type.get(one, one) for one in conf.accept_content or ()}
    if not accepted & JSON:
        line = f"accept_content = {[*(conf.accept_content or ()), 'json']!r}"
        yield Finding("accept_content", conf.accept_content, "queuekit's messages are JSON", line, fatal=True)
    if conf.worker_pool_start_method != "fork":
        yield Finding(
            "worker_pool_start_method",
            conf.worker_pool_start_method,
            "a child that is not forked does not know the worker it belongs to",
            'worker_pool_start_method = "fork"',
            fatal=True,
        )
    multiplier = conf.worker_prefetch_multiplier
    if multiplier != 1:
        held = "as many native tasks as there are" if not multiplier else f"up to {multiplier} native tasks a process"
        yield Finding(
            "worker_prefetch_multiplier",
            multiplier,
            f"a job waits in the worker behind {held} that it has taken ahead",
            "worker_prefetch_multiplier = 1",
        )
    yield from _about_tasks(conf)
    yield from _about_workers(conf)


def _about_tasks(conf: Any) -> Iterator[Finding]:
    if conf.task_always_eager:
        why = (
            "task.native.delay() runs the task here and now, which a queuekit task refuses; enqueue() does not heed it"
        )
        yield Finding("task_always_eager", True, why, 'task_always_eager = False, and backend = "memory" for tests')
    for pattern, annotated in _annotations(conf.task_annotations):
        found = [name for name in annotated if name in OURS]
        if pattern == "*" and found:
            yield Finding(
                "task_annotations",
                {"*": {name: annotated[name] for name in found}},
                "it is set on queuekit's tasks too, over what they need",
                "name the native tasks in task_annotations, in place of '*'",
            )


def _about_workers(conf: Any) -> Iterator[Finding]:
    if conf.worker_cancel_long_running_tasks_on_connection_loss:
        yield Finding(
            "worker_cancel_long_running_tasks_on_connection_loss",
            True,
            "when the app's own broker connection breaks, Celery kills the processes that run jobs: each is an attempt",
            "worker_cancel_long_running_tasks_on_connection_loss = False",
        )
    for name in ("worker_max_tasks_per_child", "worker_max_memory_per_child"):
        if conf[name] == 1:
            why = "each job pays for a process, its imports and its connections, and async tasks share no client"
            yield Finding(name, 1, why, f"{name} = 100")
    if conf.broker_use_ssl:
        yield Finding(
            "broker_use_ssl",
            True,
            "queuekit's own connections go by the URL alone",
            "put the options into queuekit's broker_url: rediss://...?ssl_ca_certs=/path/ca.pem",
        )
    options = conf.broker_transport_options or {}
    on_redis = any(str(url or "").startswith(("redis", "sentinel")) for url in (conf.broker_url, conf.broker_read_url))
    if on_redis and options.get("socket_timeout") is None:
        yield Finding(
            "broker_transport_options['socket_timeout']",
            None,
            "when the broker goes silent, without a reset, the connection waits for ever, and the whole worker with it",
            'broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 5, "health_check_interval": 5}',
        )
    if options.get("global_keyprefix"):
        yield Finding(
            "broker_transport_options",
            {"global_keyprefix": options["global_keyprefix"]},
            "native producers (adopt) write to queues of other names; queuekit's own are kept apart by its namespace",
            "enqueue with queuekit, or leave global_keyprefix out",
        )


def _annotations(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in found if isinstance(found, (list, tuple)) else (found,):
        if isinstance(one, dict):
            yield from ((pattern, options) for pattern, options in one.items() if isinstance(options, dict))
