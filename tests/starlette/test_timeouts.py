"""A request has a time limit, and is answered when it has passed (W6, W7)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import sleep_forever
from hypothesis import given, strategies as st
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    OperationContext,
    current_operation,
)
from cancelable_starlette import (
    CancelableRoute,
    RequestCancelationMiddleware,
    ResponseHook,
    close_code_for,
    deadline_headers,
    get_request_token,
    status_for,
    with_cancelation,
)
from cancelable_starlette.testing import SILENT, ScriptedConnection
from tests.starlette.support import Watch, application, look, respond, run
from tests.support.clock import advance


async def test_the_default_timeout_is_a_504(anyio_backend: object, watch: Watch) -> None:
    """W6: once, with a small body that says why, and the work has really stopped."""
    facts: list[OperationContext] = []
    stopped: list[bool] = []
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sleep_forever()
        finally:
            stopped.append(True)

    app = RequestCancelationMiddleware(
        application(handle), default_timeout=0.02, on_cancel=facts.append
    )
    await run(app, connection, watch)

    assert connection.status == 504
    assert json.loads(connection.body)["reason"] == "timeout"
    assert connection.headers["content-type"] == "application/json"
    assert connection.starts == 1
    assert connection.complete
    assert stopped == [True]
    assert [each.cancel_reason for each in facts] == [CancelationReason.TIMEOUT]


async def test_a_head_request_gets_no_body(anyio_backend: object) -> None:
    """The answer to HEAD has headers only."""
    connection = ScriptedConnection("HEAD")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.02)
    await run(app, connection)

    assert connection.status == 504
    assert connection.body == b""


async def test_the_default_timeout_counts_to_the_start_of_the_response(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: a stream may take as long as it likes."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep(0.06)
        await send({"type": "http.response.body", "body": b"late"})

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.03)
    await run(app, connection, watch)

    assert connection.body == b"late"


async def test_a_response_that_would_begin_behind_the_deadline_is_a_504(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: also if the handler held the loop until then, which has noticed nothing."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        advance(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": b"late"})

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.03)
    await run(app, connection, watch)

    assert connection.status == 504
    assert connection.starts == 1
    assert connection.complete


async def test_a_timeout_in_the_middle_of_a_response_breaks_it_off(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: no second start, nothing raised, and it does not look complete."""
    connection = ScriptedConnection()
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            await sleep_forever()
        finally:
            closed.append(True)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(numbers(), media_type="text/plain")

    app = Starlette(routes=[CancelableRoute("/", endpoint, timeout=0.03)])
    await run(RequestCancelationMiddleware(app, default_timeout=9), connection, watch)

    assert connection.body == b"1"
    assert connection.starts == 1
    assert not connection.complete
    assert closed == [True]


@pytest.mark.parametrize("until", ["start", "end"])
async def test_a_route_replaces_the_default(
    anyio_backend: object, watch: Watch, until: str
) -> None:
    """W6: longer, shorter, or none at all."""

    async def slow(request: Request) -> Response:
        await anyio.sleep(0.06)
        return PlainTextResponse("slow")

    app = Starlette(
        routes=[
            Route("/default", slow),
            CancelableRoute("/longer", slow, timeout=5, until=until),  # type: ignore[arg-type]
            CancelableRoute("/shorter", slow, timeout=0.01, until=until),  # type: ignore[arg-type]
            CancelableRoute("/none", slow, timeout=None),
            CancelableRoute("/unsaid", slow),
        ]
    )
    statuses = {}
    for path in ("/default", "/longer", "/shorter", "/none", "/unsaid"):
        connection = ScriptedConnection("GET", path)
        await run(RequestCancelationMiddleware(app, default_timeout=0.03), connection, watch)
        statuses[path] = connection.status

    assert statuses == {
        "/default": 504,
        "/longer": 200,
        "/shorter": 504,
        "/none": 200,
        "/unsaid": 504,
    }


async def test_a_timeout_to_the_start_ends_there(anyio_backend: object, watch: Watch) -> None:
    """W6: ``until="start"`` leaves the rest of the response alone."""

    async def numbers() -> AsyncIterator[bytes]:
        yield b"1"
        await anyio.sleep(3)
        yield b"2"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(numbers())

    app = Starlette(routes=[CancelableRoute("/", endpoint, timeout=2, until="start")])
    connection = ScriptedConnection()
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert connection.body == b"12"


