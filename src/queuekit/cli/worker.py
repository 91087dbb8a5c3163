"""`queuekit worker`."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError
from queuekit.task import registered_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

__all__ = ["load_modules", "run"]


def run(
    modules: Sequence[str], *, dev: bool, log_level: str, options: Mapping[str, Any], processes: int | None = None
) -> int:
    if dev and processes is not None:
        raise ConfigError(f"--dev runs one worker: leave out --processes {processes}, or --dev")
    if processes is not None:
        from queuekit.cli import supervise

        return supervise.run(processes, modules, log_level=log_level, options=options)
    if dev:
        from queuekit.cli import dev as development

        return development.run(modules, log_level=log_level, options=options)

    with _leave_when_told():
        return _run(modules, log_level=log_level, options=options)


@contextmanager
def _leave_when_told() -> Iterator[None]:
    """Until the engine has handlers of its own: a worker that is told to stop while it imports has nothing to end. As
    the first process of a container it would not even hear the signal without one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, lambda *_: os._exit(0)) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    for number in before:  # an interpreter that ends takes its handlers back: a third signal would be a crash
        signal.signal(number, signal.SIG_IGN)


def _run(modules: Sequence[str], *, log_level: str, options: Mapping[str, Any]) -> int:
    from queuekit import app as apps
    from queuekit.logs import configure_logging, log_event
    from queuekit.settings import load

    queues = tuple(name.strip() for name in (options.get("queues") or "").split(",") if name.strip())
    given = {**options, "queues": queues}
    app = apps.App(load(cli=given), hooks=[log_event])
    app.command_line = given
    apps.use_default(app)
    unset: ConfigError | None = None
    try:
        configure_logging(log_level, app.settings.log_format)
    except ConfigError as error:  # what is missing may be set by configure(), in one of the modules
        unset = error
    try:
        loaded = load_modules(modules)
    except _NoModule as error:
        raise unset or error from None
    if unset is not None and apps.current_app() is app:
        raise unset
    app = apps.current_app()
    configure_logging(log_level, app.settings.log_format)
    if app.settings.metrics_port is not None:
        from queuekit.integrations.prometheus import start_exporter

        app.add_hooks_of(start_exporter(app.settings))
    if not registered_tasks():
        raise ConfigError(f"{', '.join(modules)}: there is no @agent_task in it, so that a worker has nothing to run")
    worker = app.worker(pool=app.fitting_pool())
    worker.modules = [module.__name__ for module in loaded]
    # What is loaded by now stays. A full collection goes through all of it, 0.1 s in which no job moves, and writes on
    # pages that processes would share.
    gc.collect()
    gc.freeze()
    return app.adapter.run_worker(worker) or worker.exit_code


class _NoModule(ConfigError):
    """There is none of that name."""


def load_modules(names: Sequence[str]) -> list[ModuleType]:
    """Import the modules that declare the tasks. Raises ConfigError where one cannot be found."""
    sys.path.insert(0, str(Path.cwd()))
    found = []
    for name in names:
        path = Path(name)
        if name.endswith(".py") or path.is_file():
            if not path.is_file():
                raise _NoModule(f"there is no file {name!r} in {Path.cwd()}")
            # The name under which its tasks are known when the file itself is run as a script.
            sys.path.insert(0, str(path.resolve().parent))
            name = path.stem  # noqa: PLW2901
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise _NoModule(
                f"there is no module {name!r} in {Path.cwd()} or on the path; a file is named with its .py"
            ) from error
    return found
