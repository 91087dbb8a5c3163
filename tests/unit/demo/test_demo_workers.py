"""The workers' environment, and what is known of one that died."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from queuekit.cli.commands import cli
from queuekit.demo import run as demo
from queuekit.demo.workers import Workers, worker_environment
from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def environment(engine: str, environ: dict[str, str]) -> dict[str, str]:
    return worker_environment(
        engine, broker_url="redis://b", namespace="demo", seed=1, model_url="http://m", environ=environ
    )


def test_only_the_backend_tells_two_workers_apart() -> None:
    one, other = environment("rq", {"PATH": "/bin"}), environment("celery", {"PATH": "/bin"})
    assert {name for name in one if one[name] != other[name]} == {"QUEUEKIT_BACKEND"}


def test_the_users_settings_key_and_proxy_stay_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "QUEUEKIT_STORE_URL": "redis://mine", "OPENAI_API_KEY": "sk-mine", "OPENAI_ORG_ID": "mine",
        "HTTP_PROXY": "http://mine", "all_proxy": "socks5://mine", "PYTHONPATH": f"src{os.pathsep}/abs", "HOME": "/h",
    }  # fmt: skip
    found = environment("rq", given)
    assert "mine" not in " ".join(found.values())
    assert found["HOME"] == "/h"
    assert found["PYTHONPATH"] == f"{tmp_path / 'src'}{os.pathsep}/abs"


def test_a_worker_that_ends_is_known_with_its_last_words(tmp_path: Path) -> None:
    with Workers(tmp_path) as workers:
        workers.start("rq", ["no_such_module"], environment("rq", dict(os.environ)))
        workers._running["rq"].wait()
        assert workers.dead() == {"rq": 2}
        assert "there is no module 'no_such_module'" in workers.tail("rq")


def test_what_is_not_installed_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name in {"openai", "celery"} else name)
    with pytest.raises(ConfigError, match=r"the demo needs celery, openai, .*: pip install 'queuekit\[demo\]'"):
        demo.run(demo.Request())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--engines", "rq,sidekiq"], "'sidekiq' is none of"), (["/no/such/folder"], "does not exist")],
)
def test_a_wrong_request_is_said(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
