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
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from queuekit.errors import ConfigError
from queuekit.settings import readers
from queuekit.settings.backends import installed_backends, require_backend
from queuekit.settings.sources import Kept, Source, from_command_line, from_environment, from_files, gather, known
from queuekit.settings.urls import AMQP, REDIS, redact, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from queuekit.blobs import BlobStore
    from queuekit.payload.encoding import PayloadCodec
    from queuekit.retry import RetryPolicy
    from queuekit.settings.readers import Duration, Names, Policies
    from queuekit.settings.sources import Place
    from queuekit.signing import Signer

__all__ = ["Settings", "installed_backends", "load", "load_for_install", "redact", "require_backend"]

DAY = 86400.0
SHOWN = 16_384  # characters: a monitor shows no more than some hundred

_GET_A_BROKER = (
    "(QUEUEKIT_BROKER_URL=redis://localhost:6379/0), or run `queuekit worker --dev MODULE` in this folder, "
    "which brings a server of its own"
)


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
        None, readers.backend, "The engine: celery, rq, dramatiq, or memory (in this process). No default."
    )
    broker_url: str | None = _setting(
        None,
        readers.broker_url,
        "Where the engine's messages travel: redis://, rediss://, unix://, sentinel:// (not for Celery); amqp:// or "
        "amqps:// (not for RQ).",
    )
    store_url: str | None = _setting(
        None,
        readers.store_url,
        "Where jobs are recorded: redis://, rediss://, unix://, sentinel://, redis+cluster:// or rediss+cluster://. "
        "The broker's Redis by default.",
    )
    namespace: str = _setting(
        "default", readers.namespace, "Keeps applications that share a Redis apart. Letters, digits, '_', '-'."
    )
    lease: Duration = _setting(
        30.0, readers.some_seconds, "Seconds without a sign of life after which a worker counts as gone."
    )
    grace: Duration = _setting(
        30.0, readers.seconds, "Seconds that running jobs have to end after SIGTERM, before they are handed back."
    )
    enqueue_timeout: Duration = _setting(
        5.0, readers.some_seconds, "Seconds after which enqueue gives up on the store."
    )
    strict: bool = _setting(False, readers.flag, "Refuse at start what the engine cannot enforce, rather than say so.")
    seed: str | int = _setting(
        "queuekit",
        readers.seed,
        "Goes into the jitter of retry delays, as text: 7 and '7' are the same. The same seed, the same delays.",
    )
    payload_limit: int = _setting(
        1024 * 1024, readers.count, "The most bytes that the encoded arguments, or the result, of a job may have."
    )
    steps_limit: int = _setting(
        16 * 1024 * 1024, readers.count, "The most bytes that the results of all steps of a job may have together."
    )
    blobs: Any = _setting(
        None,
        readers.blobs,
        "Where the results of steps go that are too large for the record: `package.module:name`, an object with put() "
        "and get(), or a class. The same for all workers.",
    )
    blob_over: int = _setting(
        64 * 1024,
        readers.count,
        "With blobs: the most bytes that the result of a step may have, as JSON, to be kept in the record.",
    )
    result_ttl: Duration = _setting(DAY, readers.seconds, "Seconds that a result is kept.")
    retention: Duration = _setting(7 * DAY, readers.seconds, "Seconds that the record of a finished job is kept.")
    dead_letter_ttl: Duration = _setting(
        30 * DAY, readers.seconds, "Seconds that a failed job is kept, with its arguments; and a message in quarantine."
    )
    quarantine_limit: int = _setting(
        10_000, readers.count, "The most messages that the quarantine keeps. The oldest go first."
    )
    quarantine_bytes: int = _setting(
        64 * 1024 * 1024, readers.count, "The most bytes that the quarantine takes. The newest message always stays."
    )
    tick: Duration = _setting(0.5, readers.some_seconds, "Seconds between two looks for what is due or was lost.")
    store_lost: Literal["quarantine", "adopt"] = _setting(
        "quarantine",
        readers.store_lost,
        "What becomes of a message whose record went with the store's data: 'quarantine', or 'adopt' to run it.",
    )
    adopt: bool = _setting(
        False,
        readers.flag,
        "Run native messages on queuekit's queues that name a known task: producers without queuekit. Each becomes "
        "a job.",
    )
    celery_result: bool = _setting(
        False,
        readers.flag,
        "Keep states and results in the Celery app's result backend as well, under the job's id: AsyncResult(job.id).",
    )
    amqp_queues: Literal["classic", "quorum"] = _setting(
        "classic", readers.amqp_queues, "What queuekit's queues are on RabbitMQ: 'classic', or 'quorum' (replicated)."
    )
    unknown_grace: Duration = _setting(
        3600.0,
        readers.seconds,
        "Seconds that a job waits for a worker that knows its task, before it becomes a dead letter.",
    )
    retry: Policies = _setting(
        {}, readers.policies, "Retry policies by name, for @agent_task(retry=NAME): [retry.NAME] in queuekit.toml."
    )
    schedules: Policies = _setting(
        {},
        readers.schedules,
        "Schedules by name, of tasks that are declared somewhere: [schedules.NAME] with task=, and "
        "cron= (and tz=), every= or at=; args=, kwargs=, missed=. The same for all workers of a task.",
    )
    concurrency: int | None = _setting(
        None,
        readers.count,
        "How many jobs a worker runs at once. Where not given 250 in the pool `async`, and the engine's own default in "
        "others.",
    )
    queue_concurrency: Mapping[str, int] = _setting(
        {},
        readers.caps,
        "How many jobs of a queue one worker process runs at once, by the queue's name: [queue_concurrency] with "
        "documents = 5. As many as there is room for where not given.",
    )
    task_concurrency: Mapping[str, int] = _setting(
        {},
        readers.caps,
        "How many jobs of a task one worker process runs at once, by the task's name. Before the task's own "
        "max_concurrency.",
    )
    queues: Names = _setting(
        (), readers.names, "The queues that a worker serves. All that its tasks name where not given."
    )
    modules: Names = _setting(
        (),
        readers.names,
        "The modules that declare the tasks, for a worker that is started by RQ's own command, which names none.",
    )
    pool: str | None = _setting(
        None,
        readers.text,
        "The kind of pool of the engine's worker: `async`, or in the engine's own words. Where not given: `async` for "
        "a worker all of whose tasks are, and the engine's default otherwise.",
    )
    hooks: Names = _setting(
        (),
        readers.hooks,
        "What is told of job events: `package.module:name`, a callable or a class. For workers, their children and "
        "stewards too.",
    )
    codec: Any = _setting(
        None,
        readers.codec,
        "Encodes arguments and results in the record, to encrypt them: `package.module:name`, an object with encode() "
        "and decode(), or a class. The same for all who enqueue, work and read results.",
    )
    signing_key: Names = _setting(
        (),
        readers.signing_key,
        "Signs messages and records: only what somebody with the key has enqueued runs then. 16 characters or more. "
        "Several, with a comma between, to change it: the first signs, all are taken. Never shown.",
    )
    unsigned: Literal["quarantine", "accept"] = _setting(
        "quarantine",
        readers.unsigned,
        "What becomes of a message or a record without a signature where signing_key is set: 'quarantine', or 'accept' "
        "while the key is rolled out.",
    )
    log_format: Literal["text", "json"] = _setting(
        "text", readers.log_format, "How `queuekit worker` and its steward write their log: 'text', or 'json' lines."
    )
    metrics_port: int | None = _setting(
        None, readers.port, "The port on which `queuekit worker` serves Prometheus metrics. None where not given."
    )
    metrics_host: str = _setting(
        "127.0.0.1", readers.text, "The address for metrics_port. In a container that is scraped: 0.0.0.0."
    )

    if not TYPE_CHECKING:
        # Type checkers see the constructor that the dataclass describes. This one differs in what it raises for an
        # unknown name: a ConfigError with the near one, and not a TypeError.
        def __init__(self, **values: Any) -> None:
            _filled(self, [Source("Settings()", values, none_is_given=True)])

    def source(self, name: str) -> str:
        """Where the value of a setting came from: "environment QUEUEKIT_LEASE", a file's path, "default" and so on.

        A single policy is asked for as "retry.NAME".
        """
        known(name.partition(".")[0], _FIELDS, "source()")
        return self._sources.get(name, "default")

    def replace(self, source: str = "replace()", /, **values: Any) -> Settings:
        """A copy with some values changed, whose source is then `source`; the others keep theirs."""
        kept = {name: getattr(self, name) for name in _FIELDS if name not in values}
        return _filled(
            object.__new__(Settings), [Source(source, values, none_is_given=True), Kept(kept, self._sources)]
        )

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
                "neither broker_url nor store_url is set, so there is nowhere to record a job. "
                f"Set broker_url {_GET_A_BROKER}"
            )
        if self.broker_url.startswith(AMQP):
            raise ConfigError(
                f"store_url is not set, and the broker {redact(self.broker_url)} ({self.source('broker_url')}) cannot "
                "keep records. Set store_url to a Redis or Valkey (QUEUEKIT_STORE_URL=redis://localhost:6379/0)"
            )
        return self.broker_url

    @property
    def store_timeout(self) -> float:
        """Seconds for connecting to the store, and for an answer each. A call may take two answers, since a script that
        the server does not know is sent again: all three fit into enqueue_timeout."""
        return min(2.0, self.enqueue_timeout * 0.3)

    @property
    def doorbell_limit(self) -> int:
        """The most bytes that a message in the broker can have that is one of ours: the arguments, three times as long
        with all that is not ASCII spelled out, and what an engine puts around them."""
        return 4 * self.payload_limit + 65_536

    @property
    def on_one_redis(self) -> bool:
        """Whether records and messages lie in the same database of one Redis."""
        url = self.broker_url
        return url is not None and url.partition("://")[0] in REDIS and url == self.resolved_store_url

    @property
    def shown_limit(self) -> int | None:
        """The most characters of arguments that a message in the broker repeats, for the engine's monitors. None: all
        of them, where they are what is left of a job when the store has lost its record."""
        return SHOWN if self.on_one_redis and self.store_lost != "adopt" else None

    def resolve(self) -> Settings:
        """The settings, checked as a whole and with store_url filled in: for anything that is about to start work.

        Raises:
            ConfigError: no backend, or one that is not installed; no broker; no store; a broker that the engine cannot
                use; a signing_key, and messages of the broker that are to be adopted; a retry policy that cannot be
                read; a tick that is too long for the lease.
        """
        backend = require_backend(self)
        for name in self.retry:
            self.retry_policy(name)
        for name, value in (("adopt", self.adopt), ("store_lost", self.store_lost == "adopt")):
            if value and self.signing_key:
                raise ConfigError(
                    f"{name} ({self.source(name)}) and signing_key ({self.source('signing_key')}) cannot go together: "
                    "what a message of the broker asks for would run, and the arguments in it are not signed. "
                    f"Unset {name}, or signing_key"
                )
        if backend == "memory":
            return self
        if self.tick > self.lease / 6:
            # A lease / 3 without a tick counts as a discontinuity, after which nothing is reaped for a lease.
            raise ConfigError(
                f"tick={self.tick:g} ({self.source('tick')}) is too long for lease={self.lease:g} "
                f"({self.source('lease')}): give a lease of {self.tick * 6:g} s or more, or a shorter tick"
            )
        store_url = self.resolved_store_url
        if self.broker_url is None:
            raise ConfigError(
                f"broker_url is not set, and the backend {backend!r} ({self.source('backend')}) needs one. "
                f"Set it {_GET_A_BROKER}"
            )
        if backend == "celery" and self.broker_url.startswith("sentinel://"):
            raise ConfigError(
                f"broker_url={redact(self.broker_url)!r} ({self.source('broker_url')}): Celery by Sentinel has not "
                "been run. Give redis:// with the master's own address or amqp://, choose the backend rq or dramatiq, "
                "and leave store_url where it is: the store goes by Sentinel"
            )
        if backend == "rq" and self.broker_url.startswith(AMQP):
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

        read: dict[str, RetryPolicy] = self.__dict__.setdefault("_policies", {})  # asked at each enqueue and claim
        if name in read:
            return read[name]
        if name not in self.retry:
            have = f"are: {', '.join(sorted(self.retry))}" if self.retry else "are none"
            raise ConfigError(
                f"retry={name!r}: the settings have no policy of that name{readers.suggest(name, self.retry)} "
                f"There {have}. Add [retry.{name}] to queuekit.toml, or [tool.queuekit.retry.{name}] to pyproject.toml"
            )
        try:
            read[name] = RetryPolicy.from_dict(self.retry[name])
        except (ConfigError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(f"retry policy {name!r} ({self.source(f'retry.{name}')}): {error}") from error
        return read[name]

    @property
    def payload_codec(self) -> PayloadCodec | None:
        """The object that the setting codec names, made once.

        Raises:
            ConfigError: there is no such module or name, or it has no encode() and decode().
        """
        return cast("PayloadCodec | None", self._named("codec", readers.codec))

    @property
    def blob_store(self) -> BlobStore | None:
        """The object that the setting blobs names, made once.

        Raises:
            ConfigError: there is no such module or name, or it has no put() and get().
        """
        return cast("BlobStore | None", self._named("blobs", readers.blobs))

    def _named(self, name: str, read: Callable[[Any], Any]) -> Any:
        """The object that a setting is, or names."""
        given = getattr(self, name)
        if not isinstance(given, str):
            return given
        place = f"_{name}"
        if place not in self.__dict__:
            from queuekit.imports import import_named

            found = import_named(name, given)
            try:
                made = read(found() if isinstance(found, type) else found)
            except readers.Refused as refused:
                raise ConfigError(f"{name}={given!r} ({self.source(name)}): {refused}") from None
            self.__dict__[place] = made
        return self.__dict__[place]

    @property
    def can_be_handed_over(self) -> bool:
        """Whether another process can be given all of them: an object that was given as such is in this one alone."""
        return all(value is None or isinstance(value, str) for value in (self.codec, self.blobs))

    @property
    def signer(self) -> Signer | None:
        """What signs and checks by the setting signing_key."""
        if not self.signing_key:  # most have none: RQ's process of one job would import what it takes each time
            return None
        if "_signer" not in self.__dict__:
            from queuekit.signing import Signer

            accept = self.unsigned == "accept"
            self.__dict__["_signer"] = Signer(self.signing_key, self.namespace, accept_unsigned=accept)
        return cast("Signer", self.__dict__["_signer"])

    def to_json(self) -> str:
        """The settings and their sources, passwords and keys included: for a pipe to a child process, never for a log.
        A codec or a blob hook that was given as an object stays here: who publishes needs none."""
        import json

        values = {name: getattr(self, name) for name in _FIELDS}
        for name in ("codec", "blobs"):
            if not isinstance(values[name], str):
                values[name] = None
        return json.dumps({"values": values, "sources": dict(self._sources)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that `to_json()` wrote."""
        import json

        data = json.loads(text)
        return _filled(object.__new__(cls), [Kept(data["values"], data["sources"])])

    @property
    def _sources(self) -> Mapping[str, str]:
        sources: Mapping[str, str] = self.__dict__["_where"]
        return sources

    def __repr__(self) -> str:
        shown = []
        for name, field in _FIELDS.items():
            value = getattr(self, name)
            if value != field.metadata["default"]:
                shown.append(f"{name}={show(name, value)}")
        return f"Settings({', '.join(shown)})"


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}


def _filled(settings: Settings, places: Sequence[Place]) -> Settings:
    values, sources = gather(places, _FIELDS)
    settings.__dict__.update(values, _where=sources)  # it is frozen
    return settings


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
    return _filled(
        object.__new__(Settings),
        [
            from_command_line(cli or {}),
            Source("configure()", explicit or {}, none_is_given=True),
            from_environment(os.environ if environ is None else environ, _FIELDS),
            *from_files(Path.cwd() if cwd is None else Path(cwd)),
        ],
    )


def load_for_install(backend: str, settings: Settings | None, overrides: Mapping[str, Any]) -> Settings:
    """What an adapter's install() goes by: the settings given, or those of everywhere, for its own backend or memory.

    Raises:
        ConfigError: as load(); another backend is set.
    """
    given = load(explicit=overrides) if settings is None else settings.replace("install()", **overrides)
    if given.backend is None:
        given = given.replace("install()", backend=backend)
    if given.backend not in {backend, "memory"}:
        raise ConfigError(
            f"install() is for the backend {backend}, and backend={given.backend!r} is set "
            f"({given.source('backend')}): leave it out, or do not install"
        )
    return given
