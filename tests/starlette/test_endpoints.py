"""Endpoints and routes with settings of their own, with and without the middleware (W5, W6)."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from anyio import sleep_forever, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
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
    CancelationToken,
    OperationContext,
    OperationRegistry,
    TimeoutCancelation,
)
from cancelable_starlette import (
    CancelableRoute,
    CancelableWebSocketRoute,
    RequestCancelationMiddleware,
    cancelable_streaming_response,
    get_request_operation,
    get_request_token,
    with_cancelation,
)
from cancelable_starlette.testing import (
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
)
from tests.starlette.support import Watch, application, respond, run, until_left

USES_THREADS = True

stopped: list[str] = []


async def wait(request: Request) -> Response:
    try:
        if request.url.path == "/inner":
            async with Cancelable.with_timeout(0.01):
                await sleep_forever()
        if request.url.path == "/fast":
            return PlainTextResponse("fast")
        if request.url.path == "/body":
            return PlainTextResponse(await request.body())
        await sleep_forever()
    finally:
        stopped.append(request.url.path)
    return PlainTextResponse("never")


@with_cancelation
async def bare(request: Request) -> Response:
    return await wait(request)


@with_cancelation()
async def called(request: Request) -> Response:
    return await wait(request)


@with_cancelation
class Whole(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return await wait(request)

    async def post(self, request: Request) -> Response:
        return await wait(request)


class Method(HTTPEndpoint):
    @with_cancelation
    async def get(self, request: Request) -> Response:
        return await wait(request)

    @with_cancelation()
    async def post(self, request: Request) -> Response:
        return await wait(request)


def form_of(endpoint: Callable[..., object], methods: list[str] | None = None) -> ASGIApp:
    return Starlette(routes=[Route("/{rest}", endpoint, methods=methods)])


FORMS: dict[str, ASGIApp] = {
    "bare": form_of(bare, ["GET", "POST"]),
    "called": form_of(called, ["GET", "POST"]),
    "class": form_of(Whole),
    "method": form_of(Method),
    "route": Starlette(routes=[CancelableRoute("/{rest}", wait, methods=["GET", "POST"])]),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> ASGIApp:
    """Each way to give settings to an endpoint."""
    stopped.clear()
    return FORMS[str(request.param)]


@pytest.fixture(params=["middleware", "bare"])
def wrapped(request: pytest.FixtureRequest, form: ASGIApp) -> ASGIApp:
    """Each of them with and without the middleware."""
    return RequestCancelationMiddleware(form) if request.param == "middleware" else form


async def test_a_client_that_leaves_cancels_the_endpoint(
    anyio_backend: object, wrapped: ASGIApp, watch: Watch
) -> None:
    """Alone, an endpoint watches its own request."""
    connection = ScriptedConnection("GET", "/slow", leave_after=0.02, server=HYPERCORN)
    await run(wrapped, connection, watch)

    assert stopped == ["/slow"]
    assert connection.sent == []


async def test_a_healthy_request_is_answered(
    anyio_backend: object, wrapped: ASGIApp, watch: Watch
) -> None:
    """W2 for the endpoints that watch their own requests."""
    connection = ScriptedConnection("GET", "/fast")
    await run(wrapped, connection, watch)
    assert connection.body == b"fast"

    connection = ScriptedConnection("POST", "/body", body=[b"a"] * 5, pause=0.004)
    await run(wrapped, connection, watch)
    assert connection.body == b"aaaaa"
    assert connection.overlapping_reads == 0


async def test_an_operation_that_times_out_inside_is_a_504(
    anyio_backend: object, wrapped: ASGIApp
) -> None:
    """The page's promise: cancelation becomes the right status."""
    connection = ScriptedConnection("GET", "/inner")
    await run(wrapped, connection)

    assert connection.status == 504
    assert json.loads(connection.body)["reason"] == "timeout"
    assert connection.starts == 1


