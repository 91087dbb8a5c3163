from __future__ import annotations

from queuekit.testing.conformance.fixtures import new_server  # noqa: F401  # a fixture
