"""A process that was forked while a worker had nothing to do, and waits for the job that it is to run."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from queuekit.processes import ENDING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["Spare"]


class Spare:
    """It ends when the process that forked it does, or lets go of it before it has told anything.

    Attributes:
        pid: a child of this process.
    """

    def __init__(self, pid: int, pipe: Connection[Any, Any]) -> None:
        self.pid = pid
        self._pipe = pipe

    @classmethod
    def fork(cls, get_ready: Callable[[], None], run: Callable[[Any, Callable[[], Any]], object]) -> Spare:
        """In the new process `get_ready` is called at once, and `run` with what is told first and a function that waits
        for what is told next, and raises EOFError where nothing is. Raises OSError."""
        here, there = Pipe(duplex=False)
        # Until it has handlers of its own no signal takes it back into what its parent was about to do.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid = os.fork()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            here.close()
            there.close()
            raise
        if not pid:
            code = 1
            try:
                there.close()
                get_ready()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                try:
                    first = here.recv()
                except EOFError:
                    code = 0
                else:
                    run(first, here.recv)
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        here.close()
        return cls(pid, there)

    def tell(self, what: Any) -> bool:
        """Something that pickle can carry. False: the process has ended."""
        try:
            self._pipe.send(what)
        except BrokenPipeError:
            return False
        return True

    def let_go(self) -> None:
        """There is no more to tell."""
        self._pipe.close()

    def end(self) -> None:
        """For one that was told nothing."""
        self.let_go()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
