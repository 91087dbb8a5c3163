"""Sessions: tests, conformance, chaos, fuzz, typing, lint, docs, demo; the certificate and the benchmarks; and of what
is shipped: artifact, extras, matrix.

`nox -s tests-3.12`, or `nox --no-venv -s lint` in a virtual environment that has '.[dev]'.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
from pathlib import Path

import nox

nox.options.sessions = ["lint", "typing", "tests", "docs"]
nox.options.default_venv_backend = "venv"

PYTHONS = ["3.11", "3.12", "3.13"]


def install(session: nox.Session, extra: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("-q", "-e", f".[{extra}]")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything that needs no worker."""
    install(session, "test")
    session.run(
        "python", "-m", "pytest", "tests", "--ignore=tests/conformance", "--ignore=tests/chaos", *session.posargs
    )


@nox.session
def conformance(session: nox.Session) -> None:
    """The contract on every target, with real workers, and the table of it for the docs."""
    install(session, "test")
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/conformance",
        "--queuekit-report=docs/reference/conformance.md",
        *session.posargs,
    )


@nox.session
def chaos(session: nox.Session) -> None:
    """The seeded chaos run, as CI has it; and the outages that it has not the time for."""
    install(session, "test")
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/chaos",
        "-s",
        *session.posargs,
        env={"CHAOS_OUTAGES": "10", "CHAOS_TICKS": "200"},
    )


@nox.session
def fuzz(session: nox.Session) -> None:
    """10,000 hostile messages on each engine and broker, with and without a signing_key."""
    install(session, "test")
    env = {"FUZZ_FULL": "1", "QUEUEKIT_TEST_REQUIRE_SERVICES": "1"}
    session.run("python", "-m", "pytest", "tests/fuzz", "-s", *session.posargs, env=env)


@nox.session
def certificate(session: nox.Session) -> None:
    """The whole chaos run on every engine and broker, and on the bare engines, and the page of it: over an hour, on a
    machine that does nothing else."""
    install(session, "test")
    results = Path(session.create_tmp()).resolve() / "certificate"
    session.env.pop("TMPDIR", None)
    env = {"CHAOS_FULL": "1", "CHAOS_BARE": "1", "CHAOS_RESULTS": str(results), "QUEUEKIT_TEST_REQUIRE_SERVICES": "1"}
    session.run("python", "-m", "pytest", "tests/chaos/test_certificate.py", "-s", *session.posargs, env=env)
    session.run("python", "tests/chaos/certify.py", str(results), "docs/reference/certificate.md")


BENCHMARKS = [
    ("compare.py", "--what=enqueue", "--what=many", "--what=throughput"), ("compare.py", "--what=idle"),
    ("sleepers.py",), ("sleepers.py", "--newcomer"), ("growth.py",), ("tax.py",), ("scheduled.py",),
]  # fmt: skip


@nox.session
def benchmarks(session: nox.Session) -> None:
    """queuekit beside the engines alone and beside other libraries, and the page of it: some hours on a machine that
    does nothing else. `-- --quick` shows within some minutes that all of it works, and leaves no page."""
    install(session, "test,benchmarks")
    folder = Path(session.create_tmp()).resolve()
    session.env.pop("TMPDIR", None)
    peers = [f"--peers={peer(session, folder, name)}" for name in ("peers", "arq")]
    quick = "--quick" in session.posargs
    figures = folder / "figures" if quick else Path("benchmarks/figures")
    for program in BENCHMARKS:
        session.run("python", f"benchmarks/{program[0]}", *program[1:], *peers, "--out", str(figures), *session.posargs)
    if quick:
        page = [str(folder / "benchmarks.md"), "--plots", str(folder / "images"), "--draft"]
    else:
        page = ["docs/reference/benchmarks.md", "--plots", "docs/images/benchmarks"]
    session.run("python", "benchmarks/page.py", str(figures), *page)


