"""The command line: thin, each command a module of its own that is imported when it is called."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The console script."""
    from queuekit.cli.commands import cli

    cli(prog_name="queuekit")
