"""What becomes of requests and sockets when the server shuts down (W10)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from types import CellType, FrameType, FunctionType

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    OperationContext,
    TimeoutCancelation,
)
from cancelable_starlette import (
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    get_request_operation,
)
from cancelable_starlette._shutdown import wait_of_server
from cancelable_starlette.testing import UVICORN, ScriptedConnection, ScriptedSocket, lifespan
from tests.starlette.support import LIMIT, Watch, application, respond
from tests.support.clock import advance

stopped_at: list[float] = []
endings: list[OperationContext] = []


async def events(request: Request) -> AsyncIterator[bytes]:
    try:
        yield b"data: 1\n\n"
        if request.url.path == "/heeds":
            operation = get_request_operation(request)
            assert operation is not None
            yield f"data: {await operation.wait_cancelling()}\n\n".encode()
        else:
            await sleep_forever()
    finally:
        stopped_at.append(anyio.current_time())


async def stream(request: Request) -> Response:
    if request.url.path == "/plain-stream":
        return StreamingResponse(events(request))
    return cancelable_streaming_response(events(request))


async def slow(request: Request) -> Response:
    await anyio.sleep(30)
    return PlainTextResponse("done")


async def late_stream(request: Request) -> Response:
    await anyio.sleep(30)
    return cancelable_streaming_response(events(request))


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    if websocket.url.path == "/socket/heeds":
        operation = get_request_operation(websocket)
        assert operation is not None
        await operation.wait_cancelling()
        await websocket.send_text("bye")
    else:
        await websocket.receive_text()


ROUTES = [
    Route("/stream", stream),
    Route("/plain-stream", stream),
    Route("/heeds", stream),
    Route("/slow", slow),
    Route("/late", late_stream),
    WebSocketRoute("/socket", socket),
    WebSocketRoute("/socket/heeds", socket),
]


@pytest.fixture
def token() -> CancelationToken:
    """The explicit trigger, and a clean slate."""
    stopped_at.clear()
    endings.clear()
    return CancelationToken()


def made(token: CancelationToken, grace: float = 5) -> RequestCancelationMiddleware:
    return RequestCancelationMiddleware(
        Starlette(routes=ROUTES), shutdown=token, shutdown_grace=grace, on_cancel=endings.append
    )


async def shut_down_during(
    app: RequestCancelationMiddleware,
    token: CancelationToken,
    connection: ScriptedConnection | ScriptedSocket,
    watch: Watch,
    after: float = 1,
) -> float:
    """Run a connection, shut down while it does, and return when."""
    times: list[float] = []

    async def act() -> None:
        await anyio.sleep(after)
        token.cancel_sync("signal")
        times.append(anyio.current_time())

    with anyio.fail_after(LIMIT * 20):
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(act)
                await connection.run(app)
    return times[0]


async def test_a_stream_is_cut_after_the_grace(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: with a last event that says why; another one is broken off."""
    connection = ScriptedConnection(path="/stream")
    began = await shut_down_during(made(token), token, connection, watch)

    assert stopped_at == [pytest.approx(began + 5, abs=0.1)]
    assert b'data: {"reason":"signal"}' in connection.body
    assert connection.complete

    token = CancelationToken()
    connection = ScriptedConnection(path="/plain-stream")
    await shut_down_during(made(token), token, connection, watch)
    assert not connection.complete
    assert [each.cancel_reason for each in endings] == [CancelationReason.SIGNAL] * 2


