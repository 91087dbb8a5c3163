"""Bring jobs back, and the editor for their arguments."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.options import FAILED
from queuekit.cli.output import clean, error, json_line, read_json
from queuekit.errors import ConfigError, PayloadError, QueuekitError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuekit.cli.connect import Connection
    from queuekit.message import Message

__all__ = ["edit", "read_arguments", "revive_all"]

Arguments = tuple[list[Any], dict[str, Any]]


def revive_all(
    here: Connection,
    ids: Iterable[str],
    *,
    backend: str | None,
    as_json: bool,
    arguments: Arguments | None = None,
    anew: bool = False,
) -> int:
    """The exit code: 1 where one of them could not be brought back. Raises ConfigError for an unknown backend."""
    from queuekit.events import tell_revived
    from queuekit.settings.backends import known_backends
    from queuekit.store.revival import revive

    hooks = here.hooks()
    engines = [name for name in known_backends() if name != "memory"]
    if backend is not None and backend not in engines:
        raise ConfigError(f"--backend {backend!r} is none that is known: give one of {', '.join(engines)}")
    code = 0
    for id in dict.fromkeys(ids):
        try:
            back = revive(
                here.store,
                here.record(id),
                here.settings.signer,
                backend=backend,
                arguments=arguments,
                handed_over=True,
                anew=anew,
            )
        except ConnectionError:
            raise
        except (QueuekitError, ValueError) as problem:  # ValueError: a message that cannot be read
            code = FAILED
            if as_json:
                json_line({"id": id, "outcome": "refused", "error": str(problem)})
            else:
                error(str(problem))
        else:
            tell_revived(hooks, here.store, back.message)
            engine, queue = back.message.backend, back.message.queue
            if as_json:
                json_line({"id": id, "outcome": "queued", "backend": engine, "queue": queue})
            else:
                click.echo(f"{id}: queued on {engine}, queue {queue}")
    return code


# ---- arguments -----------------------------------------------------------------------------------------------------


def read_arguments(text: str, message: Message, payload_limit: int) -> Arguments:
    """Arguments from JSON text, checked against the task where that can be imported.

    Raises:
        PayloadError: it is no JSON, has another shape, is too large, or does not fit the task.
    """
    data = read_json(text)
    if not isinstance(data, dict) or set(data) != {"args", "kwargs"}:
        raise PayloadError('not {"args": [...], "kwargs": {...}}')
    args, kwargs = data["args"], data["kwargs"]
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise PayloadError('"args" is a list, and "kwargs" an object')
    size = len(json.dumps([args, kwargs], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if size > payload_limit:
        raise PayloadError(f"they take {size} bytes, more than payload_limit={payload_limit}")
    task = _task(message.task)
    if task is None:
        click.echo(f"task {clean(message.task)} cannot be imported here: the arguments are not checked", err=True)
    else:
        task.codec(payload_limit).decode_arguments(args, kwargs, recorded=False)
    return args, kwargs


def _task(name: str) -> Any:
    """The task, from the module that its name begins with, as a worker in this folder would find it. None: not here."""
    from queuekit.task import find_task

    module = name.rpartition(".")[0]
    folder = str(Path.cwd())
    while module and find_task(name) is None:
        sys.path.insert(0, folder)
        try:
            importlib.import_module(module)
        except ImportError:
            module = module.rpartition(".")[0]
        except Exception as problem:  # the user's module
            click.echo(f"{module}: {type(problem).__name__}: {clean(str(problem))}", err=True)
            break
        else:
            break
        finally:
            sys.path.remove(folder)
    return find_task(name)


def edit(message: Message, payload_limit: int) -> Arguments | None:
    """The arguments after $VISUAL or $EDITOR was on them; None where they were left as they are.

    What was written is never lost: as long as it cannot be used the editor may be opened on it again, and where that is
    declined its file stays, and is named.

    Raises:
        PayloadError: it cannot be used; the text names the file.
    """
    before = json.dumps({"args": message.args, "kwargs": message.kwargs}, indent=2, ensure_ascii=False) + "\n"
    descriptor, name = tempfile.mkstemp(prefix=f"queuekit-{message.id[:20]}-", suffix=".json")  # for its owner alone
    path = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(before)
    while True:
        text = before
        try:
            try:
                click.edit(filename=name)
            finally:
                text = path.read_text("utf-8", errors="surrogatepass")
            arguments = None if text == before else read_arguments(text, message, payload_limit)
        except (PayloadError, ConfigError) as problem:
            error(str(problem))
            if sys.stdin.isatty() and click.confirm("Edit again?", default=True):
                continue
            raise PayloadError(
                f"nothing was changed; what you wrote is in {name}: --arguments {name} takes it"
            ) from None
        except BaseException:  # the editor failed, or somebody has had enough
            if text == before:
                path.unlink()
            else:
                click.echo(f"what you wrote is in {name}", err=True)
            raise
        path.unlink()
        return arguments
