"""The RQ job as a doorbell: data only.

Nothing in it is imported by name or called: not the function, not a callback, not a webhook. Anyone who can write to
the broker's Redis can write such a hash, and a JSON serializer alone does not help: RQ imports what the hash names.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rq.job import Job
from rq.serializers import JSONSerializer

from queuekit.execution import Delivery
from queuekit.message import HEADER, Doorbell, InvalidMessage

if TYPE_CHECKING:
    import redis

__all__ = ["BACKSTOP", "DoorbellJob"]

KEPT: Final = frozenset(
    b"data meta status origin description result_ttl failure_ttl worker_name"
    b" created_at enqueued_at started_at ended_at last_heartbeat".split()
)

BACKSTOP: Final = 5  # seconds over its limit after which RQ's worker kills a horse


class DoorbellJob(Job):
    """What was read from the broker is taken apart by delivery(), which trusts none of it.

    Attributes:
        adopted: the delivery of a job that a native producer enqueued, once its record is made.
        came: its hash as it was read, where another process is to run it.
        execution, place: RQ's name for what runs, and the name of the queue that it came from, where one process runs
            many.
        most: the bytes that a hash may take, also once its data is decompressed. Set by a worker.
    """

    adopted: Delivery | None = None
    came: Any = None
    execution = ""
    place = ""
    most: ClassVar[int] = 1 << 24

    @classmethod
    def blank(cls, connection: redis.Redis) -> DoorbellJob:
        return cls("blank", connection=connection, serializer=JSONSerializer)

    def named(self, id: str) -> DoorbellJob:
        """A blank one of that name: RQ's own way to make one takes as long as reading the hash. Raises ValueError."""
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        made.id = id
        return made

    def restore(self, raw_data: Any) -> Any:
        """Of the hash only what a doorbell needs, and what monitors show of it. Raises InvalidMessage."""
        # RQ would decompress these two, whatever becomes of them, and follow what the rest name: callbacks by their
        # names, jobs that wait for this one, retries, limits of its rate.
        kept = {name: value for name, value in raw_data.items() if name in KEPT}
        size, data = sum(map(len, raw_data.values())), kept.get(b"data", b"")
        if b"data" in kept and size <= self.most:
            try:
                data = zlib.decompressobj().decompress(data, self.most + 1)
                size = max(size, len(data))
            except zlib.error:
                pass  # plain, then
        if size > self.most:
            raise InvalidMessage(f"it takes {size} bytes or more, and none of ours more than {self.most}")
        return self.fill(kept, data)

    def fill(self, kept: dict[bytes, bytes], data: bytes) -> Any:
        """`data`: that of the hash, decompressed."""
        return super().restore(kept)

    @property
    def is_native(self) -> bool:
        """Whether nobody published it through queuekit."""
        return isinstance(self.meta, dict) and HEADER not in self.meta

    def asked(self) -> tuple[str, list[Any], dict[str, Any]]:
        """The name of the function that a native producer gave, and the arguments. Raises InvalidMessage."""
        try:
            name, instance, args, kwargs = self.func_name, self.instance, self.args, self.kwargs
        except Exception as error:  # whatever the serializer makes of it
            raise InvalidMessage(
                f"its data is not JSON, and nothing else is read ({error.__cause__ or error}); "
                "a native producer needs Queue(NAME, serializer=rq.serializers.JSONSerializer)"
            ) from None
        if instance is not None or not isinstance(name, str):
            raise InvalidMessage("a task is asked for by its name alone, and not by a method or an object")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidMessage("args must be a list and kwargs a mapping")
        return name, args, kwargs

    def take_over(self, delivery: Delivery) -> None:
        """It is a job of queuekit's from here on, with the limit that this names."""
        self.adopted = delivery
        timeout = delivery.bell.timeout
        self.timeout = -1 if timeout is None else math.ceil(timeout) + BACKSTOP

    def delivery(self, source: str = "") -> Delivery:
        """Raises InvalidMessage with the reason."""
        if self.adopted is not None:
            return self.adopted
        if not isinstance(self.meta, dict):
            raise InvalidMessage(f"the meta of an RQ job is a mapping, not {type(self.meta).__name__}")
        if HEADER not in self.meta:
            raise InvalidMessage(f"no header {HEADER!r} in the job's meta: not a job of ours, or not JSON")
        bell = Doorbell.from_header(self.meta[HEADER])
        bell.check_native(self.id)
        try:
            args, kwargs = self.args, self.kwargs
        except Exception as error:  # whatever the serializer makes of it
            raise InvalidMessage(f"its data cannot be read: {error.__cause__ or error}") from None
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidMessage("args must be a list and kwargs a mapping")
        return Delivery(bell, args, kwargs, source)

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