async def test_a_stream_that_heeds_it_ends_by_itself(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: told first."""
    connection = ScriptedConnection(path="/heeds")
    began = await shut_down_during(made(token), token, connection, watch)

    assert connection.complete
    assert connection.body == b"data: 1\n\ndata: signal\n\n"
    assert stopped_at == [pytest.approx(began, abs=0.1)]
    assert endings == []


async def test_a_plain_request_finishes(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: however long it takes; the server says how long it waits."""
    connection = ScriptedConnection(path="/slow")
    await shut_down_during(made(token), token, connection, watch)

    assert (connection.status, connection.body) == (200, b"done")
    assert endings == []


async def test_a_request_that_turns_out_to_be_a_stream_is_told(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: from its first piece on."""
    connection = ScriptedConnection(path="/late")
    began = await shut_down_during(made(token), token, connection, watch)

    assert stopped_at == [pytest.approx(began + 29 + 5, abs=0.2)]
    assert [each.cancel_reason for each in endings] == [CancelationReason.SIGNAL]


async def test_a_socket_is_told_and_closed(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10, W7: with 1001, whether it is cut or ends by itself."""
    script = ScriptedSocket("/socket", server=UVICORN)
    began = await shut_down_during(made(token), token, script, watch)
    assert script.close_code == 1001
    assert endings[0].end_time is not None
    assert began

    token = CancelationToken()
    script = ScriptedSocket("/socket/heeds", server=UVICORN)
    await shut_down_during(made(token), token, script, watch)
    assert (script.received, script.close_code) == (["bye"], 1001)


async def test_new_ones_are_refused(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: with 503, also a big upload that nobody reads."""
    token.cancel_sync("signal")
    app = made(token)
    async with lifespan(app) if watch == "service" else contextlib.nullcontext():
        for connection in (
            ScriptedConnection(path="/slow"),
            ScriptedConnection("POST", "/slow", body=[b"x"] * 100),
        ):
            await connection.run(app)
            assert connection.status == 503
            assert b'"reason":"signal"' in connection.body
        for can_be_denied, outcome in ((True, (503, None)), (False, (None, 1001))):
            script = ScriptedSocket("/socket", server=UVICORN, can_be_denied=can_be_denied)
            await script.run(app)
            assert (script.status, script.close_code) == outcome


async def test_a_shutdown_that_nobody_has_told_of_yet_refuses_new_ones(
    anyio_backend: object, watch: Watch
) -> None:
    """W10: by the token of an operation whose deadline passed while the loop was held."""
    maintenance = Cancelable.with_timeout(5)

    async def maintain(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with pytest.raises(TimeoutCancelation):
            async with maintenance:
                task_status.started()
                await sleep_forever()

    app = made(maintenance.token)
    connection = ScriptedConnection(path="/slow")
    async with anyio.create_task_group() as tasks:
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            await tasks.start(maintain)
            advance(6)
            await connection.run(app)
    assert connection.status == 503


async def test_a_complete_response_is_not_touched(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W2, W10: background tasks finish."""
    done: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await anyio.sleep(30)
        done.append("done")

    app = RequestCancelationMiddleware(application(handle), shutdown=token)
    await shut_down_during(app, token, ScriptedConnection(), watch)

    assert done == ["done"]


async def test_the_servers_signal_is_heeded_and_passed_on(
    anyio_backend: object, token: CancelationToken
) -> None:
    """W10: chained from the start of the lifespan to its end."""
    seen: list[int] = []

    def of_the_server(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, of_the_server)
    try:
        async with lifespan(made(token)):
            assert signal.getsignal(signal.SIGTERM) is not of_the_server
            assert not token.is_cancelled
            signal.raise_signal(signal.SIGTERM)
            assert seen == [signal.SIGTERM]
            assert token.reason is CancelationReason.SIGNAL
        assert signal.getsignal(signal.SIGTERM) is of_the_server
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_the_interpreters_handlers_are_left_alone(
    anyio_backend: object, token: CancelationToken
) -> None:
    """W10: where they are in place no server waits for a signal, and the first one must end it."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    async with lifespan(made(token)):
        assert [signal.getsignal(number) for number in numbers] == before


def passing(send: Send) -> Send:
    """Put a function around a ``send()``, as Starlette does for all its middlewares."""

    async def wrapped(message: Message) -> None:
        await send(message)

    return wrapped


@pytest.mark.parametrize("layers", [0, 1, 3])
async def test_a_server_without_signals_is_asked(anyio_backend: object, layers: int) -> None:
    """W10: through what its ``send()`` belongs to, also behind the layers of others."""

    class Server:
        """Looks like one whose connections know an event that says that it stops."""

        def __init__(self, connection: ScriptedConnection) -> None:
            self.connection = connection
            self.context = self
            self.terminated = anyio.Event()

        async def send(self, message: Message) -> None:
            await self.connection.send(message)

    stopped_at.clear()
    connection = ScriptedConnection(path="/stream")
    server = Server(connection)
    send: Send = server.send
    for _ in range(layers):
        send = passing(send)
    app = made(CancelationToken())

    async def act() -> None:
        await anyio.sleep(1)
        server.terminated.set()

    with anyio.fail_after(LIMIT * 3):
        async with lifespan(app), anyio.create_task_group() as tasks:
            tasks.start_soon(act)
            await app(connection.scope, connection.receive, send)

    assert b'"reason":"signal"' in connection.body


def test_layers_behind_which_nothing_is_found_are_left_alone() -> None:
    """W10: one that calls itself, one that has deleted what it wrapped, and no function at all."""

    async def send(message: Message) -> None:
        await send(message)

    class Sender:
        async def __call__(self, message: Message) -> None: ...

    emptied: Send = FunctionType(passing(send).__code__, {}, closure=(CellType(),))
    for odd in (send, emptied, Sender()):
        assert wait_of_server(odd) is None


def test_a_bad_setting_is_refused() -> None:
    """A mistake is an error where it is made."""
    app = Starlette()
    with pytest.raises(TypeError, match="`shutdown`"):
        RequestCancelationMiddleware(app, shutdown=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`shutdown_grace`"):
        RequestCancelationMiddleware(app, shutdown_grace=0)


@pytest.mark.parametrize("path", ["/slow", "/stream", "/quick"])
async def test_a_disconnect_that_a_shutdown_causes_is_none(
    anyio_backend: object, watch: Watch, path: str
) -> None:
    """W10: some servers say that of a client that is there; it gets what comes in time."""
    token = CancelationToken()
    endings.clear()
    connection = ScriptedConnection(path=path)

    async def receive() -> Message:
        await token.wait()
        await anyio.sleep(1)
        return {"type": "http.disconnect"}

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await anyio.sleep(0 if path == "/stream" else 1)
        await token.cancel()
        response = await stream(request) if path == "/stream" else PlainTextResponse("done")
        await anyio.sleep({"/quick": 3, "/slow": 30, "/stream": 0}[path])
        await response(scope, receive, send)

    app = RequestCancelationMiddleware(
        application(handle), shutdown=token, shutdown_grace=5, on_cancel=endings.append
    )
    with anyio.fail_after(LIMIT * 20):
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            await app(connection.scope, receive, connection.send)

    if path == "/quick":
        assert (connection.status, connection.body) == (200, b"done")
        assert endings == []
        return
    assert [each.cancel_reason for each in endings] == [CancelationReason.SIGNAL]
    assert b'"reason":"signal"' in connection.body
    assert connection.status == (200 if path == "/stream" else 503)
    assert connection.complete


async def test_a_send_knows_better_whether_the_client_is_there(
    anyio_backend: object, token: CancelationToken, watch: Watch
) -> None:
    """W10: nothing is sent after a send that says that the connection is gone."""
    sent: list[str] = []

    async def receive() -> Message:
        await token.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message["type"])
        raise BrokenPipeError("gone")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        await token.cancel()
        await anyio.sleep(1)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), shutdown=token, shutdown_grace=5)
    with anyio.fail_after(LIMIT):
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            await app(ScriptedConnection().scope, receive, send)

    assert sent == ["http.response.start"]
