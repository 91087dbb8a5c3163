"""The state machines run on both stores: in this process's memory, and on a server of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit.testing.plugin import a_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing.servers import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with a_server(tmp_path_factory.mktemp("machine") / "data") as made:
        yield made