async def test_a_timeout_to_the_end_spares_what_runs_behind_the_response(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: the timeout of a request ends with the response."""
    finished: list[bool] = []

    async def work() -> None:
        await anyio.sleep(1)
        finished.append(True)

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(work))

    app = Starlette(routes=[CancelableRoute("/", endpoint, timeout=0.02)])
    await run(RequestCancelationMiddleware(app), ScriptedConnection(), watch)

    assert finished == [True]


async def test_a_swallowed_timeout_has_one_outcome(anyio_backend: object, watch: Watch) -> None:
    """W6: a handler that catches the cancel and answers, through a send that never waits."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        await respond(send, b"too late")

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.02)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_at_once(message: Message) -> None:
            connection.sent.append(message)

        await app(scope, receive, send if scope["type"] == "lifespan" else send_at_once)

    await run(outer, connection, watch)

    assert connection.status == 504
    assert connection.starts == 1


async def test_a_handler_in_a_shield_may_answer_a_timeout_itself(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: what it says on purpose is said, and there is no second start."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await respond(send, b"partial", status=206)

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.02)
    await run(app, connection, watch)

    assert (connection.status, connection.body) == (206, b"partial")
    assert connection.starts == 1


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"0.02", 504),
        (b"20ms", 504),
        (b" 20 ms ", 504),
        (b"0", 504),
        (b"-1", 504),
        (b"9", 200),
        (b"99999999999", 200),
        (b"soon", 200),
        (b"nan", 200),
        (b"inf", 200),
        (b"1e400", 200),
        (b"", 200),
    ],
)
async def test_a_deadline_of_the_client_shortens_and_never_extends(
    anyio_backend: object, header: bytes, status: int
) -> None:
    """What is no number is ignored; what has expired is answered without the handler."""
    called: list[bool] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(True)
        await anyio.sleep(0.06)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), deadline_header="X-Timeout")
    connection = ScriptedConnection(headers=[(b"x-timeout", header)])
    await run(app, connection)
    assert connection.status == status
    assert bool(called) == (header not in (b"0", b"-1"))

    app = RequestCancelationMiddleware(application(handle))
    connection = ScriptedConnection(headers=[(b"x-timeout", header)])
    await run(app, connection)
    assert connection.status == 200

    app = RequestCancelationMiddleware(
        application(handle), default_timeout=0.02, deadline_header="X-Timeout"
    )
    connection = ScriptedConnection(headers=[(b"x-timeout", header)])
    await run(app, connection)
    assert connection.status == 504


async def test_a_route_does_not_extend_the_deadline_of_the_client(anyio_backend: object) -> None:
    """The effective deadline is the least of all."""

    async def endpoint(request: Request) -> Response:
        await sleep_forever()
        return PlainTextResponse("never")

    app = Starlette(routes=[CancelableRoute("/", endpoint, timeout=5)])
    connection = ScriptedConnection(headers=[(b"x-timeout", b"0.02")])
    await run(RequestCancelationMiddleware(app, deadline_header="x-timeout"), connection)

    assert connection.status == 504


async def test_the_remaining_time_is_passed_on_and_only_gets_shorter(
    anyio_backend: object,
) -> None:
    """W6, W15: what one service sends, the next one reads, however many there are."""
    sent: list[float] = []
    statuses: list[int | None] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.3004)
        header = deadline_headers("X-Timeout")
        sent.append(float(header["X-Timeout"]))
        call = ScriptedConnection(
            headers=[(name.lower().encode(), value.encode()) for name, value in header.items()]
        )
        await next_service(call.scope, call.receive, call.send)
        statuses.append(call.status)
        await respond(send)

    async def next_service(scope: Scope, receive: Receive, send: Send) -> None:
        await RequestCancelationMiddleware(
            application(handle), default_timeout=60, deadline_header="X-Timeout"
        )(scope, receive, send)

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(application(handle), default_timeout=1)
    await run(app, connection)

    # Each is rounded down: the last one answers in time for its caller to make something of it.
    assert sent == [0.699, 0.398, 0.097]
    assert statuses == [504, 200, 200]
    assert connection.status == 200


