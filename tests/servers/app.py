"""The application that the real servers run: each handler tells what happens to it."""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
from collections import Counter
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from cancelable import Cancelable, CancelationReason, CancelationToken, OperationContext
from cancelable_starlette import (
    CancelableRoute,
    CancelableWebSocket,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    get_request_operation,
)

GRACE = 0.2
"""Seconds between telling streams and sockets of a shutdown and cutting them."""

shutdown = CancelationToken()


def note(path: str, event: str, detail: object = None) -> None:
    """Tell the test what happened to the request of *path*.

    The output is shared with whatever else logs there, in other processes too: granian does. What
    those write may be the beginning of a line. One write that begins and ends a line stays whole,
    because the system writes up to ``PIPE_BUF`` bytes to a pipe at once (POSIX, ``write``).
    """
    line = f"\n{json.dumps([path, event, detail])}\n".encode()
    assert len(line) <= select.PIPE_BUF, line
    os.write(sys.stdout.fileno(), line)


async def sleep(request: Request) -> Response:
    """Wait for nothing."""
    note(request.url.path, "entered")
    try:
        await anyio.sleep_forever()
    finally:
        note(request.url.path, "stopped")
    return PlainTextResponse("never")


async def stream(request: Request) -> Response:
    """Send a byte now and then, or one, or only when the client has long given up."""
    path = request.url.path

    async def chunks() -> AsyncIterator[bytes]:
        note(path, "entered")
        try:
            if "silent" in path:
                await anyio.sleep_forever()
            yield b"."
            while "ours" in path:
                await anyio.sleep(0.01)
                yield b"."
            # Starlette's own response leaves a generator that was cut at its `yield`, as it is
            # while a layer hands its chunk on, to the collector.
            note(path, "waiting")
            await anyio.sleep_forever()
        finally:
            note(path, "stopped")

    if "ours" in path:
        return cancelable_streaming_response(chunks())
    return StreamingResponse(chunks())


async def farewell(request: Request) -> Response:
    """Stream until the server shuts down, say so, and end."""
    path = request.url.path
    operation = get_request_operation(request)
    assert operation is not None

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: hello\n\n"
        note(path, "entered")
        if "heeds" in path:
            yield f"data: {await operation.wait_cancelling()}\n\n".encode()
        else:
            await anyio.sleep_forever()

    return cancelable_streaming_response(chunks())


async def plain(request: Request) -> Response:
    """Answer when the grace of a shutdown is over."""
    note(request.url.path, "entered")
    await shutdown.wait()
    await anyio.sleep(1.5 * GRACE)
    return PlainTextResponse("done")


async def stop(request: Request) -> Response:
    """Say that the server shuts down, as one may who embeds it."""
    shutdown.cancel_sync("signal")
    return PlainTextResponse("stopping")


async def goes_on(request: Request) -> Response:
    """Notice that the client has left, and end by itself: with an answer or with a stream."""
    path = request.url.path
    operation = get_request_operation(request)
    assert operation is not None

    async def until_left() -> None:
        note(path, "entered")
        if "patient" in path:
            await operation.wait_cancelling()
        while not await request.is_disconnected():
            await anyio.sleep(0.01)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"."
        await until_left()
        yield b"."
        note(path, "finished")

    if "stream" in path:
        return cancelable_streaming_response(chunks())
    await until_left()
    note(path, "finished")
    return PlainTextResponse("for nobody")


reads: Counter[str] = Counter()
"""How many calls of the server's ``receive()`` wait, by the path of their request."""


async def reads_of(request: Request) -> Response:
    """Tell how many reads of the requests to another path wait in the server."""
    return PlainTextResponse(str(reads[f"/{request.path_params['path']}"]))


async def outlasts(request: Request) -> Response:
    """Answer a while later, whether the client is there or not."""
    note(request.url.path, "entered")
    await anyio.sleep(0.1)
    note(request.url.path, "reads", reads[request.url.path])
    return PlainTextResponse("there you are")


async def ends(request: Request) -> Response:
    """Have the request cancelled with the reason that the path says."""
    operation = get_request_operation(request)
    assert operation is not None
    operation.cancel_sync(CancelationReason(request.path_params["reason"]))
    await anyio.sleep_forever()
    return PlainTextResponse("never")


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
    """Answer without reading a byte of the body, at once or when much of it has come."""
    late = anyio.current_time() + (0.003 if "late" in request.url.path else 0)
    while anyio.current_time() < late:
        await anyio.lowlevel.checkpoint()
    return PlainTextResponse("too large", status_code=413)


