"""What an exception carries, read without trusting it.

Reading an attribute of a foreign exception runs foreign code: `exc.request` of httpx raises RuntimeError where it is
unset, and a `requests.Response` with status 429 is falsy. So every read is guarded, and nothing is tested for truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["Body", "body_of", "headers_of", "names_of", "read", "request_id_of", "status_of", "type_name"]

_MAX_BODY = 65536  # bytes of a raw body that are looked at: an error body is small
_MAX_PARTS = 200


def read(thing: object, name: str) -> Any:
    """An attribute, or None where there is none or reading it raises."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def names_of(exc: BaseException) -> tuple[str, ...]:
    """The qualified names over the MRO, the nearest first."""
    return _names(type(exc))  # type: ignore[arg-type]  # a class has a hash


@lru_cache(maxsize=256)
def _names(cls: type) -> tuple[str, ...]:
    return tuple(type_name(c) for c in cls.__mro__ if c is not object)


def type_name(cls: type) -> str:
    return f"{read(cls, '__module__')}.{read(cls, '__qualname__')}"


def _items(thing: object) -> Iterator[tuple[object, object]]:
    """The pairs of anything like a mapping: dict, httpx.Headers, CIMultiDict, http.client.HTTPMessage."""
    try:
        yield from thing.items()  # type: ignore[attr-defined]
    except Exception:
        return


def headers_of(exc: BaseException) -> dict[str, str]:
    """All response headers at hand, by lower-case name; the response's own win over copies kept elsewhere."""
    response = read(exc, "response")
    sources = [read(response, "headers")]
    if isinstance(response, Mapping):  # botocore
        sources.append(_get(_get(response, "ResponseMetadata"), "HTTPHeaders"))
    sources += [read(exc, "headers"), read(exc, "litellm_response_headers")]
    headers: dict[str, str] = {}
    for source in sources:
        for key, value in _items(source):
            name, said = _text(key), _text(value)
            if name is not None and said is not None:
                headers.setdefault(name.lower(), said)
    return headers


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if isinstance(value, (str, int, float)) else None


def _get(thing: object, key: str) -> Any:
    try:
        return thing.get(key) if isinstance(thing, Mapping) else None
    except Exception:
        return None


def _http_status(value: object) -> int | None:
    if isinstance(value, int) and 100 <= value <= 599:
        return int(value)  # an HTTPStatus becomes a plain int
    return None


def status_of(exc: BaseException, body: Body) -> int | None:
    """The HTTP status, or None."""
    response = read(exc, "response")
    for value in (
        read(exc, "status_code"),
        read(response, "status_code"),
        _get(_get(response, "ResponseMetadata"), "HTTPStatusCode"),  # botocore
        read(exc, "status"),  # aiohttp, urllib
        read(response, "status"),
    ):
        status = _http_status(value)
        if status is not None:
            # A stream that fails after HTTP 200 says so in its body only.
            return body.status if status < 400 and body.status is not None else status
    # A bare integer code is a status only in the company of one: an exit code of 1 or an errno is none.
    if response is not None or read(exc, "status") is not None or read(exc, "details") is not None:
        status = _http_status(read(exc, "code"))
        if status is not None:
            return status
    return body.status


class Body(NamedTuple):
    """What the error body says.

    Attributes:
        codes: its codes and types, as written.
        status: an HTTP error status inside the body.
        per_day: Google: the quota that was hit is a daily one.
        retry_delay: Google: the wait, as "36s".
    """

    codes: tuple[str, ...] = ()
    status: int | None = None
    per_day: bool = False
    retry_delay: str | None = None


_CODE_KEYS = ("code", "type", "error_code", "errorCode", "status", "reason", "Code")
# Where errors nest their errors. Only these are followed: a body may echo the request, with any word in it.
_NESTED = ("error", "errors", "Error", "detail", "details", "innererror", "inner_error", "metadata", "violations")


def body_of(exc: BaseException) -> Body:
    """What the error body says, from wherever the SDK has put it."""
    codes: dict[str, None] = {}
    for name in ("code", "type", "error_code", "status"):
        value = read(exc, name)
        if isinstance(value, str):
            codes[str(value)] = None
    status: int | None = None
    per_day = False
    retry_delay: str | None = None

    response = read(exc, "response")
    todo: list[object] = [_parsed(read(exc, "body")), _parsed(read(exc, "details"))]
    todo.append(response if isinstance(response, Mapping) else _parsed(_content(response)))
    seen = 0
    while todo and seen < _MAX_PARTS:
        part = todo.pop(0)
        seen += 1
        if isinstance(part, (list, tuple)):
            todo.extend(part[:_MAX_PARTS])
        elif isinstance(part, Mapping):
            for key in _CODE_KEYS:
                value = _get(part, key)
                if isinstance(value, str):
                    codes[str(value)] = None
                if key in ("code", "status") and status is None:
                    number = int(value) if isinstance(value, str) and re.fullmatch("[45][0-9][0-9]", value) else value
                    number = _http_status(number)
                    status = number if number is not None and number >= 400 else None
            quota = _get(part, "quotaId")
            per_day = per_day or (isinstance(quota, str) and "PerDay" in quota)
            delay = _get(part, "retryDelay")
            if retry_delay is None and isinstance(delay, str):
                retry_delay = delay
            todo.extend(inner for key in _NESTED if isinstance(inner := _get(part, key), (Mapping, list, tuple)))
    return Body(tuple(codes), status, per_day, retry_delay)


def _content(response: object) -> object:
    """The body that a response of httpx or requests has read already; asking for more could do I/O."""
    content = read(response, "_content")
    return content if isinstance(content, bytes) else None


def _parsed(value: object) -> object:
    if isinstance(value, bytes) and len(value) <= _MAX_BODY:
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and len(value) <= _MAX_BODY and value.lstrip()[:1] in ("{", "["):
        import json

        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value


def request_id_of(exc: BaseException) -> str | None:
    """The provider's id of the request, for a support ticket."""
    value = read(exc, "request_id")
    if isinstance(value, str) and value:
        return str(value)
    headers = headers_of(exc)
    for name in ("x-request-id", "request-id", "x-amzn-requestid", "x-ms-request-id", "apim-request-id"):
        if headers.get(name):
            return headers[name]
    metadata = _get(read(exc, "response"), "ResponseMetadata")
    value = _get(metadata, "RequestId")
    return str(value) if isinstance(value, str) and value else None
