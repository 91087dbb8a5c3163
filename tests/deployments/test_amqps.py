"""amqps://: Celery and Dramatiq check the certificate of a RabbitMQ against the system's authorities, and its name."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from deploy_helpers import all_of_it, default_target

from queuekit import Settings
from queuekit.adapters import BrokerAway, load_adapter
from queuekit.message import Message, Publication
from queuekit.testing.plugin import require
from queuekit.testing.rabbit import RabbitServer, find_rabbitmq
from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy_helpers import Certificates

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer

ENGINES = ["celery", "dramatiq"]


@pytest.fixture(scope="module")
def tls_port(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a node with the certificate of `localhost`."""
    port = free_port()
    options = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": certificates.ca,
        "ssl_options.certfile": certificates.server,
        "ssl_options.keyfile": certificates.server_key,
    }
    try:
        binary = find_rabbitmq()
    except LookupError as error:
        require(str(error))
    with RabbitServer(binary, tmp_path_factory.mktemp("amqps"), options=options):
        yield port


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_runs_over_tls(
    engine: str,
    tls_port: int,
    certificates: Certificates,
    start: Callable[..., RedisServer],
    bench_of: Callable[..., WorkerBench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))  # the system's authorities, for OpenSSL
    url = f"amqps://guest:guest@localhost:{tls_port}/%2F"
    all_of_it(bench_of(engine, broker_url=url, store_url=start().url))


@pytest.mark.parametrize("how", ["an authority that is not known", "another host name", "no TLS"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_broker_that_cannot_prove_itself_gets_nothing(
    engine: str, how: str, tls_port: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    default_target(engine)
    known = certificates.stranger if how == "an authority that is not known" else certificates.ca
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    scheme, host = "amqp" if how == "no TLS" else "amqps", "127.0.0.1" if how == "another host name" else "localhost"
    broker, store = f"{scheme}://guest:guest@{host}:{tls_port}/%2F", "redis://127.0.0.1:1/0"
    namespace = f"test_{secrets.token_hex(4)}"
    settings = Settings(backend=engine, broker_url=broker, store_url=store, namespace=namespace, enqueue_timeout=2)
    adapter = load_adapter(engine)(settings)
    with pytest.raises(BrokerAway):
        adapter.publish([Publication(Message("j", "m.t", [], {}, "q", engine), 1, 1, "e")])
    adapter.close()
