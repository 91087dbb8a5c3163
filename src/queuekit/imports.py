"""What a setting names by package.module:name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from queuekit.errors import ConfigError

__all__ = ["import_named"]


def import_named(setting: str, name: str) -> Any:
    """The object of that name. What its module raises when it is imported goes through.

    Args:
        setting: the setting that names it, for errors.

    Raises:
        ConfigError: the name is none, or there is no such module or object.
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise ConfigError(f"{setting}={name!r}: give package.module:name")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise ConfigError(f"{setting}={name!r}: there is no module {module!r} on the path") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{setting}={name!r}: {module} has no {path!r}")
        found = getattr(found, part)
    return found
