"""`queuekit compile`: what a task becomes on each engine, pool and broker."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from queuekit.adapters.report import report
from queuekit.errors import ConfigError
from queuekit.retry.rules import did_you_mean
from queuekit.task import Task, find_task, registered_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from queuekit.adapters.report import Engine
    from queuekit.app import App

__all__ = ["find", "run", "to_json"]

VERSION = 1  # of the JSON


def run(target: str, *, backend: str | None, pool: str | None, as_json: bool) -> int:
    """The exit code: 1 where something is refused. Raises ConfigError."""
    from queuekit.settings import installed_backends

    task = find(target)
    usable = [name for name, there in installed_backends().items() if there and name != "memory"]
    engines = _engines(task, [backend] if backend else usable, pool)
    if as_json:
        print(json.dumps(to_json(task, engines), indent=2))
    else:
        from queuekit.cli.compile_table import show

        show(task, engines)
    return 1 if any(engine.refuses(pool) for engine in engines) else 0


def _engines(task: Task[..., Any, Any], backends: Sequence[str], pool: str | None) -> list[Engine]:
    from queuekit.settings import load

    app = _default_app()
    found, without = [], []
    for name in backends:
        own = app if app is not None and app.settings.backend == name else None
        settings = load() if own is None else own.settings
        try:
            found.append(report(task, settings, name, pool, None if own is None else own.adapter))
        except ConfigError as error:
            if pool is None or len(backends) == 1:
                raise
            without.append(str(error))  # another engine may have that pool
    if not found:
        raise ConfigError(
            "; ".join(without) or "no engine is installed: pip install 'queuekit[celery]', or rq, dramatiq"
        )
    return found


def _default_app() -> App | None:
    """The one that the user's module has made, by configure() or by an adapter's install(), if it says enough."""
    from queuekit.app import current_app, has_default

    try:
        return current_app() if has_default() and current_app().settings else None
    except ConfigError:  # no backend or no broker: a report needs neither
        return None


def find(target: str) -> Task[..., Any, Any]:
    """The task of MODULE:TASK: a module or a file, and a name in it or a task's own. Raises ConfigError."""
    from queuekit.cli.worker import load_modules

    module, colon, name = target.rpartition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{target!r}: give MODULE:TASK, such as package.tasks:summarise or tasks.py:summarise")
    (loaded,) = load_modules([module])
    found = getattr(loaded, name, None)
    task = found if isinstance(found, Task) else find_task(name)
    if task is None:
        raise ConfigError(_no_such_task(loaded, name, found))
    return task


def _no_such_task(module: ModuleType, name: str, found: object) -> str:
    there = sorted(key for key, value in vars(module).items() if isinstance(value, Task))
    if found is not None:
        return f"{name!r} in {module.__name__} is no task but {type(found).__name__}: declare it with @agent_task"
    hint = did_you_mean(name, [*there, *(task.name for task in registered_tasks())])
    have = f"Its tasks are {', '.join(there)}" if there else "There is no @agent_task in it"
    return f"there is no task {name!r} in {module.__name__}.{hint} {have}"


def to_json(task: Task[..., Any, Any], engines: Sequence[Engine]) -> dict[str, Any]:
    """As docs/reference/compile.md describes it."""
    return {
        "version": VERSION,
        "task": task.name,
        "kind": "async" if task.is_async else "sync",
        "engines": [
            {
                "backend": engine.backend,
                "default_pool": engine.default_pool,
                "refused_pools": dict(engine.refused),
                "missing_brokers": dict(engine.missing),
                "targets": [
                    {"pool": one.pool, "broker": one.broker, "fields": [asdict(row) for row in one.rows]}
                    for one in engine.targets
                ],
                "native_retry": None
                if engine.lowered is None
                else {"options": engine.lowered.options, "losses": list(engine.lowered.losses)},
            }
            for engine in engines
        ],
    }
