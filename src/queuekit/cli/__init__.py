"""The command line: thin, each command a module of its own that is imported when it is called."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The console script."""
    from queuekit.cli.commands import cli
    from queuekit.errors import ConfigError

    try:
        cli(prog_name="queuekit")
    except ConfigError as error:
        print(f"queuekit: {error}", file=sys.stderr)
        sys.exit(2)
