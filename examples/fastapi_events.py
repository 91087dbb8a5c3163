"""A web request that fans out to dozens of jobs, and a stream of server-sent events that says how they get on.

QUEUEKIT_BACKEND=rq queuekit worker fan_out.py --dev --concurrency 4         after model_endpoint.py; needs no FastAPI
QUEUEKIT_BACKEND=rq uvicorn fastapi_events:app --timeout-graceful-shutdown 5

curl -i localhost:8000/reports -H 'Content-Type: application/json' -d '{"sections": ["It rained.", "It was dry."]}'
curl -N localhost:8000/reports/ID/events
curl -X DELETE localhost:8000/reports/ID

In a browser `new EventSource("/reports/ID/events")` is all it takes: it comes back by itself when the connection is
lost, the service is deployed anew, or another copy of it answers. None of them holds anything: what a stream says is
read from the record, and the client brings along what it was told. A client that goes ends its stream, and no job.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable  # noqa: TC003  # FastAPI reads the annotations
from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

from fan_out import combine, summarise_section
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from queuekit import EnqueueError, Job, JobConflict, JobNotFound, JobNotReady, group
from queuekit.store import StoreAway

EVERY = 0.5  # seconds between two looks at the store, for each stream


class Order(BaseModel):
    sections: list[str] = Field(min_length=1, max_length=200)


class Accepted(BaseModel):
    id: str
    events: str


app = FastAPI(title="Reports")


@app.exception_handler(EnqueueError)
@app.exception_handler(StoreAway)
async def away(_request: Request, _error: Exception) -> JSONResponse:
    """The caller may send the same request again, with the same Idempotency-Key or Last-Event-ID."""
    return JSONResponse({"detail": "try again"}, 503, {"Retry-After": "5"})


@app.exception_handler(JobConflict)
async def another(_request: Request, error: JobConflict) -> JSONResponse:
    """The Idempotency-Key was used for something else."""
    return JSONResponse({"detail": str(error)}, 409)


@app.exception_handler(JobNotFound)
async def unknown(_request: Request, error: JobNotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


@app.post("/reports", status_code=202)
async def create(order: Order, response: Response, idempotency_key: Annotated[str | None, Header()] = None) -> Accepted:
    """All jobs are recorded when this answers. The report waits for the sections, and no request and no worker does."""
    sections = group([summarise_section.bind(number, text) for number, text in enumerate(order.sections)])
    job = await sections.then(combine).aenqueue(id=idempotency_key or uuid4().hex)
    response.headers["Location"] = events = f"/reports/{job.id}/events"
    return Accepted(id=job.id, events=events)


@dataclass(frozen=True)
class Stream:
    """Of a report: what there is to tell, and what this client knows. The report itself is the last of the jobs."""

    jobs: list[Job[str]]
    told: int  # a bit for each job

    def left(self) -> dict[int, Job[str]]:
        return {number: job for number, job in enumerate(self.jobs) if not self.told >> number & 1}


async def stream_of(id: str, last_event_id: Annotated[str, Header()] = "") -> Stream:
    """Before anything is sent, so that there is a status for what is wrong. A browser takes 204 for the end of it."""
    report = combine.job(id)
    info = await report.ainfo()
    if info.task != combine.name:
        raise JobNotFound(f"no report {id!r}")
    told = int(last_event_id, 16) if re.fullmatch(r"[0-9a-f]{1,100}", last_event_id) else 0
    stream = Stream([*(summarise_section.job(section) for section in info.after), report], told)
    if len(stream.jobs) - 1 not in stream.left():
        raise HTTPException(204)
    return stream


@app.get("/reports/{id}/events", response_class=EventSourceResponse)
async def events(stream: Annotated[Stream, Depends(stream_of)]) -> AsyncIterable[ServerSentEvent]:
    """`section` for each that has ended, in whatever order they do, and then `report`. FastAPI sends a comment in 15 s
    of silence, so that proxies keep the connection, and cancels this where the client has gone."""
    left, total = stream.left(), len(stream.jobs) - 1
    told, there = stream.told, True
    yield ServerSentEvent(event="open", data={"done": total + 1 - len(left), "total": total}, retry=2000)
    while left:
        try:
            # One look for all of them, which waits for nobody; the result of each is read once.
            found = await Job.await_all(left.values(), timeout=0, return_exceptions=True)
        except StoreAway:
            # The jobs may well go on. To end the stream would have the browser ask again, and give up at the 503.
            if there:
                yield ServerSentEvent(event="away", data={"detail": "the store is away; this goes on when it is back"})
            there = False
            await asyncio.sleep(EVERY)
            continue
        there = True
        for number, outcome in zip(list(left), found, strict=True):
            if isinstance(outcome, JobNotReady):
                continue
            del left[number]
            told |= 1 << number
            said = {"text": outcome} if isinstance(outcome, str) else {"error": str(outcome)}
            if number == total:
                yield ServerSentEvent(event="report", data=said, id=f"{told:x}")
                return
            progress = {"number": number, "done": total + 1 - len(left), "total": total}
            yield ServerSentEvent(event="section", data=progress | said, id=f"{told:x}")
        await asyncio.sleep(EVERY)


@app.delete("/reports/{id}", status_code=202)
async def cancel(id: str) -> Accepted:
    """Sections that run are told, those that have not started never start; whoever follows it hears of it."""
    if not await combine.job(id).acancel("the client asked for it", whole=True):
        raise HTTPException(409, "it is over")
    return Accepted(id=id, events=f"/reports/{id}/events")
