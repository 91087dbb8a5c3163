"""Which targets there are, by the names that the command line takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest

from queuekit.adapters import Capabilities, Pool
from queuekit.errors import ConfigError
from queuekit.testing import target

if TYPE_CHECKING:
    from collections.abc import Iterator


class Adapter:
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(Pool("one", True, True, True, True), Pool("two", False, False, True, True)),
        default_pool="one",
        brokers=("redis", "rabbitmq"),
        gaps={"C1:two": "of the pool", "C2:rabbitmq": "of the broker", "C3": "of all"},
    )


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("queuekit.settings.installed_backends", lambda: {"engine": True})
    monkeypatch.setattr("queuekit.adapters.load_adapter", lambda name: Adapter)
    target.find_targets.cache_clear()
    yield
    target.find_targets.cache_clear()


def names(*wanted: str) -> list[str]:
    return [one.name for one in target.find_targets(wanted)]


def test_each_pool_on_the_usual_broker_and_the_default_pool_on_the_others() -> None:
    assert names() == names("engine") == ["engine-one", "engine-one-rabbitmq", "engine-two"]


def test_the_rest_can_be_asked_for() -> None:
    assert names("engine-two-rabbitmq", "engine-two") == ["engine-two-rabbitmq", "engine-two"]
    with pytest.raises(ConfigError, match="engine-two-rabbitmq"):
        names("engine-three")


def test_the_pool_async_stands_beside_the_pools_of_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    own, async_pool = Pool("own", True, True, True, True), Pool("async", False, False, True, True)
    both = Capabilities(pools=(own, async_pool), default_pool="own", brokers=("redis", "rabbitmq"))
    monkeypatch.setattr(Adapter, "capabilities", both)
    assert names() == ["engine", "engine-rabbitmq", "engine-async", "engine-async-rabbitmq"]
    target.find_targets.cache_clear()
    async_pool = replace(async_pool, brokers=("redis",))
    has = Capabilities(pools=(own, async_pool), default_pool="own", brokers=("redis", "rabbitmq"))
    monkeypatch.setattr(Adapter, "capabilities", has)
    assert names() == ["engine", "engine-rabbitmq", "engine-async"]
    assert names("engine") == ["engine"]
    has.check_pool("async", backend="engine", broker="redis")
    with pytest.raises(ConfigError, match=r"takes messages from redis.*choose the pool own"):
        has.check_pool("async", backend="engine", broker="rabbitmq")


def test_a_gap_is_of_a_pool_of_a_broker_or_of_all() -> None:
    one, rabbit, two = target.find_targets()
    assert [found.gap("C1") for found in (one, rabbit, two)] == [None, None, "of the pool"]
    assert [found.gap("C2") for found in (one, rabbit, two)] == [None, "of the broker", None]
    assert [found.gap("C3") for found in (one, rabbit, two)] == ["of all"] * 3
