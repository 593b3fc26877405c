"""A streamed response is cancelled and closed where it was iterated (W8)."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import time
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import sleep_forever
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cancelable import Cancelable, CancelationReason, OperationContext, current_operation
from cancelable_starlette import (
    CancelableStreamingResponse,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    get_request_operation,
)
from cancelable_starlette.testing import HYPERCORN, ScriptedConnection, ServerBehaviour
from tests.starlette.support import Watch, application, run

USES_THREADS = True


@pytest.fixture(params=["middleware", "bare"])
def wrap(request: pytest.FixtureRequest) -> type[RequestCancelationMiddleware] | None:
    """With the middleware the client is watched there, without it by the response."""
    return RequestCancelationMiddleware if request.param == "middleware" else None


Wrap = type[RequestCancelationMiddleware] | None


def streaming(response: Response, wrap: Wrap = RequestCancelationMiddleware) -> ASGIApp:
    """Make an application that answers with *response*."""

    async def endpoint(request: Request) -> Response:
        return response

    app: ASGIApp = Starlette(routes=[Route("/", endpoint)])
    return app if wrap is None else wrap(app)


async def test_a_stream_arrives_whole(anyio_backend: object, wrap: Wrap) -> None:
    """Chunks as they are: text, bytes, views; an event stream unless it is said otherwise."""

    async def chunks() -> AsyncIterator[str | bytes | memoryview]:
        yield "data: ä\n\n"
        yield b"data: 2\n\n"
        yield memoryview(b"data: 3\n\n")

    done: list[int] = []

    async def work() -> None:
        done.append(1)

    response = cancelable_streaming_response(
        chunks(), background=BackgroundTask(work), headers={"x-mine": "yes"}
    )
    connection = ScriptedConnection()
    await run(streaming(response, wrap), connection)

    assert connection.body == "data: ä\n\ndata: 2\n\ndata: 3\n\n".encode()
    assert connection.headers["content-type"].startswith("text/event-stream")
    assert connection.headers["x-mine"] == "yes"
    assert connection.complete
    assert done == [1]


async def test_a_generator_that_waits_is_cancelled_and_closed(
    anyio_backend: object, wrap: Wrap, watch: Watch
) -> None:
    """W8: it sees the native cancel where it waits, in the task that iterated it."""
    seen: list[object] = []
    connection = ScriptedConnection(leave_after_messages=2, server=HYPERCORN)

    async def chunks() -> AsyncIterator[bytes]:
        task = anyio.get_current_task().id
        try:
            async with Cancelable(name="held across the yield"):
                yield b"1"
                await sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise
        finally:
            seen.append(anyio.get_current_task().id == task)

    background = BackgroundTask(seen.append, "background")
    response = cancelable_streaming_response(chunks(), background=background)
    await run(streaming(response, wrap), connection, watch)

    assert seen == ["cancelled", True]
    assert not connection.complete


@pytest.mark.parametrize("plain", [False, True], ids=["ours", "starlette's"])
async def test_a_generator_that_waits_at_its_yield_is_cancelled_there(
    anyio_backend: object, watch: Watch, plain: bool
) -> None:
    """W8: a send that blocks is released, and the cancel surfaces in the generator."""
    seen: list[object] = []
    connection = ScriptedConnection(stop_reading_after_messages=2, leave_after=0.03)

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async with Cancelable(name="held across the yield"):
                yield b"1"
                await checkpoint()
                seen.append("went on")
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise
        finally:
            seen.append("closed")

    response = StreamingResponse(chunks()) if plain else CancelableStreamingResponse(chunks())
    await run(streaming(response), connection, watch)

    assert seen == ["cancelled", "closed"]


async def test_a_cancel_met_outside_is_thrown_into_the_generator(anyio_backend: object) -> None:
    """W8: with nobody to release its send, and a cleanup that waits."""
    seen: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async with Cancelable():
                yield b"1"
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(0.01)
            seen.append("cancelled")
            raise
        finally:
            await checkpoint()
            seen.append("closed")

    async def send(message: object) -> None:
        if seen or (isinstance(message, dict) and str(message["type"]).endswith("response.body")):
            await sleep_forever()

    response = CancelableStreamingResponse(chunks())
    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    with anyio.move_on_after(0.02) as limit:
        await response(scope, never, send)

    assert limit.cancelled_caught
    assert seen == ["cancelled", "closed"]


async def never() -> dict[str, object]:
    await sleep_forever()
    raise NotImplementedError


async def test_the_whole_chain_is_closed_without_the_collector(
    anyio_backend: object, watch: Watch
) -> None:
    """W8: generators under generators, outermost first, in the one task."""
    closed: list[tuple[str, int]] = []
    tasks: list[int] = []
    connection = ScriptedConnection(send_errors=[None, None, LookupError("send")])

    async def inner() -> AsyncIterator[bytes]:
        tasks.append(anyio.get_current_task().id)
        try:
            while True:
                yield b"x"
        finally:
            await checkpoint()
            closed.append(("inner", anyio.get_current_task().id))

    async def middle() -> AsyncIterator[bytes]:
        source = inner()
        try:
            async for chunk in source:
                yield chunk
        finally:
            await checkpoint()
            closed.append(("middle", anyio.get_current_task().id))

    async def outer() -> AsyncIterator[bytes]:
        try:
            async for chunk in middle():
                yield chunk
        finally:
            closed.append(("outer", anyio.get_current_task().id))

    gc.disable()
    try:
        with pytest.raises(LookupError, match="send"):
            await run(streaming(CancelableStreamingResponse(outer())), connection, watch)
        assert closed == [(name, tasks[0]) for name in ("outer", "middle", "inner")]
    finally:
        gc.enable()


async def test_a_generator_that_somebody_else_holds_is_left_alone(anyio_backend: object) -> None:
    """W8: who keeps a generator may go on with it."""

    async def shared() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def outer() -> AsyncIterator[bytes]:
        async for chunk in kept:
            yield chunk

    kept = shared()
    connection = ScriptedConnection(send_errors=[None, LookupError("send")])
    with pytest.raises(LookupError):
        await run(streaming(CancelableStreamingResponse(outer())), connection)

    assert [chunk async for chunk in kept] == [b"1", b"2"]


async def test_a_cleanup_has_a_time_limit(
    anyio_backend: object, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """W8: the close is shielded and bounded, and says so when the bound cut it."""
    connection = ScriptedConnection(leave_after_messages=2)
    seen: list[str] = []
    response = CancelableStreamingResponse(Endless(seen), close_timeout=0.02)
    with caplog.at_level(logging.WARNING):
        await run(streaming(response), connection, watch)

    assert seen == ["cut", "closed"]
    assert "did not end within 0.02 s" in caplog.text


class Endless:
    """An iterator whose close does not end by itself."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> bytes:
        await checkpoint()
        return b"x"

    async def aclose(self) -> None:
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.seen.append("cut")
            raise
        finally:
            self.seen.append("closed")


