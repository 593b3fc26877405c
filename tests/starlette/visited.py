"""An app with operations, and what its clients ask."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.abc
from starlette.types import ASGIApp

from cancelable_starlette.testing import ScriptedConnection


class Visited:
    """An app with the routes of operations, in which ``POST /work`` starts one."""

    app: ASGIApp
    begun: anyio.Event
    """Set when the work has begun."""
    limit = 10.0
    """Seconds after which a test that hangs fails."""

    def connection(
        self, method: str, path: str, user: str | None = "ann", query: str = ""
    ) -> ScriptedConnection:
        headers = [] if user is None else [(b"user", user.encode())]
        return ScriptedConnection(method, path, headers=headers, query=query.encode())

    async def ask(
        self, method: str, path: str, user: str | None = "ann", query: str = ""
    ) -> tuple[int | None, Any]:
        connection = self.connection(method, path, user, query)
        with anyio.fail_after(self.limit):
            await connection.run(self.app)
        return connection.status, json.loads(connection.body)

    async def start(self, tasks: anyio.abc.TaskGroup, query: str = "") -> str:
        """Start the work in the name of Ann, and return the id when it has begun."""
        connection = self.connection("POST", "/work", query=query)
        tasks.start_soon(connection.run, self.app)
        with anyio.fail_after(self.limit):
            await self.begun.wait()
        assert connection.status == 202
        answer = json.loads(connection.body)
        assert answer["state"] == "pending"
        assert connection.headers["location"] == f"/operations/{answer['id']}"
        found: str = answer["id"]
        return found
