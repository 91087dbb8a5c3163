"""The payload codec: a hook through which arguments and results go before they are recorded, to encrypt them above all.

With one, the record holds what the codec made of the arguments and of the result, and the broker, the engine's monitors
and the events hold neither. What the record says of errors is not a payload: private=True keeps that out.

Not to be mixed up with `Codec`, which makes JSON of typed values before this, and typed values of JSON after it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Literal, Protocol

from queuekit.errors import PayloadError

__all__ = ["PayloadCodec", "PayloadContext", "Undecodable", "decode", "decode_result", "encode", "encode_result"]

MARK = "codec:"  # before an encoded result: no JSON text begins so


@dataclass(frozen=True, slots=True)
class PayloadContext:
    """What a payload belongs to: for a codec that chooses a key by it, or that binds the payload to it, so that nobody
    can put one job's arguments into another's record.

    Attributes:
        job_id: of the job; it never changes.
        task: the name that the job was enqueued under, also where the task has been renamed since.
        kind: "arguments", "result", or "step": the result of one of its steps.
    """

    job_id: str
    task: str
    kind: Literal["arguments", "result", "step"]


class PayloadCodec(Protocol):
    """Two functions that undo each other. Called by the program that enqueues, by workers, and by who reads a result;
    from any thread, several at a time.

    encode() need not be deterministic. decode() is given what any encode() of the past may have made: keep old keys
    until no job and no dead letter needs them. Where it raises, the job is handed back, for a worker that has the key.

    A codec may have one more attribute, `digest_key`: bytes, a secret of 16 to 64 bytes that never changes. It keys the
    digest that tells whether two requests under one id ask for the same. Without it that digest is salted with the id
    alone: somebody who reads the store can find out whether a guess of the arguments is right.
    """

    def encode(self, data: bytes, context: PayloadContext, /) -> bytes: ...

    def decode(self, data: bytes, context: PayloadContext, /) -> bytes: ...


class Undecodable(PayloadError):
    """A payload that this process cannot read: it has no codec, or another key. Its text quotes nothing of it."""


def encode(codec: PayloadCodec, data: bytes, context: PayloadContext) -> str:
    """Raises whatever the codec raises, and TypeError where it gives no bytes."""
    made = codec.encode(data, context)
    if not isinstance(made, (bytes, bytearray)):
        raise TypeError(f"the payload codec {_name(codec)} gave {type(made).__name__} and not bytes")
    return base64.b64encode(made).decode()


def decode(codec: PayloadCodec | None, text: str, context: PayloadContext) -> bytes:
    """Raises Undecodable."""
    parameter = "return" if context.kind == "result" else None
    if codec is None:
        raise Undecodable(
            f"the {context.kind} of job {context.job_id} are encoded, and no codec is set here: set codec as the "
            "program that encoded them has it",
            parameter=parameter,
        )
    try:
        found = codec.decode(base64.b64decode(text, validate=True), context)
        return bytes(found)
    except Exception as error:
        what = "is no base64" if isinstance(error, binascii.Error) else f"raised {type(error).__qualname__}"
        raise Undecodable(
            f"the {context.kind} of job {context.job_id} cannot be decoded: the payload codec {_name(codec)} {what}. "
            "Is the key there that encoded them?",
            parameter=parameter,
        ) from error


def encode_result(codec: PayloadCodec, text: str, context: PayloadContext) -> str:
    """What is recorded in place of a result's JSON text."""
    return MARK + encode(codec, text.encode(), context)


def decode_result(codec: PayloadCodec | None, text: str, context: PayloadContext) -> str:
    """The JSON text of a recorded result, encoded or not. Raises Undecodable."""
    if not text.startswith(MARK):
        return text
    return decode(codec, text.removeprefix(MARK), context).decode()


def _name(codec: PayloadCodec) -> str:
    return f"{type(codec).__module__}.{type(codec).__qualname__}"
