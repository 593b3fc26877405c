"""A handler that goes on although it was cancelled is reported by name (W11, W17)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from cancelable import CancelationToken
from cancelable_starlette import (
    CancelableRoute,
    CancelableWebSocketRoute,
    RequestCancelationMiddleware,
    with_cancelation,
)
from cancelable_starlette.testing import ScriptedConnection, ScriptedSocket, lifespan
from tests.starlette.support import Watch, application, respond, run

MINUTES = 600.0
"""Seconds that a test may take in its virtual time."""


async def stubborn(request: Request) -> Response:
    """Swallow the cancelation, and go on for as long as the path says."""
    try:
        await sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(float(request.path_params["seconds"]))
    return PlainTextResponse("too late")


class Stubborn(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return await stubborn(request)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]


@pytest.mark.parametrize("how", ["disconnect", "timeout"])
async def test_a_handler_that_swallows_the_cancel_is_reported_once_by_name(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """W17: however long it goes on."""
    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/for/{seconds}", stubborn)]),
        default_timeout=None if how == "disconnect" else 1,
    )
    leave_after = 1.0 if how == "disconnect" else None
    connection = ScriptedConnection("GET", "/for/60", leave_after=leave_after)
    await run(app, connection, watch, MINUTES)

    (text,) = warnings(caplog)
    assert "GET /for/60" in text
    assert f"({how})" in text
    assert f"{__name__}.stubborn" in text


@pytest.mark.parametrize(("seconds", "reported"), [(4.8, False), (9.0, True)])
async def test_there_is_time_to_clean_up(
    anyio_backend: object,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    reported: bool,
) -> None:
    """Five seconds, unless it is said otherwise."""
    app = RequestCancelationMiddleware(Starlette(routes=[Route("/for/{seconds}", stubborn)]))
    connection = ScriptedConnection("GET", f"/for/{seconds}", leave_after=1)
    await run(app, connection, watch, MINUTES)

    assert bool(warnings(caplog)) == reported


@pytest.mark.parametrize(
    ("limit", "seconds", "reported"),
    [(20, 15, False), (20, 30, True), (0.1, 1, True), (None, 99, False)],
)
async def test_the_time_can_be_chosen(
    anyio_backend: object,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    limit: float | None,
    seconds: float,
    reported: bool,
) -> None:
    """W17: None: nobody looks."""
    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/for/{seconds}", stubborn)]), warn_after=limit
    )
    connection = ScriptedConnection("GET", f"/for/{seconds}", leave_after=1)
    await run(app, connection, watch, MINUTES)

    assert bool(warnings(caplog)) == reported


async def test_a_grace_is_no_overrun(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W17: it counts from the cut, not from the first word of it."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep(20)
        return PlainTextResponse("in time")

    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]), grace=30)
    await run(app, ScriptedConnection(leave_after=1), watch, MINUTES)

    assert warnings(caplog) == []


async def test_a_healthy_request_is_not_reported(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W17: nor one that was told to go on, nor what runs behind a complete response."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(60)
        await respond(send)
        await anyio.sleep(60)

    for policy, leave_after in (("cancel", None), ("continue", 1.0), ("cancel", 90.0)):
        app = RequestCancelationMiddleware(application(handle), on_disconnect=policy)  # type: ignore[arg-type]
        await run(app, ScriptedConnection(leave_after=leave_after), watch, MINUTES)

    assert warnings(caplog) == []


Endpoint = Callable[[Request], Awaitable[Response]]


@pytest.mark.parametrize("form", ["route", "decorator", "class", "partial"])
async def test_each_kind_of_endpoint_has_its_name(
    anyio_backend: object, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    """Also without the middleware."""
    decorated: Endpoint = with_cancelation(stubborn)
    path = "/for/{seconds}"
    app: ASGIApp = Starlette(
        routes=[
            {
                "route": CancelableRoute(path, stubborn),
                "decorator": Route(path, decorated),
                "class": CancelableRoute(path, Stubborn),
                "partial": CancelableRoute(path, functools.partial(stubborn)),
            }[form]
        ]
    )
    await run(app, ScriptedConnection("GET", "/for/60", leave_after=1), "alone", MINUTES)

    name = {"class": f"{__name__}.Stubborn", "partial": "functools.partial"}
    (text,) = warnings(caplog)
    assert f"handler: {name.get(form, f'{__name__}.stubborn')}," in text


async def test_where_no_endpoint_is_known_the_request_is_named(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """In an application without routes."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)

    app = RequestCancelationMiddleware(application(handle))
    await run(app, ScriptedConnection("GET", "/a\nb", leave_after=1), watch, MINUTES)

    (text,) = warnings(caplog)
    assert "GET /a\\nb" in text
    assert "handler: unknown" in text


async def handle_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    with anyio.CancelScope(shield=True):
        await anyio.sleep(60)


@pytest.mark.parametrize("form", ["middleware", "route"])
async def test_a_socket_is_reported_as_well(
    anyio_backend: object, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    """With the name of its handler."""
    kind = CancelableWebSocketRoute if form == "route" else WebSocketRoute
    app: ASGIApp = Starlette(routes=[kind("/feed", handle_socket)])
    if form == "middleware":
        app = RequestCancelationMiddleware(app)
    socket = ScriptedSocket("/feed")
    with anyio.fail_after(MINUTES):
        async with lifespan(app), anyio.create_task_group() as tasks:
            tasks.start_soon(socket.run, app)
            await socket.wait_for_accept()
            socket.leave()

    (text,) = warnings(caplog)
    assert "WebSocket /feed" in text
    assert f"{__name__}.handle_socket" in text


async def test_a_request_that_watches_itself_hears_of_a_shutdown_late(
    anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """W10: who looks after it is also who tells it, however often it has looked before."""
    token = CancelationToken()
    told: list[float] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        began = anyio.current_time()
        try:
            await anyio.sleep(40)
            await token.cancel()
            await sleep_forever()
        finally:
            told.append(anyio.current_time() - began)

    app = RequestCancelationMiddleware(application(handle), shutdown=token, shutdown_grace=2)
    await run(app, ScriptedConnection(), "alone", MINUTES)

    assert told == [pytest.approx(42, abs=0.1)]
    assert warnings(caplog) == []


async def test_a_stream_that_does_not_end_at_a_shutdown_is_reported(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W10: it is what keeps the server from ending."""
    token = CancelationToken()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        with anyio.CancelScope(shield=True):
            await anyio.sleep(5)
            await token.cancel()
            await anyio.sleep(60)

    app = RequestCancelationMiddleware(application(handle), shutdown=token, shutdown_grace=2)
    await run(app, ScriptedConnection("GET", "/stream"), watch, MINUTES)

    (text,) = warnings(caplog)
    assert "GET /stream" in text
    assert "(signal)" in text
