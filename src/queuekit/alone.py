"""What runs in the process that a worker starts for one attempt of a suspect: see queuekit.execution.apart.

It makes its claim itself, under the worker's lease and its own process name, so that its death is seen by the steward
and costs the one attempt that it runs. The user's code runs in its main thread: a time limit, a cancel and a stop take
synchronous code out of a blocking call. It dies with its worker.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from queuekit.execution import Delivery, Execution, Held
from queuekit.execution.apart import write_outcome
from queuekit.message import Doorbell
from queuekit.processes import die_with_parent
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from queuekit.app import App
    from queuekit.execution import Outcome

__all__ = ["main"]

log = logging.getLogger("queuekit")

HAND_BACK = signal.SIGQUIT  # takes the main thread out of user code


class _Said:
    """What the worker says. Read in a thread of its own, since user code may keep the main one for hours."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.stopping = threading.Event()
        self.cancel: str | None = None
        self.execution: Execution | None = None
        signal.signal(HAND_BACK, self._interrupt)
        threading.Thread(target=self._listen, name="queuekit-listener", daemon=True).start()

    def _listen(self) -> None:
        for line in self._lines:
            word = json.loads(line)
            if word == "stop":
                self.stopping.set()
            else:
                self.cancel = word["cancel"]
            signal.pthread_kill(threading.main_thread().ident or 0, HAND_BACK)
        os.kill(os.getpid(), signal.SIGKILL)  # the worker is gone: nobody would hear of an outcome

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.execution is None:  # nothing is claimed yet
            if self.stopping.is_set():
                os._exit(0)
            return
        if self.cancel is not None:
            self.execution.cancel_running(self.cancel)
        if self.stopping.is_set():
            self.execution.interrupt_running()


def main() -> int:
    # The worker says when. Handlers and not SIG_IGN, which programs that a task starts would inherit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    lines = _lines()
    first = next(lines, b"")
    if not first:  # the worker has died before it could say what to do
        return 0
    order: dict[str, Any] = json.loads(first)
    die_with_parent(order["parent"], signal.SIGKILL)
    os.set_inheritable(order["reply"], False)  # what a task starts would keep it open
    said = _Said(lines)
    sys.path[:] = order["path"]
    app = _make_app(order)
    execution = said.execution = Execution(
        app.store,
        app.settings,
        find=_find,
        worker=lambda: order["worker"],
        renew=_await_lease,
        stopping=said.stopping,
        hooks=app.hooks,
        publish=app.publish_taken,
    )
    _reply(order, write_outcome(_execute(execution, order)))
    execution.hooks.flush()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # whatever threads a task has left behind


def _await_lease() -> None:
    """The claim waits: it is for the worker's steward to open another, who beats for it."""
    raise StoreAway("the worker's lease is over, and its steward has not opened another yet", sent=False)


def _execute(execution: Execution, order: dict[str, Any]) -> Outcome:
    delivery = Delivery(Doorbell.from_header(order["bell"]), order["args"], order["kwargs"])
    held = execution.claim(delivery, token=order["token"])
    if not isinstance(held, Held):
        return held
    _reply(order, {"claimed": held.number, "started": held.started})
    return execution.run(held)


def _reply(order: dict[str, Any], said: dict[str, Any]) -> None:
    data = memoryview(json.dumps(said).encode() + b"\n")
    while data:
        data = data[os.write(order["reply"], data) :]


def _lines() -> Iterator[bytes]:
    """Of standard input, which user code finds empty."""
    fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    with open(fd, "rb") as file:
        yield from file


# ---- the user's tasks ----------------------------------------------------------------------------------------------


def _make_app(order: dict[str, Any]) -> App:
    from queuekit.app import App, current_app, has_default, use_default
    from queuekit.logs import configure_logging, log_event
    from queuekit.settings import Settings

    settings = Settings.from_json(order["settings"])
    configure_logging(order["log_level"], settings.log_format)
    own = App(settings, hooks=[log_event] if order["own_command"] else [])
    if order["own_command"]:  # `queuekit worker` makes its App before it imports the modules
        own.final = True
        use_default(own)
    _import(order["modules"])
    if not has_default():
        use_default(own)
    app = current_app()  # of install(), with what only an import can give
    same = (app.settings.namespace, app.settings.store_url) == (settings.namespace, settings.store_url)
    if not same:
        use_default(own)
    return app if same else own


def _import(modules: Sequence[str]) -> None:
    """All that can be imported. A task that is not found then is handed back, as by a worker that does not know it."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            log.exception("the module %s cannot be imported where a job is to run alone", name)


def _find(name: str) -> Any:
    from queuekit.task import find_task

    return find_task(name)


if __name__ == "__main__":
    sys.exit(main())
