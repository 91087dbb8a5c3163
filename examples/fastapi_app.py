"""A web service in front of the queue: enqueue, poll, cancel. The loop is never blocked.

QUEUEKIT_BACKEND=rq queuekit worker process_document.py --dev        after model_endpoint.py; needs no FastAPI
QUEUEKIT_BACKEND=rq uvicorn fastapi_app:app

curl -i localhost:8000/summaries -H 'Content-Type: application/json' -d '{"name": "a", "text": "It rained."}'
curl localhost:8000/summaries/ID
curl -X DELETE localhost:8000/summaries/ID
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from process_document import Summary, process_document
from pydantic import BaseModel

from queuekit import EnqueueError, JobConflict, JobNotFound, JobStatus


class Order(BaseModel):
    name: str
    text: str


class State(BaseModel):
    id: str
    status: JobStatus
    attempts: int
    summary: Summary | None = None
    error: str | None = None


app = FastAPI(title="Summaries")


@app.exception_handler(EnqueueError)
async def not_accepted(_request: Request, error: EnqueueError) -> JSONResponse:
    """The store is away. The caller may send the same request again, with the same Idempotency-Key."""
    return JSONResponse({"detail": "try again", "job": error.job_id}, 503, {"Retry-After": "5"})


@app.exception_handler(JobConflict)
async def another(_request: Request, error: JobConflict) -> JSONResponse:
    """The Idempotency-Key was used for something else."""
    return JSONResponse({"detail": str(error)}, 409)


@app.exception_handler(JobNotFound)
async def unknown(_request: Request, error: JobNotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


@app.post("/summaries", status_code=202)
async def create(order: Order, response: Response, idempotency_key: Annotated[str | None, Header()] = None) -> State:
    """The key becomes the job's id: a request that is sent twice is one job."""
    task = process_document if idempotency_key is None else process_document.options(id=idempotency_key)
    job = await task.aenqueue(order.name, order.text)
    response.headers["Location"] = f"/summaries/{job.id}"
    return await read(job.id)


@app.get("/summaries/{id}")
async def read(id: str) -> State:
    job = process_document.job(id)
    info = await job.ainfo()
    summary = await job.aresult(timeout=0) if info.status is JobStatus.succeeded else None
    error = info.reason if info.status is JobStatus.failed else None
    return State(id=id, status=info.status, attempts=len(info.attempts), summary=summary, error=error)


@app.delete("/summaries/{id}", status_code=202)
async def cancel(id: str) -> State:
    if not await process_document.job(id).acancel("the client asked for it"):
        raise HTTPException(409, "it is over")
    return await read(id)
