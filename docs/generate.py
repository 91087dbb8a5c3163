"""Writes the reference pages of the settings, the commands, the events and the time limits from what these say of
themselves. A test compares."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queuekit import events as told
from queuekit.adapters import load_adapter
from queuekit.adapters.report import Level, report
from queuekit.cli.commands import cli
from queuekit.processes import BACKSTOP, OVER
from queuekit.settings import Settings
from queuekit.testing import tasks
from queuekit.worker import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.adapters import Pool

HEAD = """\
# Settings

Command line > `configure()` > environment > `queuekit.toml`, or `[tool.queuekit]` in `pyproject.toml` > defaults.
In the environment a setting is written `QUEUEKIT_LEASE`, in a file `lease = 30`. Durations are seconds. An unknown
name is an error, which suggests the near one. Passwords in URLs are never shown.

<!-- made by docs/generate.py -->

| setting | default | |
|---|---|---|
"""


def settings() -> str:
    rows = []
    for field in dataclasses.fields(Settings):
        default = field.metadata["default"]
        shown = "" if default is None or default in ((), {}) else f"`{default}`"
        rows.append(f"| `{field.name}` | {shown} | {field.metadata['doc']} |")
    return HEAD + "\n".join(rows) + "\n"


COMMANDS_HEAD = """\
# Command line

<!-- made by docs/generate.py -->

Each command reads the settings as a worker does: command line > environment (`QUEUEKIT_STORE_URL`) > `queuekit.toml`
or `[tool.queuekit]` > defaults. `jobs`, `dead`, `queues`, `workers`, `purge` and `schedules` need the store alone:
neither a backend, nor an engine that is installed, nor the broker; `doctor` neither, but it sees more with them.
`enqueue` needs them all, as a worker does. With the memory backend there is nothing to look at from outside.

