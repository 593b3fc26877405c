"""What needs real time: worker threads, and a loop that never waits (W5, W8)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cancelable import current_operation
from cancelable_starlette import (
    CancelableStreamingResponse,
    Content,
    RequestCancelationMiddleware,
    ServerSentEvent,
    cancelable_background,
    cancelable_streaming_response,
)
from cancelable_starlette.testing import ScriptedConnection
from tests.starlette.support import Watch, application, run

USES_THREADS = True


def streaming(content: Content, *, middleware: bool) -> ASGIApp:
    """Make an application that streams a plain iterator."""

    async def endpoint(request: Request) -> Response:
        return cancelable_streaming_response(content)

    app = Starlette(routes=[Route("/", endpoint)])
    return RequestCancelationMiddleware(app) if middleware else app


@pytest.mark.parametrize("middleware", [True, False])
async def test_a_plain_iterator_is_iterated_in_a_thread_and_closed(
    anyio_backend: object, middleware: bool, watch: Watch
) -> None:
    """W8: never while it runs."""
    seen: list[str] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            seen.append("closed")

    connection = ScriptedConnection(leave_after_messages=3)
    await run(streaming(chunks(), middleware=middleware), connection, watch)
    assert seen == ["closed"]

    connection = ScriptedConnection()
    content: Content = [b"1", "2\n", ServerSentEvent(data=3)]
    await run(streaming(content, middleware=middleware), connection, watch)
    assert connection.body == b"12\ndata: 3\n\n"


async def test_a_plain_function_runs_in_a_thread_and_asks(anyio_backend: object) -> None:
    """W5: it cannot be interrupted."""
    done: list[object] = []

    def work(item: str) -> None:
        operation = current_operation()
        assert operation is not None
        operation.cancel_sync()
        done.append(item)
        operation.check_cancelation_sync()
        done.append("never")

    await cancelable_background(work, "item")()

    assert done == ["item"]


async def test_a_generator_without_an_await_can_be_stopped(
    anyio_backend: object, watch: Watch
) -> None:
    """Even where ``send()`` never gives way."""
    sent: list[object] = []
    connection = ScriptedConnection(leave_after=0.02)

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_at_once(message: object) -> None:
            sent.append(None)

        response = CancelableStreamingResponse(chunks())
        app = RequestCancelationMiddleware(application(response))
        await app(scope, receive, send_at_once)

    await run(greedy, connection, "alone")

    assert sent


async def test_a_file_is_not_sent_to_nobody(
    anyio_backend: object, watch: Watch, tmp_path: Path
) -> None:
    """W1: the response of Starlette that reads a file in threads stops early."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)

    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]))
    connection = ScriptedConnection(leave_after_messages=20)
    await run(app, connection, watch)

    assert len(connection.sent) == 20
    # Of fifteen thousand; threads read some more until the loop gets its turn to notice.
    assert len(connection.discarded) < 1_000
    assert not connection.complete


@pytest.mark.parametrize("status", [204, 304, 200])
async def test_an_empty_response_is_complete(
    anyio_backend: object, watch: Watch, status: int
) -> None:
    """W1: what the server answers it with is no disconnect."""
    finished: list[bool] = []

    async def work() -> None:
        await anyio.sleep(0.05)
        finished.append(True)

    async def endpoint(request: Request) -> Response:
        return Response(status_code=status, background=BackgroundTask(work))

    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]))
    connection = ScriptedConnection(leave_after_messages=2)
    await run(app, connection, watch)

    assert connection.status == status
    assert finished == [True]


async def test_a_source_that_becomes_slow_lets_others_run_before_each_chunk(
    anyio_backend: object, watch: Watch
) -> None:
    """A stream looks at the clock less often, but only as long as its chunks are quick."""
    turns = 0
    seen: list[int] = []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield b"quick"
        for _ in range(30):
            seen.append(turns)
            end = time.monotonic() + 0.006
            while time.monotonic() < end:
                pass
            yield b"slow"

    async def send_at_once(message: object) -> None:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        send = send if scope["type"] == "lifespan" else send_at_once
        await watched(scope, receive, send)

    watched = RequestCancelationMiddleware(application(CancelableStreamingResponse(chunks())))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await run(app, ScriptedConnection(), watch)
        tasks.cancel_scope.cancel()

    # There are seven at most that it did not look behind. Trio runs the tasks of a turn in any
    # order; so one turn may bring nothing between two chunks, and two cannot.
    assert len(seen) == 30
    assert all(later > earlier for earlier, later in zip(seen[7:], seen[9:], strict=False))
