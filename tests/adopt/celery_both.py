"""The same system with queuekit's tasks beside its own: what its owner adds."""

from celery_shop import app

import queuekit.testing.tasks  # noqa: F401  # the tasks
from queuekit.adapters.celery import install

queuekit_app = install(app)
