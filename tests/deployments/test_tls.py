"""rediss://: certificates are checked, by every engine and by the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
from deploy_helpers import ENGINES, all_of_it, default_target

from queuekit import ConfigError, EnqueueError, Settings
from queuekit.adapters import BrokerAway, load_adapter
from queuekit.message import Message, Publication
from queuekit.testing import tasks
from queuekit.testing.bench import TASKS
from queuekit.testing.journal import VARIABLE
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy_helpers import Certificates, TlsServer

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_runs_over_tls(engine: str, tls: TlsServer, bench_of: Callable[..., WorkerBench]) -> None:
    all_of_it(bench_of(engine, broker_url=tls.url))


def wrong(tls: TlsServer, certificates: Certificates, how: str) -> str:
    known = tls.url.partition("?")[2]
    host = f"rediss://localhost:{tls.port}/0"
    match how:
        case "a CA that did not sign it":
            return f"{host}?{known.replace(str(certificates.ca), str(certificates.stranger))}"
        case "the system's CAs":
            return host
        case "another host name":
            return f"rediss://127.0.0.1:{tls.port}/0?{known}"
    return f"redis://localhost:{tls.port}/0"


HOW = ["a CA that did not sign it", "the system's CAs", "another host name", "without TLS"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_broker_that_cannot_prove_itself_gets_nothing(
    engine: str, how: str, tls: TlsServer, certificates: Certificates
) -> None:
    default_target(engine)
    settings = Settings(backend=engine, broker_url=wrong(tls, certificates, how), store_url=tls.url, enqueue_timeout=2)
    adapter = load_adapter(engine)(settings)
    with pytest.raises(BrokerAway):
        adapter.publish([Publication(Message("j", "m.t", [], {}, "q", engine), 1, 1, "e")])
    adapter.close()


@pytest.mark.parametrize("how", HOW)
def test_nor_does_a_store(
    how: str, tls: TlsServer, certificates: Certificates, start: Callable[..., RedisServer], bench_of: Any
) -> None:
    bench_of("rq", broker_url=start().url, store_url=wrong(tls, certificates, how), enqueue_timeout=1.0)
    with pytest.raises(EnqueueError) as error:
        tasks.add.enqueue(1)
    assert error.value.recorded is (None if how == "without TLS" else False)  # that one was sent, and cut off


@pytest.mark.parametrize("engine", ENGINES)
def test_certificates_are_left_unchecked_where_the_url_says_so(
    engine: str, tls: TlsServer, bench_of: Callable[..., WorkerBench]
) -> None:
    rest = [f"{name}={value}" for name, value in parse_qsl(tls.url.partition("?")[2]) if name != "ssl_ca_certs"]
    query = "&".join(["ssl_cert_reqs=none", "ssl_check_hostname=false", *rest])
    bench = bench_of(engine, broker_url=f"rediss://127.0.0.1:{tls.port}/0?{query}")
    tasks.add.enqueue(1)
    assert bench.app.adapter.depth(bench.app.store.routes(engine)[0]) == 1


def test_rqs_own_command_hands_its_tls_on_to_the_steward(tls: TlsServer, bench_of: Callable[..., WorkerBench]) -> None:
    """Which connects by a URL that is read off the command's connection."""
    bench = bench_of("rq", broker_url=tls.url)
    environ = {
        "PATH": "/usr/bin:/bin",
        "QUEUEKIT_MODULES": TASKS,
        "QUEUEKIT_NAMESPACE": bench.settings["namespace"],
        "QUEUEKIT_TICK": "0.2",
        VARIABLE: str(bench.journal.path),
    }
    command = ["rq", "worker", "--url", tls.url, "-w", "queuekit.adapters.rq.Worker"]
    bench.workers.append(WorkerProcess((), environ, bench.folder, command=command))
    job: Any = tasks.follow.enqueue(["connection"])
    assert [one.outcome for one in bench.ended(job, within=40).attempts] == ["retried", "succeeded"]


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis://h/0?ssl_ca_certs=/ca", "write that in place of redis://"),
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "required, optional or none"),
        ("rediss://h/0?ssl_ca_cert=/ca", "ssl_ca_cert cannot be in its query, which may say db, ssl_ca_certs"),
        ("redis://h/0?socket_timeout=60", "Timeouts and retries are queuekit's own"),
    ],
)
def test_a_query_that_would_not_do_what_it_says_is_refused(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        Settings(broker_url=url)
