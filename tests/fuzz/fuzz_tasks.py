"""What is enqueued, and what only a forged message asks for."""

from __future__ import annotations

from typing import Any

from queuekit import agent_task
from queuekit.testing.journal import note


@agent_task(name="fuzz.good", queue="default")
def good(number: int) -> int:
    note("good", number)
    return number + 1


@agent_task(name="fuzz.trap", queue="default")
def trap(*args: Any, **kwargs: Any) -> None:
    note("trapped", [repr(args)[:200], repr(kwargs)[:200]])
