"""More than one job at a time on RQ: so many worker processes, each with a steward of its own.

RQ's workers run one job at a time; RQ's own WorkerPool makes its queues without our serializer and job class.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from queuekit.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.worker import Worker

__all__ = ["run_many"]

log = logging.getLogger("queuekit.rq")

LATE: Final = 4.8  # seconds after the grace at which a process that still runs is killed


@dataclass
class _Pool:
    run_one: Callable[[Worker], int]
    worker: Worker
    pids: set[int] = field(default_factory=set)
    stopping: bool = False
    until: float = 0.0  # by time.monotonic(), once it is stopping

    def fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.pids.add(pid)
            return
        code = 1
        try:
            die_with_parent(parent, signal.SIGTERM)
            for number in (signal.SIGTERM, signal.SIGINT):  # until its worker has its own, there is nothing to end
                signal.signal(number, lambda *_: os._exit(0))
            code = self.run_one(self.worker.another())
        except BaseException:
            log.exception("an RQ worker process failed")
        finally:
            self.worker.execution.hooks.flush()
            os._exit(code)

    def stop(self, signum: int, frame: object) -> None:
        if not self.stopping:
            self.stopping, self.until = True, time.monotonic() + self.worker.settings.grace + LATE
        for pid in self.pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                pass

    def wait(self) -> int:
        worst = 0
        while self.pids:
            for pid in list(self.pids):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    if self.stopping and time.monotonic() > self.until:
                        os.kill(pid, signal.SIGKILL)
                    continue
                self.pids.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                if not self.stopping or code != -signal.SIGKILL:
                    worst = max(worst, abs(code))
                if not self.stopping:
                    log.warning("an RQ worker process ended (%d): starting another", code)
                    time.sleep(1.0)
                    self.fork()
                    worst = 0
            time.sleep(0.1)
        return worst


def run_many(run_one: Callable[[Worker], int], worker: Worker, count: int) -> int:
    """Run `count` worker processes until told to stop, and start another where one dies. The worst exit code."""
    pool = _Pool(run_one, worker)
    # Nothing has a thread or a connection yet: the processes make their own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pool.stop)
    for _ in range(count):
        pool.fork()
    return pool.wait()
