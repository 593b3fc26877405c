"""The decorator of endpoints (F2): statuses for reasons, and nothing else changed."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from cancelable import Cancelable, CancelationReason, TimeoutCancelation
from cancelable_fastapi import CancelableAPIRoute, with_cancelation
from cancelable_starlette.testing import HYPERCORN, UVICORN, ScriptedConnection, ServerBehaviour
from tests.fastapi import plain_endpoints as plain
from tests.fastapi.support import LIMIT, Setup, application, get, run

AnyFunction = Callable[..., object]
Decorator = Callable[[AnyFunction], AnyFunction]

FORMS = pytest.mark.parametrize(
    "decorator",
    [with_cancelation, with_cancelation(), with_cancelation(timeout=60, on_disconnect="continue")],
    ids=["bare", "called", "with arguments"],
)
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

ENDPOINTS: dict[str, AnyFunction] = {
    "/nothing": plain.nothing,
    "/parameters/{number}": plain.parameters,
    "/everything/{number}": plain.everything,
    "/own_request/{number}": plain.own_request,
    "/another_name": plain.request_under_another_name,
    "/connection": plain.connection,
    "/form": plain.form,
    "/plain/{number}": plain.plain,
    "/greeter/{number}": plain.greeter,
    "/plain_greeter/{number}": plain.plain_greeter,
    "/part": plain.part,
    "/noted/{number}": plain.noted,
    "/noted_greeter/{number}": plain.noted_greeter,
    "/part_of_noted": plain.part_of_noted,
}

HAS_GENERATOR_ENDPOINTS = importlib.util.find_spec("fastapi.sse") is not None
"""Whether this FastAPI streams endpoints that are generators; the lowest that we take does not."""

GENERATORS = pytest.mark.skipif(not HAS_GENERATOR_ENDPOINTS, reason="this FastAPI has none")

if HAS_GENERATOR_ENDPOINTS:
    ENDPOINTS |= {
        "/stream": plain.stream,
        "/plain_stream": plain.plain_stream,
        "/streamer": plain.streamer,
        "/noted_stream": plain.noted_stream,
    }


def application_of(endpoints: dict[str, AnyFunction], decorator: Decorator) -> FastAPI:
    app = FastAPI()
    for path, endpoint in endpoints.items():
        app.post(path)(decorator(endpoint))
    return app


# -- nothing else is changed ------------------------------------------------------------------


@FORMS
def test_the_openapi_document_is_the_same(decorator: Decorator) -> None:
    """F2: not one parameter, name or text is added or lost."""
    decorated = application_of(ENDPOINTS, decorator)
    assert decorated.openapi() == application_of(ENDPOINTS, lambda each: each).openapi()


@FORMS
@BACKENDS
def test_every_kind_of_parameter_arrives(decorator: Decorator, backend: str) -> None:
    """F2: path, query, body, header, cookie, form, dependency, request, under any name."""
    app = application_of(ENDPOINTS, decorator)
    with TestClient(app, backend=backend) as client:  # type: ignore[arg-type]
        assert client.post("/nothing").json() == "ok"
        assert client.post("/parameters/3?wanted=1&names=a&names=b").json() == "3 True ['a', 'b']"
        body = {"item": {"name": "x", "price": 2}, "extra": "y"}
        assert client.post("/everything/3?limit=5", json=body).json() == body["item"]
        assert client.post("/everything/0", json=body).status_code == 422
        assert client.post("/own_request/3").json() == "POST 3"
        assert client.post("/another_name").json() == "POST"
        assert client.post("/connection").json() == "/connection"
        files = {"file": b"abc"}
        assert client.post("/form", data={"name": "x"}, files=files).json() == "x"
        assert client.post("/plain/3").json() == "3 POST"


@FORMS
@pytest.mark.parametrize("setup", ["alone", "middleware"])
@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        (plain.greeter, "3 GET"),
        (plain.plain_greeter, "3 GET"),
        (plain.part, "GET 3"),
        (plain.noted, "GET 3"),
        (plain.noted_greeter, "3 GET"),
        (plain.part_of_noted, "GET 3"),
    ],
    ids=["object", "plain object", "partial", "decorated", "decorated object", "partial of that"],
)
async def test_what_fastapi_takes_as_an_endpoint_may_be_decorated(
    decorator: Decorator, setup: Setup, endpoint: AnyFunction, answer: str
) -> None:
    """F2: objects, partials and what a decorator returns that does not await."""
    app = application(setup)
    app.get("/")(decorator(endpoint))

    assert await get(app, query=b"number=3") == (200, answer)


@GENERATORS
@FORMS
@BACKENDS
def test_generator_endpoints_stay_what_they_are(decorator: Decorator, backend: str) -> None:
    """F2: FastAPI streams them as JSON lines, or as events."""
    from fastapi.sse import EventSourceResponse

    app = application("middleware")
    for path, endpoint in (
        ("/async", plain.stream),
        ("/plain", plain.plain_stream),
        ("/object", plain.streamer),
        ("/decorated", plain.noted_stream),
    ):
        app.get(f"{path}/lines")(decorator(endpoint))
        app.get(f"{path}/events", response_class=EventSourceResponse)(decorator(endpoint))
    with TestClient(app, backend=backend) as client:  # type: ignore[arg-type]
        for kind in ("async", "plain", "object", "decorated"):
            lines = client.get(f"/{kind}/lines").text.splitlines()
            assert lines == ['{"name":"a","price":1.0}', '{"name":"b","price":1.0}']
            events = client.get(f"/{kind}/events").text
            assert events.count("data: ") == 2


async def test_called_by_hand_the_endpoint_is_the_function_that_it_was() -> None:
    """F2: for unit tests of endpoints."""
    decorated = with_cancelation(plain.parameters)
    assert await decorated(3, names=["a"]) == "3 False ['a']"
    plainly = cast(Callable[..., Awaitable[str]], with_cancelation(plain.plain))
    assert await plainly(3, request=Request({"type": "http", "method": "GET"})) == "3 GET"


@BACKENDS
def test_other_decorators_may_stand_above_and_below(backend: str) -> None:
    """F2: as long as they keep what they wrap, as decorators of endpoints have to."""
    calls: list[str] = []

    def noting(name: str) -> Decorator:
        def decorate(function: AnyFunction) -> AnyFunction:
            @functools.wraps(function)
            async def wrapper(*args: object, **kwargs: object) -> object:
                calls.append(name)
                return await cast(Awaitable[object], function(*args, **kwargs))

            return wrapper

        return decorate

    app = application_of(
        {"/{why}": plain.stops_itself},
        lambda endpoint: noting("above")(with_cancelation(noting("below")(endpoint))),
    )
    with TestClient(app, backend=backend) as client:  # type: ignore[arg-type]
        assert client.post("/timeout").status_code == 504
    assert calls == ["above", "below"]


@BACKENDS
def test_methods_of_an_object_may_be_endpoints(backend: str) -> None:
    """F2: class-based views register bound methods."""

    class View:
        greeting = "hello"

        @with_cancelation
        async def read(self, number: int) -> str:
            return f"{self.greeting} {number}"

    router = APIRouter()
    router.add_api_route("/{number}", View().read)
    app = FastAPI()
    app.include_router(router)
    with TestClient(app, backend=backend) as client:  # type: ignore[arg-type]
        assert client.get("/3").json() == "hello 3"


# -- statuses ---------------------------------------------------------------------------------

STATUSES = {
    "timeout": 504,
    "manual": 499,
    "signal": 503,
    "disconnect": 499,
    "condition": 500,
    "parent": 500,
    "error": 500,
    "external": 500,
}


@pytest.mark.parametrize("endpoint", [plain.stops_itself, plain.stops_itself_plainly])
@pytest.mark.parametrize("reason", CancelationReason)
async def test_a_reason_becomes_its_status(
    setup: Setup, endpoint: AnyFunction, reason: CancelationReason
) -> None:
    """W7: with and without the middleware, in ``async def`` and ``def``."""
    app = application(setup)
    app.get("/{why}")(with_cancelation(endpoint))

    status, answer = await get(app, f"/{reason.value}")
    assert status == STATUSES[reason.value]
    assert cast(dict[str, str], answer)["reason"] == reason.value


async def test_the_mapping_can_be_replaced(setup: Setup) -> None:
    """W7: a reason that is missing in it is a 500."""
    app = application(setup)
    app.get("/{why}")(
        with_cancelation(statuses={CancelationReason.TIMEOUT: 408})(plain.stops_itself)
    )

    assert (await get(app, "/timeout"))[0] == 408
    assert (await get(app, "/manual"))[0] == 500


async def test_a_hook_makes_the_answer(setup: Setup) -> None:
    """W6."""

    def hook(reason: CancelationReason, request: Request) -> Response:
        return JSONResponse(f"{request.url.path}: {reason}", status_code=418)

    app = application(setup)
    app.get("/{why}")(with_cancelation(response_hook=hook)(plain.stops_itself))

    assert await get(app, "/timeout") == (418, "/timeout: timeout")


async def test_an_error_that_is_no_cancelation_is_raised_as_it_is(setup: Setup) -> None:
    """W2."""
    app = application(setup)

    @app.get("/")
    @with_cancelation
    async def endpoint() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await get(app)


# -- timeouts and clients ---------------------------------------------------------------------


@pytest.mark.parametrize("route_class", [APIRoute, CancelableAPIRoute])
async def test_an_error_that_is_raised_from_a_cancelation_is_the_endpoints_own(
    setup: Setup, route_class: type[APIRoute]
) -> None:
    """W2: a status that the endpoint chose for a timeout of its own goes out."""
    app = application(setup)
    app.router.route_class = route_class

    async def endpoint() -> None:
        try:
            async with Cancelable.with_timeout(0.01):
                await anyio.sleep_forever()
        except TimeoutCancelation as cause:
            raise HTTPException(418, "teapot") from cause

    app.get("/decorated")(with_cancelation(endpoint))
    app.get("/plain")(endpoint)
    assert await get(app, "/decorated") == (418, {"detail": "teapot"})
    assert await get(app, "/plain") == (418, {"detail": "teapot"})


async def test_a_timeout_of_the_endpoint_is_a_504(setup: Setup) -> None:
    """W6: and the work has stopped."""
    app = application(setup)
    stopped: list[bool] = []

    @app.get("/")
    @with_cancelation(timeout=0.01)
    async def endpoint() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(True)

    status, answer = await get(app)
    assert (status, cast(dict[str, str], answer)["reason"]) == (504, "timeout")
    assert stopped == [True]


async def test_a_timeout_of_the_endpoint_replaces_that_of_the_middleware() -> None:
    """W6: a longer one, or none at all."""
    app = application("middleware", default_timeout=0.01)

    @app.get("/longer")
    @with_cancelation(timeout=60)
    async def longer() -> str:
        await anyio.sleep(0.05)
        return "ok"

    @app.get("/none")
    @with_cancelation(timeout=None)
    async def none() -> str:
        await anyio.sleep(0.05)
        return "ok"

    assert await get(app, "/longer") == (200, "ok")
    assert await get(app, "/none") == (200, "ok")


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["uvicorn", "hypercorn"])
async def test_a_client_that_leaves_stops_the_endpoint_and_nothing_is_raised(
    setup: Setup, server: ServerBehaviour
) -> None:
    """W11: also without the middleware, where the decorator watches."""
    app = application(setup)
    began = anyio.Event()
    stopped: list[bool] = []

    @app.get("/")
    @with_cancelation
    async def endpoint() -> None:
        async with Cancelable():
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                stopped.append(True)

    connection = ScriptedConnection(server=server)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, connection)
        with anyio.fail_after(LIMIT):
            await began.wait()
        connection.leave()

    assert stopped == [True]
    assert connection.overlapping_reads == 0


async def test_continue_lets_the_work_end(setup: Setup) -> None:
    """W5: ``on_disconnect="continue"`` for work that must go on."""
    app = application(setup)
    began, may_end = anyio.Event(), anyio.Event()
    ended: list[bool] = []

    @app.get("/")
    @with_cancelation(on_disconnect="continue")
    async def endpoint() -> None:
        began.set()
        await may_end.wait()
        ended.append(True)

    connection = ScriptedConnection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, connection)
        with anyio.fail_after(LIMIT):
            await began.wait()
        connection.leave()
        await anyio.wait_all_tasks_blocked()
        may_end.set()

    assert ended == [True]


@GENERATORS
@pytest.mark.parametrize("watched_by", ["middleware", "route"])
async def test_a_timeout_of_a_generator_endpoint_ends_its_stream(watched_by: str) -> None:
    """F2, W6: the response has begun, so it is broken off and does not look complete."""
    app = application("middleware" if watched_by == "middleware" else "alone")
    router = APIRouter(route_class=CancelableAPIRoute)
    stopped: list[bool] = []

    @router.get("/", response_class=StreamingResponse)
    @with_cancelation(timeout=0.5)
    async def endpoint() -> AsyncIterator[str]:
        try:
            yield "first"
            # In good time: a deadline that passes while the chunk is sent finds the generator at
            # its `yield`, where FastAPI leaves it to the collector.
            await anyio.sleep_forever()
        finally:
            stopped.append(True)

    app.include_router(router)
    connection = await run(app, ScriptedConnection())
    assert connection.body == b"first"
    assert not connection.complete
    assert stopped == [True]


@GENERATORS
@pytest.mark.parametrize("settings", [{"timeout": 1}, {"on_disconnect": "continue"}], ids=str)
async def test_settings_of_a_generator_that_nothing_watches_are_refused(
    settings: dict[str, Any],
) -> None:
    """F2: they would do nothing; the error says what is missing. Without settings it streams."""
    app = application("alone")

    async def endpoint() -> AsyncIterator[str]:
        yield "first"

    app.get("/set", response_class=StreamingResponse)(with_cancelation(**settings)(endpoint))
    app.get("/bare", response_class=StreamingResponse)(with_cancelation(endpoint))
    with pytest.raises(RuntimeError, match=r"'endpoint' have no effect.*RequestCancelationMiddle"):
        await run(app, ScriptedConnection(path="/set"))
    assert (await run(app, ScriptedConnection(path="/bare"))).body == b"first"


# -- misuse -----------------------------------------------------------------------------------


class NoFunction:
    pass


@pytest.mark.parametrize("given", [NoFunction, "endpoint", 30.0])
def test_what_is_no_function_is_refused(given: object) -> None:
    """A clear error where the mistake is made, for a timeout in the wrong place as well."""
    with pytest.raises(TypeError, match="below the decorator of the route"):
        with_cancelation(given)  # type: ignore[call-overload]


async def socket_endpoint(websocket: WebSocket) -> None: ...


class SocketEndpoint:
    async def __call__(self, websocket: WebSocket) -> None: ...


@pytest.mark.parametrize("endpoint", [socket_endpoint, SocketEndpoint()])
def test_an_endpoint_of_websockets_is_refused(endpoint: AnyFunction) -> None:
    """F2: where the decorator is given, with what to do instead."""
    with pytest.raises(TypeError, match=r"(?i)'socket_?endpoint' is an endpoint of WebSockets:"):
        with_cancelation(endpoint)


@BACKENDS
def test_an_endpoint_of_websockets_that_does_not_look_like_one_says_so(backend: str) -> None:
    """F2: it takes its socket from a dependency; the connection fails with what to do."""
    app = application()

    async def accepted(websocket: WebSocket) -> None:
        await websocket.accept()

    @app.websocket("/", dependencies=[Depends(accepted)])
    @with_cancelation
    async def endpoint() -> None: ...

    with (
        TestClient(app, backend=backend) as client,  # type: ignore[arg-type]
        pytest.raises(TypeError, match="'endpoint' is an endpoint of WebSockets"),
        client.websocket_connect("/"),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": "30"}, TypeError),
        ({"until": "middle"}, ValueError),
        ({"on_disconnect": "ignore"}, ValueError),
        ({"response_hook": 3}, TypeError),
    ],
)
def test_settings_are_checked_where_they_are_given(
    settings: dict[str, object], error: type[Exception]
) -> None:
    """S7."""
    with pytest.raises(error, match=f"`{next(iter(settings))}`"):
        with_cancelation(**settings)  # type: ignore[call-overload]
