"""What travels: the sealed message of a job, and the doorbell that a broker carries.

The message is written once, at enqueue, and kept in the job's record; every publication is made from it. What the
broker carries is a doorbell: the native message of the engine, with the arguments for humans to read and the header
`queuekit` for us. What a worker runs comes from the record, never from the doorbell.

Both carry a version. A reader takes its own and the one before, by an explicit upgrade. What is written carries the
lowest version that says all of it, so that a deploy can roll in either direction while nothing new is used. A field
that a reader may ignore is added without a new version: one that it does not know is left out. See
docs/explanation/versions.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal

from queuekit.payload.arguments import HIDDEN, IN_THE_RECORD, Arguments, as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queuekit.payload.encoding import PayloadCodec, PayloadContext
    from queuekit.signing import Signer

__all__ = [
    "BUCKETS",
    "DOORBELL_VERSION",
    "HEADER",
    "ID_PATTERN",
    "SCHEDULE",
    "SIGNATURE",
    "VERSION",
    "Doorbell",
    "InvalidMessage",
    "Message",
    "Publication",
    "as_text",
    "digest_of",
    "header_around",
    "moved",
    "route_of",
    "schedule_id",
    "shortened",
    "shown_of",
    "split_route",
]

VERSION: Final = 2  # of messages: 2 added `payload`
DOORBELL_VERSION: Final = 1
HEADER: Final = "queuekit"
SIGNATURE: Final = "signature"  # in a sealed message and in a doorbell: see queuekit.signing
SCHEDULE: Final = "queuekit-schedule"  # the header that names the schedule a job comes from
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")  # what all three engines accept as a job id
QUEUE_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
ROUTE_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}:[A-Za-z0-9_.-]{1,100}:[0369]\Z")
MAX_TIMEOUT: Final = 1e9  # seconds: more than a lifetime, and no infinity in the record's arithmetic
MAX_PSEQ: Final = 2**53  # what a Lua number can count
MAX_NAME: Final = 1000  # characters of a task's name, or of an epoch
KEPT: Final = 100_000  # characters of a message that cannot be read, in the quarantine
BUCKETS: Final = (0, 3, 6, 9)  # the four levels that every engine can keep apart (kombu's Redis transport has four)
_LEVELS: Final = tuple(max(one for one in BUCKETS if one <= priority) for priority in range(10))


as_sorted: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def digest_of(*asked: Any, key: bytes = b"") -> str:
    """See Message.digest."""
    return digest_of_text(as_sorted(asked), key)


def digest_of_text(text: str, key: bytes = b"") -> str:
    return blake2b(text.encode(), digest_size=16, key=key).hexdigest()


class InvalidMessage(ValueError):
    """A text that is not a message of ours, or is of a version that this code does not read. The text is the reason."""


# ---- versions ------------------------------------------------------------------------------------------------------


def _without_payload(message: dict[str, Any]) -> dict[str, Any]:
    """Message 1 -> 2: its arguments stand in it as they are."""
    return {**message, "payload": None}


MESSAGE_UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _without_payload}
DOORBELL_UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}


def _current(
    what: str,
    data: dict[str, Any],
    found: object,
    version: int,
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]],
) -> dict[str, Any]:
    """The same in the words of `version`. Raises InvalidMessage for one that is neither this nor the one before."""
    if type(found) is int and found == version:
        return data
    if type(found) is int and found == version - 1 and found in upgrades:
        return upgrades[found](data)
    read = " and ".join(str(one) for one in (version - 1, version) if one == version or one in upgrades)
    raise InvalidMessage(f"{what} version {found!r} is not one that is read here ({read})")


# ---- routes --------------------------------------------------------------------------------------------------------


def bucket(priority: int) -> int:
    """The highest of the four levels that is not above `priority` (0 to 9, higher first)."""
    return _LEVELS[priority] if 0 <= priority < len(_LEVELS) else max(one for one in BUCKETS if one <= priority)


@lru_cache(maxsize=1024)
def route_of(backend: str, queue: str, priority: int) -> str:
    """The route of a job: first in, first out within it, on one backend, queue and priority level."""
    return f"{backend}:{queue}:{bucket(priority)}"


def schedule_id(name: str) -> str:
    """What stands for the job's id in the message that a schedule's are made from."""
    return f"schedule-of-{name}"


def split_route(route: str) -> tuple[str, str, int]:
    backend, queue, level = route.split(":")
    return backend, queue, int(level)


@dataclass(frozen=True, slots=True)
class Message:
    """A request to run a task once, as it was when it was enqueued. Times in seconds.

    Attributes:
        payload: the arguments as a payload codec encoded them, in base64; `args` and `kwargs` are empty then.
        inputs: where arguments are the results of other jobs: [[PATH, JOB, TASK], ...]. PATH leads from an argument's
            place or name into its lists and objects, to a null that stands for the result.
        framed: it was read by `frame()`: its arguments were left out, so it can be published and not run.
    """

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
    payload: str | None = None
    inputs: list[list[Any]] | None = None
    framed: bool = False

    @property
    def version(self) -> int:
        """The lowest that says all of it. A reader of version 1 must not run a job whose payload it cannot see."""
        return 1 if self.payload is None else 2

    @property
    def route(self) -> str:
        return route_of(self.backend, self.queue, self.priority)

    @property
    def hidden(self) -> bool:
        """Whether the broker, the engine's monitors and logs are not to see arguments and result."""
        return self.private or self.framed or self.payload is not None

    def seal(self, signer: Signer | None = None) -> str:
        """The text that is recorded, signed where there is a signer."""
        assert not self.framed, "its arguments were left out"
        data = {name: getattr(self, name) for name in _SEALED}  # asdict() would copy the arguments, level by level
        for name in ("payload", "inputs"):  # what says nothing is not written
            if (value := getattr(self, name)) is not None:
                data[name] = value
        data["version"] = self.version
        text = as_json(data)
        return text if signer is None else signer.sign(text)

    @property
    def digest(self) -> str:
        """Says whether two requests under one id ask for the same thing."""
        return self._digest([])

    def _digest(self, salt: list[Any], key: bytes = b"") -> str:
        more = [*salt, self.inputs] if self.inputs else salt
        return digest_of(self.task, self.args, self.kwargs, self.queue, self.backend, self.priority, *more, key=key)

    # ---- through a payload codec ------------------------------------------------------------------------------------

    def encoded(self, codec: PayloadCodec | None) -> tuple[Message, str]:
        """The message as it is recorded, and its digest. The digest is made of the arguments and not of what the codec
        makes of them, which is another text each time. Raises whatever the codec raises."""
        if codec is None:
            return self, self.digest
        from queuekit.payload import encoding

        # Salted, so that equal arguments of two jobs cannot be told; and keyed, where the codec has a key for it.
        digest = self._digest([self.id], getattr(codec, "digest_key", b""))
        data = as_json([self.args, self.kwargs])
        payload = encoding.encode(codec, data.encode(), self._context("arguments"))
        return replace(self, args=[], kwargs={}, payload=payload), digest

    def arguments(self, codec: PayloadCodec | None) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as JSON values. Raises Undecodable (a PayloadError)."""
        if self.payload is None:
            return self.args, self.kwargs
        from queuekit.payload import encoding

        data = encoding.decode(codec, self.payload, self._context("arguments"))
        try:
            args, kwargs = json.loads(data)
        except (ValueError, TypeError):
            raise encoding.Undecodable(f"what the payload codec gave for job {self.id} are no arguments") from None
        return args, kwargs

    def encode_result(self, codec: PayloadCodec, text: str, kind: Literal["result", "step"] = "result") -> str:
        """Raises whatever the codec raises."""
        from queuekit.payload import encoding

        return encoding.encode_result(codec, text, self._context(kind))

    def decode_result(self, codec: PayloadCodec | None, text: str, kind: Literal["result", "step"] = "result") -> str:
        """The result's JSON text, of what was recorded. Raises Undecodable (a PayloadError)."""
        from queuekit.payload import encoding

        return encoding.decode_result(codec, text, self._context(kind))

    def _context(self, kind: Literal["arguments", "result", "step"]) -> PayloadContext:
        from queuekit.payload import encoding

        # Arguments that come by a schedule were encoded once, for all of its jobs.
        of_all = kind == "arguments" and SCHEDULE in self.headers
        return encoding.PayloadContext(schedule_id(self.headers[SCHEDULE]) if of_all else self.id, self.task, kind)

    @classmethod
    def open(cls, text: str | bytes) -> Message:
        """Raises InvalidMessage with the reason."""
        data = _object(text)
        data = _current("message", data, data.get("version"), VERSION, MESSAGE_UPGRADES)
        try:
            return cls(**{name: value for name, value in data.items() if name in _KEPT})
        except TypeError as error:
            raise InvalidMessage(str(error)) from None

    @classmethod
    def to_publish(cls, text: str | bytes) -> Message:
        """open(), or for a version that is not read here its frame(). Raises InvalidMessage."""
        try:
            return cls.open(text)
        except InvalidMessage:
            return cls.frame(text)

    @classmethod
    def frame(cls, text: str | bytes) -> Message:
        """What is needed to publish a message of any version: these fields have the same meaning in all of them.

        A steward publishes what only a later version's workers can run: whoever hears of it first hands it back.

        Raises:
            InvalidMessage: it is not even that.
        """
        data = _object(text)
        frame = {name: data.get(name) for name in ("id", "task", "queue", "backend")}
        bad = [name for name, value in frame.items() if not isinstance(value, str)]
        if bad or type(data.get("priority", 0)) is not int:
            raise InvalidMessage(f"a message without a usable {', '.join(bad) or 'priority'}")
        shared = {name: data[name] for name in _FRAME if name in data}
        return cls(**frame, **shared, args=[], kwargs={}, framed=True)  # type: ignore[arg-type]  # checked above


