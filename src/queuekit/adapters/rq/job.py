"""The RQ job as a doorbell: data only.

Nothing in it is imported by name or called: not the function, not a callback, not a webhook. Anyone who can write to
the broker's Redis can write such a hash, and a JSON serializer alone does not help: RQ imports what the hash names.
"""

from __future__ import annotations

from typing import Any

from rq.job import Job

from queuekit.execution import Delivery
from queuekit.message import HEADER, Doorbell, InvalidMessage

__all__ = ["DoorbellJob"]


class DoorbellJob(Job):
    """What was read from the broker is taken apart by delivery(), which trusts none of it."""

    def delivery(self) -> Delivery:
        """Raises InvalidMessage with the reason."""
        if not isinstance(self.meta, dict):
            raise InvalidMessage(f"the meta of an RQ job is a mapping, not {type(self.meta).__name__}")
        if HEADER not in self.meta:
            raise InvalidMessage(f"no header {HEADER!r} in the job's meta: not a job of ours, or not JSON")
        bell = Doorbell.from_header(self.meta[HEADER])
        try:
            args, kwargs = self.args, self.kwargs
        except Exception as error:  # whatever the serializer makes of it
            raise InvalidMessage(f"its data cannot be read: {error.__cause__ or error}") from None
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidMessage("args must be a list and kwargs a mapping")
        return Delivery(bell, args, kwargs)

    # RQ resolves these by importing a name that stands in the hash.

    @property
    def func(self) -> Any:
        raise InvalidMessage("an RQ job of queuekit runs no function by name")

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: object, *, exc_string: str | None = None) -> None:
        """Reaches out to nobody."""
