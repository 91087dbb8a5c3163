from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli_world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing.plugin import Broker


@pytest.fixture
def world(
    queuekit_broker: Broker, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """An empty store, and a current folder without settings."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    made = World(queuekit_broker)
    yield made
    made.store.close()
