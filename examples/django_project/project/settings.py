"""No more than the example needs; DEBUG, the key and the hosts are not for production."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "for the example only"  # noqa: S105
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["documents"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", str(BASE_DIR / "db.sqlite3")),
        "OPTIONS": {"timeout": 20},
    }
}

# Handed to queuekit.configure() by documents/apps.py. What is not here comes from the environment, queuekit.toml or
# the defaults.
QUEUEKIT = {
    "backend": os.environ.get("QUEUEKIT_BACKEND", "rq"),
    "broker_url": os.environ.get("QUEUEKIT_BROKER_URL", "redis://localhost:6379/0"),
    "grace": 20,
}
