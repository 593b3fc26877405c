"""WebSockets that can be cancelled (W9)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    OperationContext,
    OperationStatus,
    TimeoutCancelation,
)
from cancelable_starlette import (
    CancelableWebSocket,
    CancelableWebSocketRoute,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    get_request_operation,
    get_request_token,
)
from cancelable_starlette.testing import (
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedSocket,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import LIMIT

Handler = Callable[[WebSocket], Awaitable[None]]
Play = Callable[[ScriptedSocket], Coroutine[None, None, None]]
Wrap = Callable[[Handler], ASGIApp]

SERVERS = pytest.mark.parametrize(
    "server",
    [
        UVICORN,
        HYPERCORN,
        GRANIAN,
        ServerBehaviour(send_after_leave="os_error"),
        ServerBehaviour(send_after_leave="runtime_error"),
    ],
    ids=["uvicorn", "hypercorn", "granian", "os_error", "runtime_error"],
)

endings: list[OperationContext] = []


def in_middleware(handler: Handler) -> ASGIApp:
    app = Starlette(routes=[WebSocketRoute("/", handler)])
    return RequestCancelationMiddleware(app, on_cancel=endings.append)


def in_route(handler: Handler) -> ASGIApp:
    return Starlette(routes=[CancelableWebSocketRoute("/", handler)])


@pytest.fixture(params=[in_middleware, in_route], ids=["middleware", "route"])
def wrap(request: pytest.FixtureRequest) -> Wrap:
    """Both ways to have a socket watched."""
    endings.clear()
    made: Wrap = request.param
    return made


async def play(
    app: ASGIApp,
    socket: ScriptedSocket,
    client: Play,
    *,
    alone: bool = False,
    limit: float = LIMIT * 3,
) -> None:
    """Run an application and a client beside it, and fail if that hangs."""

    async def act() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client, socket)
            await socket.run(app)

    with anyio.fail_after(limit):
        if alone:
            await act()
            return
        async with lifespan(app):
            await act()
    assert socket.overlapping_reads == 0


async def no_client(_socket: ScriptedSocket) -> None:
    """Do nothing."""


@SERVERS
@pytest.mark.parametrize("alone", [False, True])
async def test_a_handler_that_only_sends_learns_of_the_close(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour, alone: bool
) -> None:
    """W9, W1: also while it waits for something else."""
    stopped: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.send_text("1")
            await sleep_forever()
        finally:
            stopped.append("handler")

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(1)
        socket.leave(1001)

    socket = ScriptedSocket(server=server)
    await play(wrap(handle), socket, client, alone=alone)

    assert stopped == ["handler"]
    assert socket.close_code is None
    assert socket.discarded == []
    assert [each.cancel_reason for each in endings] in ([], [CancelationReason.DISCONNECT])


@SERVERS
async def test_a_handler_that_keeps_sending_learns_of_the_close(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour
) -> None:
    """W9: also with a message that it never reads."""
    stopped: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("tick")
                await anyio.sleep(0.1)
        finally:
            stopped.append("handler")

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(2)
        socket.leave(1006)

    await play(wrap(handle), ScriptedSocket(server=server, messages=["unread"]), client)

    assert stopped == ["handler"]


async def test_a_server_that_says_it_only_when_something_is_sent(
    anyio_backend: object, wrap: Wrap
) -> None:
    """W9: the error of the connection is the close; another one is the handler's."""
    seen: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await anyio.sleep(1)
                await websocket.send_text("tick")
        except OSError:
            seen.append("error")
        finally:
            seen.append("stopped")

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(2)
        socket.leave(1006)

    server = ServerBehaviour(disconnect="never", send_after_leave="os_error")
    await play(wrap(handle), ScriptedSocket(server=server), client)

    assert seen == ["stopped"]


