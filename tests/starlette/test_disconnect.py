"""A client that leaves cancels the handler of its request (W1, W4, W7, W11)."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Literal

import anyio
import pytest
from anyio import sleep_forever
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import (
    Cancelable,
    CancelationReason,
    OperationContext,
    OperationRegistry,
    OperationStatus,
    current_operation,
)
from cancelable_starlette import (
    CancelableRoute,
    CancelableStreamingResponse,
    RequestCancelationMiddleware,
    get_request_operation,
    get_request_token,
)
from cancelable_starlette.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    SILENT,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import (
    Watch,
    application,
    look,
    read_body,
    respond,
    run,
    until_left,
    until_watched,
)

SERVERS = pytest.mark.parametrize(
    "server",
    [
        pytest.param(UVICORN, id="uvicorn"),
        pytest.param(HYPERCORN, id="hypercorn"),
        pytest.param(GRANIAN, id="granian"),
        pytest.param(DAPHNE, id="daphne"),
    ],
)


@SERVERS
async def test_a_sleeping_handler_is_cancelled(
    anyio_backend: object, watch: Watch, server: ServerBehaviour
) -> None:
    """W1: the handler sees the native cancel, without a change to it."""
    seen: list[str] = []
    connection = ScriptedConnection(server=server)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert seen == ["cancelled", "finally"]
    assert connection.sent == []
    assert connection.overlapping_reads == 0


@SERVERS
async def test_a_handler_that_waits_for_its_body_is_cancelled_and_not_told(
    anyio_backend: object, watch: Watch, server: ServerBehaviour
) -> None:
    """W13: a disconnect that the application's own read meets cancels and is not delivered."""
    seen: list[str] = []
    connection = ScriptedConnection("POST", body=[b"a", b"b"], leave_after_chunks=1, server=server)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                message = await receive()
                seen.append(message["type"])
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert "http.disconnect" not in seen
    assert seen[-1] == "cancelled"


async def test_a_watched_read_is_cancelled_and_not_told(
    anyio_backend: object, watch: Watch
) -> None:
    """W13: the same when a watcher meets the disconnect while the application waits."""
    seen: list[str] = []
    connection = ScriptedConnection("POST", body=[b"a", b""], pause=0.0)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await look(receive)
        assert len(await read_body(receive)) == 2
        await look(receive)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_on, receive)
                await anyio.wait_all_tasks_blocked()
                connection.leave()
        except BaseException as exc:
            seen.append(type(exc).__name__)
            raise

    async def read_on(receive: Receive) -> None:
        seen.append((await receive())["type"])

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert "http.disconnect" not in seen
    assert len(seen) == 1


async def test_a_stream_is_cancelled_before_its_first_byte_and_in_the_middle(
    anyio_backend: object, watch: Watch
) -> None:
    """W1: there is no gap between the handler and its stream."""
    for messages in (0, 2, 3):
        in_the_middle = messages > 0
        closed: list[int] = []
        connection = ScriptedConnection(leave_after_messages=messages or None)

        async def numbers(closed: list[int] = closed) -> AsyncIterator[bytes]:
            try:
                yield b"1"
                yield b"2"
                await sleep_forever()
            finally:
                closed.append(1)

        async def handle(
            scope: Scope,
            receive: Receive,
            send: Send,
            connection: ScriptedConnection = connection,
            in_the_middle: bool = in_the_middle,
            numbers: Callable[[], AsyncIterator[bytes]] = numbers,
        ) -> None:
            if in_the_middle:
                await StreamingResponse(numbers())(scope, receive, send)
            connection.leave()
            await sleep_forever()

        app = application(handle)
        await run(RequestCancelationMiddleware(app), connection, watch)

        assert closed == ([1] if messages else [])
        assert not connection.complete


