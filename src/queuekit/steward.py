"""The steward: a small companion process of each worker.

It is a process of its own so that neither a fork, the interpreter's lock nor a blocked loop of the worker can stop it.
It knows no task. One thread beats for the worker and watches it and the processes that run its attempts; the other
ticks: it ends attempts whose worker is gone, and publishes what is due or was lost. There is no leader: each take is
atomic, so that any number of stewards may tick.

It leaves when its worker has died, which it sees as the end of the file on its standard input, or by a pidfd.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from queuekit.adapters import BrokerAway
from queuekit.events import Hooks, load_hooks
from queuekit.processes import ENDING, OVER, is_alive
from queuekit.store import StoreAway
from queuekit.ticks import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.settings import Settings
    from queuekit.store import Beat, Store

__all__ = ["Steward", "main"]

log = logging.getLogger("queuekit.steward")

SAY_AGAIN: Final = 30.0  # seconds between two lines about the same outage

CANCELLED: Final = 15.0  # seconds after a cancel at which a child is killed that still runs the job, whatever it does

DYING: Final = 1.0  # seconds that the processes of a worker that is gone have to be gone too

TOGETHER: Final = 0.2  # seconds in which processes die that die together


class _Outage:
    """Says that something cannot be done for now: at once, then seldom, and when it can be again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since = self._said = 0.0

    def goes_on(self, error: Exception) -> None:
        now = time.monotonic()
        self._since = self._since or now
        if not self._said or now - self._said >= SAY_AGAIN:
            self._said = now
            log.warning("no %s: %s", self._what, error)

    def over(self) -> None:
        if self._since:
            log.warning("the first %s for %.0f s", self._what, time.monotonic() - self._since)
            self._since = self._said = 0.0


