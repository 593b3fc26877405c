"""The applications that are measured: one with Starlette, one with FastAPI, the same routes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator

import anyio
from candidates import middlewares
from fastapi import FastAPI
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from cancelable import Cancelable
from cancelable_starlette import CancelableWebSocket, cancelable_streaming_response

CHUNKS = 1000
CHUNK = b"data: " + b"x" * 56 + b"\r\n"


async def chunks() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK


async def events() -> AsyncIterator[dict[str, str]]:
    for _ in range(CHUNKS):
        yield {"data": "x" * 52}


async def silence() -> AsyncIterator[bytes]:
    """Say hello and then nothing more, as most event streams do most of the time."""
    yield b"data: hello\r\n\r\n"
    await anyio.sleep_forever()


async def get_json(request: Request) -> JSONResponse:
    return JSONResponse({"hello": "world"})


async def get_json_late(request: Request) -> JSONResponse:
    """Answer when the request is old enough to be watched."""
    await anyio.sleep(0.02)
    return JSONResponse({"hello": "world"})


async def post_json(request: Request) -> JSONResponse:
    return JSONResponse({"size": len(await request.body())})


async def stream_of_starlette(request: Request) -> Response:
    return StreamingResponse(chunks(), media_type="text/event-stream")


async def stream_of_ours(request: Request) -> Response:
    return cancelable_streaming_response(chunks())


async def stream_of_sse_starlette(request: Request) -> Response:
    return EventSourceResponse(events())


async def sleep(request: Request) -> Response:
    """Tell when it begins and when it is stopped, on the clock that processes share."""
    print(json.dumps(["begins", time.monotonic()]), flush=True)
    try:
        await anyio.sleep_forever()
    finally:
        print(json.dumps(["stopped", time.monotonic()]), flush=True)


async def ignore_upload(request: Request) -> Response:
    """Let the client send for a while, and read nothing of it."""
    await anyio.sleep(2.5)
    return JSONResponse({})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


async def echo_of_ours(socket: WebSocket) -> None:
    try:
        async with Cancelable() as cancel:
            ours = CancelableWebSocket(socket, cancel)
            await ours.accept()
            while True:
                await ours.send_text(await ours.receive_text())
    except WebSocketDisconnect:
        return


def of_starlette() -> ASGIApp:
    return Starlette(
        routes=[
            Route("/json", get_json),
            Route("/late", get_json_late),
            Route("/post", post_json, methods=["POST"]),
            Route("/stream/starlette", stream_of_starlette),
            Route("/stream/ours", stream_of_ours),
            Route("/stream/sse-starlette", stream_of_sse_starlette),
            Route("/sleep", sleep),
            Route("/upload", ignore_upload, methods=["POST"]),
            WebSocketRoute("/echo", echo),
            WebSocketRoute("/echo/ours", echo_of_ours),
        ]
    )


def of_fastapi() -> ASGIApp:
    app = FastAPI()

    @app.get("/json")
    async def read() -> dict[str, str]:
        return {"hello": "world"}

    return app


APPLICATIONS = {"Starlette": of_starlette, "FastAPI": of_fastapi}


def build(application: str, middleware: str, backend: str) -> ASGIApp:
    """Return an application with one of the middlewares around it."""
    if middleware not in middlewares(backend):
        sys.exit(f"{middleware} is not installed here, or does not run on {backend}")
    return middlewares(backend)[middleware](APPLICATIONS[application]())
