"""Writes docs/reference/settings.md from what the settings say of themselves. A test compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from queuekit.settings import Settings

HEAD = """\
# Settings

Command line > `configure()` > environment > `queuekit.toml`, or `[tool.queuekit]` in `pyproject.toml` > defaults.
In the environment a setting is written `QUEUEKIT_LEASE`, in a file `lease = 30`. Durations are seconds. An unknown
name is an error, which suggests the near one. Passwords in URLs are never shown.

<!-- made by docs/generate.py -->

| setting | default | |
|---|---|---|
"""


def settings() -> str:
    rows = []
    for field in dataclasses.fields(Settings):
        default = field.metadata["default"]
        shown = "" if default is None or default in ((), {}) else f"`{default}`"
        rows.append(f"| `{field.name}` | {shown} | {field.metadata['doc']} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference" / "settings.md").write_text(settings())
