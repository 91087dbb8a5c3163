"""A task that is deployed later: the suite's workers do not know it until one imports this module."""

from __future__ import annotations

from queuekit import agent_task
from queuekit.testing.journal import note


@agent_task
def newcomer() -> str:
    note("start")
    return "known by now"
