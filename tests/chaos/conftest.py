"""Chaos runs on the default pool of each engine, or on what --queuekit-backend names."""

from __future__ import annotations

import pytest

from queuekit.testing.conformance.fixtures import *  # noqa: F403
from queuekit.testing.target import find_targets


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    wanted = tuple(metafunc.config.getoption("--queuekit-backend") or ())
    targets = [
        target
        for target in find_targets(wanted)
        if target.real
        and (wanted or target.capabilities is None or target.pool_name == target.capabilities.default_pool)
    ]
    metafunc.parametrize("target", targets, indirect=True, scope="session", ids=str)
