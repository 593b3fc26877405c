"""What the tests of the Starlette adapter share."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable_starlette.testing import ScriptedConnection, lifespan

Watch = Literal["service", "alone"]
"""Who watches requests: the service in the lifespan, or each request its own watcher."""

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

LIMIT = 5.0
"""Seconds after which a test that hangs fails."""


def application(handler: Handler) -> ASGIApp:
    """Make a plain ASGI application of what handles its HTTP requests."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    return app


async def run(
    app: ASGIApp, connection: ScriptedConnection, watch: Watch = "service", limit: float = LIMIT
) -> None:
    """Send one request, and fail if it hangs."""
    with anyio.fail_after(limit):
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            await connection.run(app)


async def respond(send: Send, body: bytes = b"ok", status: int = 200) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> list[Message]:
    """Read a whole body, as its messages."""
    messages: list[Message] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return messages


async def until_watched(receive: Receive) -> None:
    """Wait, in a handler, until somebody else reads the messages of its request.

    The first look of a request makes it watched; the next turns of the loop start the reader.
    """
    for _ in range(5):
        assert await look(receive) is None


async def look(receive: Receive) -> Message | None:
    """Ask for a message without waiting, as ``Request.is_disconnected()`` does."""
    message: Message | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        message = await receive()
    return message


async def until_left(receive: Receive) -> None:
    """Wait, in a handler that is shielded, until a look tells that the client has left."""
    while await look(receive) is None:
        await checkpoint()
