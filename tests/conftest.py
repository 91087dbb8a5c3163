"""Every test runs without the settings of whoever runs it."""

from __future__ import annotations

import os

for _name in [name for name in os.environ if name.startswith("QUEUEKIT_") and not name.startswith("QUEUEKIT_TEST_")]:
    del os.environ[_name]