@pytest.mark.parametrize("middleware", [True, False])
async def test_the_settings_of_an_endpoint_are_used(
    anyio_backend: object, middleware: bool
) -> None:
    """A timeout, a table, a hook: on each form."""

    def hook(reason: CancelationReason, request: Request) -> Response:
        return PlainTextResponse(f"hook: {reason.value}", status_code=418)

    class Class(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return await wait(request)

    for options, status in (
        ({}, 504),
        ({"statuses": {CancelationReason.TIMEOUT: 408}}, 408),
        ({"response_hook": hook}, 418),
    ):
        for route in (
            Route("/slow", with_cancelation(timeout=0.02, **options)(wait)),
            Route("/slow", with_cancelation(timeout=0.02, **options)(type("C", (Class,), {}))),
            CancelableRoute("/slow", wait, timeout=0.02, **options),
        ):
            app: ASGIApp = Starlette(routes=[route])
            if middleware:
                app = RequestCancelationMiddleware(app)
            connection = ScriptedConnection("GET", "/slow")
            await run(app, connection)

            assert connection.status == status


def chosen(reason: CancelationReason, request: Request) -> Response:
    return PlainTextResponse(reason.value, status_code=418)


def inherited() -> type[HTTPEndpoint]:
    @with_cancelation(timeout=60)
    class Base(Whole): ...

    @with_cancelation(timeout=0.02)
    class Child(Base): ...

    return Child


def inherited_with_more() -> type[HTTPEndpoint]:
    @with_cancelation(timeout=60, until="start", response_hook=chosen)
    class Base(Whole): ...

    @with_cancelation(timeout=0.02)
    class Child(Base): ...

    class Grandchild(Child): ...

    return Grandchild


def inherited_open() -> type[HTTPEndpoint]:
    @with_cancelation(timeout=0.02)
    class Base(Whole): ...

    @with_cancelation(response_hook=chosen)
    class Child(Base): ...

    return Child


def overridden() -> type[HTTPEndpoint]:
    @with_cancelation(timeout=60)
    class Base(Whole): ...

    @with_cancelation(timeout=0.02)
    class Child(Base):
        async def dispatch(self) -> None:
            await super().dispatch()

    return Child


def stacked() -> type[HTTPEndpoint]:
    @with_cancelation(timeout=60)
    @with_cancelation(timeout=0.02)
    class Both(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return await wait(request)

    return Both


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (inherited, 504),
        (inherited_with_more, 418),
        (inherited_open, 418),
        (overridden, 504),
        (stacked, 504),
    ],
)
@pytest.mark.parametrize("middleware", [True, False])
async def test_the_settings_of_a_class_come_before_those_that_it_inherits(
    anyio_backend: object,
    watch: Watch,
    make: Callable[[], type[HTTPEndpoint]],
    status: int,
    middleware: bool,
) -> None:
    """W6: the closest counts, and what it leaves open is inherited."""
    app: ASGIApp = Starlette(routes=[Route("/", make())])
    if middleware:
        app = RequestCancelationMiddleware(app)
    connection = ScriptedConnection()
    await run(app, connection, watch)

    assert connection.status == status


async def test_a_plain_function_runs_in_a_thread(anyio_backend: object) -> None:
    """As Starlette runs it without us."""

    @with_cancelation
    def endpoint(request: Request) -> Response:
        anyio.from_thread.run(anyio.lowlevel.checkpoint)
        return PlainTextResponse("from a thread")

    connection = ScriptedConnection()
    await run(Starlette(routes=[Route("/", endpoint)]), connection)

    assert connection.body == b"from a thread"


class Caller:
    """An endpoint that is an object."""

    async def __call__(self, request: Request) -> Response:
        return PlainTextResponse("answered")


class PlainCaller:
    """An endpoint that is an object without coroutines."""

    def __call__(self, request: Request) -> Response:
        return PlainTextResponse("answered")


async def answered(text: str, request: Request) -> Response:
    return PlainTextResponse(text)


