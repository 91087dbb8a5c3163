"""Settings: one list of fields, five places that a value may come from, and where each value came from.

    command line  >  configure()  >  environment (QUEUEKIT_LEASE)  >  queuekit.toml or [tool.queuekit]  >  defaults

The fields of `Settings` are that list: name, default, how to read a value, and its documentation stand together there.
Values are read by plain functions and not by a validation library: the steward, a small process beside each worker,
reads its settings too and has to stay small; and an error must say where the value stands, and never show a password.
"""

# RUF009 takes _setting() for a default that is computed; it is a field declaration, as dataclasses.field() is.
# ruff: noqa: RUF009
from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from queuekit.retry import RetryPolicy

    class _Duration:
        """For type checkers: seconds or a timedelta go in, seconds come out."""

        def __get__(self, instance: object, owner: type | None = None) -> float: ...
        def __set__(self, instance: object, value: float | timedelta) -> None: ...

    class _Names:
        """For type checkers: any sequence of names goes in (or "a,b"), a tuple comes out."""

        def __get__(self, instance: object, owner: type | None = None) -> tuple[str, ...]: ...
        def __set__(self, instance: object, value: str | list[str] | tuple[str, ...]) -> None: ...

    class _Policies:
        """For type checkers: policies or their dictionaries go in, dictionaries come out."""

        def __get__(self, instance: object, owner: type | None = None) -> Mapping[str, Mapping[str, Any]]: ...
        def __set__(self, instance: object, value: Mapping[str, Mapping[str, Any] | RetryPolicy]) -> None: ...


__all__ = ["Settings", "installed_backends", "load", "redact", "require_backend"]

BACKENDS = ("celery", "rq", "dramatiq", "memory")
"""The adapters that come with queuekit. Each but memory needs the engine's package of the same name."""

ENTRY_POINTS = "queuekit.adapters"
PREFIX = "QUEUEKIT_"
RESERVED = ("QUEUEKIT_TEST_", "QUEUEKIT_STEWARD_", "QUEUEKIT_EMBEDDED_")

# Kubernetes puts such variables into every container of a namespace that has a service called "queuekit" or
# "queuekit-worker": they are nobody's mistake, so they must not stop a worker.
_KUBERNETES = re.compile(r"(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z")

DAY = 86400.0

# ---- passwords ------------------------------------------------------------------------------------------------------

# Only a URL that can be read in exactly one way: a password with a bare "/", "?" or "@" in it makes the rest ambiguous.
_PLAIN_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^\s:/?#@]*)(?P<password>:[^\s/?#@]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?P<port>:[0-9]+)?"
    r"(?P<path>/[^\s?#@]*)?(?P<query>\?[^\s#@]*)?"
)


def redact(url: str) -> str:
    """The URL without its secrets: no password, no lone user name (it may be a token), no query.

    A URL that can be read in more than one way (a password with a bare "/" or "@" in it) is shown as its scheme alone,
    and a text that is no URL as "***".
    """
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
        return f"{scheme[1]}://***" if scheme else "***"
    part = match.groupdict(default="")
    login = ""
    if part["password"]:
        login = f"{part['user']}:***@"
    elif part["user"]:
        login = "***@"
    query = "?***" if part["query"] else ""
    return f"{part['scheme']}://{login}{part['host']}{part['port']}{part['path']}{query}"


def _show(value: object) -> str:
    """A value as an error shows it: with no password, even where a URL has strayed into another setting."""
    text = repr(value)
    if "://" not in text and "@" not in text:
        return text if len(text) <= 80 else text[:77] + "..."
    return repr(redact(value)) if isinstance(value, str) else f"<{type(value).__name__}>"


# ---- reading one value: each function gives the value, or raises _Refused with the remedy --------------------------


