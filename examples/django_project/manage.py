"""A Django project whose views enqueue on commit. It takes queuekit's settings from Django's.

python manage.py migrate
python manage.py queuekit_worker            a worker with the project loaded
python manage.py runserver                  in another terminal
curl localhost:8000/documents -d 'It rained all day.'
"""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    execute_from_command_line(sys.argv)
