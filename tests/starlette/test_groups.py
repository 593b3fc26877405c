"""What the tasks of a handler raise, and its task group hands on in a group (W2, W11)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from anyio import sleep_forever, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    ManualCancelation,
    OperationContext,
    current_operation,
)
from cancelable_starlette import (
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    with_cancelation,
)
from cancelable_starlette.testing import ScriptedConnection, ScriptedSocket, lifespan
from tests.starlette.support import LIMIT, Watch, application, run
from tests.support.native import on_asyncio

USES_THREADS = True


@pytest.mark.parametrize("how", ["middleware", "decorator", "both"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_cancelations_in_a_group_are_one_answer(
    anyio_backend: object, watch: Watch, how: str, number: int
) -> None:
    """W11: one press of a button stops all that a handler has begun."""
    facts: list[OperationContext] = []
    stop = CancelationToken()

    async def work() -> None:
        # The shield is against the group, which the first to end cancels: so all of them raise.
        with anyio.CancelScope(shield=True):
            async with Cancelable.with_token(stop):
                await sleep_forever()

    async def endpoint(request: Request) -> Response:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            await stop.cancel(message="Stop")
        return PlainTextResponse("never")

    route = Route("/", endpoint if how == "middleware" else with_cancelation(endpoint))
    ours = Middleware(RequestCancelationMiddleware, on_cancel=facts.append)
    connection = ScriptedConnection()
    app = Starlette(routes=[route], middleware=[] if how == "decorator" else [ours])
    await run(app, connection, watch)

    assert connection.status == 499
    if how == "middleware":
        assert [each.cancel_reason for each in facts] == [CancelationReason.MANUAL]


@pytest.mark.parametrize("number", [1, 2])
async def test_an_event_stream_says_why_a_group_of_its_tasks_was_cancelled(
    anyio_backend: object, watch: Watch, number: int
) -> None:
    """W8: its last event names the reason, as that of a lone cancelation does."""

    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise ExceptionGroup("mine", [ManualCancelation("stop") for _ in range(number)])

    async def endpoint(request: Request) -> Response:
        return cancelable_streaming_response(events())

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]))
    await run(app, connection, watch)

    assert connection.body == b'data: 1\n\nevent: cancelled\ndata: {"reason":"manual"}\n\n'


async def test_groups_in_groups_are_looked_through(anyio_backend: object, watch: Watch) -> None:
    """W11: the first of all that are in there says why."""
    inner = ExceptionGroup("inner", [ManualCancelation("first"), ManualCancelation("second")])

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("lone", [inner]), ManualCancelation("third")])

    facts: list[OperationContext] = []
    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)
    await run(app, connection, watch)

    assert connection.status == 499
    assert [each.cancel_message for each in facts] == ["first"]


@on_asyncio
@pytest.mark.parametrize("number", [1, 2])
async def test_operations_of_a_group_of_asyncio_end_as_their_request(
    watch: Watch, number: int
) -> None:
    """W6: that group cancels its task once more, which is no cancel of somebody else."""

    async def fetch() -> None:
        async with Cancelable():
            await sleep_forever()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(fetch())
            await anyio.wait_all_tasks_blocked()
            operation = current_operation()
            assert operation is not None
            await operation.cancel("timeout")

    facts: list[OperationContext] = []
    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)
    await run(app, connection, watch)

    assert connection.status == 504
    assert [each.cancel_reason for each in facts] == [CancelationReason.TIMEOUT]


async def test_threads_that_check_make_no_error_of_a_leave(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: each of them is told of the disconnect, and raises that."""
    connection = ScriptedConnection()
    began = threading.Semaphore(0)

    def work() -> None:
        operation = current_operation()
        assert operation is not None
        began.release()
        give_up = time.monotonic() + LIMIT
        while time.monotonic() < give_up:
            operation.check_cancelation_sync()
            time.sleep(0.001)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(to_thread.run_sync, work)
            for _ in range(2):
                await to_thread.run_sync(began.acquire)
            connection.leave()

    facts: list[OperationContext] = []
    app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)
    with caplog.at_level(logging.INFO):
        await run(app, connection, watch)

    assert [each.cancel_reason for each in facts] == [CancelationReason.DISCONNECT]
    assert [each.levelno for each in caplog.records] == [logging.INFO]


