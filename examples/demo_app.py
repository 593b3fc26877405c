"""The app of the demo: what a FastAPI program looks like when its requests can be cancelled.

``demo.py`` serves it and plays its clients. The only line that makes all of it cancelable is the
one that adds the middleware; the guest book is there so that the demo can tell what went on here.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from demo_guest_book import Guest, GuestBook
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from cancelable import (
    Cancelable,
    CancelationToken,
    CancelOutcome,
    OperationRegistry,
    current_operation,
)
from cancelable_fastapi import (
    RequestCancelationMiddleware,
    cancelable_streaming_response,
)

app = FastAPI(title="cancelable: the demo")
app.add_middleware(RequestCancelationMiddleware)

guests = GuestBook()


@app.get("/hello")
async def hello() -> dict[str, str]:
    with guests.visit("hello"):
        return {"hello": "world"}


@app.get("/slow")
async def slow() -> dict[str, str]:
    """Work for half a minute, and know nothing of cancelation."""
    with guests.visit("slow"):
        await anyio.sleep(30)
        return {"slow": "done after all"}


@app.get("/report")
async def report() -> dict[str, str]:
    """Take longer than this work may take."""
    async with Cancelable.with_timeout(0.3, name="report"):
        with guests.visit("report"):
            await anyio.sleep(30)
            return {"report": "done after all"}


# A job goes on when its request is over, and is cancelled by its id.


@app.post("/jobs", status_code=202)
async def start_job(background_tasks: BackgroundTasks) -> dict[str, str]:
    token = CancelationToken()
    background_tasks.add_task(work, token)
    return {"job": token.id}


async def work(token: CancelationToken) -> None:
    job = Cancelable.with_token(token, token.id, name="job", register_globally=True)
    async with job:
        with guests.visit("job"):
            for step in range(1, 300):
                await job.report_progress(f"step {step} of 300")
                await anyio.sleep(0.1)


@app.get("/jobs/{job}")
async def look_at_job(job: str) -> dict[str, str]:
    known = OperationRegistry.current().get(job)
    if known is None:
        raise HTTPException(404, "no such job")
    return {"job": job, "status": known.status.value}


@app.delete("/jobs/{job}")
async def cancel_job(job: str) -> JSONResponse:
    registry = OperationRegistry.current()
    outcome = registry.cancel(job, message="DELETE /jobs")
    if outcome is CancelOutcome.UNKNOWN:
        raise HTTPException(404, "no such job")
    stopped = await registry.wait_stopped(job, timeout=1)
    status = "cancelling" if stopped is None else stopped.status.value
    answer = {"job": job, "outcome": outcome.value, "status": status}
    return JSONResponse(answer, status_code=202 if stopped is None else 200)


# A stream of events ends when its reader leaves.


@app.get("/events")
async def events() -> Response:
    async def tick() -> AsyncIterator[str]:
        with guests.visit("events") as guest:
            for number in range(1, 1000):
                guest.note(f"event {number}")
                yield f"data: tick {number}\n\n"
                await anyio.sleep(0.05)

    return cancelable_streaming_response(tick())


# An upload reports how far it is, and leaves no half of a file behind.


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    size = int(request.headers.get("content-length", 0))
    async with Cancelable(name="upload") as cancel:
        with guests.visit("upload") as guest:
            cancel.on_progress(lambda _id, message, _facts: guest.note(str(message)))
            return {"bytes": await save(request, size, guest)}


async def save(request: Request, size: int, guest: Guest) -> int:
    file = Path(tempfile.gettempdir()) / f"cancelable-demo-{id(request)}.part"
    operation = current_operation()
    assert operation is not None
    written, quarter = 0, 1
    try:
        with file.open("wb") as output:
            async for chunk in request.stream():
                written += output.write(chunk)
                while size and written * 4 >= size * quarter:
                    await operation.report_progress(f"{quarter * 25} %")
                    quarter += 1
    finally:
        file.unlink(missing_ok=True)
        guest.note("file deleted")
    return written


# What the demo asks behind the scenes, and what a browser sees first.


@app.get("/guests/{name}/arrival", include_in_schema=False)
async def wait_for_arrival(name: str) -> dict[str, object]:
    """Answer when a visit has begun."""
    return await guests.wait_for_arrival(name)


@app.get("/guests/{name}/departure", include_in_schema=False)
async def wait_for_departure(name: str) -> dict[str, object]:
    """Answer when a visit is over, with what the server saw of it."""
    return await guests.wait_for_departure(name)


@app.get("/", response_class=HTMLResponse, include_in_schema=False)
async def index() -> str:
    return """<!doctype html><title>cancelable: the demo</title>
<h1>Leave in the middle</h1>
<p>Watch the terminal that serves this page, open one of these, and press <b>Stop</b>:</p>
<ul><li><a href="/slow">a handler that works for half a minute</a>
<li><a href="/events">an endless stream of events</a>
<li><a href="/report">a handler that may take 0.3 s only</a></ul>
<p>All of it: <a href="/docs">/docs</a></p>"""
