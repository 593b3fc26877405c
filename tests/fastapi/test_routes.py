"""The route class of a router (F2, F3), and the answers that it documents."""

from __future__ import annotations

from typing import cast

import anyio
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from cancelable import Cancelable, CancelationReason
from cancelable_fastapi import (
    CANCELATION_RESPONSES,
    CancelableAPIRoute,
    with_cancelation,
)
from cancelable_starlette.testing import HYPERCORN, UVICORN, ScriptedConnection, ServerBehaviour
from tests.fastapi import plain_endpoints as plain
from tests.fastapi.support import LIMIT, Setup, application, get, post, run

DOCUMENTED = {"499", "503", "504"}


def router_with(app: FastAPI, included: bool) -> APIRouter:
    """Return a router of cancelable routes: an included one, or the app's own."""
    if not included:
        app.router.route_class = CancelableAPIRoute
        return app.router
    return APIRouter(prefix="/inner", route_class=CancelableAPIRoute)


INCLUDED = pytest.mark.parametrize("included", [True, False], ids=["included", "the app's own"])


@INCLUDED
async def test_a_reason_becomes_its_status(setup: Setup, included: bool) -> None:
    """W7: with and without the middleware, with no change to the endpoint."""
    app = application(setup)
    router = router_with(app, included)
    router.get("/{why}")(plain.stops_itself)
    if included:
        app.include_router(router)

    prefix = "/inner" if included else ""
    assert (await get(app, f"{prefix}/timeout"))[0] == 504
    assert (await get(app, f"{prefix}/signal"))[0] == 503
    assert (await get(app, f"{prefix}/manual"))[0] == 499
    status, answer = await get(app, f"{prefix}/condition")
    assert (status, cast(dict[str, str], answer)["reason"]) == (500, "condition")


@INCLUDED
@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["uvicorn", "hypercorn"])
async def test_a_client_that_leaves_stops_the_endpoint_and_nothing_is_raised(
    setup: Setup, server: ServerBehaviour, included: bool
) -> None:
    """W1, W11: the whole router is cancelable with one argument."""
    app = application(setup)
    router = router_with(app, included)
    began = anyio.Event()
    stopped: list[bool] = []

    @router.post("/")
    async def endpoint(data: dict[str, int]) -> None:
        assert data == {"a": 1}
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(True)

    if included:
        app.include_router(router)

    path = "/inner/" if included else "/"
    headers = [(b"content-type", b"application/json")]
    connection = ScriptedConnection("POST", path, headers=headers, body=b'{"a": 1}', server=server)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, connection)
        with anyio.fail_after(LIMIT):
            await began.wait()
        connection.leave()

    assert stopped == [True]
    assert connection.overlapping_reads == 0


async def test_a_healthy_request_passes_unchanged(setup: Setup) -> None:
    """W2: bodies, streams, other methods and errors."""
    app = application(setup)
    router = APIRouter(route_class=CancelableAPIRoute)

    @router.post("/echo")
    async def echo(data: dict[str, int]) -> dict[str, int]:
        return data

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]))

    app.include_router(router)
    assert await post(app, "/echo", {"a": 1}) == (200, {"a": 1})
    assert (await post(app, "/echo", []))[0] == 422
    assert (await get(app, "/echo"))[0] == 405
    assert (await run(app, ScriptedConnection(path="/stream"))).body == b"ab"


async def test_the_decorator_gives_a_timeout_to_one_endpoint_of_the_router(setup: Setup) -> None:
    """F2: the decorator says more than the route."""
    app = application(setup)
    router = APIRouter(route_class=CancelableAPIRoute)

    @router.get("/")
    @with_cancelation(timeout=0.01, statuses={CancelationReason.TIMEOUT: 408})
    async def endpoint() -> None:
        async with Cancelable():
            await anyio.sleep_forever()

    app.include_router(router)
    assert (await get(app))[0] == 408


def test_the_answers_are_documented() -> None:
    """F2: by the route class, and by ``responses=`` on plain routes; own texts win."""
    app = FastAPI()
    router = APIRouter(route_class=CancelableAPIRoute)
    router.get("/ours", responses={504: {"description": "Come back later."}})(plain.nothing)
    app.include_router(router)
    app.get("/plain", responses=CANCELATION_RESPONSES)(plain.nothing)
    document = app.openapi()

    ours = document["paths"]["/ours"]["get"]["responses"]
    plainly = document["paths"]["/plain"]["get"]["responses"]
    assert set(ours) == set(plainly) == DOCUMENTED | {"200"}
    assert ours["504"]["description"] == "Come back later."
    schema = plainly["504"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/CancelationAnswer"}
    model = document["components"]["schemas"]["CancelationAnswer"]
    assert set(model["properties"]) == {"detail", "reason"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_answer_is_as_documented(backend: str) -> None:
    """F2: the documented model is what is sent."""
    app = FastAPI()
    app.router.route_class = CancelableAPIRoute
    app.get("/{why}", responses=CANCELATION_RESPONSES)(plain.stops_itself)
    with TestClient(app, backend=backend) as client:  # type: ignore[arg-type]
        assert set(client.get("/timeout").json()) == {"detail", "reason"}
