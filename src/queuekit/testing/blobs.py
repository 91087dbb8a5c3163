"""The blob hook of the benches. Not among the tasks: a worker that is not to know those imports it too."""

from __future__ import annotations

import os
from pathlib import Path

from queuekit.blobs import Directory
from queuekit.testing.journal import VARIABLE, note

__all__ = ["Blobs"]


class Blobs(Directory):
    """Files beside the journal, in which it notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__(Path(os.environ[VARIABLE]).with_name("blobs"))

    def put(self, key: str, data: bytes, /) -> None:
        super().put(key, data)
        note("put", key)

    def get(self, key: str, /) -> bytes | None:
        note("get", key)
        return super().get(key)
