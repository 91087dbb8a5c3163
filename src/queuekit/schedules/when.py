"""When a schedule ticks: a cron expression in a time zone, an interval, or a moment. Pure: a moment comes in as an
argument, as milliseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

__all__ = ["At", "Cron", "Every", "When", "ticks", "when_of"]

SHORTEST = 100  # ms: five looks of a steward in a second would not see more
LONGEST = 400 * 86_400_000


class When(Protocol):
    """Cron, Every or At."""

    def next(self, after: int) -> int | None:
        """The first tick after that moment, or None."""
        ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields (minute, hour, day, month, weekday; of six with seconds before them), in a time
    zone of the IANA's: `Cron("0 3 * * *", tz="Europe/Berlin")`.

    Daylight saving is as Debian's cron has it. A tick at a fixed time that the clocks jump over comes at the moment of
    the jump; one at a time that comes twice comes the first time. What ticks at each hour or minute (`*`, `*/15`)
    follows the time that really passes.

    Raises:
        ConfigError: an expression that cannot be read or never ticks, or an unknown time zone.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        from cronsim import CronSim, CronSimError

        try:
            zone = self._zone()
        except (ValueError, OSError, TypeError, LookupError):  # ZoneInfoNotFoundError is a KeyError
            raise ConfigError(
                f"tz={self.tz!r} in Cron({self.expression!r}): no such time zone here. Give a name such as "
                "'Europe/Berlin'; a system without time zones gets them by `pip install tzdata`"
            ) from None
        try:
            next(CronSim(self.expression, datetime(2024, 1, 1, tzinfo=zone)))
        except (CronSimError, AttributeError, TypeError) as error:
            raise ConfigError(f"Cron({self.expression!r}): {error}, as in '0 3 * * *', at three each day") from None
        except StopIteration:
            raise ConfigError(f"Cron({self.expression!r}): never ticks") from None

    def _zone(self) -> ZoneInfo:
        from zoneinfo import ZoneInfo

        return ZoneInfo(self.tz)

    def next(self, after: int) -> int | None:
        from cronsim import CronSim

        start = datetime.fromtimestamp(after // 1000, UTC).astimezone(self._zone())
        for found in CronSim(self.expression, start):
            moment = round(found.timestamp()) * 1000
            if moment > after:
                return moment
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"cron": self.expression, "tz": self.tz}

    def __str__(self) -> str:
        return f"{self.expression} ({self.tz})"


class Every:
    """An interval in seconds, or a timedelta, 0.1 s to 400 days. Counted from 1970 in UTC, so that it ticks at the same
    moments whoever computes them: `Every(3600)` at each full hour, whenever it was declared.

    Raises:
        ConfigError: not such an interval.
    """

    def __init__(self, interval: float | timedelta) -> None:
        seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ConfigError(f"Every({interval!r}): seconds as a number, or a timedelta")
        if not SHORTEST <= seconds * 1000 <= LONGEST:
            raise ConfigError(f"Every({interval!r}): 0.1 seconds to 400 days")
        self.ms = round(seconds * 1000)

    def next(self, after: int) -> int | None:
        return (after // self.ms + 1) * self.ms

    def to_dict(self) -> dict[str, Any]:
        return {"every": self.ms / 1000}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Every) and other.ms == self.ms

    def __hash__(self) -> int:
        return hash(self.ms)

    def __repr__(self) -> str:
        return f"Every({self.ms / 1000:g})"

    def __str__(self) -> str:
        return f"every {self.ms / 1000:g} s"


class At:
    """One moment, with a time zone.

    Raises:
        ConfigError: no datetime, or one without a time zone.
    """

    def __init__(self, moment: datetime) -> None:
        if not isinstance(moment, datetime):
            raise ConfigError(f"At({moment!r}): a datetime")
        if moment.tzinfo is None:
            raise ConfigError(f"At({moment!r}): a moment needs a time zone: datetime.now(timezone.utc)")
        if not 1970 < moment.year < 9000:
            raise ConfigError(f"At({moment!r}): a moment between the years 1971 and 8999")
        self.ms = round(moment.timestamp() * 1000)

    def next(self, after: int) -> int | None:
        return self.ms if self.ms > after else None

    def to_dict(self) -> dict[str, Any]:
        return {"at": datetime.fromtimestamp(self.ms / 1000, UTC).isoformat()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, At) and other.ms == self.ms

    def __hash__(self) -> int:
        return hash(self.ms)

    def __repr__(self) -> str:
        return f"At({datetime.fromtimestamp(self.ms / 1000, UTC)!r})"

    def __str__(self) -> str:
        return f"at {datetime.fromtimestamp(self.ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def when_of(table: Mapping[str, Any], where: str) -> When:
    """What a table says: one of cron (and tz), every and at. Raises ConfigError."""
    given = [name for name in ("cron", "every", "at") if table.get(name) is not None]
    if len(given) != 1:
        raise ConfigError(f"{where}: give one of cron, every and at, not {' and '.join(given) or 'none'}")
    if table.get("tz") is not None and given != ["cron"]:
        raise ConfigError(f"{where}: tz is for cron; {given[0]} needs none")
    value = table[given[0]]
    if given == ["cron"]:
        return Cron(value, table.get("tz") or "UTC")
    if given == ["every"]:
        return Every(value)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: at={value!r} is no moment: write 2030-01-31T03:00:00Z") from None
    return At(moment)


def ticks(when: When, first: int, until: int) -> Iterator[int]:
    """The ticks from `first`, which is one, to `until`."""
    tick: int | None = first
    while tick is not None and tick <= until:
        yield tick
        tick = when.next(tick)
