"""`queuekit worker` with Django set up first, and the settings that ready() has handed over."""

from __future__ import annotations

import logging
import sys

from django.apps import apps
from django.core.management.base import BaseCommand
from django.utils.module_loading import autodiscover_modules


class Command(BaseCommand):
    help = "Run a worker for the tasks in the tasks.py of each app."

    def handle(self, *_args: object, **_options: object) -> None:
        logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        autodiscover_modules("tasks")
        app = apps.get_app_config("documents").queue
        sys.exit(app.adapter.run_worker(app.worker()))
