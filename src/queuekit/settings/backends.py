"""Backends: which ones are known and installed here, and the one that is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from queuekit.settings import Settings

BACKENDS = ("celery", "rq", "dramatiq", "memory")
"""The adapters that come with queuekit. Each but memory needs the engine's package of the same name."""

ENTRY_POINTS = "queuekit.adapters"


def known_backends() -> list[str]:
    return [*BACKENDS, *_plugins()]


def _plugins() -> list[str]:
    """The names of the adapters that other packages bring."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(BACKENDS))


def installed_backends() -> dict[str, bool]:
    """Every backend that is known here, and whether it can be used: whether its engine's package is installed."""
    return {name: _installed(name) for name in known_backends()}


def _installed(backend: str) -> bool:
    if backend == "memory" or backend not in BACKENDS:
        return True
    import importlib.util

    if backend in sys.modules:
        return True
    spec = importlib.util.find_spec(backend)
    # A mere folder called "celery" in the current directory is found too, but has no origin.
    return spec is not None and spec.origin is not None


def require_backend(settings: Settings) -> str:
    """The name of the backend.

    Raises:
        ConfigError: none is set, or its engine is not installed. The message lists what is installed, and the command
            that installs the rest.
    """
    backend = settings.backend
    if backend is not None and _installed(backend):
        return backend
    known = installed_backends()
    have = ", ".join(name for name, there in known.items() if there)
    missing = [f"{name} (pip install 'queuekit[{name}]')" for name, there in known.items() if not there]
    rest = f"; not installed: {', '.join(missing)}" if missing else ""
    if backend is not None:
        raise ConfigError(
            f"backend={backend!r} ({settings.source('backend')}) is not installed: pip install 'queuekit[{backend}]'. "
            f"Installed: {have}{rest}"
        )
    raise ConfigError(
        "no backend is set. Set it with QUEUEKIT_BACKEND=NAME, --backend NAME, configure(backend=NAME), or "
        f'`backend = "NAME"` in queuekit.toml. Installed: {have}{rest}'
    )