async def read_in_shield(request: Request) -> None:
    """Read a body where the read is told of a disconnect, and not cancelled."""
    with anyio.CancelScope(shield=True):
        await request.body()


async def leave_during_upload(
    endpoint: Callable[[Request], Awaitable[Response]], watch: Watch
) -> None:
    """Have a client leave in the middle of its upload, and see that this is all that is told."""
    connection = ScriptedConnection("POST", body=[b"a"] * 3, leave_after_chunks=2, pause=0.001)
    facts: list[OperationContext] = []
    app = Starlette(
        routes=[Route("/", endpoint, methods=["POST"])],
        middleware=[Middleware(RequestCancelationMiddleware, on_cancel=facts.append)],
    )
    await run(app, connection, watch)

    assert connection.sent == []
    assert [each.cancel_reason for each in facts] == [CancelationReason.DISCONNECT]


@pytest.mark.parametrize("number", [1, 2])
async def test_reads_in_a_group_that_met_the_disconnect_are_quiet(
    anyio_backend: object, watch: Watch, number: int
) -> None:
    """W11: however many tasks wait for the client."""

    async def endpoint(request: Request) -> Response:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(read_in_shield, Request(request.scope, request.receive))
        return PlainTextResponse("never")

    await leave_during_upload(endpoint, watch)


async def test_a_disconnect_beside_a_cancelation_is_quiet(
    anyio_backend: object, watch: Watch
) -> None:
    """W11: a task that reads and one that works are stopped by the same leave."""

    async def endpoint(request: Request) -> Response:
        try:
            await read_in_shield(request)
        except ClientDisconnect as left:
            raise ExceptionGroup("both", [left, ManualCancelation("stop")]) from None
        return PlainTextResponse("never")

    await leave_during_upload(endpoint, watch)


async def test_sockets_that_were_told_twice_end_quietly(anyio_backend: object) -> None:
    """W11: the task that reads and the one that sends each meet the close."""
    socket = ScriptedSocket()

    async def read(websocket: WebSocket) -> None:
        with anyio.CancelScope(shield=True):
            await websocket.receive_text()

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(read, websocket)
            await anyio.wait_all_tasks_blocked()
            socket.leave(1001)

    app = RequestCancelationMiddleware(Starlette(routes=[WebSocketRoute("/", handle)]))
    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            await socket.run(app)


@pytest.mark.parametrize("beside", [ManualCancelation("stop"), ClientDisconnect()])
async def test_an_error_in_a_group_is_not_hidden_by_what_is_beside_it(
    anyio_backend: object, watch: Watch, beside: Exception
) -> None:
    """W2: the group arrives with all that was raised. (Trio makes a new one of it.)"""
    connection = ScriptedConnection()
    raised = (beside, LookupError("an error"), beside)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        with anyio.CancelScope(shield=True):
            await receive()
            await receive()
        raise ExceptionGroup("mine", raised)

    with pytest.raises(ExceptionGroup) as caught:
        await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert caught.value.exceptions == raised


@pytest.mark.parametrize("error", [ClientDisconnect(), WebSocketDisconnect()])
async def test_a_disconnect_of_somebody_else_is_an_error(
    anyio_backend: object, watch: Watch, error: Exception
) -> None:
    """W2: the client of this request is still there, and waits for an answer."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        raise ExceptionGroup("mine", [error, error])

    with pytest.raises(ExceptionGroup):
        await run(RequestCancelationMiddleware(application(handle)), ScriptedConnection(), watch)
