"""Dependencies with ``yield`` around ours (F3): resources are released once in every ending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
from fastapi import Depends
from fastapi.responses import Response

from cancelable import Cancelable, CancelationError, DisconnectCancelation, TimeoutCancelation
from cancelable_fastapi import cancelable_dependency, cancelable_streaming_response
from cancelable_starlette.testing import ScriptedConnection
from tests.fastapi.support import Setup, application, run

Scope = Literal["function", "request"]
Endpoint = Callable[..., object]

ORDERS = pytest.mark.parametrize(
    "session_first", [True, False], ids=["session first", "ours first"]
)
SCOPES = pytest.mark.parametrize("scope", ["function", "request"])
ENDINGS = pytest.mark.parametrize("ending", ["return", "error", "timeout", "disconnect"])


class Session:
    """A resource that notes what happens to it, and needs ``await`` to be released."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.began = anyio.Event()

    async def open(self) -> AsyncIterator[Session]:
        self.history.append("opened")
        try:
            yield self
        except BaseException:
            self.history.append("rolled back")
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.history.append("closed")


def timed() -> Cancelable:
    return cancelable_dependency(timeout=0.01)


async def end(ending: str, session: Session) -> None:
    """End a block as the test wants it."""
    assert session.history == ["opened"]
    session.began.set()
    if ending == "error":
        raise ZeroDivisionError
    if ending != "return":
        await anyio.sleep_forever()


async def run_to_the_end(setup: Setup, ending: str, session: Session, endpoint: Endpoint) -> None:
    """Run a request to the ending that the test wants."""
    app = application(setup)
    app.get("/")(endpoint)
    connection = ScriptedConnection()

    async def leave() -> None:
        await session.began.wait()
        if ending == "disconnect":
            connection.leave()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        with suppress(ZeroDivisionError, TimeoutCancelation, DisconnectCancelation):
            await run(app, connection)


@ORDERS
@SCOPES
@ENDINGS
async def test_a_session_around_a_block_is_closed_once(
    setup: Setup, ending: str, scope: Scope, session_first: bool
) -> None:
    """F3: whichever is made first, in both of FastAPI's scopes, and for every ending."""
    resource = Session()
    ours = Depends(timed if ending == "timeout" else cancelable_dependency)
    theirs = Depends(resource.open, scope=scope)

    async def session_then_ours(session: Session = theirs, cancel: Cancelable = ours) -> None:
        async with cancel:
            await end(ending, session)

    async def ours_then_session(cancel: Cancelable = ours, session: Session = theirs) -> None:
        async with cancel:
            await end(ending, session)

    endpoint = session_then_ours if session_first else ours_then_session
    await run_to_the_end(setup, ending, resource, endpoint)

    if ending == "return":
        assert resource.history == ["opened", "closed"]
    else:
        assert resource.history == ["opened", "rolled back", "closed"]


@ORDERS
@ENDINGS
async def test_a_session_outlives_a_streamed_body(
    setup: Setup, ending: str, session_first: bool
) -> None:
    """F3: the block is in the body, and the session is there until the body is over."""
    resource = Session()
    ours = Depends(timed if ending == "timeout" else cancelable_dependency)
    theirs = Depends(resource.open)
    stream_ended: list[list[str]] = []

    def stream(session: Session, cancel: Cancelable) -> Response:
        async def generate() -> AsyncIterator[str]:
            try:
                async with cancel:
                    yield "data: 1\n\n"
                    await end(ending, session)
            finally:
                stream_ended.append(list(session.history))

        return cancelable_streaming_response(generate())

    async def session_then_ours(session: Session = theirs, cancel: Cancelable = ours) -> Response:
        return stream(session, cancel)

    async def ours_then_session(cancel: Cancelable = ours, session: Session = theirs) -> Response:
        return stream(session, cancel)

    endpoint = session_then_ours if session_first else ours_then_session
    await run_to_the_end(setup, ending, resource, endpoint)

    assert stream_ended == [["opened"]]
    assert resource.history.count("closed") == 1


async def test_a_dependency_with_yield_may_enter_ours_itself(setup: Setup) -> None:
    """F3: entered and left in the task of the endpoint, around everything that follows."""
    app = application(setup)
    endings: list[str] = []

    async def entered(cancel: Cancelable = Depends(timed)) -> AsyncIterator[Cancelable]:
        try:
            async with cancel:
                yield cancel
        except CancelationError as error:
            endings.append(error.reason.value)
            raise

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(entered)) -> None:
        assert cancel.is_running
        await anyio.sleep_forever()

    if setup == "middleware":
        connection = await run(app, ScriptedConnection())
        assert connection.status == 504
    else:
        with pytest.raises(TimeoutCancelation):
            await run(app, ScriptedConnection())
    assert endings == ["timeout"]
