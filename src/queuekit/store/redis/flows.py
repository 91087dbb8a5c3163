"""Workflows and trees as the scripts and the keys have them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from queuekit.job import JobStatus
from queuekit.store.flows import FlowJob, FlowState, Followed, Input, Kin, NewFlow
from queuekit.store.views import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis

    from queuekit.store import NewJob, Taken

    Read: TypeAlias = Callable[[Callable[[redis.Redis], Any]], Any]

CHUNK = 500  # jobs of one conversation


def ties(job: NewJob) -> str:
    if job.parent is None and not job.elsewhere:
        return ""
    parent, fence = job.parent or (None, None)
    said = {"parent": parent, "fence": fence, "elsewhere": job.elsewhere or None}
    return json.dumps({name: value for name, value in said.items() if value is not None})


def asked(flow: NewFlow) -> tuple[str | int, ...]:
    parent, fence = flow.parent or ("", "")
    return flow.id, parent, fence, ",".join(flow.undo), flow.jobs


def written(jobs: Sequence[FlowJob]) -> list[str]:
    said = [
        {
            "id": one.new.id,
            "digest": one.new.digest,
            "route": one.new.route,
            "result_ttl": _ms(one.new.result_ttl),
            "at": _ms(one.new.at),
            "delay": _ms(one.new.delay),
            "expires": _ms(one.new.expires),
            "expires_in": _ms(one.new.expires_in),
            "after": ",".join(one.after),
            "next": ",".join(one.next),
            "uses": ",".join(one.uses),
            "needs": str(one.needs),
            "rule": one.rule,
            "undoes": one.undoes,
        }
        for one in jobs
    ]
    return [json.dumps(said, separators=(",", ":")), *(one.new.message for one in jobs)]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else str(math.ceil(round(seconds * 1000, 6)))


def rang(rows: Sequence[Sequence[Any]]) -> tuple[tuple[str, Taken], ...]:
    from queuekit.store import Taken

    return tuple((route, Taken(message, int(pseq), int(number), epoch)) for message, pseq, number, epoch, route in rows)


def followed(answer: Any) -> bool | Followed:
    return Followed(rang(answer)) if isinstance(answer, list) else bool(answer)


def inputs(read: Read, prefix: str, ids: Sequence[str]) -> list[Input]:
    out = []
    for start in range(0, len(ids), CHUNK):

        def some(client: redis.Redis, start: int = start) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for id in ids[start : start + CHUNK]:
                    pipe.hmget(f"{prefix}job:{id}", "status", "proof")
                    pipe.get(f"{prefix}result:{id}")
                return pipe.execute()

        rows = read(some)
        for (status, proof), text in zip(rows[::2], rows[1::2], strict=True):
            out.append(Input(None if status is None else JobStatus(status), text, proof or ""))
    return out


_KIN = ("status", "attempt", "route", "parent", "root", "flow", "after", "rule", "undoes", "reason", "kids", "message")


def kin(read: Read, prefix: str, ids: Sequence[str]) -> list[Kin | None]:
    out = []
    for start in range(0, len(ids), CHUNK):

        def some(client: redis.Redis, start: int = start) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for id in ids[start : start + CHUNK]:
                    pipe.hmget(f"{prefix}job:{id}", *_KIN)
                return pipe.execute()

        out += [_kin(id, row) for id, row in zip(ids[start : start + CHUNK], read(some), strict=True)]
    return out


def _kin(id: str, row: list[Any]) -> Kin | None:
    if row[0] is None:
        return None
    status, attempt, route, parent, root, flow, after, rule, undoes, reason, kids, message = (one or "" for one in row)
    return Kin(
        id=id,
        task=task_of(message),
        status=JobStatus(status),
        attempt=int(attempt),
        route=route,
        parent=parent,
        root=root,
        flow=flow,
        after=tuple(filter(None, after.split(","))),
        rule=rule,
        undoes=undoes,
        reason=reason,
        children=bool(kids),
    )


def state(row: Mapping[str, str], id: str) -> FlowState | None:
    if "open" not in row:
        return None
    return FlowState(
        id=id,
        root=row["root"],
        parent=row.get("parent", ""),
        open=int(row["open"]),
        bad=int(row.get("bad", 0)),
        undo=tuple(filter(None, row.get("undo", "").split(","))),
        undoing="phase" in row,
        started="started" in row,
    )