async def test_a_cancelable_inside_is_a_child_and_stops_with_the_request(
    anyio_backend: object, watch: Watch
) -> None:
    """W1: what a handler enters itself is linked without being told."""
    facts: list[OperationContext] = []
    parents: list[object] = []
    connection = ScriptedConnection("GET", "/report", query=b"secret=1")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with Cancelable(name="inner") as inner:
            inner.on_cancel(facts.append)
            parents.append(inner.parent)
            connection.leave()
            await sleep_forever()

    def note(context: OperationContext) -> None:
        facts.append(context)

    await run(RequestCancelationMiddleware(application(handle), on_cancel=note), connection, watch)

    inner, outer = facts
    assert (outer.name, outer.cancel_reason) == ("GET /report", CancelationReason.DISCONNECT)
    assert outer.metadata == {"method": "GET", "path": "/report", "client": "192.0.2.1"}
    assert inner.parent_id == outer.id
    assert inner.status is OperationStatus.CANCELLED
    assert "secret" not in repr(facts)


async def test_a_running_request_is_listed_and_a_completed_one_is_forgotten(
    anyio_backend: object, watch: Watch
) -> None:
    """W1: history keeps only requests that did not complete."""
    listed: list[str | None] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        listed.extend(each.name for each in OperationRegistry.current().list_operations())
        if scope["path"] == "/gone":
            await sleep_forever()
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))
    with OperationRegistry().as_default() as registry:
        await run(app, ScriptedConnection("GET", "/done"), watch)
        await run(app, ScriptedConnection("GET", "/gone", leave_after=0.0), watch)

        assert listed == ["GET /done", "GET /gone"]
        assert registry.list_operations() == []
        assert [each.name for each in registry.get_history()] == ["GET /gone"]


async def test_a_name_fits_in_one_line_of_a_log(anyio_backend: object) -> None:
    """A path is the client's text: it must not write lines of its own into a log."""
    names: list[str | None] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        operation = current_operation()
        assert operation is not None
        names.append(operation.name)
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), ScriptedConnection("GET", "/a\nb"))

    assert names == ["GET /a\\nb"]


async def test_the_token_and_the_operation_are_found_and_the_reason_outlives_the_request(
    anyio_backend: object, watch: Watch
) -> None:
    """The scope has the token, also for a middleware around ours, after the end."""
    seen: list[object] = []
    connection = ScriptedConnection()

    async def endpoint(request: Request) -> Response:
        operation = get_request_operation(request)
        token = get_request_token(request)
        assert operation is current_operation()
        assert token is request.scope["cancelation_token"]
        assert operation is not None
        assert operation.token is token
        connection.leave()
        await sleep_forever()
        return PlainTextResponse("never")

    app = Starlette(routes=[Mount("/", routes=[Route("/", endpoint)])])
    await run(RequestCancelationMiddleware(app), connection, watch)

    outer = Request(connection.scope)
    seen.append(get_request_token(outer).reason)
    assert seen == [CancelationReason.DISCONNECT]
    assert get_request_operation(outer) is None


@pytest.mark.parametrize("place", ["inside", "outside"])
async def test_a_handler_of_errors_reads_why_the_request_was_stopped(
    anyio_backend: object, watch: Watch, place: str
) -> None:
    """W1: one inside of the middleware, and the one for status 500 around it."""
    seen: list[CancelationReason | None] = []
    connection = ScriptedConnection()

    async def endpoint(request: Request) -> Response:
        connection.leave()
        try:
            await sleep_forever()
        finally:
            raise LookupError("a mistake")

    async def tell(request: Request, error: Exception) -> Response:
        seen.append(get_request_token(request).reason)
        return PlainTextResponse("sorry", 500)

    error = LookupError if place == "inside" else 500
    app = Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(RequestCancelationMiddleware)],
        exception_handlers={error: tell},
    )
    with contextlib.suppress(LookupError):
        await run(app, connection, watch)

    assert seen == [CancelationReason.DISCONNECT]
    assert connection.sent == []


