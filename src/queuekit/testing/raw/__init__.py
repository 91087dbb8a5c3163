"""Foreign messages: how somebody who can write to the broker puts into an engine's queues what queuekit did not send.

That is different on each engine, so each has a module here, named after its backend; the author of another adapter
names one by --queuekit-foreign=my_package.foreign. The module has one function:

    def messages(settings, queue, ran):
        '''Triples: a name, whether the message must come to quarantine, and a function that puts it into the queue.

        settings    those of the App: broker_url, namespace
        queue       the queue's name, as tasks name it
        ran         a path, where no file may be: what is in the messages creates one as soon as it is run or unpickled
        '''
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from queuekit.settings import Settings

__all__ = ["Bomb", "Foreign", "header"]


class Foreign(Protocol):
    def messages(
        self, settings: Settings, queue: str, ran: Path
    ) -> Iterable[tuple[str, bool, Callable[[], object]]]: ...


class Bomb:
    """Its pickle creates a file when it is read."""

    def __init__(self, ran: Path) -> None:
        self._ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return os.open, (str(self._ran), os.O_CREAT | os.O_WRONLY)


def header(settings: Settings, queue: str) -> dict[str, object]:
    """One that is well formed, of a job that does not exist, from a store that does not exist."""
    return {
        "v": 1,
        "id": "foreign",
        "task": "queuekit.testing.tasks.add",
        "pseq": 1,
        "epoch": "0123456789abcdef",
        "route": f"{settings.backend}:{queue}:0",
        "timeout": None,
        "own_policy": False,
        "private": False,
    }
