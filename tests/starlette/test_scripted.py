"""The scripted clients that users test with do what their script says (W20)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    SILENT,
    UVICORN,
    ScriptedConnection,
    ScriptedSocket,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import application, read_body, respond

TELLS = [(UVICORN, 3), (GRANIAN, 3), (HYPERCORN, 1), (DAPHNE, 1), (SILENT, 0)]
"""Servers, and how many of three reads behind a client that has left they answer."""


async def answered(receive: Receive, reads: int) -> list[Message]:
    """Return what that many reads get without waiting for ever."""
    messages: list[Message] = []

    async def read() -> None:
        messages.append(await receive())

    for _ in range(reads):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    return messages


@pytest.mark.parametrize(("server", "told"), TELLS)
async def test_a_server_tells_of_a_client_that_left_as_often_as_its_model(
    anyio_backend: object, server: ServerBehaviour, told: int
) -> None:
    """W20: again and again, once, or never."""
    messages: list[Message] = []
    connection = ScriptedConnection(server=server)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        connection.leave()
        messages.extend(await answered(receive, 3))

    await connection.run(application(handle))

    assert [message["type"] for message in messages] == ["http.disconnect"] * told


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN])
async def test_a_socket_tells_of_its_close_with_its_code(
    anyio_backend: object, server: ServerBehaviour
) -> None:
    """W20: behind what the client had said before."""
    messages: list[Message] = []
    socket = ScriptedSocket(server=server, messages=["first", b"second"])

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        socket.leave(4001)
        messages.extend(await answered(receive, 4))

    await socket.run(application(handle))

    assert [each.get("text") or each.get("bytes") for each in messages[1:3]] == ["first", b"second"]
    assert (messages[3]["type"], messages[3]["code"]) == ("websocket.disconnect", 4001)


@pytest.mark.parametrize(("server", "arrived"), [(HYPERCORN, [b"a", b"b"]), (UVICORN, [b"a"])])
async def test_a_client_leaves_in_the_middle_of_its_upload(
    anyio_backend: object, server: ServerBehaviour, arrived: list[bytes]
) -> None:
    """W20: after so many pieces, each in its time; one server throws away the last."""
    messages: list[Message] = []
    connection = ScriptedConnection(
        "POST", body=[b"a", b"b", b"c"], pause=1, leave_after_chunks=2, server=server
    )

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        messages.extend(await read_body(receive))

    began = anyio.current_time()
    await connection.run(application(handle))

    assert [each.get("body") for each in messages] == [*arrived, None]
    assert anyio.current_time() - began == pytest.approx(2)


async def test_a_client_leaves_in_the_middle_of_its_response(anyio_backend: object) -> None:
    """W20: after so many messages; what comes behind them is kept apart."""
    connection = ScriptedConnection(leave_after_messages=2)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"1", b"2"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    await connection.run(application(handle))

    assert (connection.body, connection.complete) == (b"1", False)
    assert [message["body"] for message in connection.discarded] == [b"2"]


async def test_a_client_leaves_at_its_time_and_one_that_stays_gets_everything(
    anyio_backend: object,
) -> None:
    """W20: neither of them by chance."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(3)
        await respond(send)

    leaves, stays = ScriptedConnection(leave_after=2), ScriptedConnection()
    await leaves.run(application(handle))
    await stays.run(application(handle))

    assert (leaves.sent, leaves.starts) == ([], 1)
    assert (stays.status, stays.body, stays.complete) == (200, b"ok", True)


async def test_a_client_that_does_not_read_holds_the_send(anyio_backend: object) -> None:
    """W20: until it leaves; and a send may fail."""
    sent: list[str] = []
    connection = ScriptedConnection(
        stop_reading_after_messages=1, send_errors=[None, OSError("gone")]
    )

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def start() -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                sent.append("start")

            tasks.start_soon(start)
            await wait_all_tasks_blocked()
            assert sent == []
            connection.leave()
            await checkpoint()
        with pytest.raises(OSError, match="gone"):
            await send({"type": "http.response.body", "body": b""})

    await connection.run(application(handle))

    assert sent == ["start"]


@pytest.mark.parametrize("body", [b"", [], (), [b""]])
async def test_an_empty_body_arrives(anyio_backend: object, body: bytes | list[bytes]) -> None:
    """W20: as one message, whatever was given."""
    messages: list[Message] = []
    connection = ScriptedConnection("POST", body=body)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        messages.extend(await read_body(receive))
        await respond(send)

    with anyio.fail_after(5):
        await connection.run(application(handle))
    assert messages == [{"type": "http.request", "body": b"", "more_body": False}]


@pytest.mark.parametrize("body", ["text", bytearray(b"ab"), ["a", "b"], [b"a", 3]])
def test_a_body_of_another_kind_is_refused(body: object) -> None:
    """A mistake is an error where it is made."""
    with pytest.raises(TypeError, match="`body`"):
        ScriptedConnection("POST", body=body)  # type: ignore[arg-type]


# --- The lifespan ------------------------------------------------------------------------------


def bare(app: ASGIApp) -> ASGIApp:
    return app


def failing_at(phase: str) -> ASGIApp:
    """Make an application of Starlette, which reports a failure and raises as well."""

    @contextlib.asynccontextmanager
    async def fails(app: Starlette) -> AsyncGenerator[None]:
        if phase == "startup":
            raise LookupError("no database")
        yield
        raise LookupError("no database")

    return Starlette(lifespan=fails)


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.parametrize("wrap", [bare, RequestCancelationMiddleware])
async def test_a_lifespan_that_reports_a_failure_is_a_runtime_error(
    anyio_backend: object, wrap: Callable[[ASGIApp], ASGIApp], phase: str
) -> None:
    """W20: alone, in no group, with what was raised as its cause."""
    ran: list[bool] = []
    with pytest.raises(RuntimeError, match=f"(?s)lifespan.{phase}.failed.*no database") as caught:
        async with lifespan(wrap(failing_at(phase))):
            ran.append(True)

    assert isinstance(caught.value.__cause__, LookupError)
    assert ran == [True] * (phase == "shutdown")


@pytest.mark.parametrize("ends", ["raises", "returns"])
@pytest.mark.parametrize("wrap", [bare, RequestCancelationMiddleware])
async def test_an_application_without_a_lifespan_is_run_without_one(
    anyio_backend: object, wrap: Callable[[ASGIApp], ASGIApp], ends: str
) -> None:
    """W20: as servers do."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if ends == "raises":
            assert scope["type"] == "http"
        if scope["type"] == "http":
            await respond(send)

    connection = ScriptedConnection()
    served = wrap(app)
    async with lifespan(served):
        await connection.run(served)

    assert connection.status == 200


async def test_what_a_lifespan_raises_without_a_report_comes_out_as_it_was_raised(
    anyio_backend: object,
) -> None:
    """W20: at its end, whose block has run; and an error of the block goes first."""
    raised = LookupError("mine")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise raised

    ran: list[bool] = []
    with pytest.raises(LookupError) as caught:
        async with lifespan(app):
            await wait_all_tasks_blocked()
            ran.append(True)
    assert caught.value is raised
    assert ran == [True]

    with pytest.raises(ZeroDivisionError):
        async with lifespan(app):
            raise ZeroDivisionError
