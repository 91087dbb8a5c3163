"""Work that takes longer than an attempt may: at the soft limit it saves where it is, and asks to be run again.

    QUEUEKIT_BACKEND=celery queuekit worker checkpoint.py --dev
    QUEUEKIT_BACKEND=celery python checkpoint.py

What was done is kept under the job's id in a storage of yours: here a SQLite file, CHECKPOINTS. An attempt that is
killed loses what was done since the last checkpoint, and nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from queuekit import RetryAfter, RetryPolicy, SoftTimeout, agent_task, current_job

CHECKPOINTS = Path(os.environ.get("CHECKPOINTS", str(Path(tempfile.gettempdir(), "queuekit-checkpoints.db"))))


def load(job: str) -> dict[str, str]:
    with closing(_open()) as db:
        row = db.execute("SELECT state FROM checkpoint WHERE job = ?", (job,)).fetchone()
    return json.loads(row[0]) if row else {}


def save(job: str, state: dict[str, str]) -> None:
    with closing(_open()) as db, db:
        db.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (job, json.dumps(state)))


def _open() -> sqlite3.Connection:
    db = sqlite3.connect(CHECKPOINTS, timeout=30)
    db.execute("CREATE TABLE IF NOT EXISTS checkpoint (job TEXT PRIMARY KEY, state TEXT)")
    return db


def embed(page: str) -> str:
    time.sleep(0.15)  # a model would be called here
    return f"{page}: {len(page)} dimensions"


# RetryAfter counts as an attempt: leave enough of them, and let max_elapsed be what ends it.
@agent_task(queue="index", retry=RetryPolicy(max_attempts=100, max_elapsed=6 * 3600), soft_timeout=1.5, timeout=10)
def index_pages(pages: list[str]) -> dict[str, int]:
    job = current_job()
    done = load(job.id)
    before = len(done)
    try:
        for page in pages:
            if page not in done:
                done[page] = embed(page)  # one step: the limit strikes before it or after it
    except SoftTimeout:
        save(job.id, done)  # between the soft and the hard limit there is time for this
        raise RetryAfter(1, f"{len(done)} of {len(pages)} pages, {len(done) - before} of them now") from None
    return {"pages": len(done), "attempts": job.attempt}


def main() -> None:
    job = index_pages.enqueue([f"page {number}" for number in range(24)])
    print(job.result(timeout=600))
    for attempt in job.info().attempts:
        print(f"  attempt {attempt.number}: {attempt.outcome}: {attempt.error_message or 'all pages'}")


if __name__ == "__main__":
    main()
