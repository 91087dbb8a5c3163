"""How an attempt ended, as the text that the store keeps."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_end", "spared", "write_end"]


def write_end(outcome: str, **said: Any) -> str:
    """`outcome` and whatever of error_type, error_message, traceback, category, delay, reason and company there is."""
    kept = {name: value for name, value in said.items() if value is not None}
    return json.dumps({"outcome": outcome, **kept}, separators=(",", ":"))


def spared(company: int) -> dict[str, Any]:
    """The end of an attempt that was the last, and whose worker died with `company` others running."""
    others = "other" if company == 1 else "others"
    return {
        "outcome": "released",
        "category": "lost",
        "company": company,
        "reason": f"its worker died with {company} {others} running: it does not count, and the job runs alone next",
    }


def parse_end(text: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(text)
    return said
