"""A complete response is no disconnect (W2)."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cancelable import OperationContext, OperationRegistry
from cancelable_starlette import RequestCancelationMiddleware, get_request_token
from cancelable_starlette.testing import (
    GRANIAN,
    HYPERCORN,
    SILENT,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import Watch, application, look, respond, run, until_watched
from tests.support.native import on_asyncio

SERVERS = pytest.mark.parametrize(
    "server",
    [
        pytest.param(UVICORN, id="uvicorn"),
        pytest.param(HYPERCORN, id="hypercorn"),
        pytest.param(GRANIAN, id="granian"),
        pytest.param(SILENT, id="silent"),
    ],
)


class Pass(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


@SERVERS
@pytest.mark.parametrize("layers", [0, 1, 3])
async def test_background_tasks_finish_after_the_client_has_left(
    anyio_backend: object, watch: Watch, server: ServerBehaviour, layers: int
) -> None:
    """The client has its response; what runs behind it is not about the client."""
    finished: list[int] = []
    connection = ScriptedConnection(server=server)

    async def work(number: int) -> None:
        await connection.wait_for_chunks(1)  # the layers of older Starlettes pass it on later
        connection.leave()
        await anyio.sleep(0.03)
        finished.append(number)

    async def endpoint(request: Request) -> Response:
        tasks = BackgroundTasks([BackgroundTask(work, 1), BackgroundTask(work, 2)])
        return PlainTextResponse("ok", background=tasks)

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Pass)] * layers)
    await run(RequestCancelationMiddleware(app, default_timeout=0.04), connection, watch)

    assert finished == [1, 2]
    assert connection.body == b"ok"


@on_asyncio
async def test_a_cancel_while_the_reader_ends_leaves_no_read_behind(watch: Watch) -> None:
    """`task.cancel()` may come while a request waits for the end of its reader."""
    connection = ScriptedConnection(server=SILENT)
    tasks: list[asyncio.Task[None]] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await respond(send)
        tasks[0].cancel()

    app = RequestCancelationMiddleware(application(handle))
    async with lifespan(app) if watch == "service" else contextlib.nullcontext():
        tasks.append(asyncio.create_task(connection.run(app)))
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await anyio.wait_all_tasks_blocked()
        assert connection.cancelled_reads == 1


@SERVERS
async def test_many_healthy_requests_are_all_completed(
    anyio_backend: object, server: ServerBehaviour
) -> None:
    """The server's disconnect at the end of a response is none, not even for a look."""
    calls: list[OperationContext] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        assert await look(receive) is None
        await anyio.lowlevel.checkpoint()

    app = RequestCancelationMiddleware(application(handle), on_cancel=calls.append)
    with OperationRegistry().as_default() as registry:
        for _ in range(250):
            connection = ScriptedConnection(server=server)
            await run(app, connection, "alone")
            assert connection.body == b"ok"

        assert registry.get_history() == []
    assert calls == []


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([{"type": "http.response.body", "body": b"x"}], id="body"),
        pytest.param([{"type": "http.response.pathsend", "path": "/x"}], id="pathsend"),
        pytest.param([{"type": "http.response.zerocopysend", "file": 1}], id="zerocopysend"),
        pytest.param(
            [
                {"type": "http.response.body", "body": b"x"},
                {"type": "http.response.trailers", "headers": [], "more_trailers": True},
                {"type": "http.response.trailers", "headers": []},
            ],
            id="trailers",
        ),
    ],
)
async def test_the_end_of_a_response_is_found(
    anyio_backend: object, watch: Watch, messages: list[Message]
) -> None:
    """All messages pass untouched, and a disconnect counts until the very last one."""
    finished: list[bool] = []
    has_trailers = len(messages) > 1
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    if has_trailers:
        start["trailers"] = True
    hint: Message = {"type": "http.response.early_hint", "links": []}
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        for message in [hint, start, *messages]:
            await send(message)
        connection.leave()
        await anyio.sleep(0.03)
        finished.append(True)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.sent == [hint, start, *messages]
    assert finished == [True]


