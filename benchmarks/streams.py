"""Streams and WebSockets on a real server, and the steps of a stream in process.

What is compared is what the server's process computes for one chunk or one message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from applications import CHUNKS, chunks
from candidates import NONE, OURS, middlewares, ours
from harness import alternate, compare
from middleware import Connection, scope_of_a_get
from record import Record, alone
from serving import Serving, on_one_core
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from websockets.sync.client import connect

from cancelable_starlette import cancelable_streaming_response
from cancelable_starlette.testing import lifespan

KIND = "uvicorn-httptools-uvloop"
STREAMS = 20
MESSAGES = 1000
ROUNDS = 11


async def starlettes(scope: Scope, receive: Receive, send: Send) -> None:
    await StreamingResponse(chunks())(scope, receive, send)


async def plain_or_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream with our response, and keep a lifespan."""
    if scope["type"] != "lifespan":
        await cancelable_streaming_response(chunks())(scope, receive, send)
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def streaming(app: Callable[..., Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    async def run(steps: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(steps // CHUNKS):
            connection = Connection()
            await loop.create_task(app(scope_of_a_get(), connection.receive, connection.send))  # type: ignore[arg-type]

    return run


@asynccontextmanager
async def in_process() -> AsyncIterator[dict[str, Callable[[int], Awaitable[None]]]]:
    wrapped = ours(plain_or_lifespan)
    async with lifespan(wrapped):
        yield {
            "Starlette's StreamingResponse": streaming(starlettes),
            "ours, without middleware": streaming(plain_or_lifespan),
            "ours, under our middleware": streaming(wrapped),
        }


async def measure_in_process(record: Record) -> None:
    async with in_process() as candidates:
        rows = await compare(candidates, 10 * CHUNKS, 15, time.process_time)
    note = "The server's part is left out: what is compared is a few function calls."
    record.table("A chunk of a 1,000-chunk stream in process", "µs", "ratio", rows, note)


def per_chunk(serving: Serving, path: str) -> float:
    before = serving.processor
    for _ in range(STREAMS):
        serving.get(path)
    return (serving.processor - before) / STREAMS / CHUNKS * 1e6


def measure_streams(record: Record) -> None:
    with on_one_core(), ExitStack() as stack:
        bare = stack.enter_context(Serving(KIND, "Starlette", NONE))
        watched = stack.enter_context(Serving(KIND, "Starlette", OURS))
        candidates = {
            "Starlette's StreamingResponse": partial(per_chunk, bare, "/stream/starlette"),
            "the same under our middleware": partial(per_chunk, watched, "/stream/starlette"),
            "ours, without middleware": partial(per_chunk, bare, "/stream/ours"),
            "ours, under our middleware": partial(per_chunk, watched, "/stream/ours"),
            "sse-starlette": partial(per_chunk, bare, "/stream/sse-starlette"),
        }
        rows = alternate(candidates, ROUNDS)
    record.table(
        f"A chunk of a 1,000-chunk stream under {KIND}", "µs", "ratio", rows, is_plotted=True
    )
    for row in rows[2:4]:
        record.reach_at_least(
            f"% of Starlette's own stream, {row.name}", 100 / row.ratio, 95, "{:.0f}"
        )


def per_message(serving: Serving, path: str) -> float:
    with connect(serving.url(path, "ws")) as client:
        before = serving.processor
        for _ in range(MESSAGES):
            client.send("hello")
            client.recv()
        return (serving.processor - before) / MESSAGES * 1e6


def measure_sockets(record: Record) -> None:
    with on_one_core(), ExitStack() as stack:
        candidates: dict[str, Callable[[], float]] = {}
        for name in middlewares():
            serving = stack.enter_context(Serving(KIND, "Starlette", name))
            serving.get("/json")
            candidates[name] = partial(per_message, serving, "/echo")
            if name == OURS:
                candidates["CancelableWebSocket under it"] = partial(
                    per_message, serving, "/echo/ours"
                )
        rows = alternate(candidates, ROUNDS)
    record.table(f"A WebSocket message echoed under {KIND}", "µs", "ratio", rows)


def measure(record: Record) -> None:
    """Measure all of them."""
    asyncio.run(measure_in_process(record))
    measure_streams(record)
    measure_sockets(record)


if __name__ == "__main__":
    alone("streams", measure)