@given(st.floats(0, 1e9))
def test_no_more_than_the_remaining_time_is_passed_on(seconds: float) -> None:
    """W15: it is rounded down, to a form that the middleware reads."""
    operation = Cancelable.with_timeout(seconds)
    value = deadline_headers("X-Timeout", operation)["X-Timeout"]

    assert seconds - 0.0011 <= float(value) <= seconds
    assert set(value) <= set("0123456789.")


async def test_what_has_no_time_limit_passes_none_on(anyio_backend: object) -> None:
    """W15: and what was asked to stop has no time left."""
    assert deadline_headers("X-Timeout") == {}
    async with Cancelable() as operation:
        assert deadline_headers("X-Timeout") == {}
        async with Cancelable.with_timeout(5):
            async with Cancelable():
                assert deadline_headers("X-Timeout")["X-Timeout"] <= "5.000"
            assert deadline_headers("X-Timeout", operation) == {}
            operation.cancel_sync()
            assert deadline_headers("X-Timeout") == {"X-Timeout": "0.000"}


async def test_the_time_that_is_left_is_known_in_a_stream(anyio_backend: object) -> None:
    """W6: of a route whose time counts to the end of the response."""
    headers: list[dict[str, str]] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield b"1"
        await anyio.sleep(2)
        headers.append(deadline_headers("X-Timeout"))

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(chunks())

    app = Starlette(routes=[CancelableRoute("/", endpoint, timeout=5)])
    await run(RequestCancelationMiddleware(app), ScriptedConnection())

    # What the machine took to come to the route counts, on a clock that is not virtual.
    (header,) = headers
    assert 2 < float(header["X-Timeout"]) <= 3


async def test_a_server_that_never_tells_of_a_disconnect_has_timeouts(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: they are the second line of defence."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await look(receive)
        await sleep_forever()

    app = RequestCancelationMiddleware(application(handle), default_timeout=2)
    connection = ScriptedConnection(server=SILENT)
    await run(app, connection, watch)

    assert connection.status == 504


async def test_the_remaining_time_is_known_inside(anyio_backend: object) -> None:
    """In the handler and in its children, for outgoing calls."""
    remaining: list[float] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with Cancelable() as inner:
            remaining.append(inner.remaining)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), default_timeout=60)
    await run(app, ScriptedConnection())

    assert remaining[0] == pytest.approx(60)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (CancelationReason.TIMEOUT, 504),
        (CancelationReason.MANUAL, 499),
        (CancelationReason.SIGNAL, 503),
        (CancelationReason.DISCONNECT, 499),
        (CancelationReason.CONDITION, 500),
        (CancelationReason.ERROR, 500),
        (CancelationReason.PARENT, 500),
        (CancelationReason.EXTERNAL, 500),
    ],
)
async def test_each_reason_has_its_status(
    anyio_backend: object, watch: Watch, reason: CancelationReason, status: int
) -> None:
    """W7: of the request's own operation and of one inside it, and for the log."""
    assert status_for(reason) == status
    assert status_for(CancelationError(reason)) == status

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        operation = current_operation()
        assert operation is not None
        if scope["path"] == "/own":
            await operation.cancel(reason)
            await sleep_forever()
        async with Cancelable() as inner:
            await inner.cancel(reason)
            await sleep_forever()

    for path in ("/own", "/inner"):
        facts: list[OperationContext] = []
        connection = ScriptedConnection("GET", path)
        app = RequestCancelationMiddleware(application(handle), on_cancel=facts.append)
        await run(app, connection, watch)

        assert connection.status == status
        assert json.loads(connection.body)["reason"] == reason.value
        assert [each.cancel_reason for each in facts] == [reason]


def test_each_reason_has_its_close_code() -> None:
    """W7: for WebSockets."""
    codes = {reason: close_code_for(reason) for reason in CancelationReason}
    assert codes.pop(CancelationReason.TIMEOUT) == 3008
    assert codes.pop(CancelationReason.SIGNAL) == 1001
    assert codes.pop(CancelationReason.MANUAL) == 1000
    assert set(codes.values()) == {1011}
    assert close_code_for(CancelationError(CancelationReason.TIMEOUT)) == 3008


