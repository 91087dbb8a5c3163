"""Users with the least rights: those of docs/how-to/deploy-redis.md, for the store and for each engine's broker."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from deploy_helpers import ENGINES, all_of_it

from queuekit import EnqueueError
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs/how-to/deploy-redis.md"


def rights(user: str) -> list[str]:
    """The words after `user NAME on >PASSWORD` on the page."""
    found = re.search(rf"^user {user} on >PASSWORD (.*)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None, user
    return found[1].split()


class Guarded:
    """A server with the users `broker` and `store`, and nothing for whoever comes without a name."""

    def __init__(self, server: RedisServer, engine: str, namespace: str) -> None:
        self.server, self.password = server, secrets.token_hex(8)
        self.admin = redis.Redis.from_url(server.url, decode_responses=True)
        for name, words in (("store", rights("store")), ("broker", rights(f"broker-{engine}"))):
            here = [word.replace("NAMESPACE", namespace) for word in words]
            self.admin.execute_command("ACL SETUSER", name, "on", f">{self.password}", *here)

    def url(self, user: str) -> str:
        return f"redis://{user}:{self.password}@127.0.0.1:{self.server.port}/0"


@pytest.mark.parametrize("engine", ENGINES)
def test_these_rights_are_enough(
    engine: str, namespace: str, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    guarded = Guarded(start(), engine, namespace)
    bench = bench_of(engine, broker_url=guarded.url("broker"), store_url=guarded.url("store"), namespace=namespace)
    all_of_it(bench)
    bench.worker.terminate()
    assert bench.worker.wait(40) == 0
    assert [f"{one['username']}: {one['object']}" for one in guarded.admin.acl_log()] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_and_they_go_no_further(engine: str, namespace: str, start: Callable[..., RedisServer]) -> None:
    guarded = Guarded(start(), engine, namespace)
    for user in ("broker", "store"):
        with redis.Redis.from_url(guarded.url(user)) as client:
            for refused in (
                lambda client: client.get("another:key"),
                lambda client: client.set("queuekit:{another}:job:1", "x"),
                lambda client: client.flushall(),
                lambda client: client.config_get("*"),
                lambda client: client.publish("another", "x"),
                lambda client: client.acl_list(),
                *([] if (engine, user) == ("dramatiq", "broker") else [lambda client: client.keys("*")]),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    refused(client)


def test_a_user_without_rights_is_named(
    namespace: str, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    guarded = Guarded(start(), "rq", "elsewhere")
    bench_of(
        "rq", broker_url=guarded.url("broker"), store_url=guarded.url("store"), namespace=namespace, enqueue_timeout=1.0
    )
    with pytest.raises(EnqueueError, match="the store refused create.*permission") as error:
        tasks.add.enqueue(1)
    assert error.value.recorded is False
    assert guarded.password not in str(error.value)


def test_a_wrong_password_is_said(
    namespace: str, start: Callable[..., RedisServer], bench_of: Callable[..., WorkerBench]
) -> None:
    guarded = Guarded(start(), "rq", namespace)
    wrong = guarded.url("store").replace(guarded.password, "guess")
    bench_of("rq", broker_url=guarded.url("broker"), store_url=wrong, namespace=namespace, enqueue_timeout=1.0)
    with pytest.raises(EnqueueError, match="invalid username-password pair") as error:
        tasks.add.enqueue(1)
    assert error.value.recorded is False
