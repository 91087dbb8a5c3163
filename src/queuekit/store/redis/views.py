"""Reads of several keys for people: counts and workers. They are not one atomic step, and need not be."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from queuekit.job import JobStatus
from queuekit.store.views import Consumer, Listed, RouteCount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import redis

    Read: TypeAlias = Callable[[Callable[[redis.Redis], Any]], Any]

CHUNK = 1000  # commands of one conversation


def counts(read: Read, prefix: str, now: int) -> list[RouteCount]:
    """`now` in milliseconds."""
    routes = sorted(read(lambda client: client.smembers(f"{prefix}routes")))
    rows = _ask(
        read,
        [
            words
            for route in routes
            for words in (
                ("ZCARD", f"{prefix}queued:{route}"),
                ("ZRANGE", f"{prefix}queued:{route}", 0, 0),
                ("ZCARD", f"{prefix}due:{route}"),
                ("ZCOUNT", f"{prefix}due:{route}", "-inf", now),
                ("ZRANGEBYSCORE", f"{prefix}due:{route}", "-inf", now, "WITHSCORES", "LIMIT", 0, 1),
            )
        ],
    )
    heads = [first[0] for first in rows[1::5] if first]
    since = dict(
        zip(heads, _ask(read, [("HMGET", f"{prefix}job:{id}", "ready", "created") for id in heads]), strict=True)
    )
    running = _running(read, prefix)
    out = []
    for place, route in enumerate(routes):
        queued, first, parked, due, next_due = rows[5 * place : 5 * place + 5]
        moments = [int(float(next_due[1]))] if next_due else []  # it is followed by its score
        moments += [int(moment) for moment in since[first[0]] if moment is not None][:1] if first else []
        oldest = min(moments) / 1000 if moments else None
        out.append(RouteCount(route, queued + due, parked - due, running[route], oldest))
    return out


def _running(read: Read, prefix: str) -> Counter[str]:
    """As many as all workers run at a time."""
    found: Counter[str] = Counter()
    start = 0
    while some := _ask(read, [("ZRANGE", f"{prefix}running", start, start + CHUNK - 1)])[0]:
        found.update(route for route in _ask(read, [("HGET", f"{prefix}job:{id}", "route") for id in some]) if route)
        start += CHUNK
    return found


def consumers(read: Read, prefix: str) -> list[Consumer]:
    leases = dict(read(lambda client: client.zrange(f"{prefix}workers", 0, -1, withscores=True)))
    about, *held = _ask(
        read, [("HGETALL", f"{prefix}consumers"), *(("HKEYS", f"{prefix}worker:{name}") for name in leases)]
    )
    jobs = dict(zip(leases, held, strict=True))
    out = []
    for name in sorted(leases):
        since, _, said = about.get(name, "").partition("|")
        out.append(
            Consumer(
                name=name,
                since=int(since) / 1000 if since else None,
                until=leases[name] / 1000,
                about=json.loads(said) if said else {},
                jobs=tuple(sorted(jobs[name])),
            )
        )
    return out


def listed(row: list[Any]) -> Listed:
    """A row of the answer of jobs.lua."""
    id, task, moment, status, route, attempt, created, started, finished, reason, worker, ready = row

    def known(text: str | None) -> float | None:
        return None if text is None else int(text) / 1000

    return Listed(
        id=id,
        task=task,
        moment=int(moment) / 1000,
        status=JobStatus(status),
        route=route,
        attempt=int(attempt),
        created=int(created) / 1000,
        started=known(started),
        finished=known(finished),
        reason=reason or "",
        worker=worker or "",
        ready=known(ready),
    )


def _ask(read: Read, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The answers, in as few conversations as that takes."""
    asked, answers = list(commands), []
    for start in range(0, len(asked), CHUNK):

        def some(client: redis.Redis, start: int = start) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for words in asked[start : start + CHUNK]:
                    pipe.execute_command(*words)  # type: ignore[no-untyped-call]
                return pipe.execute()

        answers += read(some)
    return answers
