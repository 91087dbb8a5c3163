"""RQ alone: a Retry for each job, a worker with the scheduler, and maintenance twice a minute (its default is ten)."""

import os
import time

import redis
from ledger import execution
from rq import Queue, Retry, get_current_job

connection = redis.Redis.from_url(os.environ["BARE_BROKER"])
queue = Queue("bare", connection=connection)


def work(job: str, seconds: float, failures: int) -> str:
    with execution(job):
        time.sleep(seconds)
        current = get_current_job()
        left = 0 if current is None or current.retries_left is None else current.retries_left
        if 7 - left < failures:
            raise ConnectionResetError("the service hung up")
        return "done"


COMMAND = [
    "rq", "worker", "bare", "--url", os.environ["BARE_BROKER"], "--with-scheduler", "--maintenance-interval", "30",
    "--logging_level", "WARNING",
]  # fmt: skip


def enqueue(job: str, seconds: float, failures: int) -> str:
    retry = Retry(max=7, interval=1)
    return queue.enqueue(work, job, seconds, failures, job_id=job, retry=retry, job_timeout=30).id
