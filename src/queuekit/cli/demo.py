"""`queuekit demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run"]


def run(folder: Path | None, *, seed: int, jobs: int, engines: str, keep: bool) -> int:
    """The exit code. Raises ConfigError."""
    from queuekit.demo import run as demo

    names = tuple(dict.fromkeys(name.strip() for name in engines.split(",")))
    for name in names:
        if name not in demo.ENGINES:
            raise ConfigError(f"--engines {engines!r}: {name!r} is none of {', '.join(demo.ENGINES)}")
    return demo.run(demo.Request(folder, seed=seed, count=jobs, engines=names, keep=keep))
