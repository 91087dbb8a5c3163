"""Results of steps that lie outside of the record, with the blob hook: what is put there, and read back.

What the record keeps is a reference. The hash in the key lets an attempt that has been given up write what it likes: it
cannot change what another one has kept, and a crash between the two leaves at most an object that nobody refers to.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from queuekit.errors import BlobAway, JobCancelled, StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from queuekit.blobs import BlobStore
    from queuekit.message import Message
    from queuekit.settings import Settings

__all__ = ["MARK", "Outside", "Waiting"]

log = logging.getLogger("queuekit")

T = TypeVar("T")

Waiting: TypeAlias = "Generator[float, None, T]"
"""What may have to wait: it gives seconds, and returns what came of it. Who runs it waits, in a thread or on a loop."""

MARK: Final = "blob:"  # before a reference: neither JSON nor what a payload codec has made begins so
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 4.0)  # seconds between two tries


@dataclass(frozen=True, slots=True)
class Reference:
    key: str
    sha256: str
    size: int  # bytes

    def write(self) -> str:
        return MARK + json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Reference:
        """Raises ValueError: it is none."""
        try:
            found = cls(**json.loads(text.removeprefix(MARK)))
        except TypeError as error:
            raise ValueError(str(error)) from None
        if not (isinstance(found.key, str) and isinstance(found.sha256, str) and type(found.size) is int):
            raise ValueError("a key and a hash are texts, and a size is a number")
        return found


class Outside:
    """Of one attempt.

    Args:
        over: whether the attempt has ended here: nothing is waited for any more.
    """

    def __init__(self, settings: Settings, message: Message, over: Callable[[], bool]) -> None:
        self._settings = settings
        self._message = message
        self._over = over

    def takes(self, text: str) -> bool:
        """Whether this result, JSON text, goes there. What is over payload_limit always does."""
        limit = min(self._settings.blob_over, self._settings.payload_limit)
        return self._settings.blobs is not None and len(text.encode()) > limit

    def put(self, step: str, text: str) -> Waiting[str]:
        """The reference, for the record, once the text is there.

        Raises:
            BlobAway: the hook fails, also after some time.
        """
        blobs, data = self._settings.blob_store, text.encode()
        assert blobs is not None
        hashed = sha256(data).hexdigest()
        name = re.split("[#:]", step, maxsplit=1)[0]
        key = f"{self._settings.namespace}/{self._message.id}/{name}-{hashed}"
        yield from self._tried(step, "put", key, lambda: blobs.put(key, data))
        return Reference(key, hashed, len(data)).write()

    def get(self, step: str, text: str) -> Waiting[str]:
        """The text that the reference stands for.

        Raises:
            StepError: there is no hook here, or it does not have what was put there.
            BlobAway: the hook fails, also after some time.
        """
        id = self._message.id
        try:
            reference = Reference.read(text)
        except ValueError as error:
            raise StepError(f"step {step!r} of job {id}: its reference to a blob cannot be read: {error}") from None
        key, blobs = reference.key, self._settings.blob_store
        if blobs is None:
            raise StepError(
                f"step {step!r} of job {id}: its result lies outside of the record, under the key {key!r}, and the "
                "setting blobs is not set here: set it as the worker has it that kept the result, and then "
                f"`queuekit jobs retry {id}`"
            )
        data = yield from self._tried(step, "get", key, lambda: _found(blobs, key))
        remedy = (
            f"Put it back and `queuekit jobs retry {id}`, or begin with the first step again, and pay for all: "
            f"`queuekit jobs retry {id} --anew`"
        )
        if data is None:
            raise StepError(f"step {step!r} of job {id}: its result is gone from {_name(blobs)}, key {key!r}. {remedy}")
        if len(data) != reference.size or sha256(data).hexdigest() != reference.sha256:
            raise StepError(
                f"step {step!r} of job {id}: what {_name(blobs)} has under the key {key!r} is not what was put there "
                f"({len(data)} bytes and not {reference.size}, or others). {remedy}"
            )
        return data.decode()

    def _tried(self, step: str, what: str, key: str, call: Callable[[], T]) -> Waiting[T]:
        """Called again while it fails: a result that was paid for is not thrown away at once."""
        message = self._message
        for pause in (*PAUSES, None):
            try:
                return call()
            except JobCancelled:
                raise
            except Exception as error:  # whatever the user's hook raises
                said = f"{type(error).__qualname__}: {error}"[:500]
                if pause is None or self._over():
                    lost = "the result is lost: " if what == "put" else ""
                    raise BlobAway(
                        f"step {step!r} of job {message.id}: {lost}{_name(self._settings.blob_store)} could not {what} "
                        f"the key {key!r}: {said}"
                    ) from error
                about = {"job_id": message.id, "task": message.task}
                log.warning("job %s: a step waits for its blob (%s): %s", message.id, what, said, extra=about)
                yield pause
        raise AssertionError("the last try returns or raises")


def _found(blobs: BlobStore, key: str) -> bytes | None:
    try:
        data: Any = blobs.get(key)
    except (KeyError, FileNotFoundError):
        return None
    if data is not None and not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"get() gave {type(data).__name__} and not bytes")
    return None if data is None else bytes(data)


def _name(blobs: object) -> str:
    return f"{type(blobs).__module__}.{type(blobs).__qualname__}"
