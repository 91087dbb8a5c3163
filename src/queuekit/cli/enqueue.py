"""`queuekit enqueue`: one job, or a file of them."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import click

from queuekit.cli.options import FAILED, STORE_AWAY
from queuekit.cli.output import bar, console, error, is_terminal, json_line, read_json
from queuekit.errors import BulkEnqueueError, ConfigError, EnqueueError, PayloadError, QueuekitError
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from queuekit.app import App
    from queuekit.handle import Job
    from queuekit.task import Call, Task

__all__ = ["run"]

MOST: Final = 8  # times payload_limit: a line with every character escaped, and with spaces between
LONGEST: Final = 112  # characters of an id before the number of its line


def run(
    target: str,
    *,
    args: str | None,
    kwargs: str | None,
    file: BinaryIO | None,
    skip: int,
    as_json: bool,
    quiet: bool,
    asked: Mapping[str, Any],
    connection: Mapping[str, Any],
) -> int:
    """The exit code. `asked`: for Task.options(). Raises QueuekitError where nothing was recorded."""
    from queuekit.cli.compile import find

    _make_app(connection)
    task = find(target)
    app = _app_in_use()
    shown = _Shown(as_json=as_json, quiet=quiet)
    try:
        if file is not None:
            return _many(app, task, file, skip, shown, asked)
        given = _given("--args", args, list, []), _given("--kwargs", kwargs, dict, {})
        shown.jobs([app.enqueue(_call(task.options(**asked), *given, app.settings.payload_limit))])
        return shown.end()
    finally:
        app.close()


def _make_app(connection: Mapping[str, Any]) -> None:
    """The default App, made before the module is imported, which may call configure(): as a worker does."""
    from queuekit import app as apps
    from queuekit.settings import load

    app = apps.App(load(cli=connection))
    app.command_line = connection
    apps.use_default(app)


def _app_in_use() -> App:
    from queuekit.app import current_app

    app = current_app()
    if app.settings.backend == "memory":
        raise ConfigError(
            f"backend='memory' ({app.settings.source('backend')}) keeps its jobs in the process that enqueues them, "
            "which ends with this command. Give --backend for another"
        )
    return app


def _given(option: str, text: str | None, kind: type[Any], default: Any) -> Any:
    if text is None:
        return default
    try:
        value = read_json(text)
    except PayloadError as problem:
        raise click.UsageError(f"{option}: {problem}") from None
    if not isinstance(value, kind):
        raise click.UsageError(f"{option}: an {'array' if kind is list else 'object'} in JSON, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return "null" if value is None else names.get(type(value), "a number")


def _call(task: Task[..., Any, Any], args: list[Any], kwargs: dict[str, Any], limit: int) -> Call[Any]:
    """Raises PayloadError where the arguments, which are JSON values, do not fit the task."""
    places, named = task.codec(limit).decode_arguments(args, kwargs, recorded=False)
    return task.bind(*places, **named)


# ---- many ----------------------------------------------------------------------------------------------------------


class _BadLine(QueuekitError):
    """It is no JSON, or its arguments do not fit the task."""


class _Lines:
    """The calls of a file's lines, each of which is read when its call is asked for.

    Attributes:
        id: how the ids of its jobs begin.
        read: how many lines were.
        recorded: how many lines have their jobs recorded, with those that were skipped.
        batch: the lines and calls since then.
    """

    def __init__(self, file: BinaryIO, call: Callable[[str, Any], Call[Any]], id: str, skip: int, most: int) -> None:
        self.id = id
        self.read = 0
        self.recorded = self.skipped = skip
        self.batch: list[tuple[int, Call[Any]]] = []
        self._file, self._call, self._most = file, call, most

    def __iter__(self) -> Iterator[Call[Any]]:
        while line := self._file.readline(self._most):
            cut = len(line) == self._most and not line.endswith(b"\n")
            while cut and (rest := self._file.readline(self._most)) and not rest.endswith(b"\n"):
                pass
            self.read += 1
            if self.read <= self.skipped:
                continue
            try:
                call = self._of(line, cut=cut)
            except PayloadError as problem:
                raise _BadLine(str(problem)) from None
            if call is not None:
                self.batch.append((self.read, call))
                yield call
        if self.read < self.skipped:
            raise ConfigError(f"--skip {self.skipped}: there are only {self.read} lines")

    def _of(self, line: bytes, *, cut: bool) -> Call[Any] | None:
        """None: it is empty."""
        if cut:
            raise PayloadError(f"it is longer than {self._most} bytes")
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as problem:
            raise PayloadError(f"not UTF-8: {problem}") from None
        if self.read == 1:
            text = text.removeprefix("\ufeff")
        return self._call(f"{self.id}_{self.read}", read_json(text)) if text else None

    def forget(self) -> None:
        """The batch is recorded."""
        self.recorded = self.read
        self.batch.clear()


def _many(
    app: App, task: Task[..., Any, Any], file: BinaryIO, skip: int, shown: _Shown, asked: Mapping[str, Any]
) -> int:
    options = {name: value for name, value in asked.items() if name != "id"}
    same, limit = task.options(**options), app.settings.payload_limit

    def call(id: str, value: Any) -> Call[Any]:
        if not isinstance(value, (list, dict)):
            raise PayloadError(f"an array of arguments, or an object of named ones, not {_kind(value)}")
        one = same.options(id=id)
        return _call(one, value, {}, limit) if isinstance(value, list) else _call(one, [], value, limit)

    id = asked["id"] or secrets.token_hex(8)
    if len(id) > LONGEST:
        raise ConfigError(f"--id {id!r}: at most {LONGEST} characters, to which the numbers of the lines are added")
    # Ids by line, so that what was broken off can go on and doubles nothing, whatever is known of its last batch.
    lines = _Lines(file, call, id, skip, MOST * limit)
    try:
        with shown.bar(file, skip) as step:
            for batch in same.enqueue_batches(iter(lines)):
                lines.forget()
                shown.jobs(batch)
                step(lines.read)
    except ConfigError:
        raise
    except (QueuekitError, OSError, KeyboardInterrupt) as problem:
        code = _broken(problem, lines, getattr(file, "name", "<stdin>"), limit, shown.count)
        if isinstance(problem, BrokenPipeError):  # who reads the ids has left, of which click makes a quiet end
            raise
        return code
    return shown.end()


def _broken(problem: BaseException, lines: _Lines, name: str, limit: int, before: int) -> int:
    """Say which line it was, what is recorded, and how to go on. The exit code."""
    cause, jobs, recorded = problem, before, lines.recorded
    if isinstance(problem, BulkEnqueueError):
        cause, jobs = problem.__cause__ or problem, problem.accepted
        if jobs > before:  # it may break within a batch of jobs that are recorded one by one
            recorded = lines.batch[jobs - before - 1][0]
    line = _line_of(cause, lines, limit)
    what = "interrupted" if isinstance(cause, KeyboardInterrupt) else str(cause)
    error(what if line is None else f"{name}, line {line}: {what}")

    were = "1 job was" if jobs == 1 else f"{jobs} jobs were"
    said = f"{were} recorded, to line {recorded}" if jobs else "nothing was recorded"
    last = lines.batch[-1][0] if lines.batch else recorded
    unknown = isinstance(cause, KeyboardInterrupt) or (isinstance(cause, EnqueueError) and cause.recorded is None)
    if unknown and last > recorded:
        said += f"; of lines {recorded + 1} to {last} it is not known"
    error(f"{said}. To go on, and to double nothing: --skip {recorded} --id {lines.id}")
    return STORE_AWAY if isinstance(cause.__cause__, StoreAway) else FAILED


def _line_of(cause: BaseException, lines: _Lines, limit: int) -> int | None:
    """The one that is to be mended, if it is a line."""
    if isinstance(cause, _BadLine):
        return lines.read
    if isinstance(cause, PayloadError):
        return next((number for number, call in lines.batch if _refused(call, limit)), None)
    if isinstance(cause, EnqueueError) and not isinstance(cause.__cause__, StoreAway):
        return next((number for number, call in lines.batch if call.task.request.id == cause.job_id), None)
    return None


def _refused(call: Call[Any], limit: int) -> bool:
    try:
        call.task.codec(limit).encode_arguments(call.args, call.kwargs)
    except PayloadError:
        return True
    return False


# ---- what is shown -------------------------------------------------------------------------------------------------


class _Shown:
    """The ids, as they come, and a bar on the terminal of the standard error."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.count = 0
        self._known = 0
        self._json, self._quiet = as_json, quiet
        self._screen: Any = None

    def jobs(self, batch: Sequence[Job[Any]]) -> None:
        self.count += len(batch)
        self._known += sum(not one.created for one in batch)
        if self._quiet:
            return
        if self._json:
            for one in batch:
                json_line({"id": one.id, "created": one.created})
            return
        text = "\n".join(one.id for one in batch)
        if self._screen is not None and is_terminal():
            self._screen.print(text, soft_wrap=True)  # above the bar
        else:
            click.echo(text)

    @contextmanager
    def bar(self, file: BinaryIO, skip: int) -> Iterator[Callable[[int], None]]:
        """What is called with the number of lines so far."""
        if not sys.stderr.isatty():
            yield lambda lines: None
            return
        with bar(console(stderr=True), redirect_stdout=False) as shown:
            its = shown.add_task("", total=_lines_in(file), completed=skip, status="enqueued")
            self._screen = shown.console
            try:
                yield lambda lines: shown.update(its, completed=lines)
            finally:
                self._screen = None

    def end(self) -> int:
        if self._quiet:
            click.echo(self.count)
        if self._known:
            click.echo(f"{self._known} of {self.count} had been enqueued before", err=True)
        return 0


def _lines_in(file: BinaryIO) -> int | None:
    """None: it comes from a pipe."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            start, count, last = file.tell(), 0, b"\n"
            while part := file.read(1 << 20):
                count += part.count(b"\n")
                last = part[-1:]
            file.seek(start)
            return count + (last != b"\n")
    return None