def peer(session: nox.Session, folder: Path, name: str) -> Path:
    """The Python of an environment with what benchmarks/NAME.txt lists: what peers want of redis-py differs."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        session.run("python", "-m", "venv", str(folder / name))
    session.run(str(python), "-m", "pip", "install", "-q", "-r", f"benchmarks/{name}.txt", external=True)
    return python


@nox.session
def monitors(session: nox.Session) -> None:
    """docs/reference/states.md, compared with Flower, rq-dashboard and dramatiq_dashboard beside real workers."""
    install(session, "test,monitors")
    if session.virtualenv.is_sandboxed:
        session.install("-q", "--no-deps", "dramatiq-dashboard==0.4.0")  # Jinja comes with rq-dashboard's Flask
    session.run("python", "-m", "pytest", "tests/monitors", *session.posargs)


@nox.session
def typing(session: nox.Session) -> None:
    install(session, "dev")
    session.run("mypy", external=True)
    session.run("pyright", external=True)
    session.run("python", "-m", "pytest", "tests/typing", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    install(session, "dev")
    session.run("ruff", "check", external=True)
    session.run("ruff", "format", "--check", external=True)
    session.run("lint-imports", external=True)


@nox.session
def demo(session: nox.Session) -> None:
    install(session, "demo")
    session.run("queuekit", "demo", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into docs/_build; a warning is an error. Its code blocks are run by tests/docs."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build", *session.posargs, external=True)


# ---- the errors of real SDKs ---------------------------------------------------------------------------------------

# What each set is: tests/exceptions/README.md. litellm pins openai 2 and stands in the way of newer ones.
SDKS = {
    "newest": [
        "openai", "anthropic", "google-genai", "boto3", "httpx", "requests", "pydantic-ai-slim[openai,anthropic]",
    ],
    "litellm": ["litellm", "boto3"],
    "oldest": [
        "openai==2.8.0", "anthropic==0.74.0", "google-genai==1.51.0", "litellm==1.80.0", "boto3==1.41.0",
        "httpx==0.28.1", "requests==2.32.5", "pydantic-ai-slim[openai,anthropic]==1.20.0",
        "opentelemetry-api==1.38.0",  # pydantic-ai of then imports what later ones have no more
    ],
}  # fmt: skip
MODULES = {"google-genai": "google.genai", "pydantic-ai-slim": "pydantic_ai", "opentelemetry-api": "opentelemetry"}


@nox.session
@nox.parametrize("sdks", list(SDKS))
def exceptions(session: nox.Session, sdks: str) -> None:
    """What the SDKs' own code raises against an endpoint that misbehaves: the newest, and the oldest supported."""
    session.install("-q", "-e", ".", "pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.115", *SDKS[sdks])
    session.run("python", "-m", "pip", "list", "--format=freeze", silent=True)
    # The tests of an SDK that cannot be imported are skipped: none of these may be.
    names = [re.split(r"[\[=]", one)[0] for one in SDKS[sdks]]
    session.run("python", "-c", "import " + ", ".join(MODULES.get(name, name) for name in names))
    # What the SDKs leave open is theirs.
    session.run("python", "-m", "pytest", "-q", "-p", "no:unraisableexception", "tests/exceptions", *session.posargs)


# ---- what is shipped -----------------------------------------------------------------------------------------------


def build(session: nox.Session) -> tuple[Path, Path]:
    """The wheel, made from the sdist as an index's users would; and the unpacked sdist without its sources."""
    session.install("-q", "build")
    folder = Path(session.create_tmp()).resolve()
    session.env.pop("TMPDIR", None)  # the tests' own folders are of no project, as some of them want it
    for old in folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    session.run("python", "-m", "build", "-q", "--outdir", str(folder), silent=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    place = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(place / "src")
    return wheel, place


def oldest() -> list[str]:
    """The lower bounds of pyproject.toml as pins; but for two of which the test tools want a newer one."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for engine in ("celery", "rq", "dramatiq") for one in extras[engine])]
    pins = [re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([^,;]+)", one) for one in wanted]
    return [
        f"{pin[1]}=={pin[2].strip()}"
        for pin in pins
        if pin is not None and pin[1] not in {"packaging", "typing-extensions"}
    ]


@nox.session
def artifact(session: nox.Session) -> None:
    """The tests against the installed wheel; the source tree is not there."""
    wheel, place = build(session)
    session.install("-q", f"{wheel}[test]")
    with session.chdir(place):
        session.run("python", "-m", "pytest", *(session.posargs or ["-n", "4", "--dist", "loadgroup"]))


@nox.session
@nox.parametrize("extra", ["none", "celery", "rq", "dramatiq"])
def extras(session: nox.Session, extra: str) -> None:
    """With no engine, or with one: what is there works, and what is not says what to install."""
    wheel, place = build(session)
    session.install("-q", str(wheel) if extra == "none" else f"{wheel}[{extra}]")
    session.run("python", str(place / "tests" / "artifact" / "check_extra.py"), extra)


@nox.session(python=PYTHONS)
@nox.parametrize("versions", ["oldest", "newest"])
def matrix(session: nox.Session, versions: str) -> None:
    """Units, contracts and the conformance suite on one pool of each engine; the oldest of what pyproject allows, or
    the newest."""
    wheel, place = build(session)
    session.install("-q", f"{wheel}[test]", *(oldest() if versions == "oldest" else ["--upgrade"]))
    session.run("python", "-m", "pip", "list", "--format=freeze", silent=True)
    targets = [f"--queuekit-backend={name}" for name in ("memory", "celery-prefork", "rq-worker", "dramatiq")]
    with session.chdir(place):
        session.run(
            "python", "-m", "pytest", "-q", "-n", "4", "--dist", "loadgroup", *targets,
            "tests/fundamentals", "tests/unit", "tests/properties", "tests/contracts",
            "tests/conformance/test_conformance.py", *session.posargs,
        )  # fmt: skip
