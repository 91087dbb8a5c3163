"""The arguments of a call, as they travel."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["HIDDEN", "IN_THE_RECORD", "Arguments", "as_json"]

# For what is recorded and published. Raises ValueError for what JSON does not have. (json.dumps() makes an encoder at
# each call that asks for anything but its defaults.)
as_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(slots=True)  # one is made for each job, which takes twice as long where it is frozen
class Arguments:
    """JSON values, and their JSON texts. Positional ones stay positional, and defaults are not filled in. `plain`: the
    texts are ASCII, and JSON can be written in no other way."""

    args: list[Any]
    kwargs: dict[str, Any]
    args_text: str
    kwargs_text: str
    plain: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, args: list[Any], kwargs: dict[str, Any]) -> Arguments:
        return cls(args, kwargs, as_json(args), as_json(kwargs))

    @property
    def size(self) -> int:
        """Characters of JSON."""
        return len(self.args_text) + len(self.kwargs_text)


# What the broker and the engine's monitors see of those of private jobs, and of those that are left out of messages.
HIDDEN: Final = Arguments.of(["(private)"], {})
IN_THE_RECORD: Final = Arguments.of(["(in the record)"], {})
