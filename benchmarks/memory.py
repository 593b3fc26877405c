"""What waits: requests in flight, idle streams, an upload that nobody reads."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from selectors import DefaultSelector, SelectorKey

from applications import silence
from candidates import NONE, OURS, middlewares
from harness import rows_of
from middleware import Connection, scope_of_a_get
from record import Record, alone
from serving import Serving
from sse_starlette import EventSourceResponse
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cancelable_starlette import cancelable_streaming_response
from cancelable_starlette.testing import lifespan

COUNT = 1000
SETTLE = 0.05
WATCH_TURNS = 1.0
UPLOAD = 1 << 30
KIND = "uvicorn-httptools-uvloop"

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class CountingSelector(DefaultSelector):
    """Count the turns of an event loop: each asks its selector once."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> bool:
    """Serve a lifespan; return False for anything else."""
    if scope["type"] != "lifespan":
        return False
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return True


async def handle_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    if not await with_lifespan(scope, receive, send):
        await asyncio.get_running_loop().create_future()
        await JSONResponse({})(scope, receive, send)


async def stream_of_starlette(scope: Scope, receive: Receive, send: Send) -> None:
    if not await with_lifespan(scope, receive, send):
        await StreamingResponse(silence())(scope, receive, send)


async def stream_of_ours(scope: Scope, receive: Receive, send: Send) -> None:
    if not await with_lifespan(scope, receive, send):
        await cancelable_streaming_response(silence())(scope, receive, send)


async def stream_of_sse_starlette(scope: Scope, receive: Receive, send: Send) -> None:
    if not await with_lifespan(scope, receive, send):

        async def hello() -> object:
            yield "hello"
            await asyncio.get_running_loop().create_future()

        await EventSourceResponse(hello())(scope, receive, send)


async def waiting(
    app: ASGIApp, has_lifespan: bool, selector: CountingSelector
) -> tuple[float, int]:
    """Return the bytes of each of many calls that wait, and the loop's turns in a second."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        if has_lifespan:
            await stack.enter_async_context(lifespan(app))

        def call() -> asyncio.Task[None]:
            connection = Connection()
            return loop.create_task(app(scope_of_a_get(), connection.receive, connection.send))  # type: ignore[arg-type]

        tasks = [call() for _ in range(10)]
        await asyncio.sleep(SETTLE)
        gc.collect()
        tracemalloc.start()
        tasks += [call() for _ in range(COUNT)]
        await asyncio.sleep(SETTLE)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] / COUNT
        tracemalloc.stop()
        before = selector.turns
        await asyncio.sleep(WATCH_TURNS)
        turns = selector.turns - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return used, turns


def wait_in_a_loop(app: ASGIApp, has_lifespan: bool = False) -> tuple[float, int]:
    selector = CountingSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(waiting(app, has_lifespan, selector))


def measure_requests(record: Record) -> None:
    found: dict[str, list[float]] = {}
    for name, wrap in middlewares().items():
        found[name] = [wait_in_a_loop(wrap(handle_slowly), name == OURS)[0]]
    record.table(f"A request in flight, of {COUNT:,}", "bytes", "beyond", rows_of(found))


def measure_streams(record: Record) -> None:
    ours = middlewares()[OURS]
    candidates: dict[str, tuple[App, bool]] = {
        "Starlette's StreamingResponse": (stream_of_starlette, False),
        "the same under our middleware": (ours(stream_of_starlette), True),
        "ours, without middleware": (stream_of_ours, False),
        "ours, under our middleware": (ours(stream_of_ours), True),
        "sse-starlette": (stream_of_sse_starlette, False),
    }
    sizes: dict[str, list[float]] = {}
    turns: dict[str, list[float]] = {}
    for name, (app, has_lifespan) in candidates.items():
        used, count = wait_in_a_loop(app, has_lifespan)
        sizes[name], turns[name] = [used], [count / WATCH_TURNS]
    record.table(f"An idle event stream, of {COUNT:,}", "bytes", "ratio", rows_of(sizes))
    record.table(
        f"{COUNT:,} idle event streams", "turns of the loop a second", "value", rows_of(turns)
    )


def upload(serving: Serving) -> float:
    """Return the MiB by which a server grows while a client sends what nobody reads."""
    most = before = serving.memory
    block = b"x" * (1 << 20)
    with serving.connect() as client:
        client.settimeout(0.2)
        head = f"POST /upload HTTP/1.1\r\nHost: bench\r\nContent-Length: {UPLOAD}\r\n\r\n"
        client.sendall(head.encode())
        sent, give_up = 0, time.monotonic() + 2
        while sent < UPLOAD and time.monotonic() < give_up:
            try:
                sent += client.send(block)
            except TimeoutError:
                pass
            except OSError:
                break
            most = max(most, serving.memory)
        client.shutdown(socket.SHUT_RDWR)
    return (most - before) / 2**20


def measure_upload(record: Record) -> None:
    with ExitStack() as stack:
        candidates: dict[str, Callable[[], float]] = {}
        for name in (NONE, OURS, "fastapi-disconnect", "aiofence"):
            if name in middlewares():
                serving = stack.enter_context(Serving(KIND, "Starlette", name))
                serving.get("/json")
                candidates[name] = partial(upload, serving)
        # One time each, without a warm-up: memory that was given back may be used again.
        rows = rows_of({name: [measure()] for name, measure in candidates.items()})
    record.table(
        f"1 GiB is sent to a handler that does not read, {KIND}", "MiB grown", "beyond", rows
    )
    record.reach("MiB grown beyond what the server itself holds", rows[1].beyond, 2, "{:.1f}")


def measure(record: Record) -> None:
    """Measure all of them."""
    measure_requests(record)
    measure_streams(record)
    measure_upload(record)


if __name__ == "__main__":
    alone("memory", measure)
