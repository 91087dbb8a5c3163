"""`queuekit doctor`: each bad condition made on a real server, with its remedy; and a healthy system, which is told so."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from cli_world import World, on_terminal

from queuekit.adapters.findings import Finding, Severity
from queuekit.doctor import Patient, examine
from queuekit.payload.fingerprint import HALF, fingerprint
from queuekit.settings import Settings
from queuekit.testing.plugin import Broker, a_server
from queuekit.testing.process import WorkerProcess
from queuekit.testing.servers import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parents[3] / "docs/how-to/deploy-redis.md"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """A server as docs/how-to/deploy-redis.md has it, with these words on its command line beside."""
    binary = a_server(tmp_path_factory.mktemp("unused"))._binary
    with ExitStack() as stack:

        def new(*options: str) -> RedisServer:
            options = ("--appendfsync", "everysec", *options)
            return stack.enter_context(RedisServer(binary, tmp_path_factory.mktemp("server"), options=options))

        yield new


@pytest.fixture(scope="module")
def sound(start: Callable[..., RedisServer]) -> RedisServer:
    return start()


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Doctor]]:
    monkeypatch.chdir(tmp_path)
    made: list[Doctor] = []

    def new(server: RedisServer | str, **environ: str) -> Doctor:
        made.append(Doctor(server if isinstance(server, str) else server.url, environ))
        return made[-1]

    yield new
    for one in made:
        one.world.store.close()


class Doctor:
    """`queuekit doctor --json`, by a namespace of its own on that server."""

    def __init__(self, url: str, environ: dict[str, str]) -> None:
        self.world = World(Broker(url, f"test_{secrets.token_hex(4)}"))
        self.world.environ |= {"QUEUEKIT_BROKER_URL": url, "QUEUEKIT_BACKEND": "rq", **environ}

    def run(self, *args: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the findings."""
        result = self.world.run("doctor", *args, "--json")
        (line,) = result.stdout.splitlines()
        told = json.loads(line)
        assert told["version"] == 1
        assert told["healthy"] == (result.exit_code == 0)
        return result.exit_code, told["findings"]

    def finding(self, check: str, *args: str, code: int = 1) -> dict[str, Any]:
        """The gravest of that check, where it is the one that makes the exit code."""
        exit_code, findings = self.run(*args)
        assert exit_code == code, findings
        order = [str(one) for one in Severity]
        bad = [one for one in findings if one["severity"] in {"error", "warning"}]
        assert {one["check"] for one in bad} == ({check} if code else set())
        return max((one for one in findings if one["check"] == check), key=lambda one: order.index(one["severity"]))


# ---- the servers ---------------------------------------------------------------------------------------------------