async def test_the_disconnect_is_answered_to_every_later_read(
    anyio_backend: object, watch: Watch
) -> None:
    """W4: servers that say it once say it to all of us."""
    seen: list[Message | None] = []
    connection = ScriptedConnection(server=HYPERCORN)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        with anyio.CancelScope(shield=True):
            await until_left(receive)
            for _ in range(3):
                seen.append(await look(receive))
                seen.append(await receive())

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert {message["type"] for message in seen if message} == {"http.request", "http.disconnect"}
    assert [m["type"] for m in seen if m][-3:] == ["http.disconnect"] * 3


async def test_is_disconnected_is_true_below_us(anyio_backend: object, watch: Watch) -> None:
    """W4: the question that Starlette's documentation teaches gets its answer."""
    answers: list[bool] = []
    connection = ScriptedConnection(server=HYPERCORN)

    async def endpoint(request: Request) -> Response:
        answers.append(await request.is_disconnected())
        connection.leave()
        with anyio.CancelScope(shield=True):
            while not await request.is_disconnected():
                await checkpoint()
            answers.append(await request.is_disconnected())
        return PlainTextResponse("too late")

    app = Starlette(routes=[Route("/", endpoint)])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert answers == [False, True]


async def test_an_abandoned_request_is_quiet(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: one INFO record, one callback, nothing else, and no exception for the server."""
    calls: list[OperationContext] = []
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        await sleep_forever()

    app = RequestCancelationMiddleware(application(handle), on_cancel=calls.append)
    with caplog.at_level(logging.INFO):
        await run(app, connection, watch)

    assert len(calls) == 1
    records = [each for each in caplog.records if each.levelno >= logging.INFO]
    assert [each.levelname for each in records] == ["INFO"]
    assert "GET /" in records[0].getMessage()


async def test_a_middleware_around_us_gets_a_response_for_nobody(
    anyio_backend: object, watch: Watch
) -> None:
    """The synthetic 499 is sent after the client has left, and only then."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.sent == []
    assert [m.get("status") for m in connection.discarded] == [499]


END = {"type": "http.response.body", "body": b"", "more_body": False}


async def begin_and_leave(connection: ScriptedConnection, send: Send) -> None:
    """Begin to stream, and have the client leave behind the first chunk."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})
    connection.leave()


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_stream_whose_client_left_ends_where_nobody_can_take_it_for_complete(
    anyio_backend: object, watch: Watch, version: str
) -> None:
    """W6, W10: a half-closed connection may be read; of HTTP/2, a server wants an end."""
    connection = ScriptedConnection()
    connection.scope["http_version"] = version

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await begin_and_leave(connection, send)
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.discarded == ([END] if version == "2" else [])


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
@pytest.mark.parametrize("is_whole", [True, False])
async def test_no_end_is_sent_before_the_body_has_come_whole(
    anyio_backend: object,
    watch: Watch,
    is_whole: bool,
    on_disconnect: Literal["cancel", "continue"],
) -> None:
    """W2, W10: a server with HTTP/2 may fall over what comes behind the end of a response."""
    connection = ScriptedConnection(
        "POST", body=[b"half", b"rest"], pause=1, leave_after_chunks=None if is_whole else 1
    )
    connection.scope["http_version"] = "2"

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        if is_whole:
            connection.leave()
            await until_left(receive)

    app = RequestCancelationMiddleware(application(handle), on_disconnect=on_disconnect)
    await run(app, connection, watch)

    start, *rest = connection.discarded
    assert start["status"] == 499
    assert rest == ([END] if is_whole else [])


@pytest.mark.parametrize("how", ["continue", "grace", "swallowed"])
@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_stream_that_ends_by_itself_for_nobody_ends_the_same(
    anyio_backend: object, watch: Watch, version: str, how: str
) -> None:
    """W5, W6, W10: it was to go on, or had time to, or goes on against what it was told."""
    connection = ScriptedConnection()
    connection.scope["http_version"] = version

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await begin_and_leave(connection, send)
        if how == "swallowed":
            with contextlib.suppress(anyio.get_cancelled_exc_class()):
                await sleep_forever()
        else:
            await until_left(receive)
            await send({"type": "http.response.body", "body": b"2"})

    app = RequestCancelationMiddleware(
        application(handle),
        on_disconnect="continue" if how == "continue" else "cancel",
        grace=30 if how == "grace" else None,
    )
    await run(app, connection, watch)

    assert connection.discarded == ([END] if version == "2" else [])


async def test_a_server_that_never_tells_makes_nobody_wait(
    anyio_backend: object, watch: Watch
) -> None:
    """The request ends when the application does, and the watcher with it."""
    connection = ScriptedConnection(server=SILENT)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await look(receive)
        connection.leave()
        await anyio.sleep(0.02)
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.cancelled_reads == 1


@pytest.mark.parametrize("spec_version", ["2.0", "2.3", "2.4", "2.5", None])
@pytest.mark.parametrize("awaits_before", [False, True])
@pytest.mark.parametrize("send_after_leave", ["silent", "os_error"])
@pytest.mark.parametrize("disconnect", ["repeated", "once"])
async def test_a_stream_ends_alike_on_every_version_of_the_protocol(
    anyio_backend: object,
    watch: Watch,
    spec_version: str | None,
    awaits_before: bool,
    send_after_leave: str,
    disconnect: str,
) -> None:
    """Starlette's stream takes two paths; what happens is the same."""
    closed: list[str] = []
    server = ServerBehaviour(
        spec_version=spec_version,
        send_after_leave=send_after_leave,  # type: ignore[arg-type]
        disconnect=disconnect,  # type: ignore[arg-type]
    )
    connection = ScriptedConnection(leave_after_messages=3, server=server)

    async def numbers() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"."
                await anyio.sleep(0.001)
        finally:
            closed.append("closed")

    async def endpoint(request: Request) -> Response:
        if awaits_before:
            await checkpoint()
        return StreamingResponse(numbers())

    app = Starlette(routes=[Route("/", endpoint)])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert closed == ["closed"]
    assert connection.starts == 1
    assert not connection.complete


async def test_a_send_that_says_the_client_is_gone_is_a_disconnect(
    anyio_backend: object, watch: Watch
) -> None:
    """An OSError of a connection is quiet, one of the file system is the handler's."""
    reasons: list[CancelationReason | None] = []
    connection = ScriptedConnection(send_errors=[None, OSError("gone")], server=SILENT)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        operation = current_operation()
        assert operation is not None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        reasons.append(operation.cancel_reason)
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)
    assert reasons == [CancelationReason.DISCONNECT]

    connection = ScriptedConnection(send_errors=[FileNotFoundError(2, "no such file")])
    with pytest.raises(FileNotFoundError):
        await run(RequestCancelationMiddleware(application(handle)), connection, watch)


