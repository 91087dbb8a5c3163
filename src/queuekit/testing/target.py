"""What the conformance suite runs on: a backend with one of its pools, on one of its brokers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from queuekit.adapters import Capabilities, Pool

__all__ = ["Target", "find_targets"]


@dataclass(frozen=True)
class Target:
    """A backend with one of its pools on a broker, and what its adapter declares of them.

    Attributes:
        name: "memory", or "celery-prefork" where the backend has more than one pool of its own; with the broker where
            it is not the adapter's first: "dramatiq-rabbitmq".
        broker: a name out of the adapter's Capabilities.brokers.
        broken: why the adapter could not be loaded; the tests fail with it. missing: the engine is not installed; they
            are skipped with it.
    """

    name: str
    backend: str
    capabilities: Capabilities | None = None
    pool_name: str = ""
    broken: str | None = None
    missing: str | None = None
    broker: str = "redis"

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
        """Why the clause does not hold here, as the adapter declares it: "C15", for one pool: "C15:threads", or for
        one broker: "C3:rabbitmq"."""
        if self.capabilities is None:
            return None
        gaps = self.capabilities.gaps
        return gaps.get(f"{clause}:{self.pool_name}") or gaps.get(f"{clause}:{self.broker}") or gaps.get(clause)


@cache
def find_targets(wanted: tuple[str, ...] = ()) -> list[Target]:
    """The targets of these names: a backend, or one of its targets ("celery-threads"). By default all that are
    installed: each pool on the adapter's first broker, and on the others the default pool and `async`, which takes
    messages by ways of its own. ("celery-threads-rabbitmq" has to be asked for.)

    Raises:
        ConfigError: no target has such a name.
    """
    from queuekit.settings import installed_backends

    known = sorted(installed_backends(), key=lambda name: name != "memory")  # the fastest first
    if not wanted:
        return [target for backend in known for target in _of(backend) if _usual(target)]
    found = []
    for name in wanted:
        backend = next((one for one in known if name == one or name.startswith(f"{one}-")), None)
        targets = _of(backend) if backend else []
        matching = [one for one in targets if name == one.name] or [
            one for one in targets if name == one.backend and _usual(one)
        ]
        if not matching:
            raise ConfigError(f"backend {name!r}: there are {', '.join(map(str, targets)) or ', '.join(known)}")
        found += [target for target in matching if target not in found]
    return found


def _of(backend: str) -> list[Target]:
    from queuekit.adapters import ASYNC, load_adapter

    try:
        capabilities = load_adapter(backend).capabilities
    except ConfigError as error:
        return [Target(backend, backend, missing=str(error))]
    except Exception as error:  # the tests of this target fail with it; those of the others run
        return [Target(backend, backend, broken=f"{type(error).__name__}: {error}")]
    found = []
    own = [pool for pool in capabilities.pools if pool.name != ASYNC]
    for pool, broker in product(capabilities.pools, capabilities.brokers):
        if pool.brokers and broker not in pool.brokers:
            continue
        name = backend if own == [pool] else f"{backend}-{pool.name}"
        if broker != capabilities.brokers[0]:
            name += f"-{broker}"
        found.append(Target(name, backend, capabilities, pool.name, broker=broker))
    return found


def _usual(target: Target) -> bool:
    from queuekit.adapters import ASYNC

    has = target.capabilities
    return has is None or target.broker == has.brokers[0] or target.pool_name in {has.default_pool, ASYNC}
