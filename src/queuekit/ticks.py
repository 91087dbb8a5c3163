"""What a steward does for all: end attempts whose worker is gone, and publish what is due and what was lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from queuekit.events import EventKind, Hooks, event_of, settled, tell_cancelled
from queuekit.message import InvalidMessage, Message, Publication
from queuekit.schedules.spec import Spec, due_ticks, tick_id
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuekit.adapters import Adapter
    from queuekit.signing import Signer
    from queuekit.store import DueSchedule, Store, Taken

__all__ = ["Ticker", "publish"]

log = logging.getLogger("queuekit.steward")

BATCH: Final = 100
FOLLOWED: Final = 500  # jobs that are seen to in one step of the store, which keeps all others waiting


def publish(store: Store, adapter: Adapter, route: str, taken: list[Taken], signer: Signer | None = None) -> None:
    """Publish what was taken from the store, and clear the outbox. What fails is taken again after a while.

    Raises BrokerAway or StoreAway.
    """
    publications = []
    for one in taken:
        try:
            publications.append(Publication(Message.to_publish(one.message), one.pseq, one.number, one.epoch, signer))
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
            publish(store, adapter, route, [one], signer)
        return
    store.published(route, [(one.message.id, one.pseq) for one in publications])


class Ticker:
    """What every steward does for all: reap, and publish what is due and what was lost on the backend's routes.

    Args:
        signer: signs the doorbells, and the messages of schedules. The other sealed messages are what they were.
        late: seconds after which a tick of a schedule was missed: the lease. None: somebody else fires schedules.
    """

    def __init__(
        self,
        store: Store,
        adapter: Adapter,
        hooks: Hooks | None = None,
        *,
        signer: Signer | None = None,
        late: float | None = None,
    ) -> None:
        self.store = store
        self.adapter = adapter
        self.signer = signer
        self.hooks = hooks or Hooks()
        self.late = late
        self._unread: set[tuple[str, str]] = set()  # schedules that were complained of, with their records

    def tick(self) -> None:
        """Raises StoreAway or BrokerAway; nothing is lost by that."""
        reaped = self.store.reap(BATCH)
        for id, why in reaped:
            log.warning("job %s: its attempt was ended: %s", id, why, extra={"job_id": id})
        self.tell(id for id, _ in reaped)
        while True:
            left = self.store.follow(FOLLOWED)
            tell_cancelled(self.hooks, self.store, left.cancelled)
            if not left.more:
                break
        if self.late is not None:
            self.fire(self.late)
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

    def fire(self, late: float) -> None:
        """Make the jobs of schedules that are due: scheduled ones, which are published as all that is due. Of the
        stewards that see a tick one makes its job. Raises StoreAway."""
        for due in self.store.due_schedules(BATCH):
            try:
                spec = Spec.of(due.name, due.text)
                self._fire(spec, due, round(late * 1000))
            except InvalidMessage as error:
                if (due.name, due.text) not in self._unread:
                    self._unread.add((due.name, due.text))
                    log.warning("schedule %s is not fired: %s", due.name, error)

    def _fire(self, spec: Spec, due: DueSchedule, late: int) -> None:
        at: int | None = due.due
        while at is not None and at <= due.now:
            ticks, following = due_ticks(spec.when, spec.missed, at, due.now, late)
            jobs = [spec.job(tick_id(spec.name, tick), self.signer, tick / 1000) for tick in ticks]
            made = self.store.fire(spec.name, due.text, at, following, [new for _, new in jobs], once=not spec.declared)
            if made is None:  # another steward's
                return
            if not ticks:
                log.warning("schedule %s: what it was to do while nobody fired it is skipped", spec.name)
            for message, _ in jobs:
                if message.id in made and self.hooks:
                    self.hooks(event_of(message, EventKind.enqueued, due.now / 1000))
            at = following

    def _drain(self, route: str) -> None:
        for take in (self.store.take_due, self.store.take_lost):
            while taken := take(route, BATCH):
                publish(self.store, self.adapter, route, taken, self.signer)
                if len(taken) < BATCH:
                    break