class _Watched:
    """Processes, by pidfd where the system has it."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self.poll = select.poll()

    def add(self, process: str) -> None:
        if process in self._fds or not hasattr(os, "pidfd_open"):
            return
        try:
            fd = os.pidfd_open(int(process.partition(":")[0]))
        except OSError:
            return  # gone: is_alive() says so
        self._fds[process] = fd
        self.poll.register(fd, select.POLLIN)

    def keep(self, processes: set[str]) -> None:
        for process in set(self._fds) - processes:
            fd = self._fds.pop(process)
            self.poll.unregister(fd)
            os.close(fd)
        for process in processes:
            self.add(process)


class Steward:
    """The steward of one worker. `end` is a file descriptor that is readable once the worker has closed its side.

    `hooks` loads what is told of lost attempts: beside the beats, since it imports the user's code. `epoch`: the
    store's, as the worker knows it; it is another one once the store came back empty.
    """

    def __init__(
        self,
        store: Store,
        ticker: Ticker,
        worker: str,
        parent: str,
        settings: Settings,
        end: int,
        hooks: Callable[[], Hooks] = Hooks,
        about: str = "",
        epoch: str = "",
    ) -> None:
        self.store, self.ticker = store, ticker
        self.worker, self.parent, self.settings, self.about = worker, parent, settings, about
        self._watched = _Watched()
        self._end = end
        self._watched.poll.register(end, select.POLLIN | select.POLLHUP)
        self._running: set[str] = set()
        self._alive: set[str] = set()  # those of them that were seen alive: only they can have met a time limit
        self._cancelled: dict[tuple[str, str], float] = {}  # since when: jobs, with the child that runs each
        self._over: dict[tuple[str, str], float] = {}  # since when: jobs over their limit, with the process of each
        self._drains = False  # the worker has said that it ends by itself
        self._seen = False  # alive: one that died while its steward was starting was not over a limit for that
        self._epoch = epoch
        self._no_beat, self._no_tick = _Outage("beat"), _Outage("tick")
        self._leaving = False
        self._now = threading.Event()  # tick at once
        self._load_hooks = hooks
        self._lost: queue.SimpleQueue[str] = queue.SimpleQueue()  # jobs whose attempts a beat has ended, to be told

    def run(self) -> None:
        ticking = threading.Thread(target=self._tick_on, name="queuekit-ticks", daemon=True)
        ticking.start()
        while not self._parent_gone():
            self._seen = True
            self._beat()
            # A death or the end of the file wakes it at once; a beat is due each tick otherwise.
            self._watched.poll.poll(self.settings.tick * 1000)
        self._await_the_dying()
        self._leave()
        self._leaving = True
        self._now.set()  # the last tick
        ticking.join(timeout=self.settings.lease)

    def _parent_gone(self) -> bool:
        while select.select([self._end], [], [], 0)[0]:
            if not os.read(self._end, 1024):
                return True
            self._drains = True  # whatever it says: there is nothing else to say
        return not is_alive(self.parent)

    def _dies_too(self) -> bool:
        """Whether the worker goes as well, of whose processes one is gone: its own death takes them along, and can be
        seen after theirs. One that died alone is to blame for it."""
        time.sleep(TOGETHER)
        return self._parent_gone()

    def _beat(self) -> None:
        try:
            dead = [process for process in self._running if not is_alive(process)]
            if dead and self._dies_too():
                return  # and leaves: they were lost together
            beat = self.store.beat(
                self.worker,
                dead=[one for one in dead if one in self._alive],
                found=[one for one in dead if one not in self._alive],
            )
            if not beat.alive:
                beat = self._start_anew()
            if not self._epoch:
                self._epoch = self.store.epoch()
            self._running = set(beat.processes)
            self._alive = {one for one in self._running if one in self._alive or is_alive(one)}
            self._end_cancelled(beat)
            self._end_over(beat)
            self._watched.keep(self._running | {self.parent})
            for id in beat.lost:
                log.warning("job %s: the process that ran its attempt has died", id, extra={"job_id": id})
                self._lost.put(id)
            self._no_beat.over()
            if dead:
                log.debug("worker %s: processes that ran attempts have ended: %s", self.worker, ", ".join(dead))
                self._now.set()  # by the other thread: whatever there is to publish, the beats go on
        except StoreAway as error:
            self._no_beat.goes_on(error)
            self._watched.keep({self.parent})
            time.sleep(self.settings.tick)

    def _end_cancelled(self, beat: Beat) -> None:
        """A child that runs C code cannot do it itself: no thread of it comes to run. Its death ends the attempt, and
        the job as cancelled."""
        now = time.monotonic()
        asked = [one for one in zip(beat.cancels, beat.cancelled, strict=True) if one[1] not in {"", self.parent}]
        self._cancelled = {one: self._cancelled.get(one, now) for one in asked}
        for (id, process), since in self._cancelled.items():
            if now - since > CANCELLED and is_alive(process):
                log.warning("job %s was cancelled and does not end: its process is killed", id, extra={"job_id": id})
                with suppress(ProcessLookupError):
                    os.kill(int(process.partition(":")[0]), signal.SIGKILL)

    def _end_over(self, beat: Beat) -> None:
        """The last resort against code over its hard limit: a process in which no thread comes to run. Counted from
        when it is seen here: a machine that was paused for an hour finds all limits passed."""
        now = time.monotonic()
        self._over = {one: self._over.get(one, now) for one in beat.over}
        for (id, process), since in self._over.items():
            mine = process == self.parent
            if now - since > OVER[mine] and is_alive(process) and not (mine and self._drains):
                log.error("job %s goes on over its time limit: its process is killed", id, extra={"job_id": id})
                with suppress(ProcessLookupError):
                    os.kill(int(process.partition(":")[0]), signal.SIGKILL)

    def _start_anew(self) -> Beat:
        epoch = self.store.epoch()
        if self._epoch in {"", epoch}:
            log.warning("worker %s was taken for gone, and its attempts were ended: a new lease", self.worker)
        else:
            what = "is run" if self.settings.store_lost == "adopt" else "goes to quarantine"
            log.warning(
                "the store came back empty (epoch %s, %s before): what was recorded is lost with it. A job whose "
                "message is still in the broker %s (store_lost)", epoch, self._epoch, what
            )  # fmt: skip
        about = self.about and json.dumps({**json.loads(self.about), "clock": round(time.time(), 3)})
        beat = self.store.beat(self.worker, start=True, about=about)
        self._epoch = epoch
        return beat

    def _await_the_dying(self) -> None:
        """The worker's children die with it, by the kernel's doing, and on a busy machine a moment later: nothing is to
        run again beside one of them."""
        with suppress(StoreAway):  # then those of the last beat
            self._running = set(self.store.beat(self.worker).processes)
        until = time.monotonic() + DYING
        while time.monotonic() < until and any(map(is_alive, self._running)):
            time.sleep(0.01)

    def _leave(self) -> None:
        until = time.monotonic() + self.settings.lease
        while time.monotonic() < until:
            try:
                lost = self.store.leave(self.worker, seen=self._seen)
            except StoreAway:
                time.sleep(self.settings.tick)
                continue
            if lost:
                log.warning("worker %s has died, and %d attempts with it", self.worker, len(lost))
            for id in lost:
                self._lost.put(id)
            return

    def _tick_on(self) -> None:
        self.ticker.hooks = self._load_hooks()
        while True:
            leaving = self._leaving  # asked before the tick: the last one sees all that was lost
            self._tick_once()
            if leaving:
                return
            self._now.wait(self.settings.tick)
            self._now.clear()

    def _tick_once(self) -> None:
        try:
            while not self._lost.empty():
                self.ticker.tell([self._lost.get()])
            self.ticker.tick()
            self._no_tick.over()
        except (StoreAway, BrokerAway) as error:
            self._no_tick.goes_on(error)
        except Exception:
            log.exception("a tick failed")


def main() -> int:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # it leaves after its worker, not before
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    line = _first_line(sys.stdin.fileno())
    if not line:  # the worker has died before it could say what to do
        return 0
    order = json.loads(line)

    from queuekit.adapters import load_adapter
    from queuekit.logs import configure_logging
    from queuekit.settings import Settings
    from queuekit.store.redis import RedisStore

    settings = Settings.from_json(order["settings"])
    configure_logging("INFO", settings.log_format)
    store = RedisStore.of(settings)
    assert settings.backend is not None
    adapter = load_adapter(settings.backend)(settings)
    ticker = Ticker(store, adapter, signer=settings.signer, late=settings.lease)
    end = sys.stdin.fileno()
    path = order.get("path", [])
    Steward(
        store,
        ticker,
        order["worker"],
        order["parent"],
        settings,
        end,
        hooks=lambda: _hooks(settings.hooks, path),
        about=order["about"],
        epoch=order["epoch"],
    ).run()
    return 0


def _hooks(names: Sequence[str], path: Sequence[str]) -> Hooks:
    """The hooks of the setting. Where they cannot be loaded here, the steward does without."""
    sys.path.extend(folder for folder in path if folder not in sys.path)  # behind: a user's redis.py is not ours
    try:
        return Hooks(load_hooks(names))
    except (Exception, SystemExit):
        log.exception("the hooks cannot be loaded in the steward, which tells of no lost attempt")
        return Hooks()


def _first_line(fd: int) -> bytes:
    """Byte by byte from the descriptor: a buffered reader would swallow the end of the file that is waited for."""
    line = bytearray()
    while (byte := os.read(fd, 1)) not in {b"\n", b""}:
        line += byte
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main())