async def test_a_handler_that_swallows_the_cancel_has_one_outcome(
    anyio_backend: object, watch: Watch
) -> None:
    """A response that is made after a swallowed cancel reaches nobody, and ends nothing."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.sent == []
    assert connection.starts == 1


async def test_an_error_in_the_cleanup_of_a_cancelled_handler_is_not_hidden(
    anyio_backend: object, watch: Watch
) -> None:
    """W11 is for the disconnect, not for a mistake of the handler."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        try:
            await sleep_forever()
        finally:
            raise LookupError("a mistake")

    with pytest.raises(LookupError, match="a mistake"):
        await run(RequestCancelationMiddleware(application(handle)), connection, watch)


async def test_a_client_disconnect_error_of_starlette_is_quiet(
    anyio_backend: object, watch: Watch
) -> None:
    """An upload that ends early is no error of ours, also in a shield."""
    connection = ScriptedConnection("POST", body=[b"a"] * 3, leave_after_chunks=2, pause=0.001)

    async def endpoint(request: Request) -> Response:
        with anyio.CancelScope(shield=True):
            await request.body()
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert connection.sent == []


async def test_an_error_that_is_raised_from_a_disconnect_is_not_hidden(
    anyio_backend: object, watch: Watch
) -> None:
    """W2: it is the handler's own."""
    connection = ScriptedConnection("POST", body=[b"a"] * 3, leave_after_chunks=2, pause=0.001)
    error = LookupError("a mistake")

    async def endpoint(request: Request) -> Response:
        try:
            with anyio.CancelScope(shield=True):
                await request.body()
        except ClientDisconnect as cause:
            raise error from cause
        return PlainTextResponse("never")

    app = Starlette(
        routes=[Route("/", endpoint, methods=["POST"])],
        middleware=[Middleware(RequestCancelationMiddleware)],
    )
    with pytest.raises(LookupError) as caught:
        await run(app, connection, watch)
    assert caught.value is error


