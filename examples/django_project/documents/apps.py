from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.conf import settings

from queuekit import configure

if TYPE_CHECKING:
    from queuekit import App


class DocumentsConfig(AppConfig):
    name = "documents"
    queue: App

    def ready(self) -> None:
        self.queue = configure(**settings.QUEUEKIT)  # connects to nothing yet