**What they print.** On a terminal tables, in colours unless `NO_COLOR` is set, as wide as the terminal; moments are
relative (by the store's clock) and, for a single job, absolute in UTC. In a pipe a line for each, its fields separated
by tabs, without headings and uncut. With `--json` a JSON object a line. Messages and questions go to the standard
error. Control characters that stand in a record are spelled out.

| exit code | |
|---|---|
| 0 | done |
| 1 | not done, or not for all that was asked for: an unknown job, one that has ended, a question answered with no |
| 1 | of `enqueue`: a line, or an argument, that does not fit; it says what is recorded |
| 1 | of `compile` and `doctor`: something is refused, or was found |
| 2 | misused: an unknown option, a setting that cannot be, a question that nobody could be asked |
| 3 | the store is away |

Shell completion is described in [operate](../how-to/operate.md#shell-completion).
"""


def commands() -> str:
    return COMMANDS_HEAD + "".join(_command(("queuekit", name), cli.commands[name]) for name in sorted(cli.commands))


def _command(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    if isinstance(command, click.Group):
        below = "".join(_command((*path, name), command.commands[name]) for name in command.commands)
        return f"\n## {' '.join(path)}\n\n{_text(command)}{below}"
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    rows = "".join(_options(command, context))
    table = f"\n| option | |\n|---|---|\n{rows}" if rows else ""
    heading = "###" if len(path) > 2 else "##"
    return f"\n{heading} {' '.join(path)}\n\n```text\n{usage}\n```\n\n{_text(command)}{table}"


def _text(command: click.Command) -> str:
    """The help as Markdown: examples, which click is told by a \\b to leave alone, become blocks of code."""
    out = []
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        if part.startswith("\b\n"):
            out.append(f"```text\n{part.removeprefix(chr(8)).strip()}\n```")
        else:
            out.append(part)
    return "\n\n".join(out) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            record = option.get_help_record(context)
            assert record is not None
            names, said = (text.replace("|", "\\|") for text in record)
            yield f"| `{names}` | {said} |\n"


EVENTS_HEAD = """\
# Events

<!-- made by docs/generate.py -->

What is told to hooks; how to use it stands in [observe](../how-to/observe.md).

"""


def events() -> str:
    about = inspect.cleandoc(told.__doc__ or "").split("\n\n", 1)[1]
    kinds = "".join(f"| `{name}` | {text} |\n" for name, text in _member_docs(told.EventKind))
    event, _, attributes = inspect.cleandoc(told.JobEvent.__doc__ or "").partition("Attributes:\n")
    fields = "".join(
        f"| `{names.replace(', ', '`, `')}` | {text} |\n"
        for names, _, text in (entry.partition(": ") for entry in _entries(attributes))
    )
    instrument = told.JobInstrument
    methods = "".join(
        f"\n### {method.__name__}\n\n`{_signature(method)}`\n\n{inspect.getdoc(method)}\n"
        for method in (instrument.around_enqueue, instrument.around_attempt, instrument.flush)
    )
    return (
        f"{EVENTS_HEAD}{about}\n"
        f"\n## EventKind\n\n{inspect.getdoc(told.EventKind)}\n\n| kind | |\n|---|---|\n{kinds}"
        f"\n## JobEvent\n\n{event.strip()}\n\n| field | |\n|---|---|\n{fields}"
        f"\n`to_dict()`: {inspect.getdoc(told.JobEvent.to_dict)}\n"
        f"\n## JobHook\n\n{inspect.getdoc(told.JobHook)}\n"
        f"\n## JobInstrument\n\n{inspect.getdoc(instrument)}\n{methods}"
    )


def _signature(method: Callable[..., object]) -> str:
    return method.__name__ + str(inspect.signature(method)).replace("'", "").replace("(self, ", "(").replace("self", "")


def _member_docs(kind: type) -> Iterator[tuple[str, str]]:
    """Each member of an enumeration, with the text below it."""
    (found,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(found, ast.ClassDef)
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            said = after.value if isinstance(after, ast.Expr) else None
            yield node.targets[0].id, str(said.value) if isinstance(said, ast.Constant) else ""


def _entries(text: str) -> Iterator[str]:
    """The entries of an Attributes section, each on one line."""
    entry = ""
    for line in inspect.cleandoc(text).splitlines():
        if line.startswith(" "):
            entry += f" {line.strip()}"
        else:
            if entry:
                yield entry
            entry = line
    yield entry


LIMITS_HEAD = f"""\
# Time limits

<!-- made by docs/generate.py -->

`soft_timeout` raises `SoftTimeout` once inside the task, which may catch it and end in its own way. `timeout` is the
hard limit: it ends the attempt, whose category is then `time_limit`, and [the
policy](../how-to/retries.md#crashes-and-time-limits) says what follows. What each pool can do about that is below,
from what the adapters declare; the [conformance suite](conformance.md) runs it on each (C8).

**The next attempt begins when the code has ended.** Code may swallow a limit, or sit in a call that nothing
interrupts. Its attempt is not ended in the record while the code may still run: {BACKSTOP:g} s after the hard limit
its process ends, or begins to, and the job is given on when that process is gone. A limit that was swallowed counts
all the same: what returns a value later than its hard limit has ended by `time_limit`.

"""

LIMITS_TAIL = f"""\

## A worker that leaves with {TEMPORARY}

A thread cannot be ended, so its process has to be. It takes no more jobs at once, and hands back what it had been
given and has not begun. The other jobs that run in it have the `grace` to end; what does not is handed back, which
costs no attempt. Then it leaves with exit code {TEMPORARY} (EX_TEMPFAIL), and its steward, which sees that, ends the
stuck attempt. **Something has to start it again**: see [deploy](../how-to/deploy.md#start-a-worker).

Under the engines' own commands:

- `celery worker`: the same, and native tasks are waited for without a limit, as Celery does at any stop. The stuck
  job is not given on before. In the pool solo the process leaves at once; native messages that it had fetched and
  not begun come again as after any crash, on Redis after the visibility timeout.
- `rq worker`: the same. (`queuekit worker --concurrency 4`, which is several RQ workers, starts the one that has
  left anew.)
- `dramatiq`: the same, and native actors are waited for as at any stop. The command stops its other processes too,
  when one of them has left, and ends with {TEMPORARY}. A program of your own that starts a Dramatiq worker without a
  handler for SIGTERM ends by that signal, and loses what else it runs.

## What does not hold

- **C code that keeps the interpreter's lock**, in a pool without child processes, stops the whole process: neither
  the other jobs nor a limit can do anything. Its steward kills the process {OVER[1]:g} s after the limit, and the
  other attempts are lost with it, [as in any crash](../explanation/contract.md#a-job-that-kills-its-process).
- **A coroutine that keeps the loop** (a blocking call in async code) holds up all async jobs of its process, whose
  own limits pass meanwhile: each of them that is over its limit then ends by it, too.
- **Programs that a task has started** are not ended with it, unless they end by themselves when their parent does.
- **A process that was frozen, or cut off from the store,** for longer than the lease loses its attempts by that, and
  may go on beside the next ones, as [the contract](../explanation/contract.md#what-it-is-not) says.
- On the memory backend there is no process that could be ended.
"""

ENGINES = ("celery", "rq", "dramatiq", "memory")


def limits() -> str:
    pools = [(backend, pool) for backend in ENGINES for pool in load_adapter(backend).capabilities.pools]
    summary = "".join(f"| {backend}, {pool.name} | {' | '.join(_short(backend, pool))} |\n" for backend, pool in pools)
    return (
        f"{LIMITS_HEAD}## Pool by pool\n\n"
        f"| pool | in Python code | in a blocking call | in async code | what goes on |\n"
        f"|---|---|---|---|---|\n{summary}\n"
        f"## In full\n\nFor a task with `soft_timeout=50, timeout=60`:\n"
        f"{''.join(_in_full(backend, pool) for backend, pool in pools)}{LIMITS_TAIL}"
    )


def _short(backend: str, pool: Pool) -> tuple[str, ...]:
    goes_on = f"its worker leaves with {TEMPORARY}" + (", when the others have ended" if pool.concurrent else "")
    if pool.processes:
        goes_on = "the child is killed"
    return (
        "soft and hard",
        "soft and hard" if pool.interrupts_sync else "neither",
        "soft and hard, at an await",
        "nothing ends it" if backend == "memory" else goes_on,
    )


def _in_full(backend: str, pool: Pool) -> str:
    rows = {}
    for kind, task in (("sync", tasks.sleep), ("async", tasks.sleep_async)):
        (target, *_) = report(task.options(timeout=60, soft_timeout=50), Settings(), backend, pool.name).targets
        rows[kind] = {row.field: row for row in target.rows}
    lines = []
    for field, name in (("soft_timeout", "soft"), ("timeout", "hard"), ("overrun", "what goes on (`overrun`)")):
        cells = []
        for row in (rows["sync"][field], rows["async"][field]):
            level = f"**{row.level}**: " if row.level is not Level.emulated else ""
            cells.append(level + row.becomes)
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return f"\n### {backend}, pool {pool.name}\n\n| limit | synchronous | async |\n|---|---|---|\n{''.join(lines)}"


if __name__ == "__main__":
    folder = Path(__file__).parent / "reference"
    (folder / "settings.md").write_text(settings())
    (folder / "cli.md").write_text(commands())
    (folder / "events.md").write_text(events())
    (folder / "limits.md").write_text(limits())