def noting(function: Callable[..., object]) -> Callable[..., object]:
    """Decorate as one does who need not know what is async."""

    @functools.wraps(function)
    def call(*args: object) -> object:
        return function(*args)

    return call


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (Caller(), "Caller"),
        (PlainCaller(), "PlainCaller"),
        (functools.partial(answered, "answered"), "partial"),
        (functools.partial(Caller()), "partial"),
        (functools.partial(noting(answered), "answered"), "partial"),
        (noting(Caller()), "call"),
    ],
    ids=["object", "plain object", "partial", "partial object", "decorated", "decorated object"],
)
@pytest.mark.parametrize("wrapped", [True, False], ids=["middleware", "bare"])
async def test_an_endpoint_may_be_whatever_can_be_called(
    anyio_backend: object, endpoint: Callable[..., object], name: str, wrapped: bool
) -> None:
    """Objects, partials, and what a decorator returns that does not await."""
    route = Route("/{rest}", with_cancelation(endpoint))
    app: ASGIApp = Starlette(routes=[route])
    connection = ScriptedConnection("GET", "/call")
    await run(RequestCancelationMiddleware(app) if wrapped else app, connection)

    assert (connection.status, connection.body) == (200, b"answered")
    assert route.name == name


async def test_an_exception_handler_of_the_application_does_not_come_first(
    anyio_backend: object, wrapped: ASGIApp
) -> None:
    """W7: the status is the mapping's, also where an outer handler takes everything."""
    seen: list[Exception] = []

    async def handler(request: Request, exc: Exception) -> Response:
        seen.append(exc)
        return PlainTextResponse("handled", status_code=500)

    app = Starlette(
        routes=[CancelableRoute("/inner", wait)], exception_handlers={Exception: handler}
    )
    connection = ScriptedConnection("GET", "/inner")
    await run(RequestCancelationMiddleware(app), connection)

    assert connection.status == 504
    assert seen == []


async def test_a_route_may_let_the_work_go_on(anyio_backend: object, watch: Watch) -> None:
    """W5: ``continue`` hides the disconnect until the response is complete."""
    seen: list[object] = []
    connection = ScriptedConnection(leave_after=0.02)

    async def save(request: Request) -> Response:
        while not await request.is_disconnected():
            await checkpoint()
        seen.append("told by a look")
        seen.append(await request.body())
        with anyio.move_on_after(0.02) as limit:
            await request.receive()
        seen.append(("hidden from a read", limit.cancelled_caught))
        operation = get_request_operation(request)
        assert operation is not None
        seen.append(operation.cancel_requested)
        return PlainTextResponse("for nobody")

    app = Starlette(routes=[CancelableRoute("/", save, on_disconnect="continue")])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert seen == ["told by a look", b"", ("hidden from a read", True), False]
    assert [message.get("status") for message in connection.discarded] == [499]


async def test_who_answers_for_nobody_is_told_of_the_disconnect_afterwards(
    anyio_backend: object, watch: Watch
) -> None:
    """W4: the response is complete for whoever made it, although nobody got it."""
    connection = ScriptedConnection()
    told: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        await until_left(receive)
        await receive()
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                told.append((await receive())["type"])

            tasks.start_soon(listen)
            await wait_all_tasks_blocked()
            assert told == []
            await respond(send)

    app = RequestCancelationMiddleware(application(handle), on_disconnect="continue")
    await run(app, connection, watch)

    assert told == ["http.disconnect"]


async def test_an_upload_that_ends_early_is_told_under_continue(
    anyio_backend: object, watch: Watch
) -> None:
    """W4: waiting for the rest of a body whose sender is gone would never end."""
    seen: list[str] = []
    connection = ScriptedConnection("POST", body=[b"a"] * 4, pause=0.01, leave_after_chunks=2)

    async def upload(request: Request) -> Response:
        try:
            await request.body()
        except Exception as exc:
            seen.append(type(exc).__name__)
            raise
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", upload, methods=["POST"])])
    await run(RequestCancelationMiddleware(app, on_disconnect="continue"), connection, watch)

    assert seen == ["ClientDisconnect"]


async def test_a_stream_goes_on_for_nobody_under_continue(
    anyio_backend: object, watch: Watch
) -> None:
    """The producer finishes, and writes nothing to the dead connection."""
    made: list[int] = []
    connection = ScriptedConnection(leave_after_messages=3)

    async def numbers() -> AsyncIterator[bytes]:
        for number in range(20):
            made.append(number)
            yield b"x"
            await anyio.sleep(0.001)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(numbers())

    app = Starlette(routes=[CancelableRoute("/", endpoint, on_disconnect="continue")])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert made == list(range(20))
    assert len(connection.discarded) < 10


