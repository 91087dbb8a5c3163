"""Sessions: tests, conformance, chaos, typing, lint, demo.

`nox -s tests-3.12`, or `nox --no-venv -s lint` in a virtual environment that has '.[dev]'.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "typing", "tests"]
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
    """The seeded chaos run."""
    install(session, "test")
    session.run("python", "-m", "pytest", "tests/chaos", "-s", *session.posargs)


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
