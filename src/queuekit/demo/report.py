"""What is shown at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from queuekit.demo import tasks
from queuekit.demo.screen import COLOURS
from queuekit.demo.verdict import schedule, waited
from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from queuekit import JobInfo
    from queuekit.demo.documents import Documents
    from queuekit.demo.plan import Plan
    from queuekit.demo.watch import Watch

__all__ = ["introduce", "report"]


def introduce(console: Console, documents: Documents, engines: Sequence[str], seed: int) -> None:
    """What is about to happen, and what of it is not real."""
    console.print(
        Text.assemble(
            ("queuekit demo", "bold"),
            f": one task, {_and(engines)}, {len(documents.chosen)} documents, seed {seed}",
        )
    )
    for line in (
        f"Documents: {documents.source}.",
        f"Engines: a Valkey of the demo's own, and a real worker process each for {_and(engines)}.",
        "Model: a stand-in on this machine that speaks the OpenAI API. It gives the first sentence and the most "
        "frequent words of the text it was sent, and fails on a plan that the seed decides. The openai client, "
        "its errors and the workers are real.",
        f"Retries: RetryPolicy.for_llm(scale=1/{1 / tasks.SCALE:g}): the preset's rules, its backoffs divided by "
        f"{1 / tasks.SCALE:g}. A Retry-After is obeyed as it was sent.",
    ):
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    console.print()


def report(console: Console, watch: Watch, plan: Plan, found: Sequence[str], seconds: float) -> None:
    """Every job with its attempts, the dead letters, the verdict and the next step."""
    console.print(_table(watch, plan))
    console.print(
        Text(
            "asked > waited: seconds that the policy decided on, and seconds until the next attempt started. "
            "A wait is never shorter; a due job is published within half a second, and then needs a free worker.",
            style="dim",
        )
    )
    console.print()
    _dead_letters(console, watch)
    _sample(console, watch)
    _verdict(console, watch, found, seconds)


def _table(watch: Watch, plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", expand=False)
    table.add_column("job", no_wrap=True, overflow="ellipsis", max_width=22)
    table.add_column("try", justify="right")
    table.add_column("what came of it", overflow="fold")
    for engine in watch.engines:
        table.add_column(f"{engine}\nasked > waited", justify="right", no_wrap=True)
    for id in watch.documents:
        infos = [watch.info(engine, id) for engine in watch.engines]
        for n in range(max(len(info.attempts) for info in infos)):
            longest = max(infos, key=lambda info: len(info.attempts))
            table.add_row(
                id if n == 0 else "", str(n + 1), _what(longest, n, plan, id), *(_wait(info, n) for info in infos)
            )
    return table


def _what(info: JobInfo, n: int, plan: Plan, id: str) -> Text:
    one = info.attempts[n]
    colour = COLOURS.get(one.outcome, "red")
    if one.category is None:
        return Text(one.outcome, style=colour)
    failures = plan.failures(id)
    text = Text(str(one.category), style=colour)
    if n < len(failures):
        text.append(f" ({failures[n].name})", style="default")
    return text


def _wait(info: JobInfo, n: int) -> Text:
    if n >= len(info.attempts):
        return Text("-", style="red")
    step, wait = schedule(info)[n], waited(info)[n]
    if step.delay is None:
        return Text("failed", style="red") if step.outcome != "succeeded" else Text("done", style="green")
    return Text(f"{step.delay:.2f} > " + ("?" if wait is None else f"{wait:.2f}"))


def _dead_letters(console: Console, watch: Watch) -> None:
    dead: dict[str, list[str]] = {}
    for id in watch.documents:
        for engine in watch.engines:
            if watch.info(engine, id).status is JobStatus.failed:
                dead.setdefault(id, []).append(engine)
    if not dead:
        return
    console.print(Text("Dead letters", style="bold") + Text(", kept for 30 days with their arguments:", style="not bold"))
    for id, engines in dead.items():
        why = watch.info(engines[0], id).reason or ""
        console.print(Padding(Text.assemble((id, "red"), f" on {_and(engines)}: {why}"), (0, 0, 0, 2), expand=False))
    console.print()


def _sample(console: Console, watch: Watch) -> None:
    for id in watch.documents:
        summary = watch.result(watch.engines[0], id)
        if summary is not None:
            console.print(Text("One of the answers", style="bold") + Text(f", for {id}:", style="not bold"))
            console.print(Padding(Text(summary.text), (0, 0, 1, 2), expand=False))
            return


def _verdict(console: Console, watch: Watch, found: Sequence[str], seconds: float) -> None:
    engine = watch.engines[0]
    first = [watch.info(engine, id) for id in watch.documents]
    tries = sum(len(info.attempts) for info in first)
    waits = sum(1 for info in first for one in info.attempts if one.delay is not None)
    if found:
        console.print(Text("Not as it should be:", style="bold red"))
        for line in found:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
        console.print(Text(f"{seconds:.0f} s in all.", style="bold"))
        return
    agree = f"{_and(watch.engines)} agree" if len(watch.engines) > 1 else f"{engine} did as planned"
    console.print(
        Text(
            f"{agree}: {len(first)} jobs, {tries} attempts, {waits} retries, the same categories, delays and results. "
            f"{seconds:.0f} s in all.",
            style="bold green",
        )
    )
    console.print(Text(f"Next: the task is {tasks.__file__}. Copy it to tasks.py, set OPENAI_API_KEY, and run"))
    console.print(Text(f"    queuekit worker --backend {engine} --dev tasks.py"), soft_wrap=True)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
