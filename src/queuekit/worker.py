"""What a worker process needs besides its engine: a name with a lease, an execution, and a steward.

The adapter makes its engine run, and tells the Worker: start() once the process is ready, watch() now and then.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from queuekit import __version__
from queuekit.errors import ConfigError
from queuekit.execution import Execution
from queuekit.execution.apart import Apart
from queuekit.execution.caps import Caps
from queuekit.payload.fingerprint import fingerprint
from queuekit.processes import ENDING, process_name
from queuekit.store import MOST_SAID, StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from queuekit.events import Hooks
    from queuekit.execution import Held
    from queuekit.settings import Settings
    from queuekit.store import Store, Taken
    from queuekit.task import Task

__all__ = ["Worker", "cap_of", "leave"]

log = logging.getLogger("queuekit")

TEMPORARY: Final = 75  # the exit code EX_TEMPFAIL: a worker that leaves so is to be started again
LONGEST_PAUSE: Final = 10.0  # seconds between two starts of a steward that ends each time
LIVED: Final = 15.0  # seconds after which a steward that ends counts as a new misfortune
STEWARD_LEAVES: Final = 3.0  # seconds for it to leave in
DRAINED: Final = b"drained"  # said to the steward, by the pipe whose end it waits for
MOST_TASKS: Final = 200  # whose code it tells of; the steward's order, which has them too, fits into a pipe
FIRST_LEASE: Final = 6.0  # seconds at least, since on a busy machine its steward may be so long in coming


class Worker:
    """One worker process (the parent, where the engine forks).

    Attributes:
        name: of this incarnation: host, pid, and a random part, since a pid is used again.
        queues: the queues to serve, without their priority levels.
        concurrency: how many jobs at a time; None: what the engine's pool does by itself.
        pool: the engine's word for how it runs tasks; None: the adapter's default.
        stopping: set by the adapter when the worker is asked to stop.
        drained: set where it stops by itself, since a job of it goes on over its hard limit and ends with its process.
            It sends itself a SIGTERM then, and waits for the others, within the grace, and not for that one.
        exit_code: what the process is to end with: 0, or TEMPORARY once it is drained.
        shared: its process runs several jobs at a time, so that a suspect gets a process of its own.
        modules: those that `queuekit worker` was told to import.
        keeps_caps: set by the adapter before start(), where the pool keeps `caps` by an Admission.
        at_a_time: set by the adapter before start(): how many jobs the engine runs at a time with this worker, where it
            knows. A cap of as many or more holds by itself.
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
        publish: Callable[[Sequence[tuple[str, Taken]]], None] | None = None,
        register: Callable[[], None] | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.tasks = tuple(tasks)
        self.queues = tuple(queues) or tuple(sorted({task.queue for task in tasks} | {"default"}))
        self.concurrency = concurrency
        self.pool = pool
        self.name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self.stopping = threading.Event()
        self.drained = threading.Event()
        self.exit_code = 0
        self.shared = shared
        self._register = register  # the schedules that are declared
        self.modules: Sequence[str] = ()
        self.keeps_caps = False
        self.at_a_time: int | None = None
        apart = shared and settings.can_be_handed_over
        self.execution = Execution(
            store,
            settings,
            find=find,
            worker=lambda: self.name,
            renew=self._await_lease,
            stopping=self.stopping,
            hooks=hooks,
            apart=self._start_apart if apart else None,
            leave=self._drain,
            publish=publish,
        )
        self._publish = publish
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
            publish=self._publish,
        )

    # ---- caps -------------------------------------------------------------------------------------------------------

    @cached_property
    def caps(self) -> Caps:
        """How many jobs of one queue or task may run here at a time."""
        queues = {name: cap for name, cap in self.settings.queue_concurrency.items() if name in self.queues}
        tasks = {task.name: cap for task in self.tasks if (cap := cap_of(task, self.settings)) is not None}
        aliases = {alias: task.name for task in self.tasks if task.name in tasks for alias in task.aliases}
        return Caps(self.queues, queues, tasks, aliases)

    def check_caps(self) -> None:
        """start() asks. Raises ConfigError for a cap that would not hold here."""
        if self.keeps_caps:
            return
        for said, cap in self._asked_caps():
            if self.at_a_time is None or self.at_a_time > cap:
                many = "as many jobs at a time as it likes" if self.at_a_time is None else f"{self.at_a_time} at a time"
                pool = "the default pool" if self.pool is None else f"the pool {self.pool!r}"
                raise ConfigError(
                    f"{said}: {pool} of {self.settings.backend} runs {many} here, and cannot keep fewer of one kind. "
                    "Choose the pool async, on Redis and by `queuekit worker`; or run these jobs by a worker of their "
                    f"own, with --queues and --concurrency {cap}; or unset it"
                )

    def _asked_caps(self) -> Iterator[tuple[str, int]]:
        """Of the queues that are served, and of the tasks that are theirs."""
        for name, cap in self.caps.queues.items():
            yield f"queue_concurrency[{name!r}]={cap} ({self.settings.source('queue_concurrency')})", cap
        for task in self.tasks:
            if task.name in self.caps.tasks and task.queue in self.queues:
                cap = self.caps.tasks[task.name]
                named = task.name in self.settings.task_concurrency
                where = self.settings.source("task_concurrency")
                yield (
                    (
                        f"task_concurrency[{task.name!r}]={cap} ({where})"
                        if named
                        else f"max_concurrency={cap} of the task {task.name!r}"
                    ),
                    cap,
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
        """What it says of itself where it opens a lease: for people, as JSON. By its clock and the versions of its code
        `queuekit doctor` sees what differs between workers."""
        about = {"backend": self.settings.backend, "queues": self.queues, "concurrency": self.concurrency}
        about |= {"pool": self.pool, "queuekit": __version__, "python": platform.python_version()}
        return json.dumps({**about, "tasks": self._code, "clock": round(time.time(), 3)})

    @cached_property
    def _code(self) -> dict[str, str]:
        """Of each task a short name for its code."""
        return {task.name: fingerprint(task.fn, task.name) for task in self.tasks[:MOST_TASKS]}

    def quarantine(self, raw: str, reason: str, *, source: str = "") -> bool:
        """Put a message that nobody may run aside. `source`: the queue it came from, in the engine's words. While the
        store is away it waits for it, until the worker stops: False then, and the message is not to be acknowledged."""
        log.warning("a message goes to quarantine: %s", reason[:MOST_SAID])
        while True:
            try:
                self.store.quarantine(raw, reason, source=source)
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

    def _drain(self, held: Held) -> None:
        """End this process, since nothing else ends what it runs. In another thread than that."""
        if self.drained.is_set() or self.stopping.is_set():  # it is about to end
            return
        self.exit_code = TEMPORARY
        self.drained.set()
        if not self.shared:
            # It is the main thread that is stuck, and hears no signal. Nothing else runs here.
            self.execution.hooks.flush()
            leave(TEMPORARY)
        log.error("this worker takes no more jobs, lets the others that run here end, and leaves with %d", TEMPORARY)
        self._tell_steward()
        os.kill(os.getpid(), signal.SIGTERM)

    # ---- the steward ------------------------------------------------------------------------------------------------

    def _tell_steward(self) -> None:
        """That this process ends by itself, and need not be killed."""
        if self._pipe is not None:
            with suppress(OSError):
                os.write(self._pipe, DRAINED)

    def start(self) -> None:
        """The first beat, by the worker itself, since the steward's comes after a first claim; then the steward. Raises
        ConfigError: a cap that this pool cannot keep."""
        self.check_caps()
        try:
            self.renew()
        except StoreAway as error:
            log.warning("the store is away; the worker goes on and waits for it: %s", error)
        self._record_schedules()
        self._pid = os.getpid()
        _started.add(self)
        self._start_steward()

    def _record_schedules(self) -> None:
        """Where the store is away now, they are as they were until a worker starts."""
        if self._register is None:
            return
        try:
            self._register()
        except StoreAway as error:
            log.warning("the schedules that are declared here could not be recorded: %s", error)

    def _start_steward(self) -> None:
        """Raises OSError: no memory, no descriptors, too many processes."""
        self._born = time.monotonic()
        read, write = os.pipe()
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        # It stays open for as long as this process lives: end of file is how the steward sees its death.
        self._pipe = write
        # It begins with its signals blocked, and ignores them before it lets them through: one that comes to the whole
        # group while it starts does not end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
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
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(read)
        order: dict[str, Any] = {"settings": self.settings.to_json(), "worker": self.name, "about": self.about}
        order |= {"parent": process_name(), "epoch": self._epoch}
        if self.settings.hooks:
            order["path"] = sys.path  # where they are found
        try:
            os.write(write, json.dumps(order).encode() + b"\n")
        except BrokenPipeError:  # it has ended already: watch() sees to it
            log.warning("the steward ended at once")
        if self.drained.is_set():
            self._tell_steward()

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


def cap_of(task: Task[..., Any, Any], settings: Settings) -> int | None:
    """How many jobs of the task may run at a time in one worker process. None: any number."""
    return settings.task_concurrency.get(task.name, task.max_concurrency)


def leave(code: int = 0) -> None:
    """End the process, whatever threads are in it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


_started: weakref.WeakSet[Worker] = weakref.WeakSet()


def _after_fork() -> None:
    for worker in list(_started):
        worker.after_fork()


os.register_at_fork(after_in_child=_after_fork)  # once: nobody can take a hook back