def moved(text: str, backend: str) -> str:
    """A sealed message for another backend: of whatever version, with all that stands in it but its signature. As it
    is where it is for that backend already. Raises InvalidMessage."""
    data = _object(text)
    if data.get("backend") == backend:
        return text
    data.pop(SIGNATURE, None)
    return json.dumps({**data, "backend": backend}, separators=(",", ":"), ensure_ascii=False)


_FRAME: Final = ("priority", "timeout", "result_ttl", "keep_result", "private", "retry")
_KEPT: Final = frozenset(one.name for one in fields(Message)) - {"framed"}
_SEALED: Final = tuple(one.name for one in fields(Message) if one.name not in {"framed", "payload", "inputs"})


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidMessage(f"a message is a JSON object, not {type(data).__name__}")
    return data


def shortened(raw: str | bytes) -> str:
    """A message that cannot be read, as the quarantine keeps it: its beginning, and how long it was."""
    text = raw[: 4 * KEPT].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    if len(text) <= KEPT and (isinstance(raw, str) or len(raw) <= 4 * KEPT):
        return text
    return f"{text[:KEPT]}... ({len(raw)} {'bytes' if isinstance(raw, bytes) else 'characters'})"


def as_text(value: object) -> str:
    """For the quarantine: JSON of whatever an engine has read."""
    try:
        return shortened(json.dumps(value, default=repr))
    except (TypeError, ValueError, RecursionError) as error:  # keys that are no text, or too deep
        return f"(cannot be shown: {type(error).__name__})"


