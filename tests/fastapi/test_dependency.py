"""The dependency (F1, F3): a Cancelable that stops when the client of its request leaves."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.responses import Response, StreamingResponse
from fastapi.testclient import TestClient

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    DisconnectCancelation,
    OperationStatus,
    TimeoutCancelation,
)
from cancelable_fastapi import (
    CancelableDep,
    RequestCancelationMiddleware,
    TokenDep,
    cancelable_dependency,
    cancelable_streaming_response,
    get_request_token,
)
from cancelable_fastapi._dependency import _say_that_nobody_watches
from cancelable_starlette.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
)
from tests.fastapi.support import Setup, application, get, run

SERVERS = pytest.mark.parametrize(
    "server",
    [UVICORN, HYPERCORN, GRANIAN, DAPHNE],
    ids=["uvicorn", "hypercorn", "granian", "daphne"],
)


class Work:
    """What a handler under test does, and what became of it."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.cleaned_up = False
        self.cancel: Cancelable | None = None

    async def do(self, cancel: Cancelable) -> None:
        """Work until somebody stops it."""
        self.cancel = cancel
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cleaned_up = True

    @property
    def reason(self) -> CancelationReason:
        """The first cause: the reason of the request where the request was asked."""
        assert self.cancel is not None
        operation = self.cancel
        if operation.cancel_reason is CancelationReason.PARENT:
            operation = cast(Cancelable, operation.parent)
        assert operation.cancel_reason is not None
        return operation.cancel_reason


@contextmanager
def ends_with_disconnect(setup: Setup) -> Iterator[None]:
    """Expect what reaches the server when a client has left: without the middleware, the error."""
    if setup == "middleware":
        yield
    else:
        with pytest.raises(DisconnectCancelation):
            yield


async def leave_when(began: anyio.Event, connection: ScriptedConnection, app: FastAPI) -> None:
    """Run a request whose client leaves as soon as the work has begun."""

    async def leave() -> None:
        await began.wait()
        connection.leave()

    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        try:
            await run(app, connection)
        except DisconnectCancelation as error:
            failure = error
    if failure is not None:
        raise failure


# -- the client leaves ------------------------------------------------------------------------


@SERVERS
async def test_the_block_stops_when_the_client_leaves(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1, with and without the middleware, on every way of telling."""
    app, work = application(setup), Work()

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(cancelable_dependency)) -> None:
        async with cancel:
            await work.do(cancel)

    connection = ScriptedConnection(server=server)
    with ends_with_disconnect(setup):
        await leave_when(work.began, connection, app)

    assert work.cleaned_up
    assert work.reason is CancelationReason.DISCONNECT
    assert work.cancel is not None
    assert work.cancel.status is OperationStatus.CANCELLED
    assert connection.overlapping_reads == 0


@SERVERS
async def test_a_block_in_a_task_of_the_endpoint_stops_when_the_client_leaves(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1: as long as the endpoint has not returned, whoever entered it."""
    app, work = application(setup), Work()
    reasons: list[CancelationReason] = []

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(cancelable_dependency)) -> None:
        async def enter() -> None:
            try:
                async with cancel:
                    await work.do(cancel)
            except DisconnectCancelation as error:
                reasons.append(error.reason)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)

    connection = ScriptedConnection(server=server)
    await leave_when(work.began, connection, app)

    assert work.cleaned_up
    assert work.reason is CancelationReason.DISCONNECT
    assert reasons == ([] if setup == "middleware" else [CancelationReason.DISCONNECT])
    assert connection.overlapping_reads == 0


