"""What the tests of the FastAPI adapter share."""

from __future__ import annotations

import json
from typing import Literal

import anyio
from fastapi import FastAPI
from starlette.types import ASGIApp

from cancelable_fastapi import RequestCancelationMiddleware
from cancelable_starlette.testing import ScriptedConnection, lifespan

Setup = Literal["middleware", "alone"]
"""Whether the middleware is installed, or the part under test stands alone."""

LIMIT = 5.0
"""Seconds after which a test that hangs fails."""


def application(setup: Setup = "alone", default_timeout: float | None = None) -> FastAPI:
    """Make an app without routes."""
    app = FastAPI()
    if setup == "middleware":
        app.add_middleware(RequestCancelationMiddleware, default_timeout=default_timeout)
    return app


async def run(app: ASGIApp, connection: ScriptedConnection) -> ScriptedConnection:
    """Send one request and wait for the end of its answer; fail if it hangs."""
    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            await connection.run(app)
    return connection


async def get(app: ASGIApp, path: str = "/", query: bytes = b"") -> tuple[int | None, object]:
    """Get a path, and return the status and the JSON of the answer."""
    connection = await run(app, ScriptedConnection(path=path, query=query))
    return connection.status, json.loads(connection.body) if connection.body else None


async def post(app: ASGIApp, path: str, data: object) -> tuple[int | None, object]:
    """Post JSON to a path, and return the status and the JSON of the answer."""
    connection = ScriptedConnection(
        "POST",
        path,
        headers=[(b"content-type", b"application/json")],
        body=json.dumps(data).encode(),
    )
    await run(app, connection)
    return connection.status, json.loads(connection.body) if connection.body else None
