"""A request that waits for another server lets go of it when its client leaves (W1).

Over real sockets in one loop: an upstream that answers slowly and notes who hung up, and handlers
that share one client of HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cancelable import OperationContext, OperationStatus, current_operation
from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette.testing import ScriptedConnection, lifespan

USES_THREADS = True  # real sockets have real time

LIMIT = 10.0


class Upstream:
    """A server that answers ``/quick``, and lets everybody else wait until they hang up.

    On ``/begins`` it says at once that there is an answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.waiting: int = 0
        self.abandoned: int = 0
        self._changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await self._answer(stream)

    async def _answer(self, stream: SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive()
        if head.startswith(b"GET /quick "):
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return
        if head.startswith(b"GET /begins "):
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        self.waiting += 1
        self._notify()
        try:
            await stream.receive()
        finally:
            self.waiting -= 1
            self.abandoned += 1
            self._notify()


@asynccontextmanager
async def running() -> AsyncGenerator[Upstream]:
    upstream = Upstream()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    upstream.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, upstream.serve)
        yield upstream
        tasks.cancel_scope.cancel()


Call: TypeAlias = Callable[[httpx.AsyncClient, str], Awaitable[str]]
"""How a handler asks the upstream."""


async def call(client: httpx.AsyncClient, path: str) -> str:
    return (await client.get(path)).text


async def call_shielded(client: httpx.AsyncClient, path: str) -> str:
    operation = current_operation()
    assert operation is not None
    async with operation.shield():
        return (await client.get(path)).text


async def call_shielded_until_it_begins(client: httpx.AsyncClient, path: str) -> str:
    operation = current_operation()
    assert operation is not None
    async with AsyncExitStack() as stack:
        async with operation.shield():
            answer = await stack.enter_async_context(client.stream("GET", path))
        return (await answer.aread()).decode()


async def call_by_a_client_of_its_own(client: httpx.AsyncClient, path: str) -> str:
    # To read the certificates that it will not need takes longer than all else here.
    async with httpx.AsyncClient(base_url=client.base_url, verify=False) as own:
        return (await own.get(path)).text


def proxy(client: httpx.AsyncClient, ask: Call = call) -> ASGIApp:
    """Make an application that asks the upstream for what it is asked for."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(await ask(client, request.url.path))

    return Starlette(routes=[Route("/{rest}", endpoint)])


async def test_the_upstream_is_left_with_the_client(anyio_backend: object) -> None:
    """W1: at once, only of those who left, with one callback for each that did."""
    facts: list[OperationContext] = []
    connections = [ScriptedConnection("GET", "/slow") for _ in range(10)]

    async def call(connection: ScriptedConnection) -> None:
        await connection.run(app)

    with anyio.fail_after(LIMIT):
        async with running() as upstream, httpx.AsyncClient(base_url=upstream.url) as client:
            app = RequestCancelationMiddleware(proxy(client), on_cancel=facts.append)
            async with lifespan(app), anyio.create_task_group() as tasks:
                for connection in connections:
                    tasks.start_soon(call, connection)
                await upstream.until(lambda: upstream.waiting == 10)
                for connection in connections[:5]:
                    connection.leave()
                await upstream.until(lambda: upstream.abandoned == 5)
                assert upstream.waiting == 5
                assert len(facts) == 5

                quick = ScriptedConnection("GET", "/quick")
                await quick.run(app)
                assert quick.body == b"ok"
                assert upstream.waiting == 5
                for connection in connections[5:]:
                    connection.leave()

    assert len(facts) == 10
    assert {each.status for each in facts} == {OperationStatus.CANCELLED}


@asynccontextmanager
async def serving(ask: Call, places: int = 100) -> AsyncGenerator[ASGIApp]:
    """Give an application that asks a running upstream, and fail if all takes too long.

    Args:
        ask: How it asks.
        places: How many connections the pool of its client has; 100 is httpx's own number.
    """
    limits = httpx.Limits(max_connections=places)
    with anyio.fail_after(LIMIT * 3):
        async with (
            running() as upstream,
            httpx.AsyncClient(base_url=upstream.url, limits=limits) as client,
        ):
            app = RequestCancelationMiddleware(proxy(client, ask))
            async with lifespan(app):
                yield app


async def come_and_go(app: ASGIApp, path: str) -> None:
    """Send two hundred requests, twenty at once, whose clients leave a moment later."""

    async def visit(number: int) -> None:
        await ScriptedConnection("GET", path, leave_after=0.001 * (number % 8)).run(app)

    for _ in range(10):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(visit, number)


@pytest.mark.parametrize(
    ("ask", "path"),
    [
        (call_shielded, "/quick"),
        (call_shielded_until_it_begins, "/begins"),
        (call_by_a_client_of_its_own, "/slow"),
    ],
)
async def test_a_pool_survives_clients_that_come_and_go(
    anyio_backend: object, ask: Call, path: str
) -> None:
    """W1: afterwards every place of the pool is free.

    httpcore 1.0.9 loses a place whose call is cancelled before it has a connection, whoever cancels
    it. So each of these keeps a cancel away from that moment.
    """
    async with serving(ask, places=10) as app:
        await come_and_go(app, path)
        answers = [ScriptedConnection("GET", "/quick") for _ in range(10)]
        async with anyio.create_task_group() as tasks:
            for connection in answers:
                tasks.start_soon(connection.run, app)

    assert [connection.body for connection in answers] == [b"ok"] * 10


async def test_a_call_that_is_cancelled_cleans_up_undisturbed(anyio_backend: object) -> None:
    """W1: no second cancel comes, which would break that off as well."""
    cleaned_up: list[int] = []

    async def ask(client: httpx.AsyncClient, path: str) -> str:
        try:
            return await call(client, path)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                cleaned_up.append(1)

    async with serving(ask) as app:
        await come_and_go(app, "/slow")

    assert len(cleaned_up) == 200
