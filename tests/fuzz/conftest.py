"""Fuzz on the pool and the brokers that people run most, or on what --queuekit-backend names."""

from __future__ import annotations

import pytest

from queuekit.testing.conformance.fixtures import new_bench, pytest_runtest_makereport, target  # noqa: F401
from queuekit.testing.target import find_targets

TARGETS = ("celery-prefork", "celery-prefork-rabbitmq", "rq-worker", "dramatiq", "dramatiq-rabbitmq")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    wanted = tuple(metafunc.config.getoption("--queuekit-backend") or ())
    targets = [one for name in TARGETS for one in find_targets((name,)) if one.name == name]
    if wanted:
        targets = [one for one in find_targets(wanted) if one.real]
    metafunc.parametrize("target", targets, indirect=True, scope="session", ids=str)
