"""A hook that costs no more than being told."""

from __future__ import annotations


def nothing(event: object) -> None:
    """Nothing."""
