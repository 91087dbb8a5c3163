"""The texts that the demo works on: a folder's, or the descriptions of the packages installed on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["SUFFIXES", "Document", "Documents", "from_folder", "from_packages"]

T = TypeVar("T")

SUFFIXES: Final = (".txt", ".md", ".markdown", ".rst", ".text", ".adoc", ".org", ".tex", ".html")
LONGEST: Final = 12_000  # characters of a text that go to the model
SHORTEST: Final = 400  # characters below which a package's description says too little
_NOT_OURS: Final = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})


@dataclass(frozen=True)
class Document:
    """A text. `id` is the job's id too: letters, digits, '_' and '-'."""

    id: str
    text: str


@dataclass(frozen=True)
class Documents:
    """The chosen ones, and where they come from, in words."""

    chosen: tuple[Document, ...]
    source: str


def from_folder(folder: Path, count: int) -> Documents:
    """Text files in the folder and below, at most `count`, spread evenly over their sorted names.

    Raises:
        ConfigError: no such folder, it cannot be read, or no text in it.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"FOLDER={str(folder)!r} {what}: give a folder with text files, or none at all")
    paths = sorted(_text_files(folder))
    documents = []
    for path in _spread(paths, count):
        try:
            text = path.read_bytes()[: 4 * LONGEST].decode("utf-8", "replace")
        except OSError as error:
            raise ConfigError(f"FOLDER={str(folder)!r}: {path} cannot be read: {error.strerror}") from error
        documents.append((str(path.relative_to(folder).with_suffix("")), text))
    if not documents:
        raise ConfigError(
            f"FOLDER={str(folder)!r} has no text in it: files that are not empty and end in {', '.join(SUFFIXES)}. "
            "Without a folder the demo takes the descriptions of the packages installed here"
        )
    return Documents(_named(documents), f"{len(documents)} of {len(paths)} text files in {folder}")


def _text_files(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_OURS]
        for name in files:
            path = Path(here, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file() and path.stat().st_size:
                yield path


def from_packages(count: int) -> Documents:
    """The long descriptions of installed packages, at most `count`, spread evenly over their sorted names.

    Raises:
        ConfigError: no package has one.
    """
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for distribution in distributions():
        meta = distribution.metadata
        text = str(meta.json.get("description") or "")
        name = meta["Name"]
        if name and len(text) >= SHORTEST:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), text)  # the first on the path is the one in use
    if not found:
        raise ConfigError("no installed package has a description to work on: give a FOLDER with text files")
    chosen = _spread(sorted(found.items()), count)
    return Documents(_named(chosen), f"the descriptions of {len(chosen)} of the {len(found)} packages installed here")


def _spread(items: Sequence[T], count: int) -> list[T]:
    n = min(count, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _named(texts: Iterable[tuple[str, str]]) -> tuple[Document, ...]:
    documents: dict[str, Document] = {}
    for name, text in texts:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "document"
        id, n = stem, 1
        while id in documents:
            n += 1
            id = f"{stem}-{n}"
        documents[id] = Document(id, text[:LONGEST])
    return tuple(documents.values())
