"""The Celery app, and the Celery task that each of ours becomes: it hands a delivery to the execution, and says the
outcome in Celery's words."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_logger  # noqa: F401
from kombu.exceptions import KombuError

from queuekit.execution import Delivery, Dropped, Ended, Failed, Released, Retried, Stale, Succeeded, Unrecorded
from queuekit.message import HEADER, Doorbell
from queuekit.retry import describe_error

if TYPE_CHECKING:
    from queuekit import task as tasks
    from queuekit.adapters.celery.broker import Broker
    from queuekit.execution import Outcome
    from queuekit.settings import Settings
    from queuekit.worker import Worker