async def background(request: Request) -> Response:
    """Answer, and work on."""
    path = request.url.path

    async def work() -> None:
        note(path, "working")
        await anyio.sleep(0.05)
        note(path, "finished")

    return PlainTextResponse("accepted", background=BackgroundTask(work))


async def socket(websocket: WebSocket) -> None:
    """Echo, or send and wait, close, or do not accept; the path says which."""
    path = websocket.url.path
    note(path, "entered")
    try:
        if "unaccepted" in path:
            await anyio.sleep_forever()
        await websocket.accept()
        await websocket.send_text("hello")
        if "echo" in path:
            async for text in websocket.iter_text():
                note(path, "got", text)
                await websocket.send_text(text)
        elif "closes" in path:
            await websocket.close(4002)
        elif "code" in path:
            try:
                await websocket.receive_text()
            except WebSocketDisconnect as exc:
                note(path, "code", exc.code)
        elif "timeout" in path:
            async with Cancelable.with_timeout(0.05) as cancel:
                await CancelableWebSocket(websocket, cancel).receive_text()
        elif "ticks" in path:
            while True:
                await anyio.sleep(0.01)
                await websocket.send_text("tick")
        else:
            await anyio.sleep_forever()
    finally:
        note(path, "stopped")


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
        Route("/refuse/{id}", refuse, methods=["GET", "POST"]),
        Route("/refuse/late/{id}", refuse, methods=["GET", "POST"]),
        Route("/background/{id}", background),
        Route("/farewell/{kind}", farewell),
        Route("/plain", plain),
        Route("/stop", stop),
        Route("/unwatched/{id}", outlasts),
        Route("/outlasts/{id:path}", outlasts),
        Route("/reads/{path:path}", reads_of),
        Route("/ends/{reason}/{id}", ends),
        WebSocketRoute("/socket/{kind}/{id}", socket),
        CancelableRoute("/timeout/{id}", sleep, timeout=0.1, methods=["GET", "POST"]),
        CancelableRoute("/timeout/stream/{kind}/{id}", stream, timeout=0.1),
        CancelableRoute("/continues/{kind}/{id}", goes_on, on_disconnect="continue"),
        Route("/patient/{kind}/{id}", goes_on),
    ]


def note_end(context: OperationContext) -> None:
    """Tell the test how the operation of a request ended."""
    path = str(context.metadata["path"])
    note(path, "cancelled", context.cancel_reason and context.cancel_reason.value)


def outermost(app: ASGIApp, patient: ASGIApp | None = None) -> ASGIApp:
    """Tell the test when the application has returned to the server, and how; count its reads.

    Args:
        app: The application.
        patient: Another one, for requests that are told first and cut later.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")

        async def counted() -> Message:
            reads[path] += 1
            try:
                return await receive()
            finally:
                reads[path] -= 1

        how = "raised"
        chosen = patient if patient is not None and path.startswith("/patient") else app
        try:
            await chosen(scope, counted, send)
            how = "returned"
        finally:
            if scope["type"] != "lifespan":
                note(path, how)

    return wrapped


def is_watched(scope: Scope) -> bool:
    """Leave some requests alone."""
    return not scope["path"].startswith("/unwatched")


doubled = RequestCancelationMiddleware(Starlette(routes=routes()), on_cancel=note_end)
doubled_and_short = RequestCancelationMiddleware(
    Starlette(routes=routes()), on_cancel=note_end, default_timeout=0.1
)
layers = [
    Mount(f"/layers{count}", Starlette(routes=routes(), middleware=[Middleware(Pass)] * count))
    for count in (1, 2)
]
layers += [Mount("/doubled/short", doubled_and_short), Mount("/doubled", doubled)]
inside = outermost(
    Starlette(
        routes=routes(),
        middleware=[
            Middleware(
                RequestCancelationMiddleware,
                on_cancel=note_end,
                shutdown=shutdown,
                shutdown_grace=GRACE,
            )
        ],
    )
)
"""An application that was given the middleware, and is around it."""

app = outermost(
    RequestCancelationMiddleware(
        Starlette(routes=[*layers, *routes()]),
        predicate=is_watched,
        on_cancel=note_end,
        shutdown=shutdown,
        shutdown_grace=GRACE,
    ),
    RequestCancelationMiddleware(Starlette(routes=routes()), on_cancel=note_end, grace=30),
)
