"""Dependencies with ``yield`` around ours (F3): resources are released once in every ending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
from fastapi import BackgroundTasks, Depends, Request
from fastapi.responses import Response, StreamingResponse

from cancelable import Cancelable, CancelationError, DisconnectCancelation, TimeoutCancelation
from cancelable_fastapi import (
    CancelableDep,
    cancelable_dependency,
    cancelable_streaming_response,
)
from cancelable_starlette.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
)
from tests.fastapi.support import Setup, application, run

Scope = Literal["function", "request"]
Endpoint = Callable[..., object]

ORDERS = pytest.mark.parametrize(
    "session_first", [True, False], ids=["session first", "ours first"]
)
SCOPES = pytest.mark.parametrize("scope", ["function", "request"])
SERVERS = pytest.mark.parametrize(
    "server",
    [UVICORN, HYPERCORN, GRANIAN, DAPHNE],
    ids=["uvicorn", "hypercorn", "granian", "daphne"],
)
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


# -- after the endpoint has returned ----------------------------------------------------------


class Block:
    """A dependency that holds a block across its ``yield``, and does something behind it."""

    def __init__(self) -> None:
        self.cancel: Cancelable | None = None
        self.ended: list[str] = []

    async def __call__(self, cancel: CancelableDep) -> AsyncIterator[Cancelable]:
        self.cancel = cancel
        async with cancel:
            try:
                yield cancel
            except BaseException:
                self.ended.append("rolled back")
                raise
            await self.work("committed")

    async def work(self, name: str) -> None:
        """Take longer than the server needs to say that the response is over."""
        await anyio.sleep(0.05)
        self.ended.append(name)


@SERVERS
@SCOPES
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_finished_response_does_not_stop_what_comes_behind_it(
    setup: Setup, server: ServerBehaviour, scope: Scope, method: str
) -> None:
    """F1, W2: a job in the background and the code behind ``yield`` end quietly."""
    app, block = application(setup), Block()

    @app.api_route("/", methods=["GET", "POST"])
    async def endpoint(
        request: Request, tasks: BackgroundTasks, cancel: Cancelable = Depends(block, scope=scope)
    ) -> int:
        tasks.add_task(block.work, "job")
        await anyio.wait_all_tasks_blocked()
        return len(await request.body())

    body = b"abc" if method == "POST" else b""
    connection = await run(app, ScriptedConnection(method, body=body, server=server))

    assert (connection.status, connection.body) == (200, str(len(body)).encode())
    in_order = ["committed", "job"] if scope == "function" else ["job", "committed"]
    assert block.ended == in_order
    assert block.cancel is not None
    assert block.cancel.is_completed
    assert block.cancel.cancel_reason is None
    assert connection.overlapping_reads == 0


async def test_an_endpoint_that_returns_at_once_is_not_watched_later(setup: Setup) -> None:
    """F1: the watch may not even have begun by then."""
    app, block = application(setup), Block()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks, cancel: Cancelable = Depends(block)) -> None:
        tasks.add_task(block.work, "job")

    connection = await run(app, ScriptedConnection())

    assert connection.complete
    assert block.ended == ["job", "committed"]


async def test_a_background_task_may_ask_whether_the_client_is_there(setup: Setup) -> None:
    """F1: what it is told is no reason to stop the block that it runs in."""
    app, block = application(setup), Block()
    answers: list[bool] = []

    @app.get("/")
    async def endpoint(
        request: Request, tasks: BackgroundTasks, cancel: Cancelable = Depends(block)
    ) -> None:
        async def ask() -> None:
            # The first answer of a server may be the empty message of a GET.
            answers.extend([await request.is_disconnected() for _ in range(3)])
            await block.work("job")

        tasks.add_task(ask)

    await run(app, ScriptedConnection())

    assert answers[-1] or setup == "middleware"
    assert block.ended == ["job", "committed"]


async def test_a_block_that_is_entered_in_a_background_task_runs_to_its_end(setup: Setup) -> None:
    """F1: there is no client to watch any more."""
    app, block = application(setup), Block()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks, cancel: CancelableDep) -> None:
        async def job() -> None:
            async with cancel:
                await block.work("job")

        tasks.add_task(job)

    await run(app, ScriptedConnection())

    assert block.ended == ["job"]


@SERVERS
async def test_a_client_that_leaves_stops_the_endpoint_in_the_block_of_its_dependency(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1: until the endpoint returns, the block is watched."""
    app, block = application(setup), Block()
    session = Session()

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(block)) -> None:
        session.began.set()
        await anyio.sleep_forever()

    connection = ScriptedConnection(server=server)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave_when_begun, session, connection)
        with suppress(DisconnectCancelation):
            await run(app, connection)

    assert block.ended == ["rolled back"]
    assert connection.overlapping_reads == 0


@SERVERS
@pytest.mark.parametrize("ours", [True, False], ids=["our response", "Starlette's"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
async def test_a_response_in_the_block_of_a_dependency_watches_for_itself(
    setup: Setup, server: ServerBehaviour, ours: bool, leaves: bool
) -> None:
    """F3: the generator is stopped by its response, which is the one reader by then."""
    app, block = application(setup), Block()
    session = Session()
    ended: list[bool] = []

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(block)) -> Response:
        await anyio.wait_all_tasks_blocked()

        async def generate() -> AsyncIterator[str]:
            try:
                yield "1"
                session.began.set()
                await anyio.sleep(0.05)
                if leaves:
                    await anyio.sleep_forever()
                yield "2"
            finally:
                ended.append(True)

        kind = cancelable_streaming_response if ours else StreamingResponse
        return kind(generate())

    connection = ScriptedConnection(server=server)
    async with anyio.create_task_group() as tasks:
        if leaves:
            tasks.start_soon(leave_when_begun, session, connection)
        await run(app, connection)

    assert connection.body == (b"1" if leaves else b"12")
    assert connection.complete is not leaves
    assert ended == [True]
    if setup == "alone" or not leaves:
        assert block.ended == ["committed"]
    assert connection.overlapping_reads == 0


async def leave_when_begun(session: Session, connection: ScriptedConnection) -> None:
    """Have the client leave as soon as the work has begun."""
    await session.began.wait()
    connection.leave()
