from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from queuekit import EnqueueError, JobNotFound

from . import tasks
from .models import Document

if TYPE_CHECKING:
    from django.http import HttpRequest

log = logging.getLogger(__name__)


def _enqueue(pk: int) -> None:
    """After the commit the document is there, whatever becomes of this: `manage.py enqueue_missing` makes it good."""
    try:
        tasks.enqueue(pk)
    except EnqueueError:
        log.exception("document %s has no job yet", pk)


@csrf_exempt
@require_POST
def create(request: HttpRequest) -> HttpResponse:
    try:
        with transaction.atomic():
            document = Document.objects.create(text=request.body.decode())
            # Not at once: a worker is faster than a commit, and would not find the row; a rollback would leave a job.
            transaction.on_commit(partial(_enqueue, document.pk))
            document.full_clean()  # whatever raises from here on takes the job back with the row
    except ValidationError as error:
        return JsonResponse({"errors": error.message_dict}, status=400)
    return JsonResponse({"id": document.pk}, status=202)


def read(request: HttpRequest, pk: int) -> HttpResponse:
    document = get_object_or_404(Document, pk=pk)
    try:
        status = str(tasks.summarise.job(tasks.job_id(pk)).status())
    except JobNotFound:
        status = "unknown"
    return JsonResponse({"id": pk, "status": status, "summary": document.summary})
