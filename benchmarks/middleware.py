"""What the middleware costs a request, in process: a JSON GET, each in a task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from candidates import NONE, OURS, middlewares, ours
from fastapi import Depends, FastAPI
from harness import Row, compare
from record import Record, alone
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from cancelable_fastapi import cancelable_dependency
from cancelable_starlette.testing import lifespan

STEPS = 1000

HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"bench/1.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
]


async def answer(request: Request) -> JSONResponse:
    return JSONResponse({"hello": "world"})


async def bare(scope: Scope, receive: object, send: Callable[[Message], Awaitable[None]]) -> None:
    """Answer as Starlette does, with nothing around: what is left is the middleware's."""
    body = b'{"hello":"world"}'
    headers = [(b"content-length", b"17"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection:
    """Serve one request as uvicorn does: the reads wait for what has not come, sends write.

    A bound method each, no task, an event for whoever waits for the client to leave.
    """

    __slots__ = ("_asked", "_complete", "_event", "_written")

    def __init__(self) -> None:
        self._asked = False
        self._complete = False
        self._event = asyncio.Event()
        self._written: list[bytes] = []

    async def receive(self) -> Message:
        if self._asked:
            if not self._complete:
                await self._event.wait()
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            lines = [b"HTTP/1.1 %d OK\r\n" % message["status"]]
            for name, value in message["headers"]:
                lines.extend((name, b": ", value, b"\r\n"))
            lines.append(b"\r\n")
            self._written.append(b"".join(lines))
            return
        self._written.append(message.get("body", b""))
        if not message.get("more_body", False):
            self._complete = True
            self._event.set()


def scope_of_a_get() -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "root_path": "",
        "method": "GET",
        "path": "/json",
        "raw_path": b"/json",
        "query_string": b"",
        "headers": list(HEADERS),
        "state": {},
    }


def requests(app: ASGIApp) -> Callable[[int], Awaitable[None]]:
    """Return a candidate that serves requests, one after another."""

    async def run(steps: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(steps):
            connection = Connection()
            await loop.create_task(app(scope_of_a_get(), connection.receive, connection.send))  # type: ignore[arg-type]

    return run


@asynccontextmanager
async def wrapped(app: ASGIApp) -> AsyncIterator[dict[str, Callable[[int], Awaitable[None]]]]:
    """Open the lifespan of what has one, as servers do, and give the candidates."""
    async with AsyncExitStack() as stack:
        candidates: dict[str, Callable[[int], Awaitable[None]]] = {}
        for name, wrap in middlewares().items():
            candidate = wrap(app)
            if name == OURS:
                await stack.enter_async_context(lifespan(candidate))
            candidates[name] = requests(candidate)
        candidates[f"{OURS}, no lifespan"] = requests(ours(app))
        yield candidates


async def measure_requests(app: ASGIApp) -> list[Row]:
    async with wrapped(app) as candidates:
        return await compare(candidates, STEPS, 25, time.process_time)


async def serve_lifespan(scope: Scope, receive: Callable[[], Awaitable[Message]], send) -> None:
    """Answer requests and keep a lifespan."""
    if scope["type"] != "lifespan":
        await bare(scope, receive, send)
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def plain(request: HTTPConnection) -> HTTPConnection:
    return request


async def with_a_yield(request: HTTPConnection) -> AsyncIterator[HTTPConnection]:
    yield request


DEPENDENCIES: dict[str, Callable[..., object] | None] = {
    "no dependency": None,
    "one that returns the request": plain,
    "one that yields it": with_a_yield,
    "cancelable_dependency": cancelable_dependency,
}


def depending(dependency: Callable[..., object] | None) -> ASGIApp:
    """Return an application whose endpoint has a dependency, without any middleware of ours."""
    app = FastAPI()
    wanted = [] if dependency is None else [Depends(dependency)]

    @app.get("/json", dependencies=wanted)
    async def read() -> dict[str, str]:
        return {"hello": "world"}

    return app


def measure_dependency(record: Record) -> None:
    candidates = {name: requests(depending(each)) for name, each in DEPENDENCIES.items()}
    rows = asyncio.run(compare(candidates, STEPS // 2, 25, time.process_time))
    record.table("A dependency of a FastAPI endpoint in process", "µs", "beyond", rows)
    beyond = {row.name: row.beyond for row in rows}
    own = beyond["cancelable_dependency"] - beyond["one that returns the request"]
    record.reach("µs of the dependency beyond one that returns the request", own, 25, "{:.0f}")


def measure(record: Record) -> None:
    """Measure both applications, without and with a framework, and the dependency."""
    framework = Starlette(routes=[Route("/json", answer)])
    for title, app in (("a bare application", serve_lifespan), ("Starlette", framework)):
        rows = asyncio.run(measure_requests(app))
        record.table(
            f"A JSON GET in process, {title}, a new task for each request",
            "µs",
            "beyond",
            rows,
            is_plotted=app is framework,
        )
        beyond = {row.name: row.beyond for row in rows if row.name != NONE}
        mine = beyond.pop(OURS)
        beyond.pop(f"{OURS}, no lifespan")
        if beyond:
            record.reach(
                f"middleware's own cost ÷ the best peer's, {title}",
                mine / min(beyond.values()),
                0.6,
            )
    measure_dependency(record)


if __name__ == "__main__":
    alone("middleware", measure)
