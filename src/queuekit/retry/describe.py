"""A plain record of an error."""

from __future__ import annotations

from dataclasses import dataclass

from queuekit.retry.reading import body_of, request_id_of, status_of, type_name

__all__ = ["ErrorInfo", "describe_error"]

_MAX_MESSAGE = 8192


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What is kept of an error. The error itself is not: openai's and litellm's fail to unpickle.

    Attributes:
        error_type: the qualified name of its class.
        message: its text, at most 8192 characters.
        status: the HTTP status, or None.
        request_id: the provider's id of the request, or None.
    """

    error_type: str
    message: str
    status: int | None
    request_id: str | None


def describe_error(exc: BaseException) -> ErrorInfo:
    """A plain record of an error. Never raises."""
    try:
        message = str(exc)
    except Exception as e:
        message = f"<its text cannot be read: {type_name(type(e))}>"
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    try:
        status, request_id = status_of(exc, body_of(exc)), request_id_of(exc)
    except Exception:
        status = request_id = None
    return ErrorInfo(type_name(type(exc)), message, status, request_id)
