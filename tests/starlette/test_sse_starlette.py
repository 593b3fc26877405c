"""The response of sse-starlette works under the middleware, unmodified (W8)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import sleep_forever
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from cancelable import Cancelable, CancelationReason, CancelationToken, OperationContext
from cancelable_starlette import CancelableRoute, RequestCancelationMiddleware
from cancelable_starlette.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
)
from tests.starlette.support import Watch, run

SERVERS = pytest.mark.parametrize(
    "server",
    [
        UVICORN,
        HYPERCORN,
        GRANIAN,
        DAPHNE,
        ServerBehaviour(send_after_leave="os_error"),
        ServerBehaviour(send_after_leave="runtime_error"),
    ],
    ids=["uvicorn", "hypercorn", "granian", "daphne", "os_error", "runtime_error"],
)

MINUTES = 600.0
"""Seconds that a test may take in its virtual time."""


@pytest.fixture(autouse=True)
async def _end_of_the_watcher(anyio_backend: object) -> AsyncIterator[None]:
    """End the task that sse-starlette starts once for a loop of asyncio, and never ends itself."""
    yield
    AppStatus.should_exit = True
    await anyio.sleep(1)
    AppStatus.should_exit = False


class Pass(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


class Events:
    """A generator that says one event and then waits, and what became of it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self) -> AsyncIterator[dict[str, str]]:
        try:
            async with Cancelable(name="held across the yield"):
                yield {"data": "1"}
                await sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("closed")


def quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return not [each for each in caplog.records if each.levelno > logging.INFO]


@SERVERS
@pytest.mark.parametrize("layers", [0, 1])
async def test_a_client_that_leaves_stops_the_generator(
    anyio_backend: object,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    server: ServerBehaviour,
    layers: int,
) -> None:
    """W8: while it waits for something else; its pings stop, and nothing is logged."""
    events, facts = Events(), list[OperationContext]()
    left: list[Message] = []

    async def told(message: Message) -> None:
        left.append(message)

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(events(), ping=10, client_close_handler_callable=told)

    inner = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Pass)] * layers)
    connection = ScriptedConnection(leave_after=35, server=server)
    await run(
        RequestCancelationMiddleware(inner, on_cancel=facts.append), connection, watch, MINUTES
    )

    assert events.seen == ["cancelled", "closed"]
    assert connection.body.count(b": ping") == 3
    assert [each.cancel_reason for each in facts] == [CancelationReason.DISCONNECT]
    assert not connection.complete
    assert quiet(caplog)


@pytest.mark.parametrize("how", ["route", "shutdown"])
async def test_a_stream_whose_time_is_up_is_broken_off(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """W6: it does not look complete, and nothing is raised."""
    events, facts = Events(), list[OperationContext]()
    token = CancelationToken()

    async def endpoint(request: Request) -> Response:
        if how == "shutdown":
            await token.cancel()
        return EventSourceResponse(events(), ping=10)

    timeout = 25 if how == "route" else None
    app: ASGIApp = Starlette(routes=[CancelableRoute("/", endpoint, timeout=timeout)])
    app = RequestCancelationMiddleware(
        app, on_cancel=facts.append, shutdown=token, shutdown_grace=25
    )
    connection = ScriptedConnection()
    await run(app, connection, watch, MINUTES)

    reason = CancelationReason.TIMEOUT if how == "route" else CancelationReason.SIGNAL
    assert events.seen == ["cancelled", "closed"]
    assert [each.cancel_reason for each in facts] == [reason]
    assert connection.body.count(b"data: 1") == 1
    assert connection.body.count(b": ping") == 2
    assert not connection.complete
    assert quiet(caplog)


async def test_a_client_that_does_not_read_is_left_when_it_leaves(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """A send that blocks is released, and the generator at its ``yield`` is closed."""
    events = Events()

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(events(), ping=10)

    connection = ScriptedConnection(stop_reading_after_messages=2, leave_after=35)
    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]))
    await run(app, connection, watch, MINUTES)

    assert events.seen[-1] == "closed"
    assert quiet(caplog)


async def test_a_stream_that_ends_by_itself_is_whole(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W2: and is no disconnect."""

    async def numbers() -> AsyncIterator[dict[str, str]]:
        for number in range(3):
            yield {"id": str(number), "data": "x"}
            await anyio.sleep(1)

    facts: list[OperationContext] = []

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(numbers(), sep="\n")

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/", endpoint)]), on_cancel=facts.append
    )
    await run(app, connection, watch, MINUTES)

    assert connection.body == b"".join(b"id: %d\ndata: x\n\n" % number for number in range(3))
    assert connection.complete
    assert facts == []
    assert quiet(caplog)