@dataclass(frozen=True, slots=True)
class Doorbell:
    """The header of a native message: which job to ask the store for. `header`: as it came, or was signed."""

    id: str
    task: str
    pseq: int
    epoch: str
    route: str
    timeout: float | None = None
    own_policy: bool = False  # options(retry=): the policy stands in the record, not on the task
    private: bool = False  # the arguments beside it are placeholders
    left_out: bool = False  # so are these: they stand in the record alone, and are no secret
    version: int = DOORBELL_VERSION
    header: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def to_header(self) -> dict[str, Any]:
        if self.header is not None:
            return dict(self.header)
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
            **({"left_out": True} if self.left_out else {}),
        }

    @classmethod
    def from_header(cls, came: object) -> Doorbell:
        """Its signature is checked by the claim. Raises InvalidMessage with the reason."""
        if not isinstance(came, dict):
            raise InvalidMessage(f"the header {HEADER!r} is a mapping, not {type(came).__name__}")
        header = _current("doorbell", came, came.get("v"), DOORBELL_VERSION, DOORBELL_UPGRADES)
        id, task, pseq, epoch, route = (header.get(name) for name in ("id", "task", "pseq", "epoch", "route"))
        if not isinstance(id, str) or not ID_PATTERN.match(id):
            raise InvalidMessage(f"job id {str(id)[:80]!r} is not a valid id")
        if type(pseq) is not int or not (isinstance(task, str) and isinstance(epoch, str) and isinstance(route, str)):
            raise InvalidMessage("pseq must be an integer; task, epoch and route must be strings")
        if not 0 <= pseq < MAX_PSEQ or len(task) > MAX_NAME or len(epoch) > MAX_NAME:
            raise InvalidMessage("pseq, task or epoch are larger than any of ours")
        timeout = header.get("timeout")
        if timeout is not None and (type(timeout) not in {int, float} or not 0 < timeout < MAX_TIMEOUT):
            raise InvalidMessage(f"timeout {timeout!r} is not a number of seconds")
        if not ROUTE_PATTERN.match(route):
            raise InvalidMessage(f"route {route[:80]!r} is not backend:queue:level")
        own_policy = header.get("own_policy") is True
        private, left_out = header.get("private") is True, header.get("left_out") is True
        return cls(id, task, pseq, epoch, route, timeout, own_policy, private, left_out, header=came)

    def check_native(self, id: object) -> None:
        """Whether the engine's own id of the message is one that a publication of this job has. Raises
        InvalidMessage: it was sent again under another id."""
        if id not in (self.id, f"{self.id}-{self.pseq}"):
            raise InvalidMessage(f"it came as {str(id)[:200]!r}, and its doorbell is of the job {self.id}")


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication of a job. `number` counts the publications of the job, from 1; `pseq` those of its route."""

    message: Message
    pseq: int
    number: int
    epoch: str
    signer: Signer | None = field(default=None, compare=False, repr=False)

    @property
    def native_id(self) -> str:
        """The engine's own id. Only the first publication may carry the job's: an old hash, registry, TTL or revoked
        list would swallow a later one."""
        return self.message.id if self.number == 1 else f"{self.message.id}-{self.pseq}"

    @property
    def shown(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the broker and the engine's monitors may see them."""
        shown = HIDDEN if self.message.hidden else self.message
        return shown.args, shown.kwargs

    def within(self, most: int | None) -> tuple[list[Any], dict[str, Any], Mapping[str, Any]]:
        """What is shown, and the header beside it; `most`: characters of JSON that arguments may have, or they are left
        out (Settings.shown_limit)."""
        args, kwargs = self.shown
        if most is not None and Arguments.of(args, kwargs).size > most:
            return self.left_out()
        return args, kwargs, self.header()

    def left_out(self) -> tuple[list[Any], dict[str, Any], Mapping[str, Any]]:
        """As within(), without the arguments."""
        return IN_THE_RECORD.args, IN_THE_RECORD.kwargs, self.header(left_out=True)

    @property
    def doorbell(self) -> Doorbell:
        return self._doorbell(False)

    def _doorbell(self, left_out: bool) -> Doorbell:
        message = self.message
        bell = Doorbell(
            message.id,
            message.task,
            self.pseq,
            self.epoch,
            message.route,
            message.timeout,
            message.retry is not None,
            message.hidden,
            left_out,
        )
        return bell if self.signer is None else replace(bell, header=self.signer.sign_header(bell.to_header()))

    def header(self, *, left_out: bool = False) -> Mapping[str, Any]:
        return self._doorbell(left_out).to_header()


