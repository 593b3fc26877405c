"""A request that waits for another server lets go of it when its client leaves (W1).

Over real sockets in one loop: an upstream that answers slowly and notes who hung up, and handlers
that share one client of HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

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
    """A server that answers ``/quick``, and lets everybody else wait until they hang up."""

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


def proxy(client: httpx.AsyncClient, *, shielded: bool = False) -> ASGIApp:
    """Make an application that asks the upstream for what it is asked for."""

    async def endpoint(request: Request) -> Response:
        if not shielded:
            return PlainTextResponse((await client.get(request.url.path)).text)
        operation = current_operation()
        assert operation is not None
        async with operation.shield():
            answer = await client.get(request.url.path)
        return PlainTextResponse(answer.text)

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


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_pool_survives_clients_that_come_and_go(
    anyio_backend: object, shielded: bool
) -> None:
    """W1: one cancel for each request; afterwards every place of the pool is free.

    A client that loses places when it is cancelled is called in a shielded section.
    """
    limits = httpx.Limits(max_connections=10)
    path = "/quick" if shielded else "/slow"

    async def visit(app: ASGIApp, number: int) -> None:
        await ScriptedConnection("GET", path, leave_after=0.001 * (number % 8)).run(app)

    with anyio.fail_after(LIMIT * 3):
        async with running() as upstream:
            async with httpx.AsyncClient(base_url=upstream.url, limits=limits) as client:
                app = RequestCancelationMiddleware(proxy(client, shielded=shielded))
                async with lifespan(app):
                    for _ in range(10):
                        async with anyio.create_task_group() as tasks:
                            for number in range(20):
                                tasks.start_soon(visit, app, number)
                    answers = [ScriptedConnection("GET", "/quick") for _ in range(10)]
                    async with anyio.create_task_group() as tasks:
                        for connection in answers:
                            tasks.start_soon(connection.run, app)

    assert [connection.body for connection in answers] == [b"ok"] * 10