@SERVERS
async def test_a_handler_that_waits_for_a_message_is_told_of_the_close(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour
) -> None:
    """W9: as without us, with the code of the client, and with time for its goodbyes."""
    codes: list[int] = []
    done: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.send_text("hello")
            await websocket.receive_text()
        except WebSocketDisconnect as exc:
            codes.append(exc.code)
            await anyio.sleep(10)
            done.append("goodbyes")

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(1)
        await anyio.sleep(0.1)
        socket.leave(4001, "enough")

    await play(wrap(handle), ScriptedSocket(server=server), client)

    assert codes == [4001]
    assert done == ["goodbyes"]
    assert endings == []


@SERVERS
async def test_messages_before_the_close_are_delivered_first(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour
) -> None:
    """W2, W9: however slowly the handler takes them."""
    seen: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await anyio.sleep(1)
            seen.append(text)

    socket = ScriptedSocket(server=server, messages=["1", "2", "3"])
    socket.leave(1000)
    await play(wrap(handle), socket, no_client)

    assert seen == ["1", "2", "3"]


async def test_a_close_behind_unread_messages_waits_for_their_reader(
    anyio_backend: object, wrap: Wrap
) -> None:
    """W9: a handler that is busy with the first message gets the others, and then the close."""
    seen: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await anyio.sleep(1)
            seen.append(text)
        seen.append("close")

    async def client(socket: ScriptedSocket) -> None:
        await anyio.sleep(0.5)
        socket.leave(1000)

    await play(wrap(handle), ScriptedSocket(messages=["1", "2", "3"]), client)

    assert seen == ["1", "2", "3", "close"]