async def test_the_mapping_and_the_response_can_be_replaced(anyio_backend: object) -> None:
    """W6, W7: by a table, or by a function, plain or async."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    def plain(reason: CancelationReason, request: Request) -> Response:
        return PlainTextResponse(f"{reason.value} {request.url.path}", status_code=408)

    async def slow(reason: CancelationReason, request: Request) -> Response:
        await anyio.lowlevel.checkpoint()
        return plain(reason, request)

    for hook in (plain, slow):
        connection = ScriptedConnection("GET", "/here")
        app = RequestCancelationMiddleware(
            application(handle), default_timeout=0.01, response_hook=hook
        )
        await run(app, connection)
        assert (connection.status, connection.body) == (408, b"timeout /here")

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(
        application(handle), default_timeout=0.01, statuses={CancelationReason.TIMEOUT: 408}
    )
    await run(app, connection)
    assert connection.status == 408


def no_response(reason: CancelationReason, request: Request) -> Response:
    return None  # type: ignore[return-value]


async def no_response_later(reason: CancelationReason, request: Request) -> Response:
    return no_response(reason, request)


def broken_response(reason: CancelationReason, request: Request) -> Response:
    async def numbers() -> AsyncIterator[bytes]:
        yield b"1"
        raise LookupError("mine")

    return StreamingResponse(numbers(), 504)


@pytest.mark.parametrize(
    ("hook", "error", "message", "status"),
    [
        (no_response, TypeError, "`response_hook` must return a Response, not None", None),
        (no_response_later, TypeError, "`response_hook` must return a Response, not None", None),
        (broken_response, LookupError, "mine", 504),
    ],
)
@pytest.mark.parametrize("form", ["middleware", "route"])
async def test_a_mistake_in_a_hook_reaches_the_server(
    anyio_backend: object,
    watch: Watch,
    form: str,
    hook: ResponseHook,
    error: type[Exception],
    message: str,
    status: int | None,
) -> None:
    """W6: which tells of it; a client without an answer tells nobody anything."""

    async def endpoint(request: Request) -> Response:
        await get_request_token(request).cancel()
        await sleep_forever()
        raise AssertionError

    app: ASGIApp = Starlette(routes=[CancelableRoute("/", endpoint, response_hook=hook)])
    if form == "middleware":
        app = Starlette(routes=[Route("/", endpoint)])
        app = RequestCancelationMiddleware(app, response_hook=hook)
    connection = ScriptedConnection()
    with pytest.raises(error, match=message):
        await run(app, connection, watch)
    # Around the route Starlette answers for a mistake, and around the middleware the server.
    assert connection.status == (500 if status is None and form == "route" else status)
    assert connection.complete == (connection.status == 500)


async def test_an_answer_that_the_server_refuses_is_quiet(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: the server may have had a start before, or the client has left meanwhile."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    connection = ScriptedConnection(send_errors=[RuntimeError("a second start")])
    app = RequestCancelationMiddleware(application(handle), default_timeout=1)
    with caplog.at_level("INFO", "cancelable.starlette"):
        await run(app, connection, watch)
    assert connection.sent == []
    assert caplog.messages == []


async def test_an_error_that_a_framework_wrapped_is_recognised(
    anyio_backend: object, watch: Watch
) -> None:
    """W11: Starlette raises another error if a handled one comes after the start."""
    facts: list[OperationContext] = []

    async def numbers() -> AsyncIterator[bytes]:
        yield b"1"
        async with Cancelable.with_timeout(0.01):
            await sleep_forever()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(numbers())

    async def handler(request: Request, exc: Exception) -> Response:
        raise NotImplementedError

    app = Starlette(
        routes=[Route("/", endpoint)],
        exception_handlers={CancelationError: handler, HTTPException: handler},
    )
    connection = ScriptedConnection()
    await run(RequestCancelationMiddleware(app, on_cancel=facts.append), connection, watch)

    assert [each.cancel_reason for each in facts] == [CancelationReason.TIMEOUT]
    assert not connection.complete


@pytest.mark.parametrize("how", ["middleware", "decorator", "both"])
async def test_a_block_that_ends_its_request_is_one_record(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """W11, S18: one cause, and the operation that it is of is named at INFO."""
    facts: list[OperationContext] = []

    async def work() -> None:
        async with Cancelable.with_timeout(0.01, "inner"):
            await sleep_forever()

    async def endpoint(request: Request) -> Response:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
        return PlainTextResponse("never")

    route = Route("/", endpoint if how == "middleware" else with_cancelation(endpoint))
    ours = Middleware(RequestCancelationMiddleware, on_cancel=facts.append)
    app = Starlette(routes=[route], middleware=[] if how == "decorator" else [ours])
    connection = ScriptedConnection()
    with caplog.at_level(logging.INFO):
        await run(app, connection, watch)

    assert connection.status == 504
    (record,) = caplog.records
    assert "inner" in record.getMessage()
    assert [each.origin_id for each in facts] == (["inner"] if how == "middleware" else [])


@pytest.mark.parametrize("where", ["stream", "background"])
async def test_an_error_that_is_raised_from_a_cancelation_behind_the_start_is_not_hidden(
    anyio_backend: object, watch: Watch, where: str
) -> None:
    """W2: a failed background task has to be in the log of the server."""
    facts: list[OperationContext] = []
    error = RuntimeError("the order is lost")

    async def work() -> None:
        try:
            async with Cancelable.with_timeout(0.01):
                await sleep_forever()
        except CancelationError as cause:
            raise error from cause

    async def numbers() -> AsyncIterator[bytes]:
        yield b"1"
        await work()

    async def endpoint(request: Request) -> Response:
        if where == "stream":
            return StreamingResponse(numbers())
        return PlainTextResponse("ok", background=BackgroundTask(work))

    app = Starlette(routes=[Route("/", endpoint)])
    connection = ScriptedConnection()
    with pytest.raises(RuntimeError) as caught:
        await run(RequestCancelationMiddleware(app, on_cancel=facts.append), connection, watch)

    assert caught.value is error
    assert facts == []
    assert connection.complete is (where == "background")


async def test_a_client_that_stops_reading_is_cut(anyio_backend: object, watch: Watch) -> None:
    """W6: the time for one send, also for a plain stream."""
    facts: list[OperationContext] = []
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[bytes]:
        try:
            for _ in range(100):
                yield b"x"
                await anyio.lowlevel.checkpoint()
        finally:
            closed.append(True)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(numbers())

    connection = ScriptedConnection(stop_reading_after_messages=3)
    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/", endpoint)]), send_timeout=0.03, on_cancel=facts.append
    )
    await run(app, connection, watch)

    assert closed == [True]
    assert [each.cancel_reason for each in facts] == [CancelationReason.TIMEOUT]
    assert not connection.complete


async def test_a_grace_lets_a_handler_finish(anyio_backend: object, watch: Watch) -> None:
    """Told first, cut later; a response that is made in time is sent."""
    told: list[CancelationReason] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        operation = current_operation()
        assert operation is not None
        told.append(await operation.wait_cancelling())
        if scope["path"] == "/stuck":
            await sleep_forever()
        await anyio.lowlevel.checkpoint()
        await respond(send, b"just in time")

    app = RequestCancelationMiddleware(application(handle), default_timeout=0.02, grace=0.1)
    connection = ScriptedConnection()
    await run(app, connection, watch)
    assert connection.body == b"just in time"

    connection = ScriptedConnection("GET", "/stuck")
    await run(app, connection, watch)
    assert connection.status == 504
    assert told == [CancelationReason.TIMEOUT] * 2


async def test_a_decorator_sets_the_timeout_of_the_request(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: on a plain route as well."""

    @with_cancelation(timeout=0.02)
    async def endpoint(request: Request) -> Response:
        await look(request.receive)
        await sleep_forever()
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", endpoint)])
    connection = ScriptedConnection()
    await run(RequestCancelationMiddleware(app, default_timeout=5), connection, watch)

    assert connection.status == 504
