"""install(broker): what it takes from the user's broker, what it leaves alone, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")
pytest.importorskip("pika", reason="pika is not installed")

import redis  # noqa: E402  # after the checks
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: E402
from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.brokers.stub import StubBroker  # noqa: E402
from dramatiq.middleware import MiddlewareError, default_middleware  # noqa: E402
from dramatiq.results import Results  # noqa: E402
from dramatiq.results.backends.stub import StubBackend  # noqa: E402

import queuekit.app as apps  # noqa: E402
from queuekit import App, ConfigError, Settings, agent_task, configure  # noqa: E402
from queuekit.adapters.dramatiq import install  # noqa: E402
from queuekit.adapters.dramatiq.beside import Beside  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_default_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apps, "_default", None)
    monkeypatch.chdir(tmp_path)  # no settings of this repository's


@agent_task(name="test_dramatiq_beside.ours")
def ours(n: int) -> int:
    return n


def a_system() -> Any:
    broker = RedisBroker(url=NOWHERE)
    broker.add_middleware(Results(backend=StubBackend()))
    for name in ("one", "two"):
        dramatiq.Actor(
            lambda: None, broker=broker, actor_name=name, queue_name=f"q.{name}", priority=3, options={"max_retries": 5}
        )
    return broker


def state(broker: Any) -> dict[str, Any]:
    return {
        "middleware": [(id(one), dict(vars(one))) for one in broker.middleware if not isinstance(one, Beside)],
        "actors": {
            name: (id(actor), actor.queue_name, actor.priority, dict(actor.options))
            for name, actor in broker.actors.items()
        },
        "queues": (set(broker.get_declared_queues()), set(broker.get_declared_delay_queues())),
        "options": set(broker.actor_options),
        "own": {name: value for name, value in vars(broker).items() if name not in {"middleware", "actors"}},
    }


def test_nothing_of_the_users_is_changed() -> None:
    broker = a_system()
    before, methods = state(broker), {name: getattr(type(broker), name) for name in ("consume", "enqueue")}
    app = install(broker)
    assert state(broker) == before
    assert {name: getattr(broker, name).__func__ for name in methods} == methods
    assert [type(one) for one in broker.middleware] == [Beside, *default_middleware, Results]
    assert app.settings.broker_url == app.settings.store_url == NOWHERE
    assert app.settings.source("broker_url") == "the broker given to install()"


def test_it_becomes_the_default_app_and_enqueues_there() -> None:
    app = install(a_system())
    assert apps.current_app() is app
    assert ours.native.queue_name == "queuekit.default.default.p0"


@pytest.mark.parametrize(
    ("make", "url"),
    [
        (RedisBroker, "redis://localhost:6379/0"),
        (lambda: RedisBroker(host="r", port=7, db=3), "redis://r:7/3"),
        (lambda: RedisBroker(url="redis://u:p%40ss@r:7/3"), "redis://u:p%40ss@r:7/3"),
        (lambda: RedisBroker(url="redis://:p@[::1]:7/3"), "redis://:p@[::1]:7/3"),
        (lambda: RedisBroker(url="unix:///run/redis.sock?db=2"), "unix:///run/redis.sock?db=2"),
        (lambda: RedisBroker(client=redis.Redis(host="r")), "redis://r:6379/0"),
        (RabbitmqBroker, "amqp://guest:guest@localhost:5672/%2F"),
        (lambda: RabbitmqBroker(host="r", virtual_host="a/b"), "amqp://guest:guest@r:5672/a%2Fb"),
        (lambda: RabbitmqBroker(url="amqp://u:p%2Fs@r:7/v"), "amqp://u:p%2Fs@r:7/v"),
        (lambda: RabbitmqBroker(url=["amqp://u:p@r:7/v"]), "amqp://u:p@r:7/v"),
        (lambda: RabbitmqBroker(url="amqps://u:p@r/v"), "amqps://u:p@r:5671/v"),
    ],
    ids=range(11),
)
def test_the_broker_is_found_by_its_own_connection(make: Callable[[], Any], url: str) -> None:
    app = install(make(), store_url=NOWHERE)
    assert app.settings.broker_url == url
    app.adapter.close()  # it can be read


def test_a_tls_connection_keeps_its_certificates() -> None:
    broker = RedisBroker(url="rediss://r:7/0?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem")
    url = install(broker).settings.broker_url
    assert url is not None
    said = redis.connection.parse_url(url)
    assert (said["host"], said["ssl_ca_certs"], said["ssl_cert_reqs"]) == ("r", "/etc/ca.pem", "none")


@pytest.mark.parametrize(
    "make",
    [
        StubBroker,
        lambda: RedisBroker(
            client=redis.Redis(
                connection_pool=redis.sentinel.SentinelConnectionPool("main", redis.Sentinel([("r", 1)]))
            )
        ),
        lambda: RedisBroker(client=redis.Redis(credential_provider=redis.UsernamePasswordCredentialProvider("u", "p"))),
        lambda: RabbitmqBroker(url=["amqp://a", "amqp://b"]),
    ],
    ids=["stub", "sentinel", "credentials", "nodes"],
)
def test_what_one_url_cannot_say_has_to_be_given(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="broker_url='redis://"):
        install(make())
    app = install(make(), broker_url=NOWHERE)
    assert app.settings.broker_url == NOWHERE


def test_rabbitmq_needs_a_store() -> None:
    with pytest.raises(ConfigError, match="store_url is not set"):
        install(RabbitmqBroker())


def test_for_tests_the_broker_is_left_alone() -> None:
    broker = StubBroker()
    app = install(broker, backend="memory")
    assert not any(isinstance(one, Beside) for one in broker.middleware)
    assert ours.enqueue(3).result() == 3
    assert app.settings.backend == "memory"


def test_settings_of_ones_own() -> None:
    given = Settings(namespace="mine", lease=60)
    app = install(a_system(), given, lease=90)
    assert (app.settings.namespace, app.settings.lease, app.settings.backend) == ("mine", 90, "dramatiq")


def test_what_is_no_broker() -> None:
    with pytest.raises(ConfigError, match=r"dramatiq\.Broker"):
        install("redis://")  # type: ignore[arg-type]


def test_twice() -> None:
    broker = a_system()
    install(broker)
    with pytest.raises(ConfigError, match="already"):
        install(broker)


def test_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_BACKEND", "rq")
    with pytest.raises(ConfigError, match="'rq' is set .environment QUEUEKIT_BACKEND"):
        install(a_system())


def test_after_another_default_app() -> None:
    configure(backend="memory")
    broker = a_system()
    with pytest.raises(ConfigError, match="too late.*backend"):
        install(broker)
    assert not any(isinstance(one, Beside) for one in broker.middleware)


def test_under_our_own_command_its_app_is_taken() -> None:
    """`queuekit worker proj.module` has made the default App before it imports the module."""
    default = App(Settings(backend="dramatiq", broker_url=NOWHERE))
    apps.use_default(default)
    broker = a_system()
    assert install(broker) is default
    assert not any(isinstance(one, Beside) for one in default.adapter.broker.middleware)


def test_a_second_worker_in_a_process_is_refused() -> None:
    broker = a_system()
    install(broker)
    beside = broker.middleware[0]
    beside._engine = object()
    with pytest.raises(MiddlewareError, match="one already"):
        beside.before_worker_boot(broker, None)


def test_whatever_goes_wrong_at_the_start_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dramatiq only logs what else a middleware raises, and would run without us."""
    broker = a_system()
    app = install(broker)
    monkeypatch.setattr(app, "worker", lambda **_: 1 / 0)
    with pytest.raises(MiddlewareError, match="cannot start: division"):
        dramatiq.Worker(broker).start()
