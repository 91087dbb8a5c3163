"""A module of async tasks alone, as a newcomer's is."""

from __future__ import annotations

import asyncio

from side import running

from queuekit import agent_task


@agent_task(name="sleep")
async def sleep(seconds: float) -> float:
    with running():
        await asyncio.sleep(seconds)
    return seconds
