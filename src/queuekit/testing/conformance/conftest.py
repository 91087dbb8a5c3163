"""pytest finds the suite's fixtures here."""

from __future__ import annotations

from queuekit.testing.conformance.fixtures import *  # noqa: F403
