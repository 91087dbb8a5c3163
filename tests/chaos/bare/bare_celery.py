"""Celery alone, as its documentation recommends it for jobs that must not be lost with their worker."""

import os
import time
from typing import Any

from celery import Celery
from ledger import execution

app = Celery("bare", broker=os.environ["BARE_BROKER"], backend=os.environ["BARE_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue="bare",
    broker_connection_retry_on_startup=True,
    # Longer than the longest task, and no longer: the default of an hour would bring nothing back in a run.
    broker_transport_options={"visibility_timeout": 30} if os.environ["BARE_BROKER"].startswith("redis") else {},
)


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False, max_retries=7)
def work(self: Any, job: str, seconds: float, failures: int) -> str:
    with execution(job):
        time.sleep(seconds)
        if self.request.retries < failures:
            raise ConnectionResetError("the service hung up")
        return "done"


COMMAND = ["celery", "-A", "bare_celery", "worker", "--concurrency", "2", "--loglevel", "WARNING"]


def enqueue(job: str, seconds: float, failures: int) -> str:
    """The engine's own id of it."""
    return str(work.apply_async((job, seconds, failures), task_id=job, retry=False).id)
