"""Tests with a `target` run on the pools that a worker of each engine has by default: of synchronous tasks and of async
ones. Or on what --queuekit-backend names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit.testing.conformance.fixtures import *  # noqa: F403
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from queuekit.testing.target import Target


def _default(target: Target) -> bool:
    capabilities = target.capabilities
    if capabilities is None or target.pool_name == capabilities.default_pool:
        return True
    return target.pool_name == "async" and target.broker == capabilities.brokers[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    wanted = tuple(metafunc.config.getoption("--queuekit-backend") or ())
    found: dict[str, Target] = {}
    for target in find_targets(wanted):
        if target.real and (wanted or _default(target)):
            found.setdefault(str(target) if wanted or target.pool_name == "async" else target.backend, target)
    metafunc.parametrize("target", list(found.values()), indirect=True, scope="session", ids=str)