class _Refused(Exception):
    """A value cannot be; the text is the remedy. `_read` adds the setting's name, the value and where it stands."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Refused("give a text that is not empty")
    return value.strip()


def _namespace(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise _Refused("give letters, digits, '_' and '-' only")
    return value


def _url(schemes: tuple[str, ...], value: Any) -> str:
    wanted = ", ".join(f"{scheme}://" for scheme in schemes)
    if not isinstance(value, str) or "://" not in value:
        raise _Refused(f"give a URL: {wanted}")
    url = value.strip()
    scheme = url.partition("://")[0]
    if scheme in _SPELLINGS:
        raise _Refused(f"write {_SPELLINGS[scheme]} in place of {scheme}://")
    if scheme not in schemes:
        known = _FOREIGN.get(scheme.lower().partition("+")[0])
        named = f"{known} ({scheme}://)" if known else f"the scheme {scheme}://"
        raise _Refused(f"{named} is not supported; give {wanted}")
    if _PLAIN_URL.fullmatch(url) is None:
        raise _Refused(
            "it cannot be read as one URL; percent-encode '@', ':', '/', '?' and '#' in a user name or password "
            "(urllib.parse.quote(password, safe=''))"
        )
    port = re.search(r":([0-9]+)\Z", url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0])
    if port and not 0 < int(port[1]) < 65536:
        raise _Refused("the port must be between 1 and 65535")
    return url


_FOREIGN = {
    "sqs": "Amazon SQS",
    "kafka": "Kafka",
    "confluentkafka": "Kafka",
    "sentinel": "Redis Sentinel",
    "mongodb": "MongoDB",
    "memory": "Kombu's in-memory transport",
    "filesystem": "Kombu's filesystem transport",
    "sqlalchemy": "a database as the broker",
    "sqla": "a database as the broker",
    "gcpubsub": "Google Pub/Sub",
    "azureservicebus": "Azure Service Bus",
    "azurestoragequeues": "Azure Storage Queues",
    "zookeeper": "ZooKeeper",
    "consul": "Consul",
    "etcd": "etcd",
    "nats": "NATS",
    "postgres": "PostgreSQL",
    "postgresql": "PostgreSQL",
    "http": "HTTP",
    "https": "HTTP",
}
_SPELLINGS = {
    "valkey": "redis://",
    "valkeys": "rediss://",
    "redis+socket": "unix://",
    "valkey+socket": "unix://",
    "pyamqp": "amqp://",
    "rabbitmq": "amqp://",
}
_REDIS = ("redis", "rediss", "unix")
_AMQP = ("amqp", "amqps")


def _broker_url(value: Any) -> str:
    return _url(_REDIS + _AMQP, value)


def _store_url(value: Any) -> str:
    return _url(_REDIS, value)


def _number(value: Any, unit: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _Refused(f"give {unit}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Refused(f"give {unit}")
    return float(value)


def _seconds(value: Any) -> float:
    seconds = _number(value, "seconds as a number, or a timedelta")
    if seconds < 0:
        raise _Refused("give 0 seconds or more")
    return seconds


def _some_seconds(value: Any) -> float:
    seconds = _number(value, "seconds as a number, or a timedelta")
    if seconds <= 0:
        raise _Refused("give more than 0 seconds")
    return seconds


def _count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Refused("give a whole number from 1")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise _Refused("give true or false")


def _seed(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _Refused("give a text or a whole number")
    return value


def _store_lost(value: Any) -> str:
    if value not in ("quarantine", "adopt"):
        raise _Refused("give 'quarantine' or 'adopt'")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise _Refused("give names, as a list or as 'a,b'")
    names = tuple(dict.fromkeys(name.strip() for name in names))
    if any(not name or re.search(r"[\s,]", name) for name in names):
        raise _Refused("give names without spaces, none of them empty")
    return names


def _policies(value: Any) -> dict[str, dict[str, Any]]:
    import json

    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _Refused('give a JSON object of policies by name: {"slow": {"max_attempts": 5}}') from None
    if not isinstance(value, Mapping):
        raise _Refused(
            "give a table of policies by name: [retry.NAME], or [tool.queuekit.retry.NAME] in pyproject.toml"
        )
    tables: dict[str, dict[str, Any]] = {}
    for name, policy in value.items():
        table = policy.to_dict() if hasattr(policy, "to_dict") else policy
        if not isinstance(name, str) or not name:
            raise _Refused("the name of a policy is a text")
        if not isinstance(table, Mapping):
            raise _Refused(f"the policy {name!r} is not a table; write one as RetryPolicy.to_dict() gives it")
        try:
            # A copy of its own, and the proof that the steward can be sent it.
            tables[name] = json.loads(json.dumps(dict(table), allow_nan=False))
        except (TypeError, ValueError):
            raise _Refused(
                f"the policy {name!r} holds a value that JSON cannot; write it as RetryPolicy.to_dict() does"
            ) from None
    return tables


def _backend(value: Any) -> str:
    name = _text(value)
    if name in BACKENDS:
        return name
    known = [*BACKENDS, *_plugins()]
    if name not in known:
        raise _Refused(f"no such backend{_suggest(name, known)} Known here: {', '.join(sorted(set(known)))}")
    return name


# ---- the list ------------------------------------------------------------------------------------------------------


def _setting(default: Any, read: Callable[[Any], Any], doc: str) -> Any:
    metadata = {"read": read, "doc": doc, "default": default}
    # hash=False for a table: a dictionary has none, and two settings that differ in it alone may share one.
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """What queuekit has been told, frozen and checked.

    `load()` reads all the places; `Settings(...)` takes only what it is given.

    Durations are seconds, and accept a timedelta.

    Raises:
        ConfigError: a value that cannot be, or a name that is no setting; it says where it stands, and the near name.
    """

    backend: str | None = _setting(
        None, _backend, "The engine: celery, rq, dramatiq, or memory (in this process). No default."
    )
    broker_url: str | None = _setting(
        None,
        _broker_url,
        "Where the engine's messages travel: redis://, rediss://, unix:// or amqp://, amqps:// (RabbitMQ).",
    )
    store_url: str | None = _setting(
        None, _store_url, "Where jobs are recorded: redis://, rediss:// or unix://. The broker's Redis by default."
    )
    namespace: str = _setting(
        "default", _namespace, "Keeps applications that share a Redis apart. Letters, digits, '_', '-'."
    )
    lease: _Duration = _setting(
        30.0, _some_seconds, "Seconds without a sign of life after which a worker counts as gone."
    )
    grace: _Duration = _setting(
        30.0, _seconds, "Seconds that running jobs have to end after SIGTERM, before they are handed back."
    )
    enqueue_timeout: _Duration = _setting(5.0, _some_seconds, "Seconds after which enqueue gives up on the store.")
    strict: bool = _setting(False, _flag, "Refuse at start what the engine cannot enforce, rather than say so.")
    seed: str | int = _setting(
        "queuekit",
        _seed,
        "Goes into the jitter of retry delays, as text: 7 and '7' are the same. The same seed, the same delays.",
    )
    payload_limit: int = _setting(
        1024 * 1024, _count, "The most bytes that the encoded arguments, or the result, of a job may have."
    )
    result_ttl: _Duration = _setting(DAY, _seconds, "Seconds that a result is kept.")
    retention: _Duration = _setting(7 * DAY, _seconds, "Seconds that the record of a finished job is kept.")
    dead_letter_ttl: _Duration = _setting(30 * DAY, _seconds, "Seconds that a failed job is kept, with its arguments.")
    tick: _Duration = _setting(0.5, _some_seconds, "Seconds between two looks for what is due or was lost.")
    store_lost: Literal["quarantine", "adopt"] = _setting(
        "quarantine",
        _store_lost,
        "What becomes of a message whose record went with the store's data: 'quarantine', or 'adopt' to run it.",
    )
    unknown_grace: _Duration = _setting(
        3600.0, _seconds, "Seconds that a job waits for a worker that knows its task, before it becomes a dead letter."
    )
    retry: _Policies = _setting(
        {}, _policies, "Retry policies by name, for @agent_task(retry=NAME): [retry.NAME] in queuekit.toml."
    )
    concurrency: int | None = _setting(
        None, _count, "How many jobs a worker runs at once. The engine's own default where not given."
    )
    queues: _Names = _setting((), _names, "The queues that a worker serves. All that its tasks name where not given.")
    pool: str | None = _setting(
        None, _text, "The kind of pool of the engine's worker, in the engine's own words. Its default where not given."
    )

    if not TYPE_CHECKING:
        # Type checkers see the constructor that the dataclass describes. This one differs in what it raises for an
        # unknown name: a ConfigError with the near one, and not a TypeError.
        def __init__(self, **values: Any) -> None:
            _fill(self, [_Source("Settings()", values, none_is_given=True)])

    def source(self, name: str) -> str:
        """Where the value of a setting came from: "environment QUEUEKIT_LEASE", a file's path, "default" and so on.

        A single policy is asked for as "retry.NAME".
        """
        _known(name.partition(".")[0], "source()")
        return self._sources.get(name, "default")

    def replace(self, source: str = "replace()", /, **values: Any) -> Settings:
        """A copy with some values changed, whose source is then `source`; the others keep theirs."""
        changed = object.__new__(Settings)
        kept = {name: getattr(self, name) for name in _FIELDS if name not in values}
        _fill(changed, [_Source(source, values, none_is_given=True), _Kept(kept, self._sources)])
        return changed

    @property
    def resolved_store_url(self) -> str:
        """Where jobs are recorded: store_url, or the broker's Redis.

        Raises:
            ConfigError: there is neither, or the broker is RabbitMQ, which cannot keep records.
        """
        if self.store_url is not None:
            return self.store_url
        if self.broker_url is None:
            raise ConfigError(
                "neither broker_url nor store_url is set, so there is nowhere to record a job. Set broker_url "
                "(QUEUEKIT_BROKER_URL=redis://localhost:6379/0), or run `queuekit worker --dev MODULE` in this folder, "
                "which brings a server of its own"
            )
        if self.broker_url.startswith(_AMQP):
            raise ConfigError(
                f"store_url is not set, and the broker {redact(self.broker_url)} ({self.source('broker_url')}) cannot "
                "keep records. Set store_url to a Redis or Valkey (QUEUEKIT_STORE_URL=redis://localhost:6379/0)"
            )
        return self.broker_url

    def resolve(self) -> Settings:
        """The settings, checked as a whole and with store_url filled in: for anything that is about to start work.

        Raises:
            ConfigError: no backend, or one that is not installed; no broker; no store; a broker that the engine cannot
                use; a retry policy that cannot be read.
        """
        backend = require_backend(self)
        for name in self.retry:
            self.retry_policy(name)
        if backend == "memory":
            return self
        store_url = self.resolved_store_url
        if self.broker_url is None:
            raise ConfigError(
                f"broker_url is not set, and the backend {backend!r} ({self.source('backend')}) needs one. Set it "
                "(QUEUEKIT_BROKER_URL=redis://localhost:6379/0), or run `queuekit worker --dev MODULE` in this folder, "
                "which brings a server of its own"
            )
        if backend == "rq" and self.broker_url.startswith(_AMQP):
            raise ConfigError(
                f"broker_url={redact(self.broker_url)!r} ({self.source('broker_url')}): RQ runs on Redis or Valkey "
                "only. Give a redis:// URL, or choose the backend celery or dramatiq"
            )
        if self.store_url is not None:
            return self
        return self.replace(f"broker_url, {self.source('broker_url')}", store_url=store_url)

    def retry_policy(self, name: str) -> RetryPolicy:
        """The retry policy of that name.

        Raises:
            ConfigError: there is none of that name, or its table cannot be read.
        """
        from queuekit.retry import RetryPolicy

        if name not in self.retry:
            have = f"are: {', '.join(sorted(self.retry))}" if self.retry else "are none"
            raise ConfigError(
                f"retry={name!r}: the settings have no policy of that name{_suggest(name, self.retry)} There {have}. "
                f"Add [retry.{name}] to queuekit.toml, or [tool.queuekit.retry.{name}] to pyproject.toml"
            )
        try:
            return RetryPolicy.from_dict(self.retry[name])
        except (ConfigError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(f"retry policy {name!r} ({self.source(f'retry.{name}')}): {error}") from error

    def to_json(self) -> str:
        """The settings and their sources, passwords included: for a pipe to a child process, never for a log."""
        import json

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({"values": values, "sources": dict(self._sources)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that `to_json()` wrote."""
        import json

        data = json.loads(text)
        settings = object.__new__(cls)
        _fill(settings, [_Kept(data["values"], data["sources"])])
        return settings

    @property
    def _sources(self) -> Mapping[str, str]:
        sources: Mapping[str, str] = self.__dict__["_where"]
        return sources

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.metadata["default"]:
                shown.append(
                    f"{field.name}={redact(value)!r}" if field.name.endswith("_url") else f"{field.name}={_show(value)}"
                )
        return f"Settings({', '.join(shown)})"


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}

