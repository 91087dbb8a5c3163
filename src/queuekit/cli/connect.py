"""The store that the settings name. Nothing here needs a backend, an engine or a broker."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError, JobNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuekit.events import Hooks
    from queuekit.job import Record
    from queuekit.settings import Settings
    from queuekit.store import Listed, Query
    from queuekit.store.redis import RedisStore

__all__ = ["Connection", "connect"]


@dataclass(frozen=True, slots=True)
class Connection:
    settings: Settings
    store: RedisStore

    def hooks(self) -> Hooks:
        """Those of the setting, which hear of what is done by hand as well. Where one cannot be loaded, on a machine
        without the user's code, none does."""
        from queuekit.cli.output import error
        from queuekit.events import Hooks, load_hooks

        if self.settings.hooks and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            return Hooks(load_hooks(self.settings.hooks))
        except (ConfigError, ImportError) as problem:
            error(f"the hooks are not told: {problem}")
            return Hooks()

    def record(self, id: str) -> Record:
        """Raises JobNotFound."""
        record = self.store.get(id)
        if record is None:
            raise JobNotFound(f"no job {id!r} in namespace {self.settings.namespace!r}")
        return record

    def jobs(self, query: Query, limit: int | None = None) -> Iterator[Listed]:
        """Up to `limit` jobs, a bounded part at a time."""
        cursor = None
        while limit is None or limit > 0:
            page = self.store.jobs(query, 100 if limit is None else min(limit, 100), cursor)
            yield from page.jobs
            cursor = page.cursor
            if cursor is None:
                return
            if limit is not None:
                limit -= len(page.jobs)


def connect(options: Mapping[str, Any]) -> Connection:
    """With the settings of the command line, the environment and the files, as a worker reads them.

    Raises:
        ConfigError: a setting that cannot be, or nothing says where jobs are recorded.
    """
    from queuekit.app import DEV_FOLDER
    from queuekit.embedded import attach
    from queuekit.settings import load
    from queuekit.store.redis import RedisStore

    settings = load(cli=options)
    if settings.store_url is None and settings.broker_url is None:
        if settings.backend == "memory":
            raise ConfigError(
                f"backend='memory' ({settings.source('backend')}) keeps its jobs in the process that enqueues them, so "
                "that there is nothing to look at from here. Give --store-url for another"
            )
        server = attach(Path(DEV_FOLDER))
        if server is not None:
            settings = settings.replace(f"the development server in {DEV_FOLDER}", broker_url=server.url)
    return Connection(settings, RedisStore.of(settings))
