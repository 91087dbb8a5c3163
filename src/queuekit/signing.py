"""Signatures: HMAC-SHA-256 over what a job's record says runs, over the doorbell that asks for it, over what the
job's steps have kept, and over results that other jobs take.

A sealed message is signed as the text that it is, byte by byte, so that it need not be written again to be checked, and
one of a version that is not read here can be checked too. A doorbell travels as a mapping through the engine's own
encoding: it is signed as JSON with its keys in order. Both are bound to the namespace, and to what they are.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import TYPE_CHECKING, Any, Final

from queuekit.message import SIGNATURE, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuekit.message import Doorbell

__all__ = ["Signer"]

_SIGNED: Final = re.compile(rf'(\{{.*),"{SIGNATURE}":"([0-9a-f]{{64}})"\}}\Z', re.DOTALL)
_MAC: Final = re.compile(r"[0-9a-f]{64}\Z")
_STEP: Final = re.compile(r"([0-9a-f]{64}):(.*)\Z", re.DOTALL)


class Signer:
    """Signs with the first of the keys, and takes what any of them has signed.

    Args:
        accept_unsigned: take what has no signature at all, while the key is rolled out. A wrong one is never taken.
    """

    def __init__(self, keys: Sequence[str], namespace: str, *, accept_unsigned: bool = False) -> None:
        self._keys = [key.encode() for key in keys]
        self._namespace = namespace.encode()
        self._accept_unsigned = accept_unsigned

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} keys>"

    # ---- sealed messages --------------------------------------------------------------------------------------------

    def sign(self, text: str) -> str:
        """The sealed message, which has no signature, with one at its end."""
        return f'{text[:-1]},"{SIGNATURE}":"{self._mac(self._keys[0], "message", text)}"}}'

    def check(self, text: str) -> None:
        """Raises InvalidMessage: nobody who has a key wrote this text."""
        found = _SIGNED.match(text)
        signature = None if found is None else found[2]
        self._check("message", text if found is None else found[1] + "}", signature)

    # ---- doorbells --------------------------------------------------------------------------------------------------

    def sign_header(self, header: Mapping[str, Any]) -> dict[str, Any]:
        return {**header, SIGNATURE: self._mac(self._keys[0], "doorbell", _canonical(header))}

    def check_bell(self, bell: Doorbell) -> None:
        """Raises InvalidMessage: nobody who has a key sent this doorbell."""
        header = bell.to_header()
        self._check("doorbell", _canonical(header), header.get(SIGNATURE))

    # ---- results of steps -------------------------------------------------------------------------------------------

    def sign_step(self, job: str, step: str, text: str) -> str:
        """The text with a signature before it, which holds for this step of this job alone."""
        return f"{self._mac(self._keys[0], 'step', _of(job, step, text))}:{text}"

    def check_step(self, job: str, step: str, text: str) -> str:
        """The text without its signature. Raises InvalidMessage: nobody who has a key has kept it for this step."""
        found = _STEP.match(text)
        rest = text if found is None else found[2]
        self._check("step", _of(job, step, rest), None if found is None else found[1])
        return rest

    # ---- results that other jobs take --------------------------------------------------------------------------------

    def sign_result(self, job: str, text: str) -> str:
        return self._mac(self._keys[0], "result", f"{job}\0{text}")

    def check_result(self, job: str, text: str, signature: str) -> None:
        """Raises InvalidMessage: nobody who has a key has recorded it as the result of this job."""
        self._check("result", f"{job}\0{text}", signature or None)

    # ---- all --------------------------------------------------------------------------------------------------------

    def _check(self, what: str, text: str, signature: object) -> None:
        if signature is None:
            if self._accept_unsigned:
                return
            raise InvalidMessage(f"the {what} has no signature, and a signing_key is set here")
        if not isinstance(signature, str) or not _MAC.match(signature):
            raise InvalidMessage(f"the signature of the {what} is none")
        if not any(hmac.compare_digest(self._mac(key, what, text), signature) for key in self._keys):
            raise InvalidMessage(f"the signature of the {what} is of none of the keys here, or it was changed since")

    def _mac(self, key: bytes, what: str, text: str) -> str:
        # A namespace has no NUL: what is signed can be taken apart in one way only.
        data = b"\0".join([b"queuekit", what.encode(), self._namespace, text.encode("utf-8", "surrogatepass")])
        return hmac.digest(key, data, "sha256").hex()


def _of(job: str, step: str, text: str) -> str:
    # Neither a job's id nor a step's name has a NUL; a key in it may hold one, and is taken by its length.
    return f"{job}\0{len(step)}\0{step}\0{text}"


def _canonical(header: Mapping[str, Any]) -> str:
    """Raises InvalidMessage: it holds what JSON cannot."""
    said = {name: value for name, value in header.items() if name != SIGNATURE}
    try:
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"the doorbell cannot be read as JSON: {error}") from None
