"""What a worker process needs besides its engine: a name with a lease, an execution, and a steward.

The adapter makes its engine run, and tells the Worker: start() once the process is ready, watch() now and then.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from queuekit.execution import Execution
from queuekit.execution.apart import Apart
from queuekit.processes import process_name
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from queuekit.events import Hooks
    from queuekit.execution import Held
    from queuekit.settings import Settings
    from queuekit.store import Store
    from queuekit.task import Task

__all__ = ["Worker"]

log = logging.getLogger("queuekit")

LONGEST_PAUSE: Final = 10.0  # seconds between two starts of a steward that ends each time
LIVED: Final = 15.0  # seconds after which a steward that ends counts as a new misfortune
STEWARD_LEAVES: Final = 3.0  # seconds for it to leave in
FIRST_LEASE: Final = 6.0  # seconds at least, since on a busy machine its steward may be so long in coming


class Worker:
    """One worker process (the parent, where the engine forks).

    Attributes:
        name: of this incarnation: host, pid, and a random part, since a pid is used again.
        queues: the queues to serve, without their priority levels.
        concurrency: how many jobs at a time; None: what the engine's pool does by itself.
        pool: the engine's word for how it runs tasks; None: the adapter's default.
        stopping: set by the adapter when the worker is asked to stop.
        shared: its process runs several jobs at a time, so that a suspect gets a process of its own.
        modules: those that `queuekit worker` was told to import.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        tasks: Sequence[Task[..., Any, Any]],
        *,
        find: Callable[[str], Task[..., Any, Any] | None],
        queues: Sequence[str] = (),
        concurrency: int | None = None,
        pool: str | None = None,
        hooks: Hooks | None = None,
        shared: bool = False,
    ) -> None:
        self.store = store
        self.settings = settings
        self.tasks = tuple(tasks)
        self.queues = tuple(queues) or tuple(sorted({task.queue for task in tasks} | {"default"}))
        self.concurrency = concurrency
        self.pool = pool
        self.name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self.stopping = threading.Event()
        self.shared = shared
        self.modules: Sequence[str] = ()
        # A codec that was given as an object is in this process alone.
        apart = shared and (settings.codec is None or isinstance(settings.codec, str))
        self.execution = Execution(
            store,
            settings,
            find=find,
            worker=lambda: self.name,
            renew=self._await_lease,
            stopping=self.stopping,
            hooks=hooks,
            apart=self._start_apart if apart else None,
        )
        self._steward: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._pid = os.getpid()
        self._born = self._pause = 0.0
        self._epoch = ""  # of the store, when the lease was opened
        self._find = find

    def another(self) -> Worker:
        """The same for a process of its own: another name, one job at a time."""
        return Worker(
            self.store,
            self.settings,
            self.tasks,
            find=self._find,
            queues=self.queues,
            concurrency=1,
            pool=self.pool,
            hooks=self.execution.hooks,
            shared=self.shared,
        )

    # ---- the lease --------------------------------------------------------------------------------------------------

    def _await_lease(self) -> None:
        """For a claim that finds no lease. The steward opens another, as soon as it reaches the store; until then
        nothing is taken, since nobody would beat for it: it would be lost after a lease, again and again."""
        raise StoreAway("the worker's lease is over, and its steward has not opened another yet", sent=False)

    def renew(self) -> None:
        """Open the first lease. Raises StoreAway."""
        # A tick that ends nothing: from the first lease on the store knows since when nobody ticks. An outage that
        # begins before the steward's first tick is a discontinuity too.
        self.store.reap(0)
        self.store.beat(self.name, start=True, first=FIRST_LEASE, about=self.about)
        self._epoch = self.store.epoch()

    @property
    def about(self) -> str:
        """What it says of itself where it opens a lease: for people, as JSON."""
        about = {"backend": self.settings.backend, "queues": self.queues, "concurrency": self.concurrency}
        return json.dumps({**about, "pool": self.pool})

    def quarantine(self, raw: str, reason: str) -> bool:
        """Put a message that nobody may run aside. While the store is away it waits for it, until the worker stops:
        False then, and the message is not to be acknowledged."""
        log.warning("a message goes to quarantine: %s", reason)
        while True:
            try:
                self.store.quarantine(raw, reason)
            except StoreAway:
                if self.stopping.wait(0.5):
                    return False
            else:
                return True

    def _start_apart(self, held: Held) -> Apart:
        """A process for a suspect. It finds the tasks where this one did. Raises OSError."""
        assert held.task is not None
        assert held.apart is not None
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        return Apart(
            {
                "settings": self.settings.to_json(),
                "worker": self.name,
                "path": sys.path,
                "modules": list(dict.fromkeys([*self.modules, held.task.module, *self.settings.modules])),
                "own_command": bool(self.modules),
                "log_level": level if level in logging.getLevelNamesMapping() else "INFO",
                "bell": held.apart.bell.to_header(),
                "args": held.apart.args,
                "kwargs": held.apart.kwargs,
                "token": held.token,
            }
        )

    # ---- the steward ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The first beat, by the worker itself, since the steward's comes after a first claim; then the steward."""
        try:
            self.renew()
        except StoreAway as error:
            log.warning("the store is away; the worker goes on and waits for it: %s", error)
        self._pid = os.getpid()
        _started.add(self)
        self._start_steward()

    def _start_steward(self) -> None:
        """Raises OSError: no memory, no descriptors, too many processes."""
        self._born = time.monotonic()
        read, write = os.pipe()
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        # It stays open for as long as this process lives: end of file is how the steward sees its death.
        self._pipe = write
        try:
            self._steward = subprocess.Popen(
                # -P: a file of the user's in the current folder is no module of the steward's.
                [sys.executable, "-P", "-m", "queuekit.steward"],
                stdin=read,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=environ,
            )
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(read)
        order: dict[str, Any] = {"settings": self.settings.to_json(), "worker": self.name, "about": self.about}
        order |= {"parent": process_name(), "epoch": self._epoch}
        if self.settings.hooks:
            order["path"] = sys.path  # where they are found
        try:
            os.write(write, json.dumps(order).encode() + b"\n")
        except BrokenPipeError:  # it has ended already: watch() sees to it
            log.warning("the steward ended at once")

    def _close_pipe(self) -> None:
        if self._pipe is not None:  # once: the number will be used again
            pipe, self._pipe = self._pipe, None
            os.close(pipe)

    def after_fork(self) -> None:
        """In a forked child: the steward waits for the end of the parent, and the child must not stand for it."""
        self._close_pipe()

    def watch(self) -> None:
        """Start another steward where it has died. Cheap: call it each half second or so."""
        steward = self._steward
        if steward is None or os.getpid() != self._pid or steward.poll() is None:
            return
        lived = time.monotonic() - self._born
        if lived > LIVED:
            self._pause = 0.0
        if lived < self._pause:
            return
        self._pause = min(max(0.5, 2 * self._pause), LONGEST_PAUSE)
        log.warning("the steward has ended (%s): starting another", steward.returncode)
        self._close_pipe()
        try:
            self._start_steward()
        except OSError as error:  # the next call tries again
            log.warning("no steward could be started, without which nothing is retried: %s", error)

    def stop(self) -> None:
        """The worker has ended, and its process may live on: the steward leaves, as it does after the end of both."""
        steward, self._steward = self._steward, None
        self._close_pipe()
        if steward is not None:
            with suppress(subprocess.TimeoutExpired):  # it says its last word to a store that is away
                steward.wait(STEWARD_LEAVES)

    def watch_in_thread(self) -> None:
        """watch() each half second, for engines whose worker does not fork after its start."""

        def loop() -> None:
            while True:
                time.sleep(0.5)
                self.watch()

        threading.Thread(target=loop, name="queuekit-minder", daemon=True).start()


_started: weakref.WeakSet[Worker] = weakref.WeakSet()


def _after_fork() -> None:
    for worker in list(_started):
        worker.after_fork()


os.register_at_fork(after_in_child=_after_fork)  # once: nobody can take a hook back