Around = tuple[str, str, str, str]  # of a header's JSON text: before the id, then the pseq, then the epoch; the rest


def shown_of(
    like: Message, most: int | None, unfit: Callable[[Arguments], bool] = lambda _: False
) -> Callable[[Arguments], tuple[Arguments, Around]]:
    """Publication.within(), of first publications of messages like this one, by their arguments. `unfit`: whether they
    are left out in any case."""
    header, without = header_around(like), header_around(like, left_out=True)
    if like.hidden:
        return lambda _: (HIDDEN, header)

    def shown(arguments: Arguments) -> tuple[Arguments, Around]:
        if (most is not None and arguments.size > most) or unfit(arguments):
            return IN_THE_RECORD, without
        return arguments, header

    return shown


def header_around(like: Message, *, left_out: bool = False) -> Around:
    """Of first publications of messages like this one."""
    parts = [""]
    for name, value in Publication(like, 0, 1, "").header(left_out=left_out).items():
        parts[-1] += f'{"," if parts[-1] or len(parts) > 1 else "{"}"{name}":'
        if name == "pseq":
            parts.append("")
        elif name in ("id", "epoch"):
            parts[-1] += '"'
            parts.append('"')
        else:
            parts[-1] += as_json(value)
    before, between, then, behind = parts
    return before, between, then, behind + "}"
