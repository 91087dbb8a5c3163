"""Every test runs without the settings of whoever runs it, and without a limit on the time that an example may take."""

from __future__ import annotations

import os

import hypothesis

for _name in [name for name in os.environ if name.startswith("QUEUEKIT_") and not name.startswith("QUEUEKIT_TEST_")]:
    del os.environ[_name]

# No timed assertions: on a busy machine one example may take long.
hypothesis.settings.register_profile(
    "queuekit", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("queuekit")