async def test_a_route_may_cancel_where_the_application_continues(
    anyio_backend: object, watch: Watch
) -> None:
    """W5: an override in the other direction, also after the client has left."""
    stopped.clear()
    connection = ScriptedConnection("GET", "/slow", leave_after=0.01)

    class Late:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await anyio.sleep(0.05)
            await self.app(scope, receive, send)

    app = Starlette(
        routes=[CancelableRoute("/slow", wait, on_disconnect="cancel")],
        middleware=[Middleware(Late)],
    )
    await run(RequestCancelationMiddleware(app, on_disconnect="continue"), connection, watch)

    assert connection.sent == []
    assert stopped in ([], ["/slow"])


async def test_an_endpoint_alone_is_found_by_its_request(anyio_backend: object) -> None:
    """The token and the operation are there while it runs."""
    seen: list[bool] = []

    @with_cancelation
    async def endpoint(request: Request) -> Response:
        operation = get_request_operation(request)
        seen.append(operation is not None and operation.token is get_request_token(request))
        await get_request_token(request).cancel()
        await sleep_forever()
        return PlainTextResponse("never")

    connection = ScriptedConnection()
    await run(Starlette(routes=[Route("/", endpoint)]), connection)

    assert seen == [True]
    assert connection.status == 499


async def test_what_is_no_request_passes_a_route_alone(anyio_backend: object) -> None:
    """As it passes the middleware: there is nothing to be cancelled."""

    class Application:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

    seen: list[Scope] = []
    app = CancelableRoute("/", Application()).app
    connection = ScriptedConnection()
    await app({"type": "invented"}, connection.receive, connection.send)

    assert seen == [{"type": "invented"}]


def test_without_anybody_watching_there_is_a_token_that_users_share() -> None:
    """``get_request_token`` never fails."""
    request = Request({"type": "http", "headers": []})
    token = get_request_token(request)

    assert get_request_token(request) is token
    assert not token.is_cancelled
    assert get_request_operation(request) is None


def test_the_signature_stays() -> None:
    """What looks at an endpoint sees what its author wrote."""

    def documented(request: Request, *, extra: int = 3) -> Response:
        """Say something."""
        raise NotImplementedError

    decorated = with_cancelation(timeout=1)(documented)
    assert inspect.signature(decorated) == inspect.signature(documented)
    assert decorated.__doc__ == "Say something."
    assert decorated.__name__ == "documented"


async def test_a_decorator_in_the_wrong_place_is_an_error(anyio_backend: object) -> None:
    """On a route object, on another class, on a function without a request."""
    for wrong in (Route("/", wait), int, 3):
        with pytest.raises(TypeError, match="`with_cancelation` decorates"):
            with_cancelation(wrong)  # type: ignore[type-var]

    @with_cancelation
    async def no_request(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="needs the Request"):
        await no_request(3)


