"""A knowledge base that follows its documents: each night what has changed is embedded again, each document once.

    QUEUEKIT_BACKEND=rq queuekit worker nightly_refresh.py --dev --concurrency 4      after model_endpoint.py
    QUEUEKIT_BACKEND=rq python nightly_refresh.py                  does not wait for the night
    QUEUEKIT_BACKEND=rq queuekit schedules list                    when it comes; also: pause, resume, run

The documents are the text files in the folder KNOWLEDGE: change one, and run the script again. The index is a SQLite
file beside them, which also says what was refreshed, and when.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

from openai import OpenAI

from queuekit import Cron, Job, RetryPolicy, Scheduled, agent_task, current_job, schedules

SCALE = float(os.environ.get("SCALE", "1"))
POLICY = RetryPolicy.for_llm(scale=SCALE)
KNOWLEDGE = Path(os.environ.get("KNOWLEDGE", str(Path(tempfile.gettempdir(), "queuekit-knowledge"))))
# Three o'clock in Berlin, in summer and in winter. A night in which no worker was up is made good once one is.
NIGHTLY = Scheduled(Cron("0 3 * * *", tz="Europe/Berlin"), name="nightly-refresh", missed="once")


@dataclass(frozen=True)
class Refresh:
    changed: list[str]
    jobs: list[str]


@cache
def client() -> OpenAI:
    return OpenAI(max_retries=0, timeout=60)


def index() -> sqlite3.Connection:
    KNOWLEDGE.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(KNOWLEDGE / "index.db", timeout=30)
    db.execute("CREATE TABLE IF NOT EXISTS document (name TEXT PRIMARY KEY, fingerprint TEXT, vector TEXT)")
    db.execute("CREATE TABLE IF NOT EXISTS refreshed (at TEXT, name TEXT, what TEXT)")
    return db


def read(name: str) -> str | None:
    try:
        return (KNOWLEDGE / name).read_text("utf-8")
    except FileNotFoundError:
        return None


def fingerprint(text: str | None) -> str | None:
    return None if text is None else sha256(text.encode()).hexdigest()


def indexed() -> dict[str, str]:
    with closing(index()) as db:
        return dict(db.execute("SELECT name, fingerprint FROM document"))


def find_changed() -> list[str]:
    """Those that are new, that are not what they were, and that are gone."""
    known = indexed()
    names = {path.name for path in KNOWLEDGE.glob("*.txt")} | known.keys()
    return sorted(name for name in names if fingerprint(read(name)) != known.get(name))


@agent_task(queue="knowledge", retry=POLICY, timeout=120)
def update(name: str) -> str:
    """Bring the index up to date for one document, and record it in the same transaction.

    It gets the name and not the text, and looks again: whoever asked for it may have looked before another job of the
    same document ended, and nothing is embedded twice by that. What changes while it is embedded is the next night's.
    """
    text = read(name)
    found = fingerprint(text)
    if indexed().get(name) == found:
        return "up to date"
    what = "removed" if text is None else "embedded"
    vector = [] if text is None else embed(name, text)
    with closing(index()) as db, db:
        db.execute("DELETE FROM document WHERE name = ?", (name,))
        if text is not None:
            db.execute("INSERT INTO document VALUES (?, ?, ?)", (name, found, json.dumps(vector)))
        db.execute("INSERT INTO refreshed VALUES (?, ?, ?)", (datetime.now(UTC).isoformat(), name, what))
    return what


def embed(name: str, text: str) -> list[float]:
    answer = client().embeddings.create(
        model="text-embedding-3-small", input=text, extra_headers={"X-Client-Request-Id": f"embed-{name}"}
    )
    return answer.data[0].embedding


@agent_task(queue="knowledge", retry=POLICY, timeout=600, schedule=NIGHTLY)
def refresh() -> Refresh:
    """Find what has changed, and start a job for each: it waits for none of them, and holds no place in the worker."""
    job = current_job()
    # A step: an attempt that runs again goes on with what the first one has found.
    changed = job.step("changed", find_changed)
    # The key of options() is the document's: while a job of it has not ended, another refresh gets that one. The key
    # of enqueue() is the child's: an attempt that runs again finds it.
    jobs = [job.enqueue(update.options(key=name).bind(name), key=name) for name in changed]
    return Refresh(changed, [one.id for one in jobs])


def write_samples() -> None:
    KNOWLEDGE.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        text = f"Chapter {number} tells how the bees of hive {number} find home when the wind has turned.\n"
        (KNOWLEDGE / f"chapter-{number}.txt").write_text(text, "utf-8")


def main() -> None:
    if not find_changed() and not indexed():
        write_samples()
    schedules.register()  # as each worker does at its start: the memory backend has none
    schedule = schedules.find("nightly-refresh")
    assert schedule is not None
    print(f"{schedule.name} would come at {schedule.next_at:%Y-%m-%d %H:%M} UTC")
    done = refresh.job(schedules.run_now(schedule.name).id).result(timeout=600)
    said = Job.wait_all([update.job(id) for id in done.jobs], timeout=3600, return_exceptions=True)
    counts = Counter(one if isinstance(one, str) else type(one).__name__ for one in said)
    print(f"{len(done.changed)} documents have changed: {dict(counts)}")
    print(f"{len(indexed())} documents are in the index")


if __name__ == "__main__":
    main()
