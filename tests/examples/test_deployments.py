"""The deployment files are what their readers take them for: valid by the schemas, with graces that fit the settings.

No container is started here: there is none of the tools on a developer's machine for sure.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from examples_place import EXAMPLES, installed

from queuekit import Settings

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = EXAMPLES / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
LAST_RESORT = 5  # seconds after the grace in which a worker ends what still runs


def documents(path: Path) -> list[dict[str, Any]]:
    """Strict: a key that stands twice is an error."""
    installed("ruamel.yaml")
    from ruamel.yaml import YAML

    return [document for document in YAML(typ="safe").load_all(path.read_text()) if document]


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None
    return int(found[1])


def test_compose_fits_its_schema() -> None:
    installed("check_jsonschema")
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_gives_a_worker_the_time_that_it_takes() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    worker = compose["services"]["worker"]
    grace = float(worker["environment"]["QUEUEKIT_GRACE"])
    assert seconds(worker["stop_grace_period"]) > grace + LAST_RESORT
    assert grace == Settings().grace
    assert worker["command"][:2] == ["queuekit", "worker"]
    valkey = compose["services"]["valkey"]["command"]
    assert valkey[valkey.index("--maxmemory-policy") + 1] == "noeviction"
    assert set(worker["environment"]) == set(compose["services"]["web"]["environment"])


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_resources_fit_their_schema(path: Path) -> None:
    installed("kubernetes_validate")
    import kubernetes_validate

    for resource in documents(path):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def pod(name: str) -> dict[str, Any]:
    found = next(one for path in KUBERNETES for one in documents(path) if one["metadata"]["name"] == name)
    return found["spec"]["template"]["spec"]


def test_kubernetes_gives_a_worker_the_time_that_it_takes() -> None:
    worker = pod("summaries-worker")
    (container,) = worker["containers"]
    environ = {one["name"]: one.get("value") for one in container["env"]}
    assert worker["terminationGracePeriodSeconds"] > float(environ["QUEUEKIT_GRACE"]) + LAST_RESORT
    assert "lifecycle" not in container


def test_kubernetes_takes_the_web_service_out_before_it_ends() -> None:
    web = pod("summaries-web")
    (container,) = web["containers"]
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert web["terminationGracePeriodSeconds"] > int(pause)
    assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_kubernetes_selectors_find_their_pods() -> None:
    resources = [one for path in KUBERNETES for one in documents(path)]
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in resources if one["kind"] == "Deployment"]
    for one in resources:
        selector = one["spec"]["selector"]
        assert selector.get("matchLabels", selector) in labels


def test_every_setting_that_is_named_exists() -> None:
    known = {f"QUEUEKIT_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert set(re.findall(r"QUEUEKIT_[A-Z_]+", path.read_text())) <= known, path.name


def test_every_script_that_is_named_exists() -> None:
    for path in DEPLOY.rglob("*"):
        for name in re.findall(r"\b(\w+)\.py\b", path.read_text()) if path.is_file() else ():
            assert (EXAMPLES / f"{name}.py").exists(), f"{path.name} names {name}.py"
        for module in re.findall(r"\b(\w+):app\b", path.read_text()) if path.is_file() else ():
            assert (EXAMPLES / f"{module}.py").exists()


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "queuekit-worker.service")
    return parser


def test_systemd_gives_a_worker_the_time_that_it_takes() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > Settings().grace + LAST_RESORT
    assert service["KillMode"] == "process"


def test_systemd_understands_its_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("missing: systemd-analyze")
    # It looks whether the program is there: put one that is in its place.
    text = (DEPLOY / "queuekit-worker.service").read_text()
    path = tmp_path / "queuekit-worker.service"
    path.write_text(text.replace("/srv/summaries/.venv/bin/queuekit", sys.executable))
    done = subprocess.run(
        [verify, "verify", "--man=no", str(path)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_image_is_made_of_files_that_are_there() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    build = compose["services"]["worker"]["build"]
    context = DEPLOY / build["context"]
    dockerfile = context / build["dockerfile"]
    copied = re.findall(r"^COPY (\S+) \S+$", dockerfile.read_text(), re.MULTILINE)
    assert copied == ["deploy/requirements.txt", "."]
    assert all((context / name).exists() for name in copied)
    command = re.findall(r"^CMD (\[.*\])$", dockerfile.read_text(), re.MULTILINE)
    assert len(command) == 1, "the exec form: a shell would keep SIGTERM for itself"