async def test_a_disconnect_that_nobody_catches_is_quiet(
    anyio_backend: object, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: it ends the socket's operation as cancelled, and goes no further."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_accept()
        socket.leave(1000)

    with caplog.at_level(logging.INFO):
        await play(wrap(handle), ScriptedSocket(server=UVICORN), client)

    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert [each.cancel_reason for each in endings] in ([], [CancelationReason.DISCONNECT])


@SERVERS
async def test_a_client_that_is_gone_before_the_accept(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour
) -> None:
    """W9: a handler that waits is cancelled, and one that accepts is not disturbed."""
    seen: list[str] = []

    async def waits(websocket: WebSocket) -> None:
        try:
            await sleep_forever()
        finally:
            seen.append("cancelled")

    async def accepts(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        with pytest.raises(WebSocketDisconnect):
            await websocket.receive_text()
        seen.append("told")

    for handler in (waits, accepts):
        socket = ScriptedSocket(server=server, leaves_before_accept=True)
        await play(wrap(handler), socket, no_client)

    assert seen == ["cancelled", "told"]


@pytest.mark.parametrize(
    ("reason", "code", "status"),
    [
        ("timeout", 3008, 504),
        ("signal", 1001, 503),
        ("manual", 1000, 499),
        ("condition", 1011, 500),
    ],
)
@pytest.mark.parametrize("accepts", [True, False])
async def test_the_close_says_the_reason(
    anyio_backend: object, wrap: Wrap, reason: str, code: int, status: int, accepts: bool
) -> None:
    """W7, W9: by a code, and before the accept by a status where the server can."""

    async def handle(websocket: WebSocket) -> None:
        if accepts:
            await websocket.accept()
        operation = get_request_operation(websocket)
        assert operation is not None
        assert operation.token is get_request_token(websocket)
        await operation.cancel(reason)
        await sleep_forever()

    for can_be_denied in (True, False):
        socket = ScriptedSocket(server=UVICORN, can_be_denied=can_be_denied)
        await play(wrap(handle), socket, no_client)
        if can_be_denied and not accepts:
            assert (socket.status, socket.close_code) == (status, None)
        else:
            assert (socket.status, socket.close_code) == (None, code)


@pytest.mark.parametrize("form", ["close", "json", "events"])
async def test_a_last_word_that_comes_too_late_is_replaced_by_the_reason(
    anyio_backend: object, wrap: Wrap, form: str
) -> None:
    """W7: a close, or a denial, that was cancelled before the server had it."""

    async def handle(websocket: WebSocket) -> None:
        async def events() -> AsyncIterator[str]:
            yield "data: 1\n\n"

        operation = get_request_operation(websocket)
        assert operation is not None
        await operation.cancel("timeout")
        if form == "close":
            await websocket.close(4001)
        elif form == "json":
            await websocket.send_denial_response(JSONResponse({}, 403))
        else:
            await websocket.send_denial_response(cancelable_streaming_response(events()))

    socket = ScriptedSocket(server=UVICORN, can_be_denied=True)
    await play(wrap(handle), socket, no_client)

    kinds = [message["type"] for message in socket.sent]
    assert socket.status == 504
    assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]


async def test_the_socket_is_named_and_listed(anyio_backend: object) -> None:
    """W1: method, path and client; its Cancelables are children."""
    names: list[object] = []

    async def handle(websocket: WebSocket) -> None:
        operation = get_request_operation(websocket)
        async with Cancelable() as inner:
            assert inner.parent is operation
        assert operation is not None
        names.extend([operation.name, dict(operation.context.metadata)])

    await play(in_middleware(handle), ScriptedSocket(server=UVICORN), no_client)

    facts = {"method": "WEBSOCKET", "path": "/", "client": "192.0.2.1"}
    assert names == ["WebSocket /", facts]


async def test_a_route_has_a_timeout_and_codes_of_its_own(anyio_backend: object) -> None:
    """W6: sockets have no default; a route may give one, to the accept or to the end."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await anyio.sleep(3)

    for until, code in (("end", 4000), ("start", None)):
        route = CancelableWebSocketRoute(
            "/",
            handle,
            timeout=1,
            until=until,  # type: ignore[arg-type]
            close_codes={CancelationReason.TIMEOUT: 4000},
        )
        app = RequestCancelationMiddleware(Starlette(routes=[route]), default_timeout=0.5)
        socket = ScriptedSocket(server=UVICORN)
        await play(app, socket, no_client)
        assert socket.close_code == code


# --- A client that is silent -----------------------------------------------------------------


def with_idle_timeout(handler: Handler, form: str, seconds: float) -> ASGIApp:
    """Give a socket an idle timeout in one of several ways."""
    if form == "middleware":
        app = Starlette(routes=[WebSocketRoute("/", handler)])
        return RequestCancelationMiddleware(
            app, socket_idle_timeout=seconds, on_cancel=endings.append
        )
    app = Starlette(routes=[CancelableWebSocketRoute("/", handler, idle_timeout=seconds)])
    if form == "route":
        return app
    if form == "nested":
        app = Starlette(routes=[WebSocketRoute("/", handler)])
        inner = RequestCancelationMiddleware(app, socket_idle_timeout=seconds)
        return RequestCancelationMiddleware(
            inner, socket_idle_timeout=seconds + 1, on_cancel=endings.append
        )
    return RequestCancelationMiddleware(app, socket_idle_timeout=1, on_cancel=endings.append)


IDLE_FORMS = pytest.mark.parametrize("form", ["middleware", "route", "both", "nested"])


@IDLE_FORMS
async def test_a_silent_client_is_closed_with_the_code_of_a_timeout(
    anyio_backend: object, form: str
) -> None:
    """W9, W16: so long after its last message, and however much the handler sends."""
    endings.clear()
    seen: list[str] = []
    ended: list[float] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chatter, websocket)
                async for text in websocket.iter_text():
                    seen.append(text)
        finally:
            ended.append(anyio.current_time())

    async def chatter(websocket: WebSocket) -> None:
        while True:
            await anyio.sleep(3)
            await websocket.send_text("still there?")

    async def client(socket: ScriptedSocket) -> None:
        for _ in range(4):
            await anyio.sleep(7)
            socket.say("yes")

    began = anyio.current_time()
    socket = ScriptedSocket()
    await play(with_idle_timeout(handle, form, 10), socket, client, limit=100)

    assert seen == ["yes"] * 4
    assert [each - began for each in ended] == [pytest.approx(38, abs=0.1)]
    assert socket.close_code == 3008
    expected = [] if form == "route" else [CancelationReason.TIMEOUT]
    assert [each.cancel_reason for each in endings] == expected


async def test_no_client_is_idle_unless_it_is_said(anyio_backend: object, wrap: Wrap) -> None:
    """W16: the default is off, and a route may switch off what the middleware says."""
    done: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await anyio.sleep(600)
        done.append("slept")

    off = Starlette(routes=[CancelableWebSocketRoute("/", handle, idle_timeout=None)])
    for app in (wrap(handle), RequestCancelationMiddleware(off, socket_idle_timeout=5)):
        await play(app, ScriptedSocket(), no_client, limit=1000)

    assert done == ["slept"] * 2


@IDLE_FORMS
async def test_who_cannot_speak_or_is_not_heard_is_not_idle(
    anyio_backend: object, form: str
) -> None:
    """W16: before the accept, behind a full buffer, after a close of either side."""
    done: list[str] = []

    async def accepts_late(websocket: WebSocket) -> None:
        await anyio.sleep(60)
        await websocket.accept()
        done.append("accepted")

    async def does_not_read(websocket: WebSocket) -> None:
        await websocket.accept()
        await anyio.sleep(60)
        for _ in range(400):
            await websocket.receive_text()
        done.append("read")

    async def closes(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()
        await anyio.sleep(60)
        done.append("closed")

    async def hears(websocket: WebSocket) -> None:
        await websocket.accept()
        with pytest.raises(WebSocketDisconnect):
            await websocket.receive_text()
        await anyio.sleep(60)
        done.append("heard")

    async def flood(socket: ScriptedSocket) -> None:
        for _ in range(400):
            socket.say("x" * 1024)

    async def leave(socket: ScriptedSocket) -> None:
        await anyio.sleep(1)
        socket.leave()

    for handler, client in (
        (accepts_late, no_client),
        (does_not_read, flood),
        (closes, no_client),
        (hears, leave),
    ):
        await play(with_idle_timeout(handler, form, 10), ScriptedSocket(), client, limit=100)

    assert done == ["accepted", "read", "closed", "heard"]


async def test_a_client_is_heard_again_when_its_messages_are_read(anyio_backend: object) -> None:
    """From then on its silence counts, also if the last of them filled the buffer."""
    ended: list[float] = []
    unread = ["x" * (1024 - 512)] * 256  # with what each counts beside its text: 256 KiB

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        began = anyio.current_time()
        try:
            await anyio.sleep(60)
            async for _ in websocket.iter_text():
                pass
        finally:
            ended.append(anyio.current_time() - began)

    app = with_idle_timeout(handle, "middleware", 10)
    await play(app, ScriptedSocket(messages=unread), no_client, limit=100)

    assert ended == [pytest.approx(70, abs=0.1)]


async def test_a_timeout_of_the_route_counts_beside_that_of_the_client(
    anyio_backend: object,
) -> None:
    """Whichever comes first; and a client that speaks does not put off the other."""
    ended: list[float] = []

    async def handle(websocket: WebSocket) -> None:
        began = anyio.current_time()
        await anyio.sleep(3)
        await websocket.accept()
        try:
            async for _ in websocket.iter_text():
                pass
        finally:
            ended.append(anyio.current_time() - began)

    async def client(socket: ScriptedSocket) -> None:
        while True:
            await anyio.sleep(4)
            socket.say("x")

    for until, play_client in (("end", client), ("end", no_client), ("start", no_client)):
        route = CancelableWebSocketRoute(
            "/",
            handle,
            timeout=20,
            until=until,  # type: ignore[arg-type]
            idle_timeout=10,
        )
        socket = ScriptedSocket()
        with anyio.fail_after(100):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(play_client, socket)
                await socket.run(Starlette(routes=[route]))
                tasks.cancel_scope.cancel()
        assert socket.close_code == 3008

    assert ended == [pytest.approx(seconds, abs=0.1) for seconds in (20, 13, 13)]


async def test_a_message_does_not_put_off_the_end_of_a_grace(anyio_backend: object) -> None:
    """What was asked stands, however much the client has to say."""
    ended: list[float] = []
    stop = CancelationToken()

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            async for _ in websocket.iter_text():
                pass
        finally:
            ended.append(anyio.current_time())

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_accept()
        await anyio.sleep(12)
        while socket.close_code is None:
            socket.say("x")
            await anyio.sleep(1)

    app = RequestCancelationMiddleware(
        Starlette(routes=[WebSocketRoute("/", handle)]),
        socket_idle_timeout=10,
        grace=5,
        shutdown=stop,
    )
    began = anyio.current_time()
    await play(app, ScriptedSocket(), client, limit=100)

    assert [each - began for each in ended] == [pytest.approx(15, abs=0.1)]


async def test_a_deadline_of_the_handler_is_left_alone(anyio_backend: object, wrap: Wrap) -> None:
    """One that it has set itself for the operation of its socket, before the accept."""

    async def handle(websocket: WebSocket) -> None:
        operation = get_request_operation(websocket)
        assert operation is not None
        operation.extend(5)
        await websocket.accept()
        await sleep_forever()

    socket = ScriptedSocket()
    await play(wrap(handle), socket, no_client)

    assert socket.close_code == 3008


async def test_work_that_goes_on_without_its_client(anyio_backend: object) -> None:
    """W5: sends go nowhere, and nothing is cancelled."""
    done: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("1")
        await anyio.sleep(60)
        await websocket.send_text("2")
        done.append("all")

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(1)
        socket.leave()

    app = Starlette(routes=[CancelableWebSocketRoute("/", handle, on_disconnect="continue")])
    with anyio.fail_after(100):
        socket = ScriptedSocket(server=ServerBehaviour(send_after_leave="runtime_error"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client, socket)
            await socket.run(RequestCancelationMiddleware(app))

    assert done == ["all"]


@pytest.mark.parametrize("server", [UVICORN, GRANIAN], ids=["uvicorn", "granian"])
async def test_a_cancelled_receive_loses_no_message(
    anyio_backend: object, wrap: Wrap, server: ServerBehaviour
) -> None:
    """W9: whoever gives up waiting gets the message the next time."""
    seen: list[str] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        for _ in range(3):
            try:
                async with Cancelable.with_timeout(1) as cancel:
                    seen.append(await CancelableWebSocket(websocket, cancel).receive_text())
            except TimeoutCancelation:
                seen.append("timeout")
                return
        await websocket.send_text("done")

    async def once(websocket: WebSocket) -> None:
        await websocket.accept()
        with anyio.move_on_after(1):
            seen.append(await websocket.receive_text())
        await websocket.send_text("gave up")
        seen.append(await websocket.receive_text())

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(1)
        socket.say("late")

    socket = ScriptedSocket(server=server)
    await play(wrap(once), socket, client)
    assert seen == ["late"]

    await play(wrap(handle), ScriptedSocket(server=server, messages=["1", "2"]), no_client)
    assert seen == ["late", "1", "2", "timeout"]


async def test_an_unread_flood_is_bounded(anyio_backend: object) -> None:
    """W3: reading ahead pauses, and what was held back arrives."""
    seen: list[str] = []
    left_over: list[int] = []
    socket = ScriptedSocket(server=UVICORN, messages=["x" * 1000] * 100)

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        await anyio.sleep(1)
        left_over.append(len(socket._arrived))
        for _ in range(100):
            seen.append(await websocket.receive_text())

    app = Starlette(routes=[WebSocketRoute("/", handle)])
    app_with = RequestCancelationMiddleware(app, read_ahead_per_request=10_000)
    await play(app_with, socket, no_client)

    assert seen == ["x" * 1000] * 100
    assert left_over[0] > 90


async def test_an_error_of_a_handler_arrives_as_raised(anyio_backend: object, wrap: Wrap) -> None:
    """W2: what is no cancelation is the server's."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        msg = "mine"
        raise LookupError(msg)

    socket = ScriptedSocket(server=UVICORN)
    with pytest.raises(LookupError, match="mine"):
        await socket.run(wrap(handle))


# --- The socket in the block of an operation ---------------------------------------------------


@pytest.fixture(params=["bare", "middleware", "route"])
def anyhow(request: pytest.FixtureRequest) -> Wrap:
    """With the middleware, with the route, and with neither."""
    if request.param == "bare":
        return lambda handler: Starlette(routes=[WebSocketRoute("/", handler)])
    return in_middleware if request.param == "middleware" else in_route


@pytest.mark.parametrize("waits", ["receive_text", "receive_bytes", "receive_json", "iter_json"])
async def test_a_receive_wakes_at_once(anyio_backend: object, anyhow: Wrap, waits: str) -> None:
    """W9: and the socket is closed with the code of the reason, once, by itself."""
    caught: list[object] = []
    token = CancelationToken()

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            async with Cancelable.with_token(token) as cancel:
                socket = CancelableWebSocket(websocket, cancel)
                if waits == "iter_json":
                    async for _ in socket.iter_json():
                        pass
                else:
                    await getattr(socket, waits)()
        except Exception as exc:
            caught.append(type(exc).__name__)

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_accept()
        await token.cancel("signal")

    socket = ScriptedSocket(server=UVICORN)
    await play(anyhow(handle), socket, client)

    assert caught == ["SignalCancelation"]
    assert socket.close_code == 1001
    assert sum(each["type"] == "websocket.close" for each in socket.sent) == 1


async def test_every_form_of_send_and_receive(anyio_backend: object, anyhow: Wrap) -> None:
    """W9: text, bytes and JSON, one by one and as iterators; the close of the client ends them."""
    seen: list[object] = []

    async def handle(websocket: WebSocket) -> None:
        async with Cancelable.with_timeout(300) as cancel:
            socket = CancelableWebSocket(websocket, cancel)
            await socket.accept(subprotocol="ours")
            await socket.send_text("text")
            await socket.send_bytes(b"bytes")
            await socket.send_json({"a": 1})
            seen.append(await socket.receive_text())
            seen.append(await socket.receive_bytes())
            seen.append(await socket.receive_json())
            async for text in socket.iter_text():
                seen.append(text)
                if text == "next":
                    break
            async for data in socket.iter_bytes():
                seen.append(data)
                break
            async for value in socket.iter_json():
                seen.append(value)
            await socket.close()
            await socket.close()

    said: list[str | bytes] = ["t", b"b", '{"j":1}', "i", "next", b"ib", "[1]"]
    socket = ScriptedSocket(server=UVICORN, messages=said)

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_messages(3)
        await anyio.sleep(1)
        socket.leave()

    await play(anyhow(handle), socket, client)

    assert seen == ["t", b"b", {"j": 1}, "i", "next", b"ib", [1]]
    assert socket.received == ["text", b"bytes", '{"a":1}']
    assert socket.sent[0]["subprotocol"] == "ours"
    assert socket.discarded == []


async def test_a_close_of_the_client_is_raised(anyio_backend: object, anyhow: Wrap) -> None:
    """W9: one terminal state, one callback."""
    ended: list[tuple[str, object]] = []

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        cancel = Cancelable.with_timeout(300)
        cancel.on_error(lambda context, error: ended.append(("error", type(error))))
        cancel.on_cancel(lambda context: ended.append(("cancel", None)))
        cancel.on_complete(lambda context: ended.append(("complete", None)))
        with pytest.raises(WebSocketDisconnect):
            async with cancel:
                await CancelableWebSocket(websocket, cancel).receive_json()
        assert cancel.context.status is OperationStatus.FAILED

    async def client(socket: ScriptedSocket) -> None:
        await socket.wait_for_accept()
        await anyio.sleep(1)
        socket.leave(1001)

    await play(anyhow(handle), ScriptedSocket(server=UVICORN), client)

    assert ended == [("error", WebSocketDisconnect)]


async def test_a_timeout_that_nobody_catches_is_quiet(
    anyio_backend: object, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    """W9, W11: the page's own example, with its time up."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async with Cancelable.with_timeout(1) as cancel:
            socket = CancelableWebSocket(websocket, cancel)
            await socket.send_json({"status": "connected"})
            while True:
                await socket.send_json(await socket.receive_json())

    socket = ScriptedSocket(server=UVICORN, messages=["1"])
    with caplog.at_level(logging.WARNING):
        await play(wrap(handle), socket, no_client)

    assert socket.close_code == 3008
    assert socket.received == ['{"status":"connected"}', "1"]
    assert caplog.records == []
    if wrap is in_middleware:
        assert [each.cancel_reason for each in endings] == [CancelationReason.TIMEOUT]


async def test_a_socket_closes_with_the_reason_of_what_is_around(
    anyio_backend: object, wrap: Wrap
) -> None:
    """W9: a parent's cancel is told by the parent's reason."""

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async with Cancelable() as cancel:
            socket = CancelableWebSocket(websocket, cancel)
            await get_request_token(websocket).cancel("signal")
            await socket.receive_text()

    socket = ScriptedSocket(server=UVICORN)
    await play(wrap(handle), socket, no_client)

    assert socket.close_code == 1001


@pytest.mark.parametrize("form", ["middleware", "route", "both"])
async def test_a_socket_closes_with_the_codes_of_who_watches_it(
    anyio_backend: object, form: str
) -> None:
    """W7, W9: replaced codes are the same ones for the socket in the block of an operation."""
    ours = {CancelationReason.TIMEOUT: 4000}

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        async with Cancelable.with_timeout(1) as cancel:
            await CancelableWebSocket(websocket, cancel).receive_text()

    app: ASGIApp = Starlette(routes=[WebSocketRoute("/", handle)])
    if form != "middleware":
        app = Starlette(routes=[CancelableWebSocketRoute("/", handle, close_codes=ours)])
    if form != "route":
        around = ours if form == "middleware" else {CancelationReason.TIMEOUT: 4001}
        app = RequestCancelationMiddleware(app, close_codes=around)
    socket = ScriptedSocket(server=UVICORN)
    await play(app, socket, no_client)

    assert socket.close_code == 4000


def test_a_wrong_argument_is_refused() -> None:
    """A mistake is an error where it is made."""
    with pytest.raises(TypeError, match="`websocket`"):
        CancelableWebSocket(3, Cancelable())  # type: ignore[arg-type]
    websocket = WebSocket(ScriptedSocket(server=UVICORN).scope, None, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`cancelable`"):
        CancelableWebSocket(websocket, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`timeout`"):
        CancelableWebSocketRoute("/", lambda _: None, timeout=0)
    with pytest.raises(ValueError, match="`on_disconnect`"):
        CancelableWebSocketRoute("/", lambda _: None, on_disconnect="?")  # type: ignore[arg-type]


async def test_two_tasks_may_close_at_once(anyio_backend: object) -> None:
    """Both wait for the same reader to end, and neither longer than it takes."""
    took: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await anyio.wait_all_tasks_blocked()  # the reader waits for a message
        begin = anyio.current_time()

        async def close() -> None:
            await send({"type": "websocket.close", "code": 1000})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            tasks.start_soon(close)
        took.append(anyio.current_time() - begin)

    socket = ScriptedSocket()
    with anyio.fail_after(LIMIT):
        await socket.run(RequestCancelationMiddleware(app))
    assert took == [pytest.approx(0, abs=0.1)]


async def test_a_close_that_its_handler_cuts_is_no_close_that_failed(
    anyio_backend: object, wrap: Wrap
) -> None:
    """W2, W9: the server has it; the client's answer to it stops nobody."""
    done: list[str] = []
    messages = [{"type": "websocket.connect"}]
    answered = anyio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await answered.wait()
        return {"type": "websocket.disconnect", "code": 1000, "reason": ""}

    async def send(message: Message) -> None:
        if message["type"] == "websocket.close":
            await sleep_forever()

    async def handle(websocket: WebSocket) -> None:
        await websocket.accept()
        with anyio.move_on_after(1):
            await websocket.close()
        answered.set()
        await anyio.sleep(1)
        done.append("cleaned up")

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    with anyio.fail_after(LIMIT):
        await wrap(handle)(scope, receive, send)
    assert done == ["cleaned up"]
    assert endings == []
