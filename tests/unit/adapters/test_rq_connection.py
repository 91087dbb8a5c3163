"""The user's own Redis connection: what install() makes of it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.sentinel import Sentinel

pytest.importorskip("rq", reason="RQ is not installed")

from queuekit import App, ConfigError, Settings  # noqa: E402
from queuekit import app as apps  # noqa: E402
from queuekit.adapters.rq import RqAdapter, install  # noqa: E402
from queuekit.adapters.rq.connection import alike, same_server, url_of  # noqa: E402
from queuekit.message import Message, Publication  # noqa: E402
from queuekit.testing import tasks  # noqa: E402

if TYPE_CHECKING:
    from queuekit.testing.plugin import Broker


@pytest.fixture(autouse=True)
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "_default", None)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://127.0.0.1:7000/3",
        "redis://user:p%40ss%2Fword@cache.example:6379/0",
        "redis://:secret@[::1]:6379/1",
        "unix:///run/redis/redis.sock?db=2",
        "unix://user:secret@/run/redis/redis.sock?db=0",
        "rediss://localhost:6380/0?ssl_ca_certs=%2Fetc%2Fca.pem",
    ],
)
def test_the_url_leads_where_the_connection_does(url: str) -> None:
    given = redis.Redis.from_url(url)
    said = url_of(given)
    Settings(broker_url=said)
    again = redis.Redis.from_url(said)
    assert again.connection_pool.connection_class is given.connection_pool.connection_class
    for name in ("host", "port", "db", "username", "password", "path", "ssl_ca_certs", "ssl_cert_reqs"):
        wanted, found = (one.connection_pool.connection_kwargs.get(name) for one in (given, again))
        assert (wanted or 0) == (found or 0) or {wanted, found} == {None, "required"}, name


def test_tls_without_checking_is_said_as_it_is() -> None:
    assert "ssl_cert_reqs=none" in url_of(redis.Redis(ssl=True, ssl_cert_reqs=ssl.CERT_NONE))
    assert "ssl_cert_reqs=none" in url_of(redis.Redis(ssl=True, ssl_cert_reqs="none"))


def test_what_no_url_can_say_needs_one_beside_it() -> None:
    given = redis.Redis(credential_provider=redis.UsernamePasswordCredentialProvider("user", "secret"))
    with pytest.raises(ConfigError, match="credential_provider cannot stand in a URL.*broker_url"):
        install(given)
    assert install(given, broker_url="redis://user:secret@localhost:6379/0").settings.backend == "rq"


def test_sentinels_are_said() -> None:
    sentinel = Sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "s"}, password="p", db=3)
    assert url_of(sentinel.master_for("main")) == "sentinel://:p@a:1,b:2/main/3?sentinel_password=s"
    again = alike(sentinel.master_for("main"), socket_timeout=7.0).connection_pool
    assert (again.service_name, again.connection_kwargs["socket_timeout"]) == ("main", 7.0)


@pytest.mark.parametrize("given", ["redis://localhost", None, object()])
def test_what_is_no_connection_is_said(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"give the redis\.Redis"):
        install(given)


def test_a_cluster_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="single Redis"):
        RqAdapter(Settings(backend="rq"), native=object.__new__(redis.RedisCluster))


def test_the_connection_itself_is_left_as_it_is(queuekit_broker: Broker) -> None:
    given = redis.Redis.from_url(queuekit_broker.url, decode_responses=True, socket_timeout=123.0)
    before = dict(given.connection_pool.connection_kwargs)
    adapter = RqAdapter(Settings(**queuekit_broker.settings("rq")), native=given)
    adapter.publish([Publication(Message("mine", "m.t", [], {}, "q", "rq"), 1, 1, "e")])
    assert adapter.depth("rq:q:0") == 1
    assert given.connection_pool.connection_kwargs == before
    assert adapter.client.connection_pool.connection_kwargs["socket_timeout"] < 5
    adapter.close()
    assert given.ping()
    given.close()


def test_install_makes_the_default_app(queuekit_broker: Broker) -> None:
    connection = redis.Redis.from_url(queuekit_broker.url)
    app = install(connection, namespace=queuekit_broker.namespace)
    assert apps.current_app() is app
    assert (app.settings.backend, app.settings.broker_url) == ("rq", queuekit_broker.url)
    assert app.settings.source("broker_url") == "the connection given to install()"
    assert tasks.add.native is tasks.add.fn
    job = tasks.add.enqueue(1, 2)
    assert connection.exists(f"rq:job:{job.id}")
    app.close()
    connection.close()


def test_an_app_takes_the_address_of_the_connection() -> None:
    settings = App(Settings(backend="rq"), redis=redis.Redis(port=7001, db=2)).settings
    assert (settings.broker_url, settings.source("broker_url")) == ("redis://localhost:7001/2", "the rq application")


def test_install_for_another_app_than_the_default_one() -> None:
    default = App(Settings(backend="memory"))
    apps.use_default(default)
    app = install(redis.Redis(), Settings(namespace="other"))
    assert apps.current_app() is default
    assert (app.settings.namespace, app.settings.backend) == ("other", "rq")


def test_install_goes_by_the_settings_backend() -> None:
    with pytest.raises(ConfigError, match=r"backend='celery' is set \(configure\(\)\)"):
        install(redis.Redis(), backend="celery")
    assert install(redis.Redis(), backend="memory").settings.backend == "memory"


def test_servers_are_told_apart(queuekit_broker: Broker) -> None:
    one = redis.Redis.from_url(queuekit_broker.url)
    port = one.connection_pool.connection_kwargs["port"]
    assert same_server(one, redis.Redis(host="localhost", port=port)) is True
    assert same_server(one, redis.Redis(port=port, db=1)) is False
    assert same_server(one, redis.Redis(port=1)) is None
