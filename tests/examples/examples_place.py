"""Where scripts are run: an environment in which they find their backend and their model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from queuekit.testing.plugin import require

if TYPE_CHECKING:
    from queuekit.demo.endpoint import Endpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
PROXIES = {"http_proxy", "https_proxy", "all_proxy"}


def installed(*packages: str) -> None:
    """Skip the test by the name of what is missing."""
    for package in packages:
        try:
            __import__(package)
        except ModuleNotFoundError:
            require(f"{package}: pip install 'queuekit[examples]'")


@dataclass(frozen=True)
class Place:
    """Of one backend."""

    backend: str
    environ: dict[str, str]
    folder: Path

    def run(self, *command: str, cwd: Path = EXAMPLES) -> str:
        """What the script printed. It has 250 s, ends with 0 and says nothing on stderr, not even a warning."""
        done = subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=cwd,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def environment(endpoint: Endpoint, backend: str, folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QUEUEKIT_", "OPENAI_")) and name.lower() not in PROXIES
    }
    return {
        **kept,
        "QUEUEKIT_BACKEND": backend,
        "OPENAI_BASE_URL": endpoint.url(backend),
        "OPENAI_API_KEY": "none",
        "SCALE": "0.02",
        "CHECKPOINTS": str(folder / "checkpoints.db"),
        "ARTICLES": str(folder / "articles"),
        "KNOWLEDGE": str(folder / "knowledge"),
    }
