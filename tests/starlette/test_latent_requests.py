"""Requests and sockets that nobody has asked about: served as if their operation had been there.

Holds to: W3, W6, W9, S16.
"""

from __future__ import annotations

import anyio
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.routing import WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette.testing import ScriptedConnection, ScriptedSocket, lifespan
from tests.starlette.support import application, respond, run


async def test_a_socket_that_ends_in_its_grace_is_closed_with_the_reason() -> None:
    """Its time was up, and its handler returned before anybody had noticed."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await anyio.sleep(1.1)

    app = RequestCancelationMiddleware(
        Starlette(routes=[WebSocketRoute("/", handle)]), grace=5, socket_idle_timeout=1
    )
    socket = ScriptedSocket()
    async with lifespan(app):
        await socket.run(app)
    assert socket.close_code == 3008


# -- what a middleware inside makes of the scope ---------------------------------------------


async def test_a_body_that_broke_off_is_not_whole_because_its_length_was_taken_out() -> None:
    """W3: a middleware that unpacks bodies takes the length out of the scope, as it has to."""
    messages: list[Message] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        del MutableHeaders(scope=scope)["content-length"]
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
        await respond(send)

    connection = ScriptedConnection("POST", body=[b"half", b"rest"], leave_after_chunks=1)
    app = RequestCancelationMiddleware(application(handle), on_disconnect="continue")
    await run(app, connection)
    assert messages[-1]["type"] == "http.disconnect"


async def test_the_answer_to_a_head_has_no_body_although_a_middleware_calls_it_a_get() -> None:
    """W6: also when it is ours."""

    async def handle(scope: Scope, _receive: Receive, _send: Send) -> None:
        scope["method"] = "GET"
        await sleep_forever()

    connection = ScriptedConnection("HEAD")
    await run(RequestCancelationMiddleware(application(handle), default_timeout=1), connection)
    assert connection.status == 504
    assert connection.body == b""
