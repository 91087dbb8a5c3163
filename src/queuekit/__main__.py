"""`python -m queuekit`: the same as the console script."""

from __future__ import annotations

from queuekit.cli import main

if __name__ == "__main__":
    main()
