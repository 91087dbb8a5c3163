"""For a cron: a process that dies between the commit and the enqueue leaves a document without a job."""

from __future__ import annotations

from django.core.management.base import BaseCommand

from documents.models import Document
from documents.tasks import enqueue


class Command(BaseCommand):
    help = "Enqueue the documents that have no summary. Those that have a job keep it."

    def handle(self, *_args: object, **_options: object) -> None:
        jobs = [enqueue(pk) for pk in Document.objects.filter(summary="").values_list("pk", flat=True)]
        self.stdout.write(f"{sum(job.created for job in jobs)} of {len(jobs)} were missing")