def test_bad_settings_are_refused() -> None:
    """Each at the place of the mistake."""
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`timeout`"):
            with_cancelation(timeout=bad)
        with pytest.raises(ValueError, match="`timeout`"):
            CancelableRoute("/", wait, timeout=bad)
    for wrong in (True, "1", [1]):
        with pytest.raises(TypeError, match="`timeout`"):
            with_cancelation(timeout=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`until`"):
        with_cancelation(until="later")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="`on_disconnect`"):
        with_cancelation(on_disconnect="stop")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="`response_hook`"):
        with_cancelation(response_hook=3)  # type: ignore[call-overload]
    for statuses in ({"late": 504}, {"timeout": 70000}):
        with pytest.raises(ValueError, match="`statuses`"):
            with_cancelation(statuses=statuses)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`statuses`"):
            CancelableRoute("/", wait, statuses=statuses)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`close_codes`"):
            CancelableWebSocketRoute("/", wait, close_codes=statuses)  # type: ignore[arg-type]


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN], ids=["uv", "hyper", "granian"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["middleware", "bare"])
@pytest.mark.parametrize("chunks", [[], [b"hello"], [b"he", b"llo", b"!"]], ids=len)
async def test_an_application_that_answers_for_an_endpoint_reads_the_body_whole(
    anyio_backend: object, server: ServerBehaviour, wrapped: bool, chunks: list[bytes], watch: Watch
) -> None:
    """W2: what was read ahead while the endpoint ran comes first, and what is not there later."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        parts = [part async for part in request.stream() if part]
        assert not await request.is_disconnected()
        await PlainTextResponse(b"|".join(parts))(scope, receive, send)

    @with_cancelation
    async def endpoint(request: Request) -> ASGIApp:
        await connection.wait_for_reads(max(len(chunks), 1))
        return answer

    app: ASGIApp = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    method = "POST" if chunks else "GET"
    # All of it comes before the endpoint returns: granian loses what comes as a read is cancelled.
    connection = ScriptedConnection(method, "/", body=chunks or b"", pause=0.002, server=server)
    await run(RequestCancelationMiddleware(app) if wrapped else app, connection, watch)

    assert (connection.status, connection.body) == (200, b"|".join(chunks))
    assert connection.overlapping_reads == 0


async def test_what_comes_as_an_endpoint_returns_is_for_the_application_that_answers(
    anyio_backend: object,
) -> None:
    """W2: the watch has taken it from the server, in the turn in which the endpoint is over."""
    reading, arrived = anyio.Event(), anyio.Event()
    messages: list[Message] = [{"type": "http.request", "body": b"late", "more_body": False}]

    async def receive() -> Message:
        if messages:
            reading.set()
            await arrived.wait()
            return messages.pop()
        await sleep_forever()
        raise AssertionError

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)

    @with_cancelation
    async def endpoint(request: Request) -> ASGIApp:
        await arrived.wait()
        return answer

    connection = ScriptedConnection("POST", headers=[(b"content-length", b"4")])
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, connection.scope, receive, connection.send)
            await reading.wait()
            await wait_all_tasks_blocked()
            arrived.set()

    assert connection.body == b"late"


async def test_an_application_that_answers_for_an_endpoint_is_told_that_the_client_has_left(
    anyio_backend: object, watch: Watch
) -> None:
    """W4: also on a server that has said so already, and says it once."""
    seen: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            seen.append((await receive())["type"])

    @with_cancelation(on_disconnect="continue")
    async def endpoint(request: Request) -> ASGIApp:
        await anyio.sleep(0.03)
        return answer

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await run(app, ScriptedConnection("POST", body=b"a", leave_after=0.02, server=HYPERCORN), watch)

    assert seen == ["http.request", "http.disconnect"]


async def test_an_error_of_the_endpoint_is_its_own(anyio_backend: object, watch: Watch) -> None:
    """Anything but a cancelation passes unchanged."""
    error = LookupError("mine")

    @with_cancelation
    async def endpoint(request: Request) -> Response:
        raise error

    async def other(request: Request) -> Response:
        raise error

    for middleware in (True, False):
        for route in (Route("/", endpoint), CancelableRoute("/", other)):
            app: ASGIApp = Starlette(routes=[route])
            if middleware:
                app = RequestCancelationMiddleware(app)
            with pytest.raises(LookupError) as caught:
                await run(app, ScriptedConnection(), watch)
            assert caught.value is error


def raising_from_a_cancelation(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            async with Cancelable.with_timeout(0.01):
                await sleep_forever()
        except TimeoutCancelation as cause:
            raise error from cause
        return PlainTextResponse("never")

    return endpoint


class Late(Exception):
    """An error for which an application has a handler."""


@pytest.mark.parametrize("how", ["plain", "function", "class", "route"])
@pytest.mark.parametrize("middleware", [True, False])
async def test_an_error_that_is_raised_from_a_cancelation_is_the_endpoints_own(
    anyio_backend: object, watch: Watch, how: str, middleware: bool
) -> None:
    """W2, S5: only the cancelation itself is answered with the status of its reason."""

    def app_for(error: Exception) -> ASGIApp:
        endpoint = raising_from_a_cancelation(error)

        class Whole(HTTPEndpoint):
            async def get(self, request: Request) -> Response:
                return await endpoint(request)

        async def late(request: Request, exc: Exception) -> Response:
            return PlainTextResponse("late", status_code=502)

        routes: dict[str, Callable[[], Route]] = {
            "plain": lambda: Route("/", endpoint),
            "function": lambda: Route("/", with_cancelation(endpoint)),
            "class": lambda: Route("/", with_cancelation(Whole)),
            "route": lambda: CancelableRoute("/", endpoint),
        }
        app = Starlette(routes=[routes[how]()], exception_handlers={Late: late})
        return RequestCancelationMiddleware(app) if middleware else app

    for error, status in ((HTTPException(418), 418), (Late(), 502)):
        connection = ScriptedConnection()
        await run(app_for(error), connection, watch)
        assert connection.status == status
    bug = LookupError("a bug")
    with pytest.raises(LookupError) as caught:
        await run(app_for(bug), ScriptedConnection(), watch)
    assert caught.value is bug
    assert isinstance(bug.__cause__, TimeoutCancelation)


async def test_a_cancelation_error_after_the_start_is_left_to_the_middleware(
    anyio_backend: object,
) -> None:
    """No second start."""

    async def endpoint(request: Request) -> Response:
        async def numbers() -> AsyncIterator[bytes]:
            yield b"1"
            raise CancelationError(CancelationReason.MANUAL)

        return StreamingResponse(numbers())

    facts: list[OperationContext] = []
    app = Starlette(routes=[CancelableRoute("/", endpoint)])
    for outer in (app, RequestCancelationMiddleware(app, on_cancel=facts.append)):
        connection = ScriptedConnection()
        await run(outer, connection)
        assert connection.starts == 1
        assert not connection.complete
    assert [each.cancel_reason for each in facts] == [CancelationReason.MANUAL]


@pytest.mark.parametrize("how", ["disconnect", "timeout", "manual"])
async def test_a_section_of_a_handler_is_not_cut(
    anyio_backend: object, watch: Watch, how: str
) -> None:
    """S13: both writes or none; the cancel is delivered at the end of the section."""
    written: list[str] = []
    connection = ScriptedConnection()

    async def endpoint(request: Request) -> Response:
        operation = get_request_operation(request)
        assert operation is not None
        try:
            async with operation.shield():
                written.append("1")
                if how == "disconnect":
                    connection.leave()
                elif how == "manual":
                    await operation.cancel()
                await anyio.sleep(0.6 if how == "timeout" else 0.1)
                written.append("2")
            written.append("behind the section")
        finally:
            written.append("end")
        return PlainTextResponse("never")

    route = CancelableRoute("/", endpoint, timeout=0.5 if how == "timeout" else None)
    await run(RequestCancelationMiddleware(Starlette(routes=[route])), connection, watch)

    assert written == ["1", "2", "end"]
    expected = {"disconnect": None, "timeout": 504, "manual": 499}[how]
    assert connection.status == expected


@pytest.mark.parametrize("how", ["by id", "shutdown"])
async def test_work_that_goes_on_for_nobody_can_be_stopped(
    anyio_backend: object, watch: Watch, how: str
) -> None:
    """W5: it is listed and cancelled by its id, and a shutdown bounds it."""
    made: list[int] = []
    facts: list[OperationContext] = []
    token = CancelationToken()
    connection = ScriptedConnection(leave_after_messages=3)

    async def numbers() -> AsyncIterator[bytes]:
        for number in range(1000):
            made.append(number)
            yield b"x"
            if number == 10:
                assert connection.left
                (listed,) = OperationRegistry.current().list_operations()
                if how == "by id":
                    OperationRegistry.current().cancel(listed.id)
                else:
                    await token.cancel()
            await anyio.sleep(0.001)

    async def endpoint(request: Request) -> Response:
        return cancelable_streaming_response(numbers())

    app = RequestCancelationMiddleware(
        Starlette(routes=[CancelableRoute("/", endpoint, on_disconnect="continue")]),
        on_cancel=facts.append,
        shutdown=token,
        shutdown_grace=0.02,
    )
    with OperationRegistry().as_default():
        await run(app, connection, watch)

    assert 10 < len(made) < 200
    reason = CancelationReason.MANUAL if how == "by id" else CancelationReason.SIGNAL
    assert [each.cancel_reason for each in facts] == [reason]
