"""The pytest plugin of queuekit (being written)."""

from __future__ import annotations
