"""What a steward does for all: end attempts whose worker is gone, and publish what is due and what was lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from queuekit.events import Hooks, settled
from queuekit.message import InvalidMessage, Message, Publication
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuekit.adapters import Adapter
    from queuekit.store import Store, Taken

__all__ = ["Ticker", "publish"]

log = logging.getLogger("queuekit.steward")

BATCH: Final = 100


def publish(store: Store, adapter: Adapter, route: str, taken: list[Taken]) -> None:
    """Publish what was taken from the store, and clear the outbox. What fails is taken again after a while.

    Raises BrokerAway or StoreAway.
    """
    publications = []
    for one in taken:
        try:
            publications.append(Publication(Message.to_publish(one.message), one.pseq, one.number, one.epoch))
        except InvalidMessage as error:
            log.warning("a job on %s cannot be published: %s", route, error)
    if not publications:
        return
    try:
        adapter.publish(publications)
    except ConnectionError:  # BrokerAway
        raise
    except Exception:
        if len(publications) == 1:
            log.exception("job %s cannot be published on %s", publications[0].message.id, route)
            return
        for one in taken:  # its neighbours can be
            publish(store, adapter, route, [one])
        return
    store.published(route, [(one.message.id, one.pseq) for one in publications])


class Ticker:
    """What every steward does for all: reap, and publish what is due and what was lost on the backend's routes."""

    def __init__(self, store: Store, adapter: Adapter, hooks: Hooks | None = None) -> None:
        self.store = store
        self.adapter = adapter
        self.hooks = hooks or Hooks()

    def tick(self) -> None:
        """Raises StoreAway or BrokerAway; nothing is lost by that."""
        reaped = self.store.reap(BATCH)
        for id, why in reaped:
            log.warning("job %s: its attempt was ended: %s", id, why, extra={"job_id": id})
        self.tell(id for id, _ in reaped)
        for route in self.store.routes(self.adapter.name):
            self._drain(route)
            self.store.mark(route, self.adapter.depth(route))

    def tell(self, ids: Iterable[str]) -> None:
        """Tell the hooks of jobs whose attempts were just ended from outside."""
        if not self.hooks:
            return
        for id in ids:
            try:
                record = self.store.get(id)
            except StoreAway as error:
                log.warning("job %s: no hook is told that its attempt was ended: %s", id, error, extra={"job_id": id})
                continue
            for event in [] if record is None else settled(record):
                self.hooks(event)

    def _drain(self, route: str) -> None:
        for take in (self.store.take_due, self.store.take_lost):
            while taken := take(route, BATCH):
                publish(self.store, self.adapter, route, taken)
                if len(taken) < BATCH:
                    break
