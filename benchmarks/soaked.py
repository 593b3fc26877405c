"""The server that is soaked: an application that counts, run in a process of its own."""

from __future__ import annotations

import functools
import gc
import logging
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator

import anyio
import psutil
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from cancelable import OperationContext, OperationRegistry
from cancelable_starlette import (
    CancelableRoute,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
)

FACTS = "/facts"
"""Where the counters are read; that request itself is not counted."""

counters = Counter[str]()


@functools.cache
def few_threads() -> anyio.CapacityLimiter:
    """Return what keeps worker threads to so few that the warm-up starts all of them."""
    return anyio.CapacityLimiter(2)


async def quick(request: Request) -> Response:
    return PlainTextResponse("quick")


async def upload(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def sleep(request: Request) -> Response:
    await anyio.sleep_forever()
    return PlainTextResponse("never")


async def thread(request: Request) -> Response:
    await anyio.to_thread.run_sync(sum, range(10_000), limiter=few_threads())
    return PlainTextResponse("summed")


async def background(request: Request) -> Response:
    counters["background tasks begun"] += 1

    async def work() -> None:
        await anyio.sleep(0.01)
        counters["background tasks ended"] += 1

    return PlainTextResponse("accepted", background=BackgroundTask(work))


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        counters["generators begun"] += 1
        try:
            while True:
                yield "data: tick\n\n"
                await anyio.sleep(0.005)
        finally:
            counters["generators ended"] += 1

    return cancelable_streaming_response(chunks())


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def ticks(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text("tick")
        await anyio.sleep(0.005)


def facts() -> Response:
    """Tell the counters, and what the process holds."""
    gc.collect()
    process = psutil.Process()
    return JSONResponse(
        {
            "counters": counters,
            "listed": len(OperationRegistry.get_instance().list_operations()),
            "tasks": len(anyio.get_running_tasks()),
            "threads": process.num_threads(),
            "sockets": len(process.net_connections()),
            "files": process.num_fds(),
            "objects": len(gc.get_objects()),
            "memory": process.memory_info().rss,
        }
    )


def count_cancel(context: OperationContext) -> None:
    """Count a request that was cancelled, by its reason."""
    assert context.cancel_reason is not None
    counters["cancelled"] += 1
    counters[f"cancelled: {context.cancel_reason.value}"] += 1


def completions(app: ASGIApp) -> ASGIApp:
    """Count the requests that end by themselves, inside the middleware."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["type"] != "lifespan":
            counters["completed"] += 1

    return counted


def requests(app: ASGIApp) -> ASGIApp:
    """Count what the server begins and what it gets back as an exception, around everything."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["path"] == FACTS:
            await facts()(scope, receive, send)
            return
        counters["begun"] += 1
        try:
            await app(scope, receive, send)
        except BaseException:
            counters["failed"] += 1
            raise

    return counted


app = requests(
    RequestCancelationMiddleware(
        completions(
            Starlette(
                routes=[
                    Route("/quick", quick),
                    Route("/upload", upload, methods=["POST"]),
                    Route("/sleep", sleep),
                    Route("/thread", thread),
                    Route("/background", background),
                    Route("/stream", stream),
                    CancelableRoute("/timeout", sleep, timeout=0.05),
                    WebSocketRoute("/echo", echo),
                    WebSocketRoute("/ticks", ticks),
                ]
            )
        ),
        on_cancel=count_cancel,
    )
)


def serve(kind: str, listener: socket.socket, backlog: int) -> None:
    """Run a server until it is told to stop.

    Args:
        kind: Which one.
        listener: Where it listens. Both servers set the length of its queue anew.
        backlog: Connections that may wait there.
    """
    logging.getLogger("cancelable").setLevel(logging.WARNING)  # a record a cancel is a lot here
    if kind == "uvicorn":
        import uvicorn

        uvicorn.Server(uvicorn.Config(app, access_log=False, backlog=backlog)).run(
            sockets=[listener]
        )
        return
    import signal

    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve as serve_on_trio

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = "-"
    config.backlog = backlog

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:

            async def stop() -> None:
                await anext(signals)

            await serve_on_trio(app, config, shutdown_trigger=stop)  # type: ignore[arg-type]

    trio.run(main)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
