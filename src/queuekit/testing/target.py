"""What the conformance suite runs on: a backend with one of its pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.adapters import Capabilities, Pool

__all__ = ["Target", "find_targets"]


@dataclass(frozen=True)
class Target:
    """A backend with one of its pools, and what its adapter declares of them.

    Attributes:
        name: "memory", or "celery-prefork" where the backend has more than one pool.
        broken: why the adapter could not be loaded; the tests fail with it. missing: the engine is not installed; they
            are skipped with it.
    """

    name: str
    backend: str
    capabilities: Capabilities | None = None
    pool_name: str = ""
    broken: str | None = None
    missing: str | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def real(self) -> bool:
        """Whether there are worker processes and a broker."""
        return self.backend != "memory"

    @property
    def pool(self) -> Pool:
        assert self.capabilities is not None
        return next(pool for pool in self.capabilities.pools if pool.name == self.pool_name)

    def gap(self, clause: str) -> str | None:
        """Why the clause ("C15") does not hold here, where the adapter declares that."""
        if self.capabilities is None:
            return None
        if clause in self.capabilities.gaps:
            return self.capabilities.gaps[clause]
        if clause == "C15" and not self.pool.shared_loop:
            return f"the pool {self.pool_name!r} has no loop that its async tasks share"
        return None


def find_targets(wanted: Sequence[str] = ()) -> list[Target]:
    """The targets of these names: a backend (all its pools), or a backend and a pool ("celery-threads"). All that are
    installed by default.

    Raises:
        ConfigError: no target has such a name.
    """
    from queuekit.settings import installed_backends

    known = list(installed_backends())
    every = [target for backend in known for target in _of(backend)]
    if not wanted:
        return every
    for name in wanted:
        if not any(name in {target.name, target.backend} for target in every):
            raise ConfigError(f"backend {name!r}: there are {', '.join(target.name for target in every)}")
    return [target for target in every if wanted_is(target, wanted)]


def wanted_is(target: Target, wanted: Sequence[str]) -> bool:
    return target.name in wanted or target.backend in wanted


def _of(backend: str) -> list[Target]:
    from queuekit.adapters import load_adapter

    try:
        capabilities = load_adapter(backend).capabilities
    except ConfigError as error:
        return [Target(backend, backend, missing=str(error))]
    except Exception as error:  # the tests of this target fail with it; those of the others run
        return [Target(backend, backend, broken=f"{type(error).__name__}: {error}")]
    pools = capabilities.pools
    return [
        Target(backend if len(pools) == 1 else f"{backend}-{pool.name}", backend, capabilities, pool.name)
        for pool in pools
    ]
