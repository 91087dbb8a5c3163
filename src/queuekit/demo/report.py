"""What is shown at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table
from rich.text import Text

from queuekit.demo.screen import COLOURS
from queuekit.demo.verdict import schedule, waited
from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from queuekit import JobInfo
    from queuekit.demo.documents import Documents
    from queuekit.demo.plan import Failure, Plan
    from queuekit.demo.watch import Watch

__all__ = ["announce", "explain", "report"]

WIDE: Final = 112  # columns from which nothing needs to be shortened


def announce(console: Console, documents: Documents, engines: Sequence[str], seed: int) -> None:
    """What is about to happen. Said first: what comes next takes a few seconds."""
    head = f": one task, {_and(engines)}, {_n(len(documents.chosen), 'document')}, seed {seed}"
    console.print(Text.assemble(("queuekit demo", "bold"), head), soft_wrap=True)
    _say(console, Text(f"Documents: {documents.source}."))
    _say(console, Text(f"Engines: a real worker process each for {_and(engines)}, on a Valkey of the demo's own."))


def explain(console: Console, scale: float) -> None:
    """What of it is not real."""
    _say(
        console,
        Text(
            "Model: a stand-in on this machine. It speaks the OpenAI API, answers with the first sentence and the most "
            "frequent words of the text it was sent, and fails on a plan that the seed decides. The openai client, its "
            "errors and the workers are real."
        ),
    )
    _say(
        console,
        Text(
            f"Retries: RetryPolicy.for_llm(scale=1/{1 / scale:g}), the preset's rules with backoffs divided by "
            f"{1 / scale:g}. A Retry-After is obeyed as it was sent."
        ),
    )
    console.print()


def report(console: Console, watch: Watch, plan: Plan, found: Sequence[str], seconds: float, task: str) -> None:
    """Every job with its attempts, the dead letters, the verdict, the next step. `task`: the file that declares it."""
    narrow = console.width < WIDE
    console.print(_table(console, watch, plan, narrow=narrow))
    arrow = _arrow(console, narrow=False).strip()
    caption = (
        f"asked {arrow} waited: seconds that the policy decided on, and seconds until the next attempt started. A wait "
        "is never shorter; a due job is published within half a second, and then needs a free worker."
        + (" (429, 2 s): it came with Retry-After: 2." if narrow else "")
    )
    _say(console, Text(caption, style="dim"), indent=0)
    console.print()
    _dead_letters(console, watch)
    _sample(console, watch)
    _verdict(console, watch, found, seconds, task)


def _table(console: Console, watch: Watch, plan: Plan, *, narrow: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", expand=False)
    table.add_column("job", no_wrap=True)
    arrow = _arrow(console, narrow=narrow)
    table.add_column("try", justify="right")
    table.add_column("what came of it", overflow="fold")
    for engine in watch.engines:
        table.add_column(f"{engine}\nasked{arrow}waited" if not narrow else engine, justify="right", no_wrap=True)
    for id in watch.documents:
        infos = [watch.info(engine, id) for engine in watch.engines]
        for n in range(max(len(info.attempts) for info in infos)):
            longest = max(infos, key=lambda info: len(info.attempts))
            table.add_row(
                _end_of(id, 17 if narrow else 24) if n == 0 else "",
                str(n + 1),
                _what(longest, n, _failure(plan, id, n), narrow=narrow),
                *(_wait(info, n, arrow) for info in infos),
            )
    return table


def _end_of(id: str, width: int) -> str:
    """Of a path the end tells more than the beginning."""
    return id if len(id) <= width else f"..{id[2 - width :]}"


def _failure(plan: Plan, id: str, n: int) -> Failure | None:
    failures = plan.failures(id)
    return failures[n] if n < len(failures) else None


def _what(info: JobInfo, n: int, failure: Failure | None, *, narrow: bool) -> Text:
    one = info.attempts[n]
    colour = COLOURS.get(one.outcome, "red")
    if one.category is None:
        return Text(one.outcome, style=colour)
    text = Text(str(one.category), style=colour)
    if failure is not None:
        text.append(f" ({(failure.short if narrow else '') or failure.name})", style="default")
    return text


def _wait(info: JobInfo, n: int, arrow: str) -> Text:
    if n >= len(info.attempts):
        return Text("-", style="red")
    step, wait = schedule(info)[n], waited(info)[n]
    if step.delay is None:
        return Text("failed", style="red") if step.outcome != "succeeded" else Text("done", style="green")
    return Text(f"{step.delay:.2f}{arrow}" + ("?" if wait is None else f"{wait:.2f}"))


def _dead_letters(console: Console, watch: Watch) -> None:
    dead: dict[str, list[str]] = {}
    for id in watch.documents:
        for engine in watch.engines:
            if watch.info(engine, id).status is JobStatus.failed:
                dead.setdefault(id, []).append(engine)
    if not dead:
        return
    console.print(Text("Dead letters", style="bold") + Text(", which a store keeps for 30 days:", style="not bold"))
    for id, engines in dead.items():
        why = watch.info(engines[0], id).reason or ""
        _say(console, Text.assemble((id, "red"), f" on {_and(engines)}: {why}"))
    console.print()


def _sample(console: Console, watch: Watch) -> None:
    for id in watch.documents:
        summary = watch.result(watch.engines[0], id)
        if summary is not None:
            console.print(Text("One of the answers", style="bold") + Text(f", for {id}:", style="not bold"))
            _say(console, Text(summary.text))
            console.print()
            return


def _verdict(console: Console, watch: Watch, found: Sequence[str], seconds: float, task: str) -> None:
    engine = watch.engines[0]
    first = [watch.info(engine, id) for id in watch.documents]
    tries = sum(len(info.attempts) for info in first)
    waits = sum(1 for info in first for one in info.attempts if one.delay is not None)
    if found:
        console.print(Text("Not as it should be:", style="bold red"))
        for line in found:
            _say(console, Text(line))
        console.print(Text(f"{seconds:.0f} s in all.", style="bold"))
        return
    agree = f"{_and(watch.engines)} agree" if len(watch.engines) > 1 else f"{engine} did as planned"
    _say(
        console,
        Text(
            f"{agree}: {_n(len(first), 'job')}, {_n(tries, 'attempt')}, {_n(waits, 'retry', 'retries')}, the same "
            "categories, delays and results. "
            f"{seconds:.0f} s in all.",
            style="bold green",
        ),
        indent=0,
    )
    console.print(Text(f"Next: the task is {task}"), soft_wrap=True)
    console.print(Text("Copy it to tasks.py, set OPENAI_API_KEY and the model's name, and run"))
    console.print(Text(f"    queuekit worker --backend {engine} --dev tasks.py"), soft_wrap=True)


def _say(console: Console, text: Text, indent: int = 2) -> None:
    """Wrapped and indented, without the spaces at the ends of lines that rich would leave."""
    for line in text.wrap(console, console.width - indent):
        line.rstrip()
        console.print(Text(" " * indent) + line)


def _arrow(console: Console, *, narrow: bool) -> str:
    arrow = "->" if console.options.ascii_only else "→"
    return arrow if narrow else f" {arrow} "


def _n(n: int, one: str, more: str = "") -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
