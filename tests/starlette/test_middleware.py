"""Which requests are watched, and by which middleware (W5, W12)."""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import (
    CancelationReason,
    CancelationToken,
    OperationContext,
    current_operation,
)
from cancelable_starlette import RequestCancelationMiddleware, with_cancelation
from cancelable_starlette.testing import (
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import Watch, application, respond, run, until_left


class Pass(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


class ReadFirst(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        await request.body()
        return await call_next(request)


Around = Callable[[ASGIApp], ASGIApp]


def many(count: int, kind: type[BaseHTTPMiddleware], app: ASGIApp) -> ASGIApp:
    for _ in range(count):
        app = kind(app)
    return app


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["uvicorn", "hypercorn"])
@pytest.mark.parametrize("inside", [0, 1, 2, 4])
@pytest.mark.parametrize("outside", [0, 1, 2])
@pytest.mark.parametrize("kind", [Pass, ReadFirst])
async def test_no_base_http_middleware_hides_the_disconnect(
    anyio_backend: object,
    watch: Watch,
    server: ServerBehaviour,
    inside: int,
    outside: int,
    kind: type[BaseHTTPMiddleware],
) -> None:
    """W1: inside of us or around us, whatever their number; and none raises."""
    stopped: list[bool] = []
    connection = ScriptedConnection("POST", body=b"abc", server=server)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        try:
            await sleep_forever()
        finally:
            stopped.append(True)

    app = many(inside, kind, application(handle))
    app = many(outside, Pass, RequestCancelationMiddleware(app))
    await run(app, connection, watch)

    assert stopped == [True]
    assert connection.sent == []


@pytest.mark.parametrize("settings", [{"on_disconnect": "continue"}, {"grace": 30}])
@pytest.mark.parametrize("outside", [0, 1, 2])
async def test_a_handler_that_ends_by_itself_for_nobody_makes_no_layer_raise(
    anyio_backend: object, watch: Watch, outside: int, settings: dict[str, Any]
) -> None:
    """W5, W11: a layer around us takes a response that never starts for an error."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        connection.leave()
        await until_left(receive)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), **settings)
    await run(many(outside, Pass, app), connection, watch)

    assert connection.sent == []
    assert connection.discarded[0]["status"] == 499


@pytest.mark.parametrize("layers", [0, 1, 4])
async def test_a_timeout_is_a_504_behind_any_number_of_layers(
    anyio_backend: object, watch: Watch, layers: int
) -> None:
    """Not the layer's 500."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    app = RequestCancelationMiddleware(
        many(layers, Pass, application(handle)), default_timeout=0.02
    )
    await run(many(layers, Pass, app), connection, watch)

    assert connection.status == 504


async def test_compression_and_we_get_along(anyio_backend: object, watch: Watch) -> None:
    """Either one outside; the compression holds back the start until it sees the first body."""
    for build in (
        lambda app: GZipMiddleware(RequestCancelationMiddleware(app)),
        lambda app: RequestCancelationMiddleware(GZipMiddleware(app)),
    ):

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/slow":
                await sleep_forever()
            await respond(send, b"x" * 2000)

        headers = [(b"accept-encoding", b"gzip")]
        connection = ScriptedConnection(headers=headers)
        await run(build(application(handle)), connection, watch)
        assert connection.headers["content-encoding"] == "gzip"

        connection = ScriptedConnection("GET", "/slow", headers=headers, leave_after=0.01)
        await run(build(application(handle)), connection, watch)
        assert connection.sent == []


async def test_two_middlewares_are_one(anyio_backend: object, watch: Watch) -> None:
    """W12: one watcher, the outer's token, no second callback."""
    tokens: list[CancelationToken] = []
    calls: list[str] = []
    connection = ScriptedConnection(server=HYPERCORN)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        tokens.append(scope["cancelation_token"])
        connection.leave()
        await sleep_forever()

    def note(name: str) -> Callable[[OperationContext], None]:
        return lambda context: calls.append(name)

    inner = RequestCancelationMiddleware(application(handle), on_cancel=note("inner"))

    async def between(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            tokens.append(scope["cancelation_token"])
        await inner(scope, receive, send)

    await run(RequestCancelationMiddleware(between, on_cancel=note("outer")), connection, watch)

    assert calls == ["outer"]
    assert len(tokens) == 2
    assert tokens[0] is tokens[1]
    assert connection.overlapping_reads == 0


@pytest.mark.parametrize(("outer", "inner"), [(0.02, 9.0), (9.0, 0.02), (None, 0.02), (0.02, None)])
async def test_of_two_timeouts_the_smaller_counts(
    anyio_backend: object, watch: Watch, outer: float | None, inner: float | None
) -> None:
    """W12."""
    connection = ScriptedConnection()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    app = RequestCancelationMiddleware(application(handle), default_timeout=inner)
    await run(RequestCancelationMiddleware(app, default_timeout=outer), connection, watch)

    assert connection.status == 504
    assert connection.starts == 1


async def test_requests_are_chosen_by_method_and_by_predicate(
    anyio_backend: object, watch: Watch
) -> None:
    """W5: a request that is not chosen passes untouched; the full path is known."""
    watched: dict[tuple[str, str], bool] = {}

    async def endpoint(request: Request) -> Response:
        watched[request.method, request.url.path] = "cancelation_token" in request.scope
        return PlainTextResponse("ok")

    routes = [Mount("/api", routes=[Route("/{rest}", endpoint, methods=["GET", "POST"])])]
    app = RequestCancelationMiddleware(
        Starlette(routes=routes),
        methods=["get", "HEAD"],
        predicate=lambda scope: scope["path"] != "/api/health",
    )
    for method, path in (("GET", "/api/a"), ("POST", "/api/a"), ("GET", "/api/health")):
        await run(app, ScriptedConnection(method, path), watch)

    assert watched == {
        ("GET", "/api/a"): True,
        ("POST", "/api/a"): False,
        ("GET", "/api/health"): False,
    }


OF_ASGI = ("type", "asgi", "http_version", "method", "path", "query_string", "headers", "client")


async def test_what_is_put_around_a_subclass_is_gone_through_once(
    anyio_backend: object, watch: Watch
) -> None:
    """It may hold a lock, and hand on a scope of its own, in which nothing of ours is."""
    calls: list[str] = []

    class OneAtATime(RequestCancelationMiddleware):
        lock = anyio.Lock()

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with self.lock if scope["type"] == "http" else contextlib.nullcontext():
                calls.append(scope["type"])
                clean = {key: value for key, value in scope.items() if key in OF_ASGI}
                await super().__call__(clean, receive, send)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    connection = ScriptedConnection()
    await run(OneAtATime(application(handle)), connection, watch)

    assert connection.status == 200
    assert calls.count("http") == 1


async def test_a_request_that_fails_leaves_nothing_to_the_collector(
    anyio_backend: object, watch: Watch
) -> None:
    """What its error holds is gone with the error, as without us."""

    class Refused(Exception):
        pass

    errors: list[weakref.ref[Refused]] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        error = Refused()
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    @with_cancelation
    async def endpoint(request: Request) -> None:
        await handle(request.scope, request.receive, to_nobody)

    async def call_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint(Request(scope, receive))

    async def nothing() -> Message:
        await sleep_forever()
        return {}

    async def to_nobody(message: Message) -> None:
        pass

    gc.disable()
    try:
        for handler in (handle, call_endpoint):
            app = RequestCancelationMiddleware(application(handler))
            async with lifespan(app) if watch == "service" else contextlib.nullcontext():
                with contextlib.suppress(Refused):
                    await app({"type": "http", "path": "/", "headers": []}, nothing, to_nobody)
                assert errors.pop()() is None, handler
    finally:
        gc.enable()


async def test_the_service_lives_as_long_as_the_lifespan(anyio_backend: object) -> None:
    """W13: afterwards, and where there is none, each request watches itself."""
    stopped: list[bool] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sleep_forever()
        finally:
            stopped.append(True)

    app = RequestCancelationMiddleware(application(handle))
    await run(app, ScriptedConnection(leave_after=0.0), "alone")
    async with lifespan(app):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ScriptedConnection(leave_after=0.001).run, app)
        await ScriptedConnection(leave_after=0.02).run(app)
    await run(app, ScriptedConnection(leave_after=0.0), "alone")

    assert len(stopped) == 23


async def test_a_request_that_outlives_the_service_reads_for_itself(anyio_backend: object) -> None:
    """A server may end the lifespan before the last request."""
    connection = ScriptedConnection("POST", body=[b"a", b"b"])
    bodies: list[bytes] = []
    watched, ended = anyio.Event(), anyio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await connection.wait_for_reads(1)
        watched.set()
        await ended.wait()
        request = Request(scope, receive)
        bodies.append(await request.body())
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with lifespan(app):
                tasks.start_soon(connection.run, app)
                await watched.wait()
            ended.set()

    assert bodies == [b"ab"]
    assert connection.status == 200


async def test_a_lifespan_that_fails_is_told_as_it_failed(anyio_backend: object) -> None:
    """W2: nothing is wrapped, and the requests of an application without lifespan are served."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise LookupError("no lifespan")
        await respond(send)

    wrapped = RequestCancelationMiddleware(app)
    with pytest.raises(LookupError, match="no lifespan"):
        await wrapped({"type": "lifespan"}, ScriptedConnection().receive, ScriptedConnection().send)

    connection = ScriptedConnection()
    await run(wrapped, connection, "alone")
    assert connection.status == 200


async def test_a_lifespan_that_fails_at_its_end_is_reported_to_the_server(
    anyio_backend: object,
) -> None:
    """W2: once, also if the application raises as well, as Starlette does."""
    said: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.failed", "message": "no database"})
        raise LookupError("no database")

    async def send(message: Message) -> None:
        said.append(message["type"])

    wrapped = RequestCancelationMiddleware(app)
    with pytest.raises(LookupError, match="no database"):
        await wrapped({"type": "lifespan"}, ScriptedConnection().receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


def test_a_test_client_works_with_and_without_its_lifespan() -> None:
    """Starlette's own client, which plays no disconnects."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep(0.02)
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    app.add_middleware(RequestCancelationMiddleware)
    assert TestClient(app).post("/", content=b"abc").text == "abc"
    with TestClient(app) as client:
        assert client.post("/", content=b"abc").text == "abc"


def test_what_is_no_application_is_refused() -> None:
    """A mistake is an error where it is made."""
    with pytest.raises(TypeError, match="`app`"):
        RequestCancelationMiddleware(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["default_timeout", "grace", "send_timeout"])
@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "1", [1]])
def test_times_must_be_above_zero_and_numbers(name: str, bad: object) -> None:
    """Zero is no way to say "none"."""
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        RequestCancelationMiddleware(application(respond_to), **{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["read_ahead_per_request", "read_ahead_in_total"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "1", None])
def test_sizes_must_be_above_zero_and_whole(name: str, bad: object) -> None:
    """A bound of nothing would read nothing."""
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        RequestCancelationMiddleware(application(respond_to), **{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["predicate", "response_hook", "on_cancel"])
def test_callbacks_must_be_functions(name: str) -> None:
    """Not when the first request comes."""
    with pytest.raises(TypeError, match=f"`{name}`"):
        RequestCancelationMiddleware(application(respond_to), **{name: 3})  # type: ignore[arg-type]


class AsyncPredicate:
    """An object that would have to be awaited."""

    async def __call__(self, scope: Scope) -> bool:
        return False


async def async_predicate(scope: Scope) -> bool:
    return False


@pytest.mark.parametrize(
    ("name", "bad", "error"),
    [
        ("methods", "GET", TypeError),
        ("methods", b"GET", TypeError),
        ("methods", 5, TypeError),
        ("methods", [5], TypeError),
        ("methods", [], ValueError),
        ("methods", ["GET, POST"], ValueError),
        ("methods", [""], ValueError),
        ("statuses", 5, TypeError),
        ("statuses", [("timeout", 504)], TypeError),
        ("statuses", {"timeout": "504"}, TypeError),
        ("statuses", {"timeout": True}, TypeError),
        ("statuses", {"late": 504}, ValueError),
        ("statuses", {504: 504}, ValueError),
        ("statuses", {"timeout": 99}, ValueError),
        ("statuses", {"timeout": 100}, ValueError),
        ("statuses", {"timeout": 204}, ValueError),
        ("statuses", {"timeout": 304}, ValueError),
        ("statuses", {"timeout": 600}, ValueError),
        ("close_codes", 5, TypeError),
        ("close_codes", {"timeout": "3008"}, TypeError),
        ("close_codes", {"late": 3008}, ValueError),
        ("close_codes", {"timeout": 999}, ValueError),
        ("close_codes", {"timeout": 1005}, ValueError),
        ("close_codes", {"timeout": 1006}, ValueError),
        ("close_codes", {"timeout": 1015}, ValueError),
        ("close_codes", {"timeout": 2999}, ValueError),
        ("close_codes", {"timeout": 70000}, ValueError),
        ("deadline_header", 5, TypeError),
        ("deadline_header", b"x-timeout", TypeError),
        ("deadline_header", "", ValueError),
        ("deadline_header", "X Timeout", ValueError),
        ("deadline_header", "X-Timeout:", ValueError),
        ("deadline_header", "Zeitraum-ü", ValueError),
        ("predicate", async_predicate, TypeError),
        ("predicate", AsyncPredicate(), TypeError),
    ],
    ids=lambda it: getattr(it, "__name__", type(it).__name__ if callable(it) else str(it)),
)
def test_a_setting_that_would_do_nothing_or_fail_later_is_refused(
    name: str, bad: object, error: type[Exception]
) -> None:
    """S7: where it is given, by name."""
    with pytest.raises(error, match=f"`{name}`"):
        RequestCancelationMiddleware(application(respond_to), **{name: bad})  # type: ignore[arg-type]


async def test_settings_may_be_said_in_any_spelling(anyio_backend: object, watch: Watch) -> None:
    """Methods in lower case; a reason by its value; numbers of an enumeration."""
    app = RequestCancelationMiddleware(
        application(handle_slowly),
        0.01,
        methods=["get", "M-SEARCH"],
        statuses={"timeout": HTTPStatus.REQUEST_TIMEOUT},  # type: ignore[dict-item]
        close_codes={CancelationReason.TIMEOUT: 4999, CancelationReason.MANUAL: 1014},
        deadline_header="Request_Timeout-1",
    )
    for method, status in (("GET", 408), ("M-SEARCH", 408), ("POST", 200)):
        connection = ScriptedConnection(method)
        await run(app, connection, watch)
        assert connection.status == status


async def handle_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    await anyio.sleep(1)
    await respond(send)


def test_a_policy_must_be_known() -> None:
    """There are two."""
    with pytest.raises(ValueError, match="`on_disconnect` must be 'cancel' or 'continue'"):
        RequestCancelationMiddleware(application(respond_to), on_disconnect="stop")  # type: ignore[arg-type]


async def respond_to(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send)


@pytest.mark.parametrize("layers", range(7))
@pytest.mark.parametrize("messages", [0, 1, 2])
async def test_a_client_that_leaves_around_the_start_makes_no_noise(
    anyio_backend: object,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    layers: int,
    messages: int,
) -> None:
    """W1: before, at and just after the start, however many layers wait for a response."""
    stopped: list[bool] = []
    connection = ScriptedConnection(leave_after_messages=messages or None)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if messages == 0:
            connection.leave()
        try:
            if messages:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await sleep_forever()
        finally:
            stopped.append(True)

    app = RequestCancelationMiddleware(many(layers, Pass, application(handle)))
    await run(app, connection, watch)

    assert stopped == [True]
    assert not connection.complete
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


async def test_a_part_of_an_application_may_have_its_own_middleware(
    anyio_backend: object, watch: Watch
) -> None:
    """W5: by router; the rest of the application passes untouched."""
    stopped: list[str] = []

    async def endpoint(request: Request) -> Response:
        connection.leave()
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            stopped.append(request.url.path)
            raise
        return PlainTextResponse("done")

    def routes() -> list[Route]:
        return [Route("/work", endpoint)]

    app = Starlette(
        routes=[
            Mount("/on", routes=routes(), middleware=[Middleware(RequestCancelationMiddleware)]),
            Mount("/off", routes=routes()),
        ]
    )
    for path in ("/on/work", "/off/work"):
        connection = ScriptedConnection("GET", path)
        await run(app, connection, watch)

    assert stopped == ["/on/work"]


async def test_a_request_keeps_the_facts_that_it_came_with(
    anyio_backend: object, watch: Watch
) -> None:
    """W1: its operation may be made when a router or a middleware has rewritten the scope."""
    found: list[tuple[str | None, dict[str, object]]] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(path="/elsewhere", method="POST", client=("10.0.0.1", 1))
        operation = current_operation()
        assert operation is not None
        found.append((operation.name, operation.metadata))
        await respond(send)

    connection = ScriptedConnection(method="GET", path="/here")
    known = connection.scope["client"][0]
    await run(RequestCancelationMiddleware(application(handle)), connection, watch=watch)

    assert found == [("GET /here", {"method": "GET", "path": "/here", "client": known})]
