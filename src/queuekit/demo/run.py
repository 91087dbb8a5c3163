"""The demo, in order: documents, a server, the endpoint, the workers, the jobs, the verdict."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from queuekit.errors import ConfigError, QueuekitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from rich.console import Console

    from queuekit.demo.documents import Documents
    from queuekit.demo.watch import Watch
    from queuekit.demo.workers import Workers

__all__ = ["Request", "run"]

PATIENCE: Final = 120.0  # seconds after which the jobs will not end any more
POLL: Final = 0.2
GOODBYE: Final = 5.0  # seconds that the stewards have to leave
ENGINES: Final = ("celery", "rq", "dramatiq")


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `folder` None: the packages installed here."""

    folder: Path | None = None
    seed: int = 1
    count: int = 12
    engines: Sequence[str] = ENGINES
    keep: bool = False


class _Trouble(Exception):
    """The demo cannot go on; the text is for its reader."""


@dataclass
class _Interrupt:
    """The first signal that asks the demo to end. It is looked at between two steps, so that it never comes between
    the start of a process and the note of it."""

    signals: list[int] = field(default_factory=list)

    def note(self, number: int, _: FrameType | None) -> None:
        self.signals.append(number)

    def check(self) -> None:
        if self.signals:
            raise _Interrupted


class _Interrupted(Exception):
    pass


def run(request: Request) -> int:
    """The exit code: 0 all as planned and the engines agree, 1 not so, 128 + n ended by a signal.

    Raises:
        ConfigError: something is not installed, or there is nothing to work on.
    """
    _check_installed(request.engines)
    from queuekit.demo.screen import make_console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to fail
    console = make_console()
    with _signals() as interrupt:
        try:
            return _run(request, console, interrupt)
        except _Interrupted:
            console.print("The demo was stopped; its processes have ended.")
            return 128 + interrupt.signals[0]
        except _Trouble as error:
            console.print(f"The demo failed: {error}", markup=False, soft_wrap=True)
            return 1


def _check_installed(engines: Sequence[str]) -> None:
    missing = [name for name in (*engines, "openai") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}, not installed here: pip install 'queuekit[demo]'")


@contextmanager
def _signals() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    before = {
        number: signal.signal(number, interrupt.note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _documents(request: Request) -> Documents:
    from queuekit.demo.documents import from_folder, from_packages

    return from_packages(request.count) if request.folder is None else from_folder(request.folder, request.count)


def _run(request: Request, console: Console, interrupt: _Interrupt) -> int:
    from queuekit.demo.endpoint import Endpoint
    from queuekit.demo.plan import Plan
    from queuekit.demo.report import announce, explain, report
    from queuekit.demo.verdict import differences
    from queuekit.demo.workers import Workers, worker_environment
    from queuekit.embedded import start

    began = time.monotonic()
    documents = _documents(request)
    announce(console, documents, request.engines, request.seed)
    plan = Plan(request.seed, [one.id for one in documents.chosen])
    # What is entered last is left first: the workers go while their broker is still there.
    with ExitStack() as stack:
        folder = _folder(stack, console, keep=request.keep)
        broker = stack.enter_context(start(folder / "valkey"))
        stack.callback(_let_stewards_leave, broker.url)
        endpoint = stack.enter_context(Endpoint(plan))
        workers = stack.enter_context(Workers(folder))
        for engine in request.engines:
            environ = worker_environment(
                engine,
                broker_url=broker.url,
                namespace=f"demo-{engine}",
                seed=request.seed,
                model_url=endpoint.url(engine),
                environ=os.environ,
            )
            workers.start(engine, ("queuekit.demo.tasks", "queuekit.demo.warm"), environ)
            interrupt.check()
        # This imports the openai client: meanwhile the workers do the same.
        from queuekit.demo import tasks

        explain(console, tasks.SCALE)
        watch = _watch(stack, request, documents, broker.url)
        try:
            _follow(watch, console, workers, interrupt)
        except QueuekitError as error:
            raise _Trouble(f"{error}\n{_logs(workers, request.engines)}") from error
        found = differences(plan, watch, endpoint.calls)
        report(console, watch, plan, found, time.monotonic() - began, str(tasks.__file__))
        return 1 if found else 0


def _folder(stack: ExitStack, console: Console, *, keep: bool) -> Path:
    if not keep:
        return Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="queuekit-demo-", ignore_cleanup_errors=True))
        )
    folder = Path(tempfile.mkdtemp(prefix="queuekit-demo-"))
    console.print(f"Kept: the workers' logs and the server's data in {folder}", soft_wrap=True)
    return folder


def _let_stewards_leave(broker_url: str) -> None:
    """Wait until nobody else is connected. A steward signs its worker off in the store; where that is gone, it tries on
    for a whole lease."""
    import redis

    until = time.monotonic() + GOODBYE
    with redis.Redis.from_url(broker_url) as client, suppress(redis.RedisError):
        alone = 0
        while alone < 2 and time.monotonic() < until:  # twice: one that has just started is not connected yet
            alone = alone + 1 if len(client.client_list()) == 1 else 0
            time.sleep(0.1)


def _watch(stack: ExitStack, request: Request, documents: Documents, broker_url: str) -> Watch:
    """An App for each engine. In one's own program there is one, and the setting `backend` names its engine."""
    from queuekit import App, Settings
    from queuekit.demo.watch import Watch

    apps = {}
    for engine in request.engines:
        settings = Settings(backend=engine, broker_url=broker_url, namespace=f"demo-{engine}", seed=request.seed)
        apps[engine] = App(settings)
        stack.callback(apps[engine].close)
    return Watch(apps, documents.chosen)


def _follow(watch: Watch, console: Console, workers: Workers, interrupt: _Interrupt) -> None:
    """Enqueue the jobs, and return when all have ended."""
    from queuekit.demo.screen import make_screen

    with make_screen(console) as screen:
        screen.show(watch, [])
        for engine in watch.engines:
            watch.enqueue(engine)
            screen.show(watch, watch.look())
            interrupt.check()
        until = time.monotonic() + PATIENCE
        while not watch.over:
            time.sleep(POLL)
            interrupt.check()
            screen.show(watch, watch.look())
            for engine, code in workers.dead().items():
                raise _Trouble(f"the worker of {engine} has ended (exit code {code}). It said:\n{workers.tail(engine)}")
            if time.monotonic() > until:
                left = ", ".join(f"{engine}: {dict(watch.counts(engine))}" for engine in watch.engines)
                raise _Trouble(f"not over after {PATIENCE:g} s: {left}\n{_logs(workers, watch.engines)}")


def _logs(workers: Workers, engines: Sequence[str]) -> str:
    return "\n".join(f"--- the worker of {engine} said:\n{workers.tail(engine, 5)}" for engine in engines)