async def test_on_close_runs_whatever_happens(anyio_backend: object, watch: Watch) -> None:
    """W8: also if the body never started."""
    calls: list[str] = []

    async def close() -> None:
        await checkpoint()
        calls.append("async")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"1"

    for on_close in (close, lambda: calls.append("plain")):
        for connection in (
            ScriptedConnection(),
            ScriptedConnection(send_errors=[LookupError("the start fails")]),
            ScriptedConnection(leave_after_messages=1),
        ):
            response = cancelable_streaming_response(chunks(), on_close=on_close)
            with contextlib.suppress(LookupError):
                await run(streaming(response), connection, watch)

    assert calls == ["async"] * 3 + ["plain"] * 3


async def test_an_error_of_the_source_arrives_and_the_stream_does_not_look_complete(
    anyio_backend: object, wrap: Wrap
) -> None:
    """W8: broken off visibly."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"1"
        raise LookupError("mine")

    connection = ScriptedConnection()
    with pytest.raises(LookupError, match="mine"):
        await run(streaming(CancelableStreamingResponse(chunks()), wrap), connection)

    assert connection.body == b"1"
    assert not connection.complete


@pytest.mark.parametrize("inner", [True, False], ids=["own timeout", "route"])
async def test_an_event_stream_ends_with_an_event_that_names_the_reason(
    anyio_backend: object, wrap: Wrap, inner: bool
) -> None:
    """W6: our own response says why, if it stands between two events."""
    if wrap is None and not inner:
        pytest.skip("without the middleware nothing else sets a timeout")

    async def chunks() -> AsyncIterator[str]:
        async with Cancelable() as operation:
            yield "data: 1\n\n"
            asked = operation if inner else operation.parent
            assert asked is not None
            asked.cancel_sync(CancelationReason.TIMEOUT)
            await sleep_forever()

    connection = ScriptedConnection()
    await run(streaming(cancelable_streaming_response(chunks()), wrap), connection)

    assert connection.body == b'data: 1\n\nevent: cancelled\ndata: {"reason":"timeout"}\n\n'
    assert connection.complete


@pytest.mark.parametrize(
    ("chunk", "headers", "media_type"),
    [
        pytest.param("data: 1\n", {}, "text/event-stream", id="in the middle of an event"),
        pytest.param("data: 1\n\n", {"content-encoding": "br"}, "text/event-stream", id="encoded"),
        pytest.param("data: 1\n\n", {}, "text/plain", id="no event stream"),
    ],
)
async def test_where_no_event_fits_the_stream_is_broken_off(
    anyio_backend: object, wrap: Wrap, chunk: str, headers: dict[str, str], media_type: str
) -> None:
    """W6: it cannot look complete."""

    async def chunks() -> AsyncIterator[str]:
        async with Cancelable() as operation:
            yield chunk
            operation.cancel_sync(CancelationReason.TIMEOUT)
            await sleep_forever()

    connection = ScriptedConnection()
    response = cancelable_streaming_response(chunks(), headers=headers, media_type=media_type)
    await run(streaming(response, wrap), connection)

    assert connection.body == chunk.encode()
    assert not connection.complete


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (CancelationReason.TIMEOUT, 504),
        (CancelationReason.MANUAL, 499),
        (CancelationReason.SIGNAL, 503),
    ],
)
@pytest.mark.parametrize("between", [False, True], ids=["direct", "behind a middleware"])
async def test_a_stream_that_was_cancelled_before_its_start_is_answered_with_the_status(
    anyio_backend: object, reason: CancelationReason, status: int, between: bool
) -> None:
    """W6, W7: without a start there is no stream that could end with an event."""
    closed: list[str] = []

    async def chunks() -> AsyncIterator[str]:
        yield "data: 1\n\n"

    async def endpoint(request: Request) -> Response:
        operation = get_request_operation(request)
        assert operation is not None
        await operation.cancel(reason)
        return cancelable_streaming_response(chunks(), on_close=lambda: closed.append("closed"))

    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    app = Starlette(routes=[Route("/", endpoint)])
    if between:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    connection = ScriptedConnection()
    await run(RequestCancelationMiddleware(app), connection)

    assert (connection.status, connection.starts, connection.complete) == (status, 1, True)
    assert f'"reason":"{reason.value}"'.encode() in connection.body
    assert b"event:" not in connection.body
    assert closed == ["closed"]


async def test_a_plain_handler_that_takes_too_long_for_its_stream_is_a_504(
    anyio_backend: object,
) -> None:
    """W6: its thread cannot be interrupted, and what it returns comes too late."""

    async def chunks() -> AsyncIterator[str]:
        yield "data: 1\n\n"

    def endpoint(request: Request) -> Response:
        time.sleep(0.1)  # a driver that blocks
        return cancelable_streaming_response(chunks())

    connection = ScriptedConnection()
    app = Starlette(routes=[Route("/", endpoint)])
    await run(RequestCancelationMiddleware(app, default_timeout=0.05), connection)

    assert (connection.status, connection.starts, connection.complete) == (504, 1, True)


async def test_a_plain_source_is_closed_when_it_was_read_to_its_end(
    anyio_backend: object, wrap: Wrap
) -> None:
    """It may be no generator, and hold something until it is closed."""
    file = io.BytesIO(b"1\n2\n")

    connection = ScriptedConnection()
    await run(streaming(cancelable_streaming_response(file), wrap), connection)

    assert connection.body == b"1\n2\n"
    assert file.closed


async def test_a_client_that_stops_reading_is_cut(
    anyio_backend: object, wrap: Wrap, watch: Watch
) -> None:
    """W8: the limit for one send of this response."""
    closed: list[bool] = []
    facts: list[OperationContext] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async with Cancelable():
                while True:
                    yield b"x"
        finally:
            await checkpoint()
            closed.append(True)

    connection = ScriptedConnection(stop_reading_after_messages=3)
    response = cancelable_streaming_response(chunks(), send_timeout=0.03)
    await run(streaming(response, wrap), connection, watch)

    assert closed == [True]
    assert not connection.complete
    assert facts == []


async def test_a_native_cancel_passes_through(anyio_backend: object, watch: Watch) -> None:
    """A cancel of the server's closes the stream and goes on to the server."""
    closed: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            await sleep_forever()
        finally:
            closed.append("closed")

    app = streaming(cancelable_streaming_response(chunks()))
    connection = ScriptedConnection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, connection, watch)
        await connection.wait_for_chunks(1)
        tasks.cancel_scope.cancel()

    assert tasks.cancel_scope.cancelled_caught
    assert closed == ["closed"]


