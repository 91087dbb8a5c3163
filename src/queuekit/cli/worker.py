"""`queuekit worker`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError
from queuekit.task import registered_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

__all__ = ["load_modules", "run"]


def run(modules: Sequence[str], *, dev: bool, log_level: str, options: Mapping[str, Any]) -> int:
    if dev:
        from queuekit.cli import dev as development

        return development.run(modules, log_level=log_level, options=options)

    from queuekit import app as apps
    from queuekit.logs import configure_logging, log_event
    from queuekit.settings import load

    queues = tuple(name.strip() for name in (options.get("queues") or "").split(",") if name.strip())
    app = apps.App(load(cli={**options, "queues": queues}), hooks=[log_event])
    settings = app.settings  # what is wrong with them is said before the user's code is imported
    configure_logging(log_level, settings.log_format)
    if settings.metrics_port is not None:
        from queuekit.integrations.prometheus import start_exporter

        app = apps.App(start_exporter(settings), hooks=[log_event])
    apps.use_default(app)
    loaded = load_modules(modules)
    if not registered_tasks():
        raise ConfigError(f"{', '.join(modules)}: there is no @agent_task in it, so that a worker has nothing to run")
    worker = app.worker()
    worker.modules = [module.__name__ for module in loaded]
    return app.adapter.run_worker(worker)


def load_modules(names: Sequence[str]) -> list[ModuleType]:
    """Import the modules that declare the tasks. Raises ConfigError where one cannot be found."""
    sys.path.insert(0, str(Path.cwd()))
    found = []
    for name in names:
        path = Path(name)
        if name.endswith(".py") or path.is_file():
            if not path.is_file():
                raise ConfigError(f"there is no file {name!r} in {Path.cwd()}")
            # The name under which its tasks are known when the file itself is run as a script.
            sys.path.insert(0, str(path.resolve().parent))
            name = path.stem  # noqa: PLW2901
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise ConfigError(
                f"there is no module {name!r} in {Path.cwd()} or on the path; a file is named with its .py"
            ) from error
    return found
