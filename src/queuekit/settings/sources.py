"""Sources: the places that values come from, and where each value came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from queuekit.errors import ConfigError
from queuekit.settings.readers import Refused, nearest
from queuekit.settings.urls import show

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from dataclasses import Field
    from pathlib import Path

PREFIX = "QUEUEKIT_"
RESERVED = ("QUEUEKIT_TEST_", "QUEUEKIT_STEWARD_", "QUEUEKIT_EMBEDDED_", "QUEUEKIT_EXPORTER_")

# Kubernetes puts such variables into every container of a namespace that has a service called "queuekit" or
# "queuekit-worker": they are nobody's mistake, so they must not stop a worker.
_KUBERNETES = re.compile(r"(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z")


@dataclass(frozen=True)
class Source:
    """One place that values come from."""

    place: str
    values: Mapping[str, Any]
    spelling: Callable[[str], str] = str
    """A setting's name as it is written there."""
    before: str | None = None
    """What goes before that spelling where a value's source is told. None: the place alone is told."""
    none_is_given: bool = False
    """None unsets a setting that another place has set. On a command line it means that an option was not given."""

    def where(self, name: str) -> str:
        return self.place if self.before is None else self.before + self.spelling(name.partition(".")[0])


@dataclass(frozen=True)
class Kept:
    """Values that carry their sources with them."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    none_is_given = True
    place = "settings that were written out"
    spelling = str

    def where(self, name: str) -> str:
        return self.sources.get(name, "default")


Place: TypeAlias = Source | Kept


def gather(places: Sequence[Place], fields: Mapping[str, Field[Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each field, from the first of the places that has one, and their sources. All places are checked.

    Raises:
        ConfigError: an unknown name, or a value that its field's reader refuses.
    """
    policies: dict[str, Any] = {}
    found: dict[str, Any] = {"retry": policies}
    sources: dict[str, str] = {}
    for place in places:
        for name, raw in place.values.items():
            field = known(name, fields, place.place, place.spelling)
            if raw is None and not place.none_is_given:
                continue
            where = place.where(name)
            value = _read(field, raw, where)
            if name == "retry":
                # Policies are merged by name, each as a whole: half a policy from each of two files would be nobody's.
                for key, policy in value.items():
                    if key not in policies:
                        policies[key] = policy
                        its_where = sources[f"retry.{key}"] = place.where(f"retry.{key}")
                        if its_where not in sources.get(name, ""):
                            sources[name] = f"{sources[name]}, {its_where}" if name in sources else its_where
            elif name not in found:
                found[name] = value
                if where != "default":
                    sources[name] = where
    return {name: field.metadata["default"] for name, field in fields.items()} | found, sources


def known(name: str, fields: Mapping[str, Field[Any]], place: str, spelling: Callable[[str], str] = str) -> Field[Any]:
    """The field of that name, or a ConfigError with the near one."""
    if name in fields:
        return fields[name]
    near = nearest(name, fields)
    remedy = f"did you mean {spelling(near)}?" if near else f"the settings are: {', '.join(map(spelling, fields))}"
    raise ConfigError(f"unknown setting {spelling(name)} in {place}: {remedy}")


def _read(field: Field[Any], raw: Any, where: str) -> Any:
    if raw is None and field.metadata["default"] is None:
        return None
    try:
        return field.metadata["read"](raw)
    except Refused as error:
        # `from None`: the cause of a bad URL may hold the password.
        raise ConfigError(f"{field.name}={show(field.name, raw)} ({where}): {error}") from None


# ---- the places ----------------------------------------------------------------------------------------------------


def from_command_line(options: Mapping[str, Any]) -> Source:
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    return Source("the command line", given, lambda name: "--" + name.replace("_", "-"), "command line ")


def from_environment(environ: Mapping[str, str], fields: Container[str]) -> Source:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(RESERVED) or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in fields and _KUBERNETES.search(variable):
            continue
        found[name] = value
    return Source("the environment", found, lambda name: PREFIX + name.upper(), "environment ")


def from_files(cwd: Path) -> list[Source]:
    """The settings files of the nearest folder that has any, from `cwd` up to the project's root."""
    for folder in _up_to_root(cwd.absolute()):
        sources: list[Source] = []
        own = folder / "queuekit.toml"
        if own.is_file():
            sources.append(Source(str(own), _toml(own)))
        project = folder / "pyproject.toml"
        if project.is_file():
            tool = _toml(project).get("tool", {})
            table = tool.get("queuekit") if isinstance(tool, dict) else None
            if table is not None:
                if not isinstance(table, dict):
                    raise ConfigError(f"tool.queuekit in {project} is not a table: write [tool.queuekit]")
                sources.append(Source(f"{project} [tool.queuekit]", table))
        if sources:
            return sources
    return []


def _up_to_root(cwd: Path) -> list[Path]:
    """`cwd` and its parents up to the project's root: the nearest with a .git or .hg, or else with a pyproject.toml.

    Without either it is `cwd` alone: a file that somebody left in /tmp or in a home folder is not this project's.
    """
    chain = [cwd, *cwd.parents]
    for markers in ((".git", ".hg"), ("pyproject.toml",)):
        for index, folder in enumerate(chain):
            if any((folder / marker).exists() for marker in markers):
                return chain[: index + 1]
    return [cwd]


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
