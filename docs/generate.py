"""Writes the reference pages of the settings, the commands and the events from what these say of themselves. A test
compares."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queuekit import events as told
from queuekit.cli.commands import cli
from queuekit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
or `[tool.queuekit]` > defaults. `jobs`, `dead`, `queues`, `workers` and `purge` need the store alone: neither a
backend, nor an engine that is installed, nor the broker. With the memory backend there is nothing to look at from
outside.

**What they print.** On a terminal tables, in colours unless `NO_COLOR` is set, as wide as the terminal; moments are
relative (by the store's clock) and, for a single job, absolute in UTC. In a pipe a line for each, its fields separated
by tabs, without headings and uncut. With `--json` a JSON object a line. Messages and questions go to the standard
error. Control characters that stand in a record are spelled out.

| exit code | |
|---|---|
| 0 | done |
| 1 | not done, or not for all that was asked for: an unknown job, one that has ended, a question answered with no |
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


if __name__ == "__main__":
    folder = Path(__file__).parent / "reference"
    (folder / "settings.md").write_text(settings())
    (folder / "cli.md").write_text(commands())
    (folder / "events.md").write_text(events())
