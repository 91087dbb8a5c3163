"""Imported by the workers beside the tasks: the client is made once, before an engine forks.

RQ runs each job in a process of its own, and making a client there takes a quarter of a second, each time.
"""

from __future__ import annotations

from queuekit.demo.tasks import client

client().chat.completions  # noqa: B018 - the client imports its parts when they are asked for
