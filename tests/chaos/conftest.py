from __future__ import annotations

from queuekit.testing.conformance.fixtures import *  # noqa: F403
