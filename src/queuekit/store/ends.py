"""How an attempt ended, as the text that the store keeps."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_end", "write_end"]


def write_end(outcome: str, **said: Any) -> str:
    """`outcome` and whatever of error_type, error_message, traceback, category, delay and reason there is."""
    kept = {name: value for name, value in said.items() if value is not None}
    return json.dumps({"outcome": outcome, **kept}, separators=(",", ":"))


def parse_end(text: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(text)
    return said
