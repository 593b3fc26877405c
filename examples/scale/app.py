"""One app in many workers: start on one, watch and cancel through any other.

    BUS_URL=redis://localhost uvicorn --workers 2 app:app

``Authorization: Bearer ann`` (or ``bob``) signs in. ``POST /reports?title=...`` starts a report and
answers with its id; ``GET /operations/{id}/events`` follows it, ``DELETE /operations/{id}?wait=5``
stops it. Each answer names its worker in ``X-Worker``, so that one can see which it was.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import current_operation
from cancelable.bus import RedisBus
from cancelable_fastapi import (
    RequestCancelationMiddleware,
    cancelable_background,
    operations_router,
)

PAGES = 1000
USERS = {"ann", "bob"}  # a real program checks a signature here

bearer = HTTPBearer()
bus = RedisBus(os.environ.get("BUS_URL", "redis://localhost"), namespace="reports", heartbeat=1)


async def signed_in(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
) -> str:
    if credentials.credentials not in USERS:
        raise HTTPException(401, "sign in first")
    return credentials.credentials


async def owner(user: Annotated[str, Depends(signed_in)]) -> dict[str, str]:
    return {"owner": user}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # In each worker, after the fork. It does not fail when the broker is away.
    async with bus:
        yield


class NameWorker:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-worker"] = str(os.getpid())
            await send(message)

        await self.app(scope, receive, named)


app = FastAPI(lifespan=lifespan)
app.add_middleware(RequestCancelationMiddleware)
app.add_middleware(NameWorker)
app.include_router(operations_router(authorize=signed_in, owner=owner, bus=bus))


@app.post("/reports", status_code=202)
async def start_report(
    owner: Annotated[dict[str, str], Depends(owner)], title: str
) -> JSONResponse:
    task = cancelable_background(make_report, title, name="report", metadata=owner)
    # From here on every worker knows the id, although the report begins behind this answer.
    await bus.announce(task.operation)
    return JSONResponse({"id": task.operation_id}, 202, background=task)


@app.get("/health")
async def health() -> dict[str, object]:
    status = bus.status
    return {"bus": "up" if status.up else "down", "since": str(status.since), "live": status.live}


async def make_report(title: str) -> None:
    job = current_operation()
    assert job is not None
    for page in range(1, PAGES + 1):
        await anyio.sleep(0.05)  # a page of work
        await job.report_progress(f"{title}: page {page}", {"page": page})
