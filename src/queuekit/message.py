"""What travels: the sealed message of a job, and the doorbell that a broker carries.

The message is written once, at enqueue, and kept in the job's record; every publication is made from it. What the
broker carries is a doorbell: the native message of the engine, with the arguments for humans to read and the header
`queuekit` for us. What a worker runs comes from the record, never from the doorbell.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HEADER", "ID_PATTERN", "VERSION", "Doorbell", "InvalidMessage", "Message", "Publication", "route_of"]

VERSION: Final = 1
HEADER: Final = "queuekit"
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")  # what all three engines accept as a job id
QUEUE_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
ROUTE_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}:[A-Za-z0-9_.-]{1,100}:[0369]\Z")
MAX_TIMEOUT: Final = 1e9  # seconds: more than a lifetime, and no infinity in the record's arithmetic
BUCKETS: Final = (0, 3, 6, 9)  # the four levels that every engine can keep apart (kombu's Redis transport has four)


class InvalidMessage(ValueError):
    """A text that is not a message of ours, or is of a version that this code does not read. The text is the reason."""


def bucket(priority: int) -> int:
    """The highest of the four levels that is not above `priority` (0 to 9, higher first)."""
    return max(level for level in BUCKETS if level <= priority)


def route_of(backend: str, queue: str, priority: int) -> str:
    """The route of a job: first in, first out within it, on one backend, queue and priority level."""
    return f"{backend}:{queue}:{bucket(priority)}"


def split_route(route: str) -> tuple[str, str, int]:
    backend, queue, level = route.split(":")
    return backend, queue, int(level)


@dataclass(frozen=True, slots=True)
class Message:
    """A request to run a task once, as it was when it was enqueued. Times in seconds."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str
    backend: str
    priority: int = 0
    timeout: float | None = None
    soft_timeout: float | None = None
    result_ttl: float = 86400.0
    keep_result: bool = True
    private: bool = False
    retry: dict[str, Any] | str | None = None  # only where options(retry=) differs from the task's own policy
    headers: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    @property
    def route(self) -> str:
        return route_of(self.backend, self.queue, self.priority)

    def seal(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @property
    def digest(self) -> str:
        """Says whether two requests under one id ask for the same thing."""
        same = [self.task, self.args, self.kwargs, self.queue, self.backend, self.priority]
        text = json.dumps(same, sort_keys=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=16).hexdigest()

    @classmethod
    def open(cls, text: str | bytes) -> Message:
        """Raises InvalidMessage with the reason."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidMessage(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise InvalidMessage(f"a message is a JSON object, not {type(data).__name__}")
        if data.get("version") != VERSION:
            raise InvalidMessage(f"message version {data.get('version')!r} is not {VERSION}, the one read here")
        try:
            return cls(**data)
        except TypeError as error:
            raise InvalidMessage(str(error)) from None


@dataclass(frozen=True, slots=True)
class Doorbell:
    """The header of a native message: which job to ask the store for."""

    id: str
    task: str
    pseq: int
    epoch: str
    route: str
    timeout: float | None = None
    own_policy: bool = False  # options(retry=): the policy stands in the record, not on the task
    private: bool = False  # the arguments beside it are placeholders
    version: int = VERSION

    def to_header(self) -> dict[str, Any]:
        return {
            "v": self.version,
            "id": self.id,
            "task": self.task,
            "pseq": self.pseq,
            "epoch": self.epoch,
            "route": self.route,
            "timeout": self.timeout,
            "own_policy": self.own_policy,
            "private": self.private,
        }

    @classmethod
    def from_header(cls, header: object) -> Doorbell:
        """Raises InvalidMessage with the reason."""
        if not isinstance(header, dict):
            raise InvalidMessage(f"the header {HEADER!r} is a mapping, not {type(header).__name__}")
        if header.get("v") != VERSION:
            raise InvalidMessage(f"doorbell version {header.get('v')!r} is not {VERSION}, the one read here")
        id, task, pseq, epoch, route = (header.get(name) for name in ("id", "task", "pseq", "epoch", "route"))
        if not isinstance(id, str) or not ID_PATTERN.match(id):
            raise InvalidMessage(f"job id {str(id)[:80]!r} is not a valid id")
        if type(pseq) is not int or not (isinstance(task, str) and isinstance(epoch, str) and isinstance(route, str)):
            raise InvalidMessage("pseq must be an integer; task, epoch and route must be strings")
        timeout = header.get("timeout")
        if timeout is not None and (type(timeout) not in {int, float} or not 0 < timeout < MAX_TIMEOUT):
            raise InvalidMessage(f"timeout {timeout!r} is not a number of seconds")
        if not ROUTE_PATTERN.match(route):
            raise InvalidMessage(f"route {route[:80]!r} is not backend:queue:level")
        own_policy = header.get("own_policy") is True
        private = header.get("private") is True
        return cls(id, task, pseq, epoch, route, timeout, own_policy, private)


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication of a job. `number` counts the publications of the job, from 1; `pseq` those of its route."""

    message: Message
    pseq: int
    number: int
    epoch: str

    @property
    def native_id(self) -> str:
        """The engine's own id. Only the first publication may carry the job's: an old hash, registry, TTL or revoked
        list would swallow a later one."""
        return self.message.id if self.number == 1 else f"{self.message.id}-{self.pseq}"

    @property
    def shown(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the broker and the engine's monitors may see them."""
        return (["(private)"], {}) if self.message.private else (self.message.args, self.message.kwargs)

    @property
    def doorbell(self) -> Doorbell:
        message = self.message
        return Doorbell(
            message.id,
            message.task,
            self.pseq,
            self.epoch,
            message.route,
            message.timeout,
            message.retry is not None,
            message.private,
        )

    def header(self) -> Mapping[str, Any]:
        return self.doorbell.to_header()
