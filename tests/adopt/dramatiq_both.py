"""The same system with queuekit's tasks beside its own: what its owner adds."""

from dramatiq_shop import broker  # noqa: F401  # the native actors

import queuekit.testing.tasks  # noqa: F401  # the tasks
from queuekit.adapters.dramatiq import install

app = install(broker)