def test_what_cannot_be_streamed_is_refused() -> None:
    """A mistake is an error where it is made."""
    with pytest.raises(TypeError, match="`content`"):
        CancelableStreamingResponse(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`on_close`"):
        cancelable_streaming_response([], on_close=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="send_timeout"):
        cancelable_streaming_response([], send_timeout=0)
    with pytest.raises(ValueError, match="close_timeout"):
        cancelable_streaming_response([], close_timeout=0)
    with pytest.raises(TypeError, match="send_timeout"):
        cancelable_streaming_response([], send_timeout="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="close_timeout"):
        cancelable_streaming_response([], close_timeout="1")  # type: ignore[arg-type]


async def test_a_view_is_not_looked_at_when_it_has_been_sent(
    anyio_backend: object, watch: Watch
) -> None:
    """W2, W8: whoever gives one may release it, or fill its buffer anew."""

    async def chunks() -> AsyncIterator[memoryview]:
        for text in (b"data: one", b"\n\ndata: two", b"\n\n"):
            with memoryview(bytearray(text)) as view:
                yield view

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(application(CancelableStreamingResponse(chunks())))
    await run(app, connection, watch)
    assert (connection.body, connection.complete) == (b"data: one\n\ndata: two\n\n", True)


async def test_how_a_stream_of_views_ends_is_known_as_it_was_sent(
    anyio_backend: object, watch: Watch
) -> None:
    """W6: the last event comes behind a whole one, whatever the buffer holds by then."""
    buffer = bytearray(b"data: one\n\n")

    async def chunks() -> AsyncIterator[memoryview]:
        yield memoryview(buffer)
        buffer[:] = b"not an end."
        await get_operation().cancel()
        await checkpoint()

    def get_operation() -> Cancelable:
        operation = current_operation()
        assert operation is not None
        return operation

    connection = ScriptedConnection()
    app = RequestCancelationMiddleware(application(CancelableStreamingResponse(chunks())))
    await run(app, connection, watch)
    assert connection.body.startswith(b"data: one\n\nevent: cancelled")


async def test_a_timeout_in_a_plain_stream_is_no_client_that_left(
    anyio_backend: object, watch: Watch
) -> None:
    """S2, W11: Starlette takes the error for an OSError of the server where ASGI is 2.4."""
    facts: list[OperationContext] = []

    async def chunks() -> AsyncIterator[bytes]:
        async with Cancelable.with_timeout(1):
            yield b"first"
            await anyio.sleep_forever()

    connection = ScriptedConnection(server=ServerBehaviour(spec_version="2.4"))
    app = RequestCancelationMiddleware(
        application(StreamingResponse(chunks())), on_cancel=facts.append
    )
    await run(app, connection, watch)
    assert (connection.body, connection.complete) == (b"first", False)
    assert [each.cancel_reason for each in facts] == [CancelationReason.TIMEOUT]