async def test_many_abandoned_requests_are_quiet(
    anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: a record at INFO for each; layers around us end as ever, and see no error."""
    facts: list[OperationContext] = []
    left: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sleep_forever()
        finally:
            left.append("handler")

    app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)

    async def tracer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except BaseException as exc:
            left.append(repr(exc))
            raise
        finally:
            left.append("tracer")

    connections = [ScriptedConnection("GET", f"/{n}", leave_after=0.001 * n) for n in range(100)]
    with caplog.at_level(logging.INFO):
        async with lifespan(app), anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.run, tracer)

    assert left.count("handler") == left.count("tracer") == len(left) / 2 == 100
    assert len(facts) == 100
    # An error that nobody took would be one at ERROR, of the event loop.
    records = [each for each in caplog.records if each.levelno >= logging.INFO]
    assert [each.levelname for each in records] == ["INFO"] * 100
    assert "disconnect" in records[0].getMessage()


@pytest.mark.parametrize("phase", ["before", "during", "after"])
async def test_a_cancel_of_the_servers_passes_through(
    anyio_backend: object, watch: Watch, phase: str
) -> None:
    """W4: with nothing of ours left in ``receive()``, and the request known as cancelled."""
    facts: list[OperationContext] = []
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        if phase != "before":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
        if phase == "after":
            await send({"type": "http.response.body", "body": b"2"})
        server.cancel()
        await sleep_forever()

    app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)
    async with contextlib.AsyncExitStack() as stack:
        if watch == "service":
            await stack.enter_async_context(lifespan(app))
        with anyio.CancelScope() as server:
            await connection.run(app)

    assert server.cancelled_caught
    assert [each.cancel_reason for each in facts] == [CancelationReason.EXTERNAL]
    assert not connection.discarded
    assert connection.starts == (phase != "before")


async def test_a_cancel_of_the_servers_beside_a_disconnect_passes_through(
    anyio_backend: object, watch: Watch
) -> None:
    """W4: whichever of the two is met first, the server's cancel is the server's."""
    stopped: list[bool] = []
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        connection.leave()
        server.cancel()
        try:
            await sleep_forever()
        finally:
            stopped.append(True)

    app = RequestCancelationMiddleware(application(handle))
    async with contextlib.AsyncExitStack() as stack:
        if watch == "service":
            await stack.enter_async_context(lifespan(app))
        with anyio.CancelScope() as server:
            await connection.run(app)

    assert server.cancelled_caught
    assert stopped == [True]


@pytest.mark.parametrize("cause", ["client", "timeout", "server"])
@pytest.mark.parametrize("phase", ["before", "during", "behind"])
async def test_cleanup_runs_once_and_from_the_inside_out(
    anyio_backend: object, watch: Watch, phase: str, cause: str
) -> None:
    """W2: that of the handler, of a layer inside of us, and of one around us."""
    ended: list[str] = []
    connection = ScriptedConnection()

    class Layer:
        def __init__(self, name: str, inner: ASGIApp) -> None:
            self.name = name
            self.inner = inner

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.inner(scope, receive, send)
            finally:
                if scope["type"] == "http":
                    ended.append(self.name)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        if phase != "before":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            more = phase == "during"
            await send({"type": "http.response.body", "body": b"1", "more_body": more})
        if cause == "client":
            connection.leave()
        elif cause == "server":
            server.cancel()
        try:
            await anyio.sleep(2)
        finally:
            ended.append("handler")

    routes = [CancelableRoute("/", Layer("inside", application(handle)), timeout=1)]
    app = Layer("around", RequestCancelationMiddleware(Starlette(routes=routes)))
    async with contextlib.AsyncExitStack() as stack:
        if watch == "service":
            await stack.enter_async_context(lifespan(app))
        began = anyio.current_time()
        with anyio.CancelScope() as server:
            await connection.run(app)

    assert ended == ["handler", "inside", "around"]
    took = {"client": 0, "timeout": 1, "server": 0}[cause]
    if phase == "behind" and cause != "server":
        took = 2  # what runs behind a complete response is for the server alone to cut
    assert anyio.current_time() - began == pytest.approx(took, abs=0.1)


@pytest.mark.parametrize(("path", "ended"), [("/heeds", 0.3), ("/stuck", 0.5), ("/hurried", 0.4)])
async def test_a_grace_after_a_disconnect(
    anyio_backend: object, watch: Watch, path: str, ended: float
) -> None:
    """S19: told at once, cut to the moment; a later and harder cause may shorten it."""
    told: list[CancelationReason] = []
    times: list[float] = []
    facts: list[OperationContext] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        operation = current_operation()
        assert operation is not None
        connection.leave()
        told.append(await operation.wait_cancelling())
        began = anyio.current_time()
        assert operation.is_cancelling
        try:
            await anyio.sleep(0.3)
            if path == "/heeds":
                return
            if path == "/hurried":
                await operation.cancel(CancelationReason.SIGNAL, grace=0.1)
            await sleep_forever()
        finally:
            times.append(anyio.current_time() - began)

    connection = ScriptedConnection("GET", path)
    app = RequestCancelationMiddleware(application(handle), grace=0.5, on_cancel=facts.append)
    await run(app, connection, watch)

    assert told == [CancelationReason.DISCONNECT]
    assert times == [pytest.approx(ended, abs=0.01)]
    expected = [] if path == "/heeds" else [CancelationReason.DISCONNECT]
    assert [each.cancel_reason for each in facts] == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_another_error_of_send_is_passed_on_unless_the_client_has_left(
    anyio_backend: object, watch: Watch, stream: bool
) -> None:
    """W2: a server that complains about a message is not told by us that the client left."""

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await checkpoint()

    async def endpoint(request: Request) -> Response:
        if request.url.path == "/gone":
            connection.leave()
            with anyio.CancelScope(shield=True):
                await until_left(request.receive)
        return StreamingResponse(chunks()) if stream else PlainTextResponse("ok")

    app = RequestCancelationMiddleware(Starlette(routes=[Route("/{rest}", endpoint)]))
    server = ServerBehaviour(send_after_leave="runtime_error")
    connection = ScriptedConnection("GET", "/gone", server=server)
    await run(app, connection, watch)
    assert connection.sent == []

    connection = ScriptedConnection("GET", "/here", send_errors=[None, RuntimeError("mine")])
    with pytest.raises(RuntimeError, match="mine"):
        await run(app, connection, watch)


async def test_who_waits_for_a_place_and_leaves_never_takes_one(anyio_backend: object) -> None:
    """W3: a storm of clients that give up and come again leaves no queue behind."""
    places = anyio.Semaphore(4)
    answered: list[str] = []
    worked: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with places:
            worked.append(scope["path"])
            await anyio.sleep(1)
            answered.append(scope["path"])
            await respond(send)

    async def storm(number: int) -> None:
        for attempt in range(3):
            await ScriptedConnection("GET", f"/{number}/{attempt}", leave_after=0.3).run(app)

    app = RequestCancelationMiddleware(application(handle))
    with OperationRegistry().as_default() as registry:
        async with lifespan(app):
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(storm, number)
            assert places.statistics().tasks_waiting == 0
            assert places.value == 4
            assert answered == []
            assert len(worked) <= 4 * 4
            patient = ScriptedConnection("GET", "/patient")
            await patient.run(app)
        assert registry.list_operations() == []

    assert patient.body == b"ok"


async def test_a_handler_may_wait_for_the_token(anyio_backend: object, watch: Watch) -> None:
    """W6: one that does not want to be cut asks for a grace, and is told."""
    reasons: list[CancelationReason] = []
    connection = ScriptedConnection()

    async def endpoint(request: Request) -> Response:
        connection.leave()
        reasons.append(await get_request_token(request).wait())
        return PlainTextResponse("for nobody")

    app = Starlette(routes=[Route("/", endpoint)])
    await run(RequestCancelationMiddleware(app, grace=60), connection, watch)

    assert reasons == [CancelationReason.DISCONNECT]


async def test_a_newer_request_replaces_the_older_ones(anyio_backend: object, watch: Watch) -> None:
    """W10: the last one answers; the others say that they were cancelled, and why."""
    latest: dict[str, Cancelable] = {}
    facts: list[OperationContext] = []

    async def endpoint(request: Request) -> Response:
        operation = get_request_operation(request)
        assert operation is not None
        older = latest.get("user")
        latest["user"] = operation
        if older is not None:
            older.cancel_sync(CancelationReason.MANUAL, "superseded")
        await anyio.sleep(1)
        return PlainTextResponse("the last one")

    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/", endpoint)]), on_cancel=facts.append
    )
    connections = [ScriptedConnection() for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        if watch == "service":
            await stack.enter_async_context(lifespan(app))
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.run, app)
                await anyio.sleep(0.01)

    assert [connection.status for connection in connections] == [499] * 4 + [200]
    assert b'"reason":"manual"' in connections[0].body
    assert {each.cancel_message for each in facts} == {"superseded"}


async def test_a_client_that_leaves_before_the_first_chunk(
    anyio_backend: object, watch: Watch
) -> None:
    """W1: while the handler prepares a stream, or the generator its first chunk."""
    for path, kind in itertools.product(
        ("/handler", "/first"), (StreamingResponse, CancelableStreamingResponse)
    ):
        closed: list[str] = []

        async def chunks(path: str = path, closed: list[str] = closed) -> AsyncIterator[bytes]:
            try:
                await anyio.sleep(5)
                yield b"never"
            finally:
                closed.append(path)

        async def endpoint(
            request: Request,
            path: str = path,
            closed: list[str] = closed,
            chunks: Callable[[], AsyncIterator[bytes]] = chunks,
            kind: type[StreamingResponse] = kind,
        ) -> Response:
            try:
                await anyio.sleep(5 if path == "/handler" else 0)
            except anyio.get_cancelled_exc_class():
                closed.append(path)
                raise
            return kind(chunks())

        connection = ScriptedConnection("GET", path, leave_after=0.2)
        app = Starlette(routes=[Route(path, endpoint)])
        await run(RequestCancelationMiddleware(app), connection, watch)

        assert closed == [path]
        assert connection.body == b""
        assert not connection.complete


async def test_a_head_request_is_cancelled_like_a_get(anyio_backend: object, watch: Watch) -> None:
    """W7: it is answered by the same handler."""
    stopped: list[str] = []

    async def endpoint(request: Request) -> Response:
        try:
            await sleep_forever()
        finally:
            stopped.append(request.method)
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", endpoint)])
    connection = ScriptedConnection("HEAD", leave_after=0.2)
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert stopped == ["HEAD"]
    assert connection.sent == []
