from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from django.db import OperationalError, close_old_connections

from queuekit import Backoff, DoNotRetry, Job, RetryPolicy, RetryRule, agent_task

from .models import Document

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def database() -> Iterator[None]:
    """Django ends old connections around each request; around a job somebody else has to."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


@agent_task(retry=RetryPolicy([RetryRule(OperationalError, Backoff(1))], max_attempts=5), timeout=60)
def summarise(pk: int) -> int:
    """Takes the key and not the text: what is in the database when the job runs is what counts. Running it twice does
    no harm, as it writes the same again."""
    with database():
        try:
            document = Document.objects.get(pk=pk)
        except Document.DoesNotExist:
            raise DoNotRetry(f"document {pk} was deleted") from None
        time.sleep(0.05)  # a model would be called here
        document.summary = document.text.split(".")[0][:200]
        document.save(update_fields=["summary"])
    return len(document.summary)


def enqueue(pk: int) -> Job[int]:
    """The id is the document's: to enqueue it again, on a doubt, gives the same job."""
    return summarise.options(id=job_id(pk)).enqueue(pk)


def job_id(pk: int) -> str:
    return f"document-{pk}"
