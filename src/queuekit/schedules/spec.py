"""What the store keeps of a schedule, and what becomes of it at a tick.

A steward knows no task: all that it needs stands in the record, the sealed message among it, from which each tick's is
made by another id. It is made again only from what somebody with the key has sealed for this very schedule.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from queuekit.errors import ConfigError
from queuekit.message import SCHEDULE, InvalidMessage, Message, schedule_id
from queuekit.schedules.when import Every, ticks, when_of
from queuekit.store import NewJob

if TYPE_CHECKING:
    from queuekit.schedules.when import When
    from queuekit.signing import Signer

__all__ = ["BATCH", "MOST_MISSED", "Missed", "Spec", "check_missed", "check_name", "due_ticks", "tick_id"]

Missed: TypeAlias = Literal["skip", "once", "all"]

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,90}\Z")  # a job's id, with the moment of a tick behind it
MISSED: Final = ("skip", "once", "all")
BATCH: Final = 100  # ticks in one step of the store
MOST_MISSED: Final = 1000  # the most that `missed="all"` makes good, the latest of them
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Spec:
    """A schedule as it is recorded. `message`: sealed, under the schedule's own id; `source`: "task", "settings" or
    "run time", as it was declared; the rest as in NewJob. In seconds."""

    name: str
    when: When
    missed: Missed
    source: str
    task: str
    message: str
    digest: str
    route: str
    result_ttl: float
    expires_in: float | None = None
    key: str | None = None
    if_held: Literal["existing", "replace"] = "existing"
    key_ttl: float | None = None

    @property
    def declared(self) -> bool:
        return self.source != "run time"

    def to_text(self) -> str:
        data = asdict(replace(self, when=cast("Any", None)))
        del data["name"]
        return json.dumps({"v": VERSION, **data, "when": self.when.to_dict()}, separators=(",", ":"))

    @classmethod
    def of(cls, name: str, text: str) -> Spec:
        """Raises InvalidMessage: it is not one, or of a version that is not read here."""
        try:
            data = json.loads(text)
            if data.pop("v") != VERSION:
                raise InvalidMessage("it is of a version that is not read here")
            return cls(name=name, **{**data, "when": when_of(data["when"], f"schedule {name}")})
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise InvalidMessage(str(error)) from None

    def job(self, id: str, signer: Signer | None, at: float | None = None) -> tuple[Message, NewJob]:
        """The job of a tick. Raises InvalidMessage: nobody with a key has made this schedule."""
        if signer is not None:
            signer.check(self.message)
        template = Message.open(self.message)
        if template.id != schedule_id(self.name):
            raise InvalidMessage(f"its message was made for {template.id}")
        message = replace(template, id=id, headers={**template.headers, SCHEDULE: self.name})
        new = NewJob(
            id=id,
            message=message.seal(signer),
            digest=self.digest,
            route=message.route,
            token=f"schedule {self.name}",
            result_ttl=message.result_ttl,
            at=at,
            expires_in=self.expires_in,
            key=self.key,
            if_held=self.if_held,
            key_ttl=self.key_ttl,
        )
        return message, new


def due_ticks(when: When, missed: Missed, due: int, now: int, late: int) -> tuple[list[int], int | None]:
    """Which of the ticks from `due` to `now` are to be fired now, BATCH at most, and the tick after them. What is more
    than `late` behind was missed. All in milliseconds."""
    missed_until = now - late
    if missed == "all":
        if isinstance(when, Every):  # of a tenth of a second, after a month, there are millions
            due = max(due, (now // when.ms - MOST_MISSED + 1) * when.ms)
        kept = iter(deque(ticks(when, due, now), MOST_MISSED))
    else:
        first = due if due >= missed_until else when.next(missed_until - 1)
        kept = iter(()) if first is None else ticks(when, first, now)
    out = list(islice(kept, BATCH))
    if not out and missed == "once":
        out = [due]  # the first of them stands for all
    following = next(kept, None)
    return out, when.next(now) if following is None else following


def tick_id(name: str, tick: int) -> str:
    """The id of the job of a tick: the same whoever fires it."""
    moment = datetime.fromtimestamp(tick / 1000, UTC)
    return f"{name}-{moment:%Y%m%dT%H%M%S}{tick % 1000:03d}Z"


def check_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not NAME.match(name):
        raise ConfigError(f"name={name!r} in {where}: 1 to 90 letters, digits, '_' and '-'")
    return name


def check_missed(missed: object, where: str) -> Missed:
    if missed not in MISSED:
        raise ConfigError(f"missed={missed!r} in {where}: one of {', '.join(MISSED)}")
    return missed
