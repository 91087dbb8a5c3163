"""What a storm came to, from the ledger and the records; and the page that shows it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from storm import KILLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger import Line
    from storm import Storm


def judge(storm: Storm) -> dict[str, Any]:
    lines = storm.ledger.lines()
    ends = Counter(line.job for line in lines if line.event == "end")
    overlaps = [line for line in lines if line.event == "start" and line.beside]
    return {
        "jobs": len(storm.jobs),
        "refused": storm.refused,
        "faults": dict(storm.faults),
        "worker_kills": sum(storm.faults[what] for what in KILLS),
        "worker_exits": {str(code): count for code, count in storm.fleet.ended.items()},
        "executions_killed": len(storm.deaths),
        "lost": storm.subject.left(),
        "ran_to_the_end_again": sum(ends[job] > 1 for job in storm.jobs),
        "overlaps_of_stopped": sum(line.beside in storm.frozen for line in overlaps),
        "overlaps": sum(line.beside not in storm.frozen for line in overlaps),
        "overlapping": [_told(line, storm) for line in overlaps if line.beside not in storm.frozen][:5],
        **storm.subject.verdict(storm),
        "slowest_restart": _slowest_restart(storm),
    }


def _told(overlap: Line, storm: Storm) -> dict[str, Any]:
    """For whoever has to find out how it came: what the job did, and the last faults before."""
    lines = [(one.event, one.pid, one.at) for one in storm.ledger.lines() if one.job == overlap.job]
    struck = [(what, at) for what, at in storm.struck if -15 < at - overlap.at < 1]
    return {"job": overlap.job, "at": overlap.at, "beside": overlap.beside, "lines": lines, "faults": struck}


def _slowest_restart(storm: Storm) -> float | None:
    """Seconds until the slowest job whose execution was killed started again; None: one of them never did."""
    slowest = 0.0
    lines = storm.ledger.lines()
    for line, at in storm.deaths:
        after = [one.at for one in lines if one.job == line.job and one.at > line.at and one.event == "start"]
        if not after:
            if not any(one.job == line.job and one.event == "end" for one in lines):
                return None
            continue
        slowest = max(slowest, min(after) - at)
    return round(slowest, 1)


def table(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Queuekit's rows and the bare engines', in one table."""
    out = [
        (
            "| | jobs | workers killed | stewards killed | broker restarts | doubled | deleted | lost | two accepted outcomes "
            "| ran to the end again | overlaps | slowest restart after a kill |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        faults = row["faults"]
        lost = str(row["lost"])
        if row.get("lost_deleted"):
            lost += f" ({row['lost_deleted']} of them deleted)"
        restart = row["slowest_restart"]
        cells = [
            name, row["jobs"], row["worker_kills"], faults.get("kill a steward", "n/a"),
            faults.get("restart the broker", 0), faults.get("double messages", 0), faults.get("delete messages", 0),
            lost, row.get("two_outcomes", "n/a"), row["ran_to_the_end_again"], row["overlaps"],
            "never" if restart is None else f"{restart:.1f} s",
        ]  # fmt: skip
        out.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(out)


# ---- the page --------------------------------------------------------------------------------------------------------

HEAD = """# The chaos certificate

<!-- made by `nox -s certificate` -->

What it took for this table: {jobs} jobs and more for each row, short ones (0.02 to 1 s) of which one in seven fails
once with a lost connection, while faults fall on workers, brokers and stores in a seeded order. The workers are
processes of their own under a supervisor. What the jobs really did stands in a file outside of broker and store, and
the kernel holds a lock for each running job, so that a second execution beside a living one is seen whatever anybody's
clock says.

    {command}

{machine}

"""

WORDS = """
- **lost**: accepted, and not ended when after the last fault not one job more had ended for {left:.0f} s. Of queuekit's
  jobs: without an outcome in the record; of a bare engine's: without an execution that came to its end.
- **two accepted outcomes**: from the record, and from the events that were told of it. A bare engine has no record to
  ask.
- **ran to the end again**: the last side effect was there twice. With queuekit that takes a kill between the end of the
  function and the record of it: at least once is what any queue can promise of that moment.
- **overlaps**: an execution that began while another one of the same job was alive. Those of workers that were stopped
  for longer than their lease (SIGSTOP) are not among them: nobody can tell such a worker from a dead one, and what it
  says later is refused.
- **slowest restart after a kill**: until the job whose execution was killed began again, which takes a new worker's
  start, or a restarted broker's, and its turn behind the jobs that wait. "never": at least one did not.

## What queuekit promises of it

| | published again, steward alive: slowest of how many | both gone: slowest of how many | redundant doorbells | stopped workers' overlaps | other faults |
|---|---|---|---|---|---|
{ours}

A death is to be followed by the publication within 2 s where the worker's steward or the worker is left, and within
the lease (here {lease:.0f} s) and 2 s more where both are gone (C5). A worker is killed here while another one's steward
is there to see it, and no steward within those 2 s: where none ticks for a third of a lease, nobody is taken for dead
for a whole one. Redundant doorbells are messages that started
nothing: the doubled ones, and those that were published again for a job whose first message was still there. They cost
a look at the store each.

## The bare engines

As their own documentation recommends them, on the same jobs and the same faults (those that they can have; connections
that were silenced are reset afterwards, while queuekit's stay silent for ever: a program that enqueues by the engine
alone would hang on one):

- Celery: `task_acks_late`, `task_reject_on_worker_lost`, `worker_prefetch_multiplier=1`, and on Redis a
  `visibility_timeout` of 30 s, since the default of an hour would bring nothing back while one waits.
- RQ: `Retry(max=7)` for each job, `--with-scheduler`, and `--maintenance-interval 30` (its default is ten minutes).
- Dramatiq: its defaults, `max_retries=7`, confirmed delivery on RabbitMQ.

Messages that were deleted from their broker are lost to them, which nobody can hold against them: the row says how
many of the lost ones those were.
"""


def page(ours: Mapping[str, Mapping[str, Any]], bare: Mapping[str, Mapping[str, Any]], **said: Any) -> str:
    rows = [*((f"queuekit, {name}", row) for name, row in ours.items())]
    rows += [(f"bare {name.removeprefix('bare-')}", row) for name, row in bare.items()]
    promised = []
    for name, row in ours.items():
        others = {what: count for what, count in row["faults"].items() if what not in SHOWN}
        promised.append(
            f"| {name} | {row['slowest_steward_left']:.2f} s of {row['deaths_steward_left']} "
            f"| {row['slowest_both_gone']:.2f} s of {row['deaths_both_gone']} | {row['redundant_doorbells']} "
            f"| {row['overlaps_of_stopped']} | {', '.join(f'{what}: {count}' for what, count in others.items())} |"
        )
    return HEAD.format(**said) + table(rows) + "\n" + WORDS.format(ours="\n".join(promised), **said)


SHOWN = {*KILLS, "kill a steward", "double messages", "delete messages", "restart the broker"}