@SERVERS
async def test_the_block_stops_when_the_client_leaves_behind_a_body_that_was_read(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1: FastAPI has read the body before the dependency is made."""
    app, work = application(setup), Work()

    @app.post("/")
    async def endpoint(data: dict[str, int], cancel: CancelableDep) -> None:
        assert data == {"a": 1}
        async with cancel:
            await work.do(cancel)

    headers = [(b"content-type", b"application/json")]
    connection = ScriptedConnection("POST", headers=headers, body=[b'{"a"', b": 1}"], server=server)
    with ends_with_disconnect(setup):
        await leave_when(work.began, connection, app)

    assert work.reason is CancelationReason.DISCONNECT
    assert connection.overlapping_reads == 0


@SERVERS
async def test_a_body_that_the_endpoint_reads_in_its_block_arrives_whole(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1, W2: the watch begins when the body has been read, and then notices the client."""
    app, work = application(setup), Work()
    chunks = [bytes([number]) * 1000 for number in range(20)]
    read: list[bytes] = []

    @app.post("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            read.extend([chunk async for chunk in request.stream() if chunk])
            await work.do(cancel)

    connection = ScriptedConnection("POST", body=chunks, pause=0.001, server=server)
    with ends_with_disconnect(setup):
        await leave_when(work.began, connection, app)

    assert b"".join(read) == b"".join(chunks)
    assert work.reason is CancelationReason.DISCONNECT
    assert connection.overlapping_reads == 0


@SERVERS
async def test_a_client_that_leaves_in_the_middle_of_its_body_cancels_the_reading_block(
    setup: Setup, server: ServerBehaviour
) -> None:
    """F1: the block is cancelled; its read does not fail with an error of its own."""
    app = application(setup)
    operations: list[Cancelable] = []

    @app.post("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        operations.append(cancel)
        async with cancel:
            await request.body()

    connection = ScriptedConnection(
        "POST", body=[b"a"] * 10, pause=0.001, leave_after_chunks=5, server=server
    )
    with ends_with_disconnect(setup):
        await run(app, connection)

    assert not operations[0].is_completed
    if setup == "alone":
        # Under the middleware another task reads, and the disconnect may overtake its cancel.
        assert operations[0].status is OperationStatus.CANCELLED


@SERVERS
async def test_an_absent_body_can_be_read_in_the_block(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W2: the watch takes nothing from the endpoint, early or late."""
    app = application(setup)
    bodies: list[bytes] = []

    @app.get("/early")
    async def early(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            bodies.append(await request.body())

    @app.get("/late")
    async def late(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            await anyio.wait_all_tasks_blocked()
            bodies.append(await request.body())

    @app.get("/after")
    async def after(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            await anyio.wait_all_tasks_blocked()
        bodies.append(await request.body())

    for path in ("/early", "/late", "/after"):
        connection = await run(app, ScriptedConnection(path=path, server=server))
        assert connection.status == 200
        assert connection.overlapping_reads == 0
    assert bodies == [b"", b"", b""]


@SERVERS
async def test_a_read_that_waits_for_the_watch_gets_what_the_watch_meets(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W2: on servers that give the empty message of a GET a little later, which two do."""
    app = application(setup)
    bodies: list[bytes] = []

    @app.get("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            await anyio.wait_all_tasks_blocked()  # the watch is the one that waits at the server
            bodies.append(await request.body())

    connection = await run(app, ScriptedConnection(pause=1.0, server=server))
    assert (connection.status, bodies) == (200, [b""])
    assert connection.overlapping_reads == 0


@SERVERS
async def test_asking_whether_the_client_is_there_agrees_with_the_watch(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W4: also on servers that tell of a disconnect once."""
    app, work = application(setup), Work()
    answers: list[bool] = []

    @app.get("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        async with cancel:
            answers.append(await request.is_disconnected())
            try:
                await work.do(cancel)
            finally:
                with anyio.CancelScope(shield=True):
                    answers.append(await request.is_disconnected())

    connection = ScriptedConnection(server=server)
    with ends_with_disconnect(setup):
        await leave_when(work.began, connection, app)

    assert answers == [False, True]


@SERVERS
@pytest.mark.parametrize("body", [b"", b"abc"])
async def test_asking_whether_the_client_is_there_takes_nothing_from_a_body(
    setup: Setup, server: ServerBehaviour, body: bytes
) -> None:
    """W2: asked before the block and in it, before the body is read."""
    app = application(setup)
    bodies: list[bytes] = []

    @app.post("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        assert not await request.is_disconnected()
        async with cancel:
            assert not await request.is_disconnected()
            await anyio.wait_all_tasks_blocked()
            assert not await request.is_disconnected()
            bodies.append(await request.body())

    connection = await run(app, ScriptedConnection("POST", body=body, server=server))
    assert connection.status == 200
    assert bodies == [body]
    assert connection.overlapping_reads == 0


@SERVERS
async def test_an_endpoint_that_never_enters_it_may_ask_as_before(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W2: the dependency alone changes nothing."""
    app = application(setup)
    began = anyio.Event()
    saw: list[bool] = []

    @app.get("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        began.set()
        with anyio.CancelScope(shield=True):
            for _ in range(1000):
                if await request.is_disconnected():
                    saw.append(True)
                    break
                await anyio.lowlevel.checkpoint()

    await leave_when(began, ScriptedConnection(server=server), app)
    assert saw == [True]


@SERVERS
async def test_an_endpoint_that_waits_for_the_disconnect_itself_is_no_second_reader(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W4: both learn of it, also on servers that tell of it once."""
    app, work = application(setup), Work()
    heard: list[str] = []

    async def listen(request: Request) -> None:
        with anyio.CancelScope(shield=True):
            while (message := await request.receive())["type"] != "http.disconnect":
                pass
        heard.append(message["type"])

    @app.get("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> None:
        async with cancel, anyio.create_task_group() as tasks:
            tasks.start_soon(listen, request)
            await anyio.wait_all_tasks_blocked()
            await work.do(cancel)

    connection = ScriptedConnection(server=server)
    with ends_with_disconnect(setup):
        await leave_when(work.began, connection, app)

    assert heard == ["http.disconnect"]
    assert work.reason is CancelationReason.DISCONNECT
    assert connection.overlapping_reads == 0


async def test_the_token_of_the_request_is_cancelled_with_the_block(setup: Setup) -> None:
    """F1: whoever holds the token of the request learns of the client, too."""
    app, work = application(setup), Work()
    tokens: list[CancelationToken] = []

    @app.get("/")
    async def endpoint(cancel: CancelableDep, token: TokenDep, request: Request) -> None:
        assert token is get_request_token(request)
        tokens.append(token)
        async with cancel:
            await work.do(cancel)

    with ends_with_disconnect(setup):
        await leave_when(work.began, ScriptedConnection(), app)

    assert tokens[0].reason is CancelationReason.DISCONNECT


async def test_cancelling_the_token_of_the_request_stops_the_block(setup: Setup) -> None:
    """F1: the block belongs to its request."""
    app = application(setup)
    ended: list[str] = []

    @app.get("/")
    async def endpoint(cancel: CancelableDep, token: TokenDep) -> None:
        try:
            async with cancel:
                await token.cancel(message="enough")
                await anyio.sleep_forever()
        finally:
            ended.append(cancel.status.value)

    if setup == "middleware":
        assert (await get(app))[0] == 499
    else:
        with pytest.raises(Exception, match="enough"):
            await get(app)
    assert ended == ["cancelled"]


# -- timeouts ---------------------------------------------------------------------------------


def plain_dependency() -> Cancelable:
    return cancelable_dependency(timeout=0.01)


async def async_dependency() -> Cancelable:
    return await cancelable_dependency(timeout=0.01)


async def dependency_with_request(request: Request) -> Cancelable:
    return cancelable_dependency(request, timeout=0.01)


async def dependency_of_dependency(cancel: CancelableDep) -> Cancelable:
    return cancel.combine(Cancelable.with_timeout(0.01))


@pytest.mark.parametrize(
    "dependency",
    [plain_dependency, async_dependency, dependency_with_request, dependency_of_dependency],
)
async def test_a_dependency_of_the_users_own_sets_the_timeout(
    setup: Setup, dependency: object
) -> None:
    """F1: as the page shows it, and in the other ways that suggest themselves."""
    app = application(setup)
    operations: list[Cancelable] = []

    async def endpoint(cancel: Cancelable = Depends(dependency)) -> None:  # type: ignore[arg-type]
        operations.append(cancel)
        async with cancel:
            await anyio.sleep_forever()

    app.get("/")(endpoint)

    if setup == "middleware":
        status, answer = await get(app)
        assert (status, cast(dict[str, str], answer)["reason"]) == (504, "timeout")
    else:
        with pytest.raises(TimeoutCancelation):
            await get(app)
    assert operations[0].cancel_reason is CancelationReason.TIMEOUT


@pytest.mark.parametrize(("default", "own"), [(0.01, 60.0), (60.0, 0.01)])
async def test_the_smaller_of_two_timeouts_wins(default: float, own: float) -> None:
    """F1: the middleware's and the dependency's."""
    app = application("middleware", default_timeout=default)

    def dependency() -> Cancelable:
        return cancelable_dependency(timeout=own)

    @app.get("/")
    async def endpoint(cancel: Cancelable = Depends(dependency)) -> None:
        async with cancel:
            await anyio.sleep_forever()

    assert (await get(app))[0] == 504


@pytest.mark.parametrize("timeout", [0, -1.0])
async def test_a_used_up_timeout_stops_at_the_first_checkpoint(timeout: float) -> None:
    """S7: zero is a timeout, and None is none."""
    with pytest.raises(TimeoutCancelation):
        async with cancelable_dependency(timeout=timeout):
            await anyio.sleep_forever()
    async with cancelable_dependency(timeout=None) as cancel:
        assert cancel.remaining == math.inf


async def test_a_client_cannot_set_the_timeout(setup: Setup) -> None:
    """F1: neither the timeout nor the request is a query parameter."""
    app = application(setup)

    @app.get("/")
    async def endpoint(cancel: CancelableDep, token: TokenDep) -> float:
        async with cancel:
            return min(cancel.remaining, 1e9)

    assert await get(app, query=b"timeout=0.001&request=1") == (200, 1e9)
    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


# -- FastAPI's ways ---------------------------------------------------------------------------


async def test_no_worker_thread_is_needed() -> None:
    """F1: FastAPI awaits the dependency where it runs the endpoint."""
    app = application()

    @app.get("/")
    async def endpoint(cancel: CancelableDep, token: TokenDep) -> str:
        async with cancel:
            return "ok"

    limiter = current_default_thread_limiter()
    total, limiter.total_tokens = limiter.total_tokens, 1
    await limiter.acquire_on_behalf_of(limiter)
    try:
        assert await get(app) == (200, "ok")
    finally:
        limiter.release_on_behalf_of(limiter)
        limiter.total_tokens = total


async def test_it_is_one_object_within_a_request_and_another_in_the_next() -> None:
    """F1: cached as every dependency."""
    app = application()
    seen: list[Cancelable] = []

    async def other(cancel: CancelableDep) -> Cancelable:
        return cancel

    @app.get("/", dependencies=[Depends(cancelable_dependency)])
    async def endpoint(cancel: CancelableDep, same: Cancelable = Depends(other)) -> None:
        assert cancel is same
        seen.append(cancel)

    await get(app)
    await get(app)
    assert seen[0] is not seen[1]


async def test_it_may_stand_in_the_dependencies_of_routers_and_apps(setup: Setup) -> None:
    """F1: where nobody enters it, it does nothing."""
    app = FastAPI(dependencies=[Depends(cancelable_dependency)])
    if setup == "middleware":
        app.add_middleware(RequestCancelationMiddleware)
    router = APIRouter(prefix="/inner", dependencies=[Depends(cancelable_dependency)])

    @router.get("/")
    async def endpoint(cancel: CancelableDep) -> str:
        async with cancel:
            return "ok"

    @router.get("/unused")
    async def unused() -> str:
        return "ok"

    app.include_router(router)
    assert await get(app, "/inner/") == (200, "ok")
    assert await get(app, "/inner/unused") == (200, "ok")


async def test_a_test_can_override_it() -> None:
    """F1: by ``dependency_overrides``."""
    app = application()

    @app.get("/")
    async def endpoint(cancel: CancelableDep) -> str | None:
        async with cancel:
            return cancel.name

    app.dependency_overrides[cancelable_dependency] = lambda: Cancelable(name="mine")
    assert await get(app) == (200, "mine")


async def test_an_operation_is_named_after_its_endpoint() -> None:
    """S18: the name says what runs, in logs and lists."""
    app = application()

    @app.get("/{number}")
    async def make_report(number: int, cancel: CancelableDep) -> str | None:
        return cancel.name

    assert await get(app, "/7") == (200, "make_report")


@pytest.mark.parametrize("is_entered", [False, True])
async def test_nothing_of_a_request_waits_for_the_collector(setup: Setup, is_entered: bool) -> None:
    """The body of a request would stay in memory until it comes by."""
    app = application(setup)
    requests: list[weakref.ref[Request]] = []

    @app.post("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> int:
        requests.append(weakref.ref(request))
        if is_entered:
            async with cancel:
                return len(await request.body())
        return 0

    gc.disable()
    try:
        connection = ScriptedConnection("POST", "/", body=[b"x" * 100])
        await run(app, connection)
        await anyio.lowlevel.checkpoint()  # the task of the request lets go of what it held
    finally:
        gc.enable()

    assert connection.status == 200
    assert [each() for each in requests] == [None]


@SERVERS
async def test_a_body_that_the_stream_reads_arrives_whole(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W2: also behind a look whether the client is there, which Starlette does with a read."""
    app = application(setup)

    @app.post("/")
    async def endpoint(request: Request, cancel: CancelableDep) -> StreamingResponse:
        async def echo() -> AsyncIterator[bytes]:
            assert not await request.is_disconnected()
            async for piece in request.stream():
                yield piece

        return StreamingResponse(echo())

    connection = ScriptedConnection("POST", "/", body=[b"one", b"two"], server=server)
    connection.scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    await run(app, connection)

    assert connection.body == b"onetwo"
    assert connection.overlapping_reads == 0


async def test_a_plain_endpoint_may_check_in(setup: Setup) -> None:
    """F1: a ``def`` endpoint cannot enter it, and is told by the request's token."""
    app = application(setup)

    @app.get("/")
    def endpoint(cancel: CancelableDep, token: TokenDep) -> str:
        assert not token.is_cancelled
        return cancel.status.value

    assert await get(app) == (200, "pending")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_websocket_endpoints_get_one(setup: Setup, backend: str) -> None:
    """F1: in WebSocket endpoints, where the endpoint itself reads what the client sends."""
    app = application(setup)

    def short() -> Cancelable:
        return cancelable_dependency(timeout=0.01)

    @app.websocket("/")
    async def endpoint(
        websocket: WebSocket,
        cancel: CancelableDep,
        token: TokenDep,
        short: Cancelable = Depends(short),
    ) -> None:
        await websocket.accept()
        async with cancel:
            await websocket.send_text(await websocket.receive_text())
        try:
            async with short:
                await anyio.sleep_forever()
        except TimeoutCancelation:
            await websocket.send_text("too long")
        await websocket.close()

    with TestClient(app, backend=backend) as client, client.websocket_connect("/") as socket:  # type: ignore[arg-type]
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
        assert socket.receive_text() == "too long"


# -- streamed bodies --------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [True, False], ids=["our response", "Starlette's"])
@SERVERS
async def test_it_lives_as_long_as_a_streamed_body(
    setup: Setup, server: ServerBehaviour, ours: bool
) -> None:
    """F3: entered in the generator; the client that leaves stops it, with one reader."""
    app = application(setup)
    streaming = anyio.Event()
    operations: list[Cancelable] = []
    closed: list[bool] = []

    @app.get("/")
    async def endpoint(cancel: CancelableDep) -> Response:
        async def generate() -> AsyncIterator[str]:
            try:
                async with cancel:
                    operations.append(cancel)
                    yield "data: 1\n\n"
                    streaming.set()
                    await anyio.sleep_forever()
            finally:
                closed.append(True)

        return cancelable_streaming_response(generate()) if ours else StreamingResponse(generate())

    connection = ScriptedConnection(server=server)
    await leave_when(streaming, connection, app)

    assert connection.body == b"data: 1\n\n"
    assert closed == [True]
    assert operations[0].status is OperationStatus.CANCELLED
    assert connection.overlapping_reads == 0


async def test_a_response_that_watches_its_request_is_the_one_reader() -> None:
    """F1: the block in its body leaves the watch to it, also in the endpoint's own task."""
    app = application()

    @app.get("/")
    async def endpoint(cancel: CancelableDep) -> Response:
        async def generate() -> AsyncIterator[str]:
            async with cancel:
                yield "1"
                # Long enough for the response to watch: it leaves short requests alone.
                await anyio.sleep(0.05)
                yield "2"

        return cancelable_streaming_response(generate())

    connection = await run(app, ScriptedConnection())
    assert connection.body == b"12"
    assert connection.overlapping_reads == 0


async def test_a_streamed_body_that_completes_is_whole(setup: Setup) -> None:
    """F3: a healthy stream is left alone."""
    app = application(setup)
    operations: list[Cancelable] = []

    @app.get("/")
    async def endpoint(cancel: CancelableDep) -> Response:
        async def generate() -> AsyncIterator[str]:
            async with cancel:
                operations.append(cancel)
                for number in range(3):
                    yield f"{number}"

        return StreamingResponse(generate())

    connection = await run(app, ScriptedConnection())
    assert (connection.status, connection.body) == (200, b"012")
    assert connection.complete
    assert operations[0].is_completed


# -- by hand ----------------------------------------------------------------------------------


async def test_by_hand_and_outside_of_the_middleware_it_says_once_what_it_cannot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F1: once at INFO; under the middleware there is nothing to say."""
    caplog.set_level(logging.INFO, "cancelable")
    _say_that_nobody_watches.cache_clear()

    def dependency() -> Cancelable:
        return cancelable_dependency(timeout=60)

    async def endpoint(cancel: Cancelable = Depends(dependency)) -> str:
        async with cancel:
            return "ok"

    watched, alone = application("middleware"), application("alone")
    for app in (watched, alone):
        app.get("/")(endpoint)

    await get(watched)
    assert caplog.records == []
    await get(alone)
    await get(alone)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "RequestCancelationMiddleware" in caplog.text


def test_a_timeout_in_the_place_of_the_request_is_refused() -> None:
    """A clear error where the mistake is made."""
    with pytest.raises(TypeError, match=r"`request` must be .*30\.0; .*timeout=30"):
        cancelable_dependency(30.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("timeout", "error"), [("30", TypeError), (True, TypeError), (math.nan, ValueError)]
)
def test_a_timeout_that_is_none_is_refused(timeout: float, error: type[Exception]) -> None:
    """S7."""
    with pytest.raises(error, match="`timeout`"):
        cancelable_dependency(timeout=timeout)