def test_a_sound_server_without_jobs_is_healthy(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    code, findings = doctor(sound).run()
    assert code == 0
    assert {one["severity"] for one in findings} <= {"ok", "hint"}
    assert {"store", "broker", "eviction", "append-only-file", "workers", "clock", "code-versions", "sdk-retries"} <= {
        one["check"] for one in findings
    }


@pytest.mark.parametrize("memory", ["0", "100mb"])
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_eviction_policy(
    start: Callable[..., RedisServer], doctor: Callable[..., Doctor], policy: str, memory: str
) -> None:
    server = start("--maxmemory-policy", policy, "--maxmemory", memory)
    found = doctor(server).finding("eviction")
    assert found["severity"] == ("warning" if memory == "0" else "error")
    assert policy in found["found"]
    assert ("jobs that wait" if policy == "allkeys-lru" else "results") in found["why"]
    # The remedy is a command: run what it says, and all is well.
    command = re.fullmatch(r"redis-cli -h 127.0.0.1 -p (\d+) (CONFIG SET \S+ \S+), and .*", found["remedy"])
    assert command is not None
    with redis.Redis(port=int(command[1])) as client:
        client.execute_command(*command[2].split())
    assert doctor(server).run()[0] == 0


def test_no_append_only_file(start: Callable[..., RedisServer], doctor: Callable[..., Doctor]) -> None:
    server = start("--appendonly", "no")
    found = doctor(server).finding("append-only-file")
    assert found["severity"] == "error"
    assert found["remedy"].startswith(f"redis-cli -h 127.0.0.1 -p {server.port} CONFIG SET appendonly yes")


def test_a_broker_of_its_own_may_forget_and_may_not_evict(
    sound: RedisServer, start: Callable[..., RedisServer], doctor: Callable[..., Doctor]
) -> None:
    broker = start("--appendonly", "no", "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    patient = doctor(sound, QUEUEKIT_BROKER_URL=broker.url)
    assert patient.finding("eviction")["severity"] == "warning"
    with redis.Redis.from_url(broker.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
    found = patient.finding("append-only-file", code=0)
    assert (found["severity"], str(broker.port) in found["found"]) == ("hint", True)
    assert "published again" in found["why"]


def test_who_fsyncs_never_is_told(start: Callable[..., RedisServer], doctor: Callable[..., Doctor]) -> None:
    found = doctor(start("--appendfsync", "no")).finding("append-only-file", code=0)
    assert (found["severity"], "appendfsync no" in found["found"]) == ("hint", True)


def test_what_a_user_has_no_right_for_is_unchecked(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    """The user of the docs may not CONFIG GET, and INFO says all but how often the file is written."""
    rights = re.search(r"^user store on >PASSWORD (.*)$", PAGE.read_text(), re.MULTILINE)
    assert rights is not None
    namespace = f"test_{secrets.token_hex(4)}"
    words = [word.replace("NAMESPACE", namespace) for word in rights[1].split()]
    with redis.Redis.from_url(sound.url) as client:
        client.execute_command("ACL SETUSER", "records", "on", ">geheim", *words)
        client.execute_command("ACL SETUSER", "blind", "on", ">geheim", *words, "-info")
    for user, checks, right in (
        ("records", {"append-only-file"}, "ACL SETUSER records +config|get"),
        ("blind", {"append-only-file", "eviction"}, "ACL SETUSER blind +info"),
    ):
        url = sound.url.replace("//", f"//{user}:geheim@")
        patient = doctor(url, QUEUEKIT_STORE_URL=url, QUEUEKIT_BROKER_URL=sound.url, QUEUEKIT_NAMESPACE=namespace)
        code, findings = patient.run()
        unchecked = [one for one in findings if one["severity"] == "unchecked"]
        assert (code, {one["check"] for one in unchecked}) == (0, checks)
        assert all(right in one["remedy"] for one in unchecked)
        assert patient.run("--fail-on", "unchecked")[0] == 1
        assert "geheim" not in json.dumps(findings)


def test_a_store_that_is_away_is_a_finding_and_the_other_checks_go_on(doctor: Callable[..., Doctor]) -> None:
    began = time.monotonic()
    code, findings = doctor(f"redis://127.0.0.1:{free_port()}/0").run()
    assert time.monotonic() - began < 5
    assert code == 1
    by = {one["check"]: one["severity"] for one in findings}
    assert by["store"] == "error"
    assert {by["workers"], by["clock"], by["code-versions"]} == {"unchecked"}
    assert by["sdk-retries"] in {"ok", "hint"}


def test_a_silent_store_is_waited_for_once(start: Callable[..., RedisServer], doctor: Callable[..., Doctor]) -> None:
    server = start()
    server.freeze()
    began = time.monotonic()
    code, findings = doctor(server, QUEUEKIT_ENQUEUE_TIMEOUT="2").run()
    server.thaw()
    assert (code, findings[0]["check"], findings[0]["severity"]) == (1, "store", "error")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("backend", "scheme"), [("rq", "redis"), ("celery", "redis"), ("celery", "amqp"), ("dramatiq", "amqp")]
)
def test_a_broker_that_is_away(sound: RedisServer, doctor: Callable[..., Doctor], backend: str, scheme: str) -> None:
    for module in (backend, *(["pika"] if (backend, scheme) == ("dramatiq", "amqp") else [])):
        pytest.importorskip(module)
    url = f"{scheme}://127.0.0.1:{free_port()}/"
    patient = doctor(sound, QUEUEKIT_BROKER_URL=url, QUEUEKIT_BACKEND=backend)
    found = patient.finding("broker")
    assert (found["severity"], url[:-1] in found["found"]) == ("error", True)
    _, findings = patient.run()
    assert {one["check"]: one["severity"] for one in findings}["workers"] == "ok"


# ---- the workers ---------------------------------------------------------------------------------------------------


def test_a_route_with_due_jobs_and_no_worker(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    patient = doctor(sound)
    patient.world.new("a", "scheduled", queue="later")
    patient.world.new("b", "succeeded")
    assert patient.run()[0] == 0, "nothing is due"
    patient.world.new("c", queue="mail", priority=9)
    patient.world.new("d", queue="mail")
    patient.world.new("e")  # on default, which a worker serves
    found = patient.finding("workers")
    assert found["severity"] == "error"
    assert "2 jobs could run on queue 'mail' of rq" in found["found"]
    assert found["remedy"] == "queuekit worker MODULE --backend rq --queues mail"
    patient.world.store.beat("other.1.bb", start=True, about=json.dumps({"backend": "celery", "queues": ["mail"]}))
    assert "there is one for it on celery, which does not take them" in patient.finding("workers")["found"]
    patient.world.store.beat("other.2.cc", start=True, about=json.dumps({"backend": "rq", "queues": ["mail"]}))
    assert patient.run()[0] == 0


def test_clocks_that_differ(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    world = doctor(sound).world
    settings = Settings(store_url=sound.url, namespace=world.broker.namespace, lease=30.0)

    def clocks(ahead: float) -> list[Finding]:
        patient = Patient(settings, world.store, clock=lambda: time.time() + ahead)
        return [one for one in examine(patient) if one.check == "clock"]

    assert [one.severity for one in clocks(0.0)] == ["ok"]
    (found,) = clocks(-20.0)
    assert (found.severity, found.found) == ("warning", "this host's clock is 20.0 s behind the store's")
    assert [one.severity for one in clocks(40.0)] == ["error"], "more than a lease"
    about = {"backend": "rq", "queues": ["default"], "clock": world.store.now() + 20}
    world.store.beat("slow.1.aa", start=True, about=json.dumps(about))
    (found,) = clocks(0.0)
    assert found.severity == "warning"
    assert re.fullmatch(
        r"the clock of worker slow.1.aa was (20.0|19.9) s ahead of the store's when it came", found.found
    )


AGENTS = """
from queuekit import agent_task

@agent_task(queue="docs")
def digest(text: str{more}) -> str:
    return text[:{length}]

@agent_task(queue="docs")
def count(text: str) -> int:
    return len(text)
"""


@contextmanager
def worker(folder: Path, server: RedisServer, world: World, source: str) -> Iterator[WorkerProcess]:
    folder.mkdir()
    (folder / "agents.py").write_text(source)
    process = WorkerProcess(["agents.py"], Broker(server.url, world.broker.namespace).environ("rq", lease=5), folder)
    end = time.monotonic() + 60

    def names() -> list[str]:
        return [one.name for one in world.store.consumers() if f".{process.pid}." in one.name]

    try:
        while not names():
            assert time.monotonic() < end, process.said()
            assert process.exit_code is None, process.said()
            time.sleep(0.05)
        yield process
    finally:
        process.kill_all()
        for name in names():
            world.store.leave(name)  # nobody is there to say it, and its lease would live on


@pytest.mark.timeout(240)
def test_workers_that_run_different_code(sound: RedisServer, doctor: Callable[..., Doctor], tmp_path: Path) -> None:
    patient = doctor(sound)
    usual = AGENTS.format(more="", length=10)
    with worker(tmp_path / "one", sound, patient.world, usual):
        with worker(tmp_path / "same", sound, patient.world, usual):
            code, findings = patient.run()
            assert (code, {one["severity"] for one in findings}) == (0, {"ok", "hint"})
            versions = next(one["found"] for one in findings if one["check"] == "code-versions")
            assert versions == "2 workers run the same queuekit, and the same code of each task"
            assert "those of 2 workers" in next(one["found"] for one in findings if one["check"] == "clock")
        with worker(tmp_path / "body", sound, patient.world, AGENTS.format(more="", length=20)) as process:
            found = patient.finding("code-versions")
            assert (found["severity"], "different code of task agents.digest" in found["found"]) == ("warning", True)
            assert f".{process.pid}." in found["found"]
        with worker(tmp_path / "signature", sound, patient.world, AGENTS.format(more=", most: int = 3", length=10)):
            found = patient.finding("code-versions")
            assert "agents.digest with different signatures" in found["found"]
            assert "handed back" in found["why"]


def test_releases_that_differ_and_workers_that_do_not_say(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    patient = doctor(sound)
    usual = {"backend": "rq", "queues": ["default"], "python": "3.11.9", "tasks": {}}
    now = patient.world.store.now()
    patient.world.store.beat("a.1.aa", start=True, about=json.dumps({**usual, "queuekit": "0.1.0", "clock": now}))
    patient.world.store.beat("b.1.bb", start=True, about=json.dumps({"backend": "rq", "queues": ["default"]}))
    code, findings = patient.run()
    assert code == 0
    assert {one["check"] for one in findings if one["severity"] == "unchecked"} == {"clock", "code-versions"}
    patient.world.store.beat("c.1.cc", start=True, about=json.dumps({**usual, "queuekit": "0.2.0", "clock": now}))
    found = patient.finding("code-versions")
    assert "0.1.0 on a.1.aa; 0.2.0 on c.1.cc" in found["found"]


def test_a_fingerprint_has_a_half_for_the_signature_and_one_for_the_code() -> None:
    def first(a: int, b: str = "x") -> None: ...

    def same(a: int, b: str = "other") -> None: ...

    def renamed(a: int, c: str = "x") -> None: ...

    one, two, three = (fingerprint(fn, "t") for fn in (first, same, renamed))
    assert len(one) == 2 * HALF
    assert one[:HALF] == two[:HALF] != three[:HALF]
    assert len({one[HALF:], two[HALF:], three[HALF:]}) == 3
    unseen: dict[str, Any] = {}
    exec("def first(a: int, b: str = 'x') -> None: ...", unseen)
    assert fingerprint(unseen["first"], "t")[HALF:] == "0" * HALF


# ---- the user's modules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "severity", "said"),
    [
        ("import openai\nclient = lambda: openai.AsyncOpenAI(api_key='x')", "warning", "agents.py:2: openai.AsyncOpenAI() asks up to 3"),
        ("from openai import OpenAI as Model\ndef client(): return Model(max_retries=5)", "warning", "agents.py:2"),
        ("from openai import OpenAI\ndef client(): return OpenAI(max_retries=0)", "ok", "openai is told not to ask again, once"),
        ("from openai import OpenAI\ndef client(**said): return OpenAI(**said)", "hint", "agents.py:2"),
        ("def client():\n  import boto3\n  return boto3.client('bedrock-runtime')", "warning", "boto3.client() asks 3 to 5 times"),
        ("def client():\n  import boto3\n  return boto3.client('s3')", "hint", "openai"),
        ("def ask():\n  import litellm\n  return litellm.completion('m', [])", "warning", "litellm.completion()"),
        ("def ask():\n  from google.genai import types\n  return types.HttpRetryOptions()", "warning", "is told to ask again"),
        ("def ask():\n  from google.genai import types\n  return types.HttpRetryOptions(attempts=1)", "hint", "openai"),
        ("def ask():\n  import anthropic\n  return anthropic.Anthropic()", "warning", "anthropic.Anthropic() asks up to 3"),
        ("def ask():\n  import httpx\n  return httpx.HTTPTransport(retries=2), httpx.AsyncHTTPTransport()", "warning", "agents.py:3"),
    ],
)  # fmt: skip
def test_an_sdk_that_asks_again_by_itself(
    sound: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, severity: str, said: str
) -> None:
    openai = pytest.importorskip("openai")
    assert openai.DEFAULT_MAX_RETRIES == 2, "the figure that is shown"
    from importlib import import_module

    from queuekit.doctor.sdks import check_sdks
    from queuekit.store.redis import RedisStore

    (tmp_path / "agents.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "agents", raising=False)
    settings = Settings(store_url=sound.url)
    found = list(check_sdks(Patient(settings, RedisStore.of(settings), modules=[import_module("agents")])))
    monkeypatch.delitem(sys.modules, "agents")
    worst = max(found, key=lambda one: one.rank)
    assert worst.severity == severity
    assert said in worst.found
    assert worst.severity == "ok" or worst.remedy


def test_a_module_that_cannot_be_imported_is_a_finding(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    Path("broken.py").write_text("1 / 0")
    found = doctor(sound).finding("modules", "broken.py")
    assert found["found"] == "broken.py cannot be imported: ZeroDivisionError: division by zero"


def test_adapters_that_say_nothing_and_that_fail(sound: RedisServer) -> None:
    from queuekit.store.redis import RedisStore

    class Silent:
        name = "silent"

        def depth(self, route: str) -> int | None:
            return 0

    class Failing(Silent):
        def diagnose(self, tasks: object) -> list[Finding]:
            raise LookupError("nobody thought of it")

    settings = Settings(store_url=sound.url, broker_url=sound.url, namespace="test_adapters")
    adapters: Any = {"silent": Silent(), "failing": Failing()}
    found = examine(Patient(settings, RedisStore.of(settings), adapters))
    (failed,) = [one for one in found if one.severity is Severity.unchecked]
    assert "LookupError: nobody thought of it" in failed.found


# ---- the command ---------------------------------------------------------------------------------------------------


def test_what_a_person_sees(start: Callable[..., RedisServer], doctor: Callable[..., Doctor]) -> None:
    patient = doctor(start("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"))
    result = patient.world.run("doctor", "--quiet")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("error     eviction  maxmemory-policy of the store and broker redis://127.0.0.1:")
    assert [line[10:17].strip() for line in lines[1:3]] == ["why", "remedy"]
    assert re.fullmatch(r"1 error, .*\d+ well", lines[-1])
    assert not any(line.startswith("ok ") for line in lines)
    code, shown = on_terminal(patient.world.environ, "doctor", columns=60)
    assert code == 1
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown]
    assert max(map(len, plain)) <= 60
    assert "CONFIG SET maxmemory-policy noeviction" in " ".join(" ".join(plain).split())


def test_misuse(sound: RedisServer, doctor: Callable[..., Doctor]) -> None:
    patient = doctor(sound)
    for args, environ in (
        (["--fail-on", "nothing"], {}),
        (["nosuch.py"], {}),
        ([], {"QUEUEKIT_BACKEND": "memory", "QUEUEKIT_STORE_URL": "", "QUEUEKIT_BROKER_URL": ""}),
        (["--broker-url", "kafka://x"], {}),
    ):
        assert patient.world.run("doctor", *args, **environ).exit_code == 2


def test_it_looks_at_every_engine_that_jobs_were_recorded_for(
    sound: RedisServer, doctor: Callable[..., Doctor]
) -> None:
    pytest.importorskip("celery")
    pytest.importorskip("rq")
    patient = doctor(sound, QUEUEKIT_BACKEND="")
    patient.world.new("a", "succeeded", backend="rq")
    patient.world.new("b", "cancelled", backend="celery")
    code, findings = patient.run()
    assert (code, {one["found"].split()[0] for one in findings if one["check"] == "broker"}) == (0, {"rq", "celery"})


def test_a_schedule_that_nobody_fires(doctor: Callable[..., Doctor], sound: RedisServer) -> None:
    patient = doctor(sound)
    store = patient.world.store
    now = int(store.now() * 1000)
    store.put_schedule("soon", "{}", "w", now + 60_000, declared=True)
    store.put_schedule("late", "{}", "w", now - 5_000, declared=True)
    assert not [one for one in patient.run()[1] if one["check"] == "schedules"]
    store.put_schedule("overdue", "{}", "w", now - 60_000, declared=True)
    code, findings = patient.run()
    (found,) = [one for one in findings if one["check"] == "schedules"]
    assert code == 1
    assert (found["severity"], found["remedy"]) == ("error", "queuekit worker MODULE")
    assert "1 schedule " in found["found"] and "overdue" in found["found"]
