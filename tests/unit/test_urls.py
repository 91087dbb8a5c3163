"""URLs with more than one host: read, refused and shown."""

from __future__ import annotations

from typing import Any

import pytest

from queuekit import ConfigError, Settings
from queuekit.clients import _hosts, _login, connect
from queuekit.settings import redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sentinel://user:pw@a:26379,b:26380/main/0", "sentinel://user:***@a:26379,b:26380/main/0"),
        ("sentinel://a,b/main?sentinel_password=pw", "sentinel://a,b/main?***"),
        ("redis+cluster://:pw@[::1]:7000,[::2]:7001", "redis+cluster://:***@[::1]:7000,[::2]:7001"),
        ("redis://user:p,w@host:1/0", "redis://user:***@host:1/0"),
        ("redis://user:p/w,x@host:1/0", "redis://***"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_hosts_and_logins() -> None:
    assert _hosts("user:a%2Cb@one:1,two,[::1]:3,[::2]", 9) == [("one", 1), ("two", 9), ("::1", 3), ("::2", 9)]
    assert _login("user:a%2Cb@one") == {"username": "user", "password": "a,b"}
    assert _login("one:1") == {"username": None, "password": None}


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://a:1,b:2",
        "redis+cluster://user:pw@a/",
        "rediss+cluster://a:1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
        "sentinel://a:1,b/main",
        "unix:///run/redis.sock?db=1",
        "rediss://h/0?ssl_check_hostname=false",
    ],
)
def test_a_store_url_that_can_be(url: str) -> None:
    assert Settings(store_url=url).store_url == url


@pytest.mark.parametrize(
    ("name", "url", "remedy"),
    [
        ("broker_url", "rediss+cluster://a:1", "the cluster as store_url"),
        ("store_url", "redis+cluster://a:1?ssl_ca_certs=/ca", r"write that in place of redis\+cluster://"),
        ("store_url", "redis+cluster://a:1?db=1", "db cannot be in its query, which may say nothing"),
        ("store_url", "amqp://a/", "not supported; give redis://"),
        ("store_url", "rediscluster://a:1", r"write redis\+cluster:// in place"),
        ("store_url", "unix://a,b/run/redis.sock", "more than one host"),
        ("store_url", "redis://a:1,b:0/0", "port must be between"),
    ],
)
def test_one_that_cannot_be_says_what_can(name: str, url: str, remedy: str) -> None:
    given: dict[str, Any] = {name: url}
    with pytest.raises(ConfigError, match=remedy):
        Settings(**given)


def test_a_client_is_made_without_asking_anybody() -> None:
    for url in ("redis://nobody.invalid/0", "sentinel://nobody.invalid/main", "unix:///no/such.sock"):
        connect(url, socket_timeout=1.0).close()
