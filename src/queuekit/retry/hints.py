"""How long the service asks to be left alone."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from queuekit.retry.reading import read

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["bucket_hint", "explicit_hint"]

# Patterns are compiled when first used (and kept by re): most processes that import this never meet one.
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION_PART = r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|μs|ms|s|m|h|d)"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def explicit_hint(
    exc: BaseException, headers: Mapping[str, str], retry_delay: str | None, *, now: float | None
) -> float | None:
    """The wait in seconds that the answer names, or None. `now` (epoch seconds) is needed for an HTTP date."""
    for value in (
        _number(headers.get("retry-after-ms"), 1e-3),
        _retry_after(headers.get("retry-after"), now),
        _number(headers.get("x-amz-retry-after"), 1e-3),
        _go_duration(retry_delay),
        _attribute(read(exc, "retry_after")),
    ):
        if value is not None:
            return value
    return None


def bucket_hint(headers: Mapping[str, str], *, now: float | None) -> float | None:
    """Seconds until every exhausted bucket of a rate limit is filled again, or None where none is exhausted."""
    waits: list[float] = []
    for name, value in headers.items():
        if _number(value, 1.0) != 0:
            continue
        if name.startswith("x-ratelimit-remaining-"):
            reset = headers.get("x-ratelimit-reset-" + name.removeprefix("x-ratelimit-remaining-"))
            wait = _go_duration(reset)
            if wait is None:
                wait = _number(reset, 1.0)
        elif name.startswith("anthropic-ratelimit-") and name.endswith("-remaining"):
            wait = _rfc3339(headers.get(name.removesuffix("remaining") + "reset"), now)
        else:
            continue
        if wait is not None and wait < 1e9:  # more is a date in disguise
            waits.append(wait)
    return max(waits, default=None)


def _number(text: str | None, unit: float) -> float | None:
    """Digits only: what float() takes beyond that ("inf", "nan", "1e999", "-1") is no wait."""
    if text is None or not re.fullmatch(_NUMBER, text.strip()):
        return None
    value = float(text) * unit
    return value if math.isfinite(value) else None


def _retry_after(text: str | None, now: float | None) -> float | None:
    value = _number(text, 1.0)
    if value is not None or text is None or now is None:
        return value
    from email.utils import parsedate_to_datetime  # 20 ms to import, and few need it

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _until(date, now)


def _go_duration(text: str | None) -> float | None:
    """ "6m0s", "12ms", "36s", as Go and Google write them."""
    text = (text or "").strip()
    parts = re.findall(_DURATION_PART, text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    value = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return value if math.isfinite(value) else None


def _rfc3339(text: str | None, now: float | None) -> float | None:
    if text is None or now is None:
        return None
    try:
        return _until(datetime.fromisoformat(text.strip()), now)
    except ValueError:
        return None


def _until(date: datetime, now: float) -> float | None:
    if date.tzinfo is None:  # an asctime date names no zone, and means UTC
        date = date.replace(tzinfo=UTC)
    try:
        return max(0.0, date.timestamp() - now)
    except (OverflowError, ValueError):
        return None


def _attribute(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    return None
