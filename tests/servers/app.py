"""The application that the real servers run: each handler tells what happens to it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cancelable import OperationContext
from cancelable_starlette import (
    CancelableRoute,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
)


def note(path: str, event: str, detail: object = None) -> None:
    """Tell the test what happened to the request of *path*."""
    print(json.dumps([path, event, detail]), file=sys.stdout, flush=True)  # noqa: T201


async def sleep(request: Request) -> Response:
    """Wait for nothing."""
    note(request.url.path, "entered")
    try:
        await anyio.sleep_forever()
    finally:
        note(request.url.path, "stopped")
    return PlainTextResponse("never")


async def stream(request: Request) -> Response:
    """Send a byte now and then, or only when the client has long given up."""
    path = request.url.path

    async def chunks() -> AsyncIterator[bytes]:
        note(path, "entered")
        try:
            if "silent" in path:
                await anyio.sleep_forever()
            while True:
                yield b"."
                await anyio.sleep(0.01)
        finally:
            note(path, "stopped")

    if "ours" in path:
        return cancelable_streaming_response(chunks())
    return StreamingResponse(chunks())


async def flood(request: Request) -> Response:
    """Send more than a client that does not read will take."""
    path = request.url.path

    async def chunks() -> AsyncIterator[bytes]:
        note(path, "entered")
        try:
            while True:
                yield b"x" * 65536
                await anyio.lowlevel.checkpoint()
        finally:
            note(path, "stopped")

    return StreamingResponse(chunks())


async def upload(request: Request) -> Response:
    """Read the whole body, perhaps late, perhaps after looking whether the client is there."""
    path = request.url.path
    note(path, "entered")
    if "late" in path:
        await anyio.sleep(0.05)
    if "peek" in path:
        for _ in range(5):
            note(path, "peeked", await request.is_disconnected())
            await anyio.sleep(0.005)
    try:
        body = await request.body()
    finally:
        note(path, "stopped")
    return JSONResponse({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})


async def refuse(request: Request) -> Response:
    """Answer without reading a byte of the body."""
    return PlainTextResponse("too large", status_code=413)


async def background(request: Request) -> Response:
    """Answer, and work on."""
    path = request.url.path

    async def work() -> None:
        note(path, "working")
        await anyio.sleep(0.1)
        note(path, "finished")

    return PlainTextResponse("accepted", background=BackgroundTask(work))


class Pass(BaseHTTPMiddleware):
    """A layer that does nothing, as its kind does it."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def routes() -> list[BaseRoute]:
    """Return the handlers, for any number of layers around them."""
    return [
        Route("/sleep/{id}", sleep, methods=["GET", "POST"]),
        Route("/stream/{kind}/{id}", stream),
        Route("/flood/{id}", flood),
        Route("/upload/{kind}/{id}", upload, methods=["POST"]),
        Route("/refuse/{id}", refuse, methods=["POST"]),
        Route("/background/{id}", background),
        CancelableRoute("/timeout/{id}", sleep, timeout=0.1, methods=["GET", "POST"]),
    ]


def note_end(context: OperationContext) -> None:
    """Tell the test how the operation of a request ended."""
    path = str(context.metadata["path"])
    note(path, "cancelled", context.cancel_reason and context.cancel_reason.value)


def outermost(app: ASGIApp) -> ASGIApp:
    """Tell the test when the application has returned to the server, and how."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        how = "raised"
        try:
            await app(scope, receive, send)
            how = "returned"
        finally:
            if scope["type"] == "http":
                note(scope["path"], how)

    return wrapped


layers = [
    Mount(f"/layers{count}", Starlette(routes=routes(), middleware=[Middleware(Pass)] * count))
    for count in (1, 2)
]
app = outermost(
    RequestCancelationMiddleware(Starlette(routes=[*layers, *routes()]), on_cancel=note_end)
)