# ---- where values come from -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
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
class _Kept:
    """Values that carry their sources with them."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    none_is_given = True
    place = "settings that were written out"
    spelling = str

    def where(self, name: str) -> str:
        return self.sources.get(name, "default")


def _fill(settings: Settings, places: list[_Source | _Kept]) -> None:
    """Give each field its value: from the first of the places that has one, or its default. All are checked."""
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for place in places:
        for name, raw in place.values.items():
            field = _known(name, place.place, place.spelling)
            if raw is None and not place.none_is_given:
                continue
            value = _read(field, raw, place.where(name))
            if name == "retry":
                # Policies are merged by name, each as a whole: half a policy from each of two files would be nobody's.
                merged = found.setdefault(name, {})
                for key in [key for key in value if key not in merged]:
                    merged[key] = value[key]
                    where = sources[f"retry.{key}"] = place.where(f"retry.{key}")
                    if where not in sources.get(name, ""):
                        sources[name] = f"{sources[name]}, {where}" if name in sources else where
            elif name not in found:
                found[name] = value
                if place.where(name) != "default":
                    sources[name] = place.where(name)
    for name, field in _FIELDS.items():
        default = field.metadata["default"]
        object.__setattr__(settings, name, found.get(name, dict(default) if isinstance(default, dict) else default))
    settings.__dict__["_where"] = sources


def _known(name: str, place: str, spelling: Callable[[str], str] = str) -> dataclasses.Field[Any]:
    if name in _FIELDS:
        return _FIELDS[name]
    written = spelling(name)
    near = _nearest(name, _FIELDS)
    remedy = f"did you mean {spelling(near)}?" if near else f"the settings are: {', '.join(map(spelling, _FIELDS))}"
    raise ConfigError(f"unknown setting {written} in {place}: {remedy}")


def _read(field: dataclasses.Field[Any], raw: Any, where: str) -> Any:
    if raw is None and field.metadata["default"] is None:
        return None
    try:
        return field.metadata["read"](raw)
    except _Refused as error:
        shown = redact(raw) if field.name.endswith("_url") and isinstance(raw, str) else None
        value = repr(shown) if shown is not None else _show(raw)
        # `from None`: the cause of a bad URL may hold the password.
        raise ConfigError(f"{field.name}={value} ({where}): {error}") from None


def _nearest(name: str, known: Any) -> str | None:
    import difflib

    words = {word.lower().replace("-", "_"): word for word in known}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return words[near[0]] if near else None


def _suggest(name: str, known: Any) -> str:
    near = _nearest(name, known)
    return f", did you mean {near!r}?" if near else "."


def load(
    cli: Mapping[str, Any] | None = None,
    explicit: Mapping[str, Any] | None = None,
    *,
    cwd: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings from everywhere: command line > configure() > environment > files > defaults.

    Args:
        cli: what the command line gave; None and () stand for an option that was not given.
        explicit: what `configure()` gave; None unsets a setting.
        cwd: the folder where the search for queuekit.toml and pyproject.toml begins; the current one by default.
        environ: the environment; this process's own by default. An empty variable counts as not set.

    Raises:
        ConfigError: an unknown setting or a bad value in any of these places, or a file that is not TOML.
    """
    given = {name: value for name, value in (cli or {}).items() if value is not None and value != ()}
    variables = os.environ if environ is None else environ
    settings = object.__new__(Settings)
    _fill(
        settings,
        [
            _Source("the command line", given, lambda name: "--" + name.replace("_", "-"), "command line "),
            _Source("configure()", explicit or {}, none_is_given=True),
            _Source(
                "the environment", _from_environment(variables), lambda name: PREFIX + name.upper(), "environment "
            ),
            *_from_files(Path(cwd) if cwd is not None else Path.cwd()),
        ],
    )
    return settings


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(RESERVED) or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in _FIELDS and _KUBERNETES.search(variable):
            continue
        found[name] = value
    return found


def _from_files(cwd: Path) -> list[_Source | _Kept]:
    """The settings files of the nearest folder that has any, from `cwd` up to the project's root."""
    for folder in _up_to_root(cwd.absolute()):
        sources: list[_Source | _Kept] = []
        own = folder / "queuekit.toml"
        if own.is_file():
            sources.append(_Source(str(own), _toml(own)))
        project = folder / "pyproject.toml"
        if project.is_file():
            tool = _toml(project).get("tool", {})
            table = tool.get("queuekit") if isinstance(tool, dict) else None
            if table is not None:
                if not isinstance(table, dict):
                    raise ConfigError(f"tool.queuekit in {project} is not a table: write [tool.queuekit]")
                sources.append(_Source(f"{project} [tool.queuekit]", table))
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


# ---- backends ------------------------------------------------------------------------------------------------------


def _plugins() -> list[str]:
    """The names of the adapters that other packages bring."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(BACKENDS))


def installed_backends() -> dict[str, bool]:
    """Every backend that is known here, and whether it can be used: whether its engine's package is installed."""
    return {name: _installed(name) for name in [*BACKENDS, *_plugins()]}


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
    if backend is not None and (backend not in BACKENDS or _installed(backend)):
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
