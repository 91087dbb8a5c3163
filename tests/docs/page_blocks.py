"""The code blocks of a page, and what their marks say.

A mark is a comment directly above the block:

    <!-- not run: REASON -->        the block stands there to be read; the reasons are counted in test_pages.py
    <!-- background -->             the command runs until the page ends: a worker, a server
    <!-- output -->                 above a text: what the block before it has printed, with ... for what varies
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CODE", "ROOT", "Block", "blocks_of", "pages"]

ROOT = Path(__file__).parents[2]
CODE = frozenset({"python", "console", "sh", "bash", "toml", "json", "yaml", "ini"})
PROSE = frozenset({"text", "markdown"})

FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=ticks) *$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"<!-- (?P<kind>not run|background|output)(: (?P<reason>[^>]+?))? -->\s*(<!-- \w+ -->\s*)?\Z")


@dataclass(frozen=True)
class Block:
    """`line` is where its text starts. `mark` is the kind of its mark, or ""."""

    language: str
    text: str
    line: int
    mark: str = ""
    reason: str = ""

    @property
    def file(self) -> str | None:
        """The name of the file that it is, where its first line is a comment with one."""
        found = re.match(r"# ([\w/.-]+\.(?:py|toml|ini))\n", self.text)
        return found[1] if found else None


def blocks_of(page: Path) -> list[Block]:
    """Those that are code or text; not the directives of the site. Raises ValueError for a language without a meaning."""
    text = page.read_text("utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        language = found["language"].strip()
        if language.startswith("{"):
            continue
        line = text.count("\n", 0, found.start("text")) + 1
        if language not in CODE | PROSE | {""}:
            raise ValueError(f"{page.name}:{line}: a block of {language!r} is neither run nor text")
        mark = MARK.search(text, 0, found.start())
        indent = len(found["indent"])
        body = "".join(one[indent:] for one in found["text"].splitlines(keepends=True))
        blocks.append(Block(language, body, line, mark["kind"] if mark else "", (mark["reason"] or "") if mark else ""))
    return blocks


def pages() -> list[Path]:
    built = ROOT / "docs" / "_build"
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(page for page in found if built not in page.parents)
