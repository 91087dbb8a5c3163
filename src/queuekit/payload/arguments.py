"""The arguments of a call, as they travel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["HIDDEN", "Arguments", "as_json"]

# For what is recorded and published. Raises ValueError for what JSON does not have. (json.dumps() makes an encoder at
# each call that asks for anything but its defaults.)
as_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(slots=True)  # one is made for each job, which takes twice as long where it is frozen
class Arguments:
    """JSON values, and their JSON texts. Positional ones stay positional, and defaults are not filled in."""

    args: list[Any]
    kwargs: dict[str, Any]
    args_text: str
    kwargs_text: str

    @classmethod
    def of(cls, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
        return cls(args, kwargs, as_json(args), as_json(kwargs))


HIDDEN: Final = Arguments.of(["(private)"], {})  # what the broker and the engine's monitors see of those
