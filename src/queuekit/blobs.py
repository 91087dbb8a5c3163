"""The blob hook: where the results of steps go that are too large for the record. See docs/how-to/durable-steps.md.

With one (the setting `blobs`) the record of a step whose result has more than `blob_over` bytes keeps a reference: a
key, the SHA-256 of the data and its size. The key holds that hash too, so that nothing is ever written over by
something else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

__all__ = ["BlobStore", "Directory"]


class BlobStore(Protocol):
    """Two functions of an object store, a file system or a database. Called by workers, from any thread, several at a
    time, and never on the event loop. An Exception that they raise is taken for an outage: they are called again, six
    times in all with 12 seconds of waits, and then the step raises BlobAway. So let them give up after some seconds.

    A key is `NAMESPACE/JOB/STEP-SHA256`: letters, digits, `_`, `.`, `-` and two slashes. Nothing is deleted.
    """

    def put(self, key: str, data: bytes, /) -> None:
        """Keep the data under the key, and return when it is there to stay. What is under the key already is the same
        data: writing it once more does no harm."""
        ...

    def get(self, key: str, /) -> bytes | None:
        """The data under the key. None, KeyError or FileNotFoundError: there is none, which is no outage."""
        ...


class Directory:
    """Blobs as files in a folder that all workers share: on one machine, or a volume that is mounted on each.

    A file is written whole under another name, flushed to the disk and then renamed. Nobody but its user can read it.

    Args:
        path: the folder, which is made with the first blob.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Directory({str(self._path)!r})"

    def put(self, key: str, data: bytes, /) -> None:
        """Raises OSError, and ValueError for a key that leads out of the folder."""
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        file, name = tempfile.mkstemp(dir=place.parent, prefix=".")
        try:
            with open(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(file)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def get(self, key: str, /) -> bytes | None:
        """Raises OSError, and ValueError for a key that leads out of the folder."""
        try:
            return self._place(key).read_bytes()
        except FileNotFoundError:
            return None

    def _place(self, key: str) -> Path:
        parts = key.split("/")
        # Whoever can write to the store can have any key asked for.
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise ValueError(f"the key {key!r} leads out of the folder")
        return self._path.joinpath(*parts)
