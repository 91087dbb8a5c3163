"""`queuekit worker --processes N`: a parent that starts N workers as processes of their own, and another one in the
place of one that ends. It imports nothing of the user's, and has no connection."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from queuekit.cli.options import MISUSED
from queuekit.processes import SAME, die_with_parent
from queuekit.worker import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Supervisor", "run"]

log = logging.getLogger("queuekit")

LOOK: Final = 0.1  # seconds between two looks at the processes
FIRST_PAUSE: Final = 0.5  # seconds before another one is started
LONGEST_PAUSE: Final = 30.0
LIVED: Final = 15.0  # seconds after which one that ends counts as a new misfortune
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Process(Protocol):
    """What is asked of a subprocess.Popen."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...


@dataclass
class _Place:
    """One of the N."""

    process: Process | None = None
    born: float = 0.0
    due: float = 0.0  # when the next one is started
    pause: float = 0.0  # before that

    def ended(self, now: float) -> None:
        if now - self.born > LIVED:
            self.pause = 0.0
        self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LONGEST_PAUSE)
        self.due = now + self.pause


class Supervisor:
    """Starts workers, by `start`, which may raise OSError, and looks after them, each time that look() is called.

    Attributes:
        asked: the numbers of the signals that have come; a handler may put them there.
    """

    def __init__(self, start: Callable[[], Process], count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._start, self._clock = start, clock
        self.asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._places = [_Place() for _ in range(count)]
        self._stopping = False
        self._hurry: float | None = None  # when they are told for the second time
        self._code = 0

    def look(self) -> int | None:
        """What is to be done now. The exit code, once all have ended."""
        while not self.asked.empty():
            self._told(self.asked.get())
        if self._hurry is not None and self._clock() >= self._hurry:
            self._hurry = None
            self._pass_on(signal.SIGTERM)
        for place in self._places:
            code = None if place.process is None else place.process.poll()
            if code is not None:
                self._ended(place, code)
            if place.process is None and not self._stopping and self._clock() >= place.due:
                self._fill(place)
        if self._stopping and all(place.process is None for place in self._places):
            return self._code
        return None

    def _told(self, number: int) -> None:
        if number == signal.SIGQUIT:
            # To engines it means other things, or death. Told twice a worker hands back at once what it runs.
            number, self._hurry = signal.SIGTERM, self._clock() + 1.5 * SAME
        log.info("stopping: %d worker processes are told", sum(place.process is not None for place in self._places))
        self._stopping = True
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(number)

    def _fill(self, place: _Place) -> None:
        place.born = self._clock()
        try:
            place.process = self._start()
        except OSError as error:  # no memory, too many processes
            place.ended(self._clock())
            log.warning("no worker process can be started, trying again in %g s: %s", place.pause, error)

    def _ended(self, place: _Place, code: int) -> None:
        pid, now = "" if place.process is None else place.process.pid, self._clock()
        place.process = None
        if self._stopping:
            log.log(logging.INFO if code == 0 else logging.WARNING, "worker process %s has ended (%d)", pid, code)
        elif code == MISUSED:
            log.error("worker process %s cannot work as it is configured, nor could another one: all end", pid)
            self._stopping, self._code = True, code
            self._pass_on(signal.SIGTERM)
        elif code == TEMPORARY:
            log.warning("worker process %s was drained, and has left: starting another", pid)
            place.due = now
        else:
            place.ended(now)
            log.warning("worker process %s has ended (%d): starting another in %g s", pid, code, place.pause)

    @property
    def pids(self) -> set[int]:
        return {place.process.pid for place in self._places if place.process is not None}


def run(count: int, modules: Sequence[str], *, log_level: str, options: Mapping[str, Any]) -> int:
    from queuekit.app import App
    from queuekit.logs import configure_logging
    from queuekit.settings import load

    settings = load(cli={**options, "queues": ()})
    configure_logging(log_level, settings.log_format)
    if settings.metrics_port is not None:
        from queuekit.integrations.prometheus import start_exporter

        start_exporter(App(settings).settings)  # one page for all of them
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-P", "-m", "queuekit", "worker", *modules, *given, f"--log-level={log_level}"]
    parent = os.getpid()

    def born() -> None:
        """In the child, until it becomes another program. It is to end with this process, also by a signal that comes
        right now."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent, signal.SIGTERM)

    def start() -> subprocess.Popen[bytes]:
        # Not in the terminal's foreground group: Ctrl-C is for this process, which passes it on.
        return subprocess.Popen(command, start_new_session=True, preexec_fn=born)  # noqa: PLW1509  # there are no threads

    supervisor = Supervisor(start, count)
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: supervisor.asked.put(number))
    log.info("%d worker processes, each with its own steward", count)
    while (code := supervisor.look()) is None:
        reap_others(supervisor.pids)
        time.sleep(LOOK)
    for number in SIGNALS:  # an interpreter that ends takes its handlers back: another signal would be a crash
        signal.signal(number, signal.SIG_IGN)
    return code


def reap_others(own: set[int]) -> None:
    """As the first process of a container it inherits the stewards of workers that were killed."""
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in own:  # that is for look()
                return
            os.waitpid(found.si_pid, 0)