async def test_a_request_that_is_cut_while_it_sends_its_last_message_is_a_cancelled_one(
    anyio_backend: object, watch: Watch
) -> None:
    """Nobody knows whether the server has the message of which it took no end."""
    calls: list[OperationContext] = []
    connection = ScriptedConnection(stop_reading_after_messages=2)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), on_cancel=calls.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, connection, watch)
        await connection.wait_for_chunks(1)
        await get_request_token(Request(connection.scope)).cancel("manual")

    assert [call.cancel_reason for call in calls] == ["manual"]


@pytest.mark.parametrize("cause", ["token", "disconnect"])
async def test_a_request_that_is_cut_before_its_last_message_is_a_cancelled_one(
    anyio_backend: object, watch: Watch, cause: str
) -> None:
    """W3: also if the handler waits for nothing any more: its client has no whole response."""
    calls: list[OperationContext] = []
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        token = get_request_token(Request(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with anyio.CancelScope(shield=True):
            if cause == "token":
                await token.cancel("manual")
            else:
                await until_watched(receive)
                connection.leave()
            await token.wait()
        await send({"type": "http.response.body", "body": b"whole"})

    app = RequestCancelationMiddleware(application(handle), on_cancel=calls.append)
    await run(app, connection, watch)

    assert connection.status == 200
    assert connection.body == b""
    assert not connection.complete
    (call,) = calls
    assert call.cancel_reason == ("manual" if cause == "token" else "disconnect")


async def test_a_body_without_a_start_ends_no_response(anyio_backend: object, watch: Watch) -> None:
    """The server refuses it; a request that is cancelled then still has to be answered."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="start"):
            await send({"type": "http.response.body", "body": b"1"})
        await anyio.sleep_forever()

    connection = ScriptedConnection(send_errors=[RuntimeError("the start is missing")])
    app = RequestCancelationMiddleware(application(handler), default_timeout=1)
    await run(app, connection, watch)

    assert (connection.status, connection.starts, connection.complete) == (504, 1, True)


async def test_trailers_that_are_due_keep_a_response_open(
    anyio_backend: object, watch: Watch
) -> None:
    """The last body message is not the end of a response that announced trailers."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
    connection = ScriptedConnection()
    finished: list[bool] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b"x"})
        connection.leave()
        await anyio.sleep(10)
        finished.append(True)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert finished == []


async def test_exceptions_arrive_as_they_were_raised(anyio_backend: object, watch: Watch) -> None:
    """W2: no group, no wrapper, the same object."""
    error = LookupError("mine")
    group = ExceptionGroup("mine", [LookupError("one"), ValueError("two")])

    for failure in (error, group):

        async def handle(
            scope: Scope, receive: Receive, send: Send, failure: Exception = failure
        ) -> None:
            await look(receive)
            await anyio.sleep(0.01)
            raise failure

        with pytest.raises(type(failure)) as caught:
            await run(
                RequestCancelationMiddleware(application(handle)), ScriptedConnection(), watch
            )
        assert caught.value is failure


async def test_context_variables_flow_as_without_us(anyio_backend: object, watch: Watch) -> None:
    """W2: what the application sets is there for whoever called it, and the other way round."""
    number = ContextVar("number", default=0)
    seen: list[int] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(number.get())
        number.set(2)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            number.set(1)
        await app(scope, receive, send)
        if scope["type"] == "http":
            seen.append(number.get())

    await run(outer, ScriptedConnection(), watch)

    assert seen == [1, 2]


async def test_unknown_scopes_pass_through(anyio_backend: object) -> None:
    """W2: what we do not know is not ours."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope, receive, send])

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        raise NotImplementedError

    scope = {"type": "something.else"}
    await RequestCancelationMiddleware(app)(scope, receive, send)

    assert seen == [scope, receive, send]
    assert scope == {"type": "something.else"}
