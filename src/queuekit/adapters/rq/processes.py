"""More than one job at a time on RQ: so many worker processes, each with a steward of its own.

RQ's workers run one job at a time; RQ's own WorkerPool makes its queues without our serializer and job class.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from queuekit.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.worker import Worker

__all__ = ["run_many"]

log = logging.getLogger("queuekit.rq")


@dataclass
class _Pool:
    run_one: Callable[[Worker], int]
    worker: Worker
    pids: set[int] = field(default_factory=set)
    stopping: bool = False

    def fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.pids.add(pid)
            return
        code = 1
        try:
            die_with_parent(parent, signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = self.run_one(self.worker.another())
        except BaseException:
            log.exception("an RQ worker process failed")
        finally:
            self.worker.execution.hooks.flush()
            os._exit(code)

    def stop(self, signum: int, frame: object) -> None:
        self.stopping = True
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
                    continue
                self.pids.discard(pid)
                code = os.waitstatus_to_exitcode(status)
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
