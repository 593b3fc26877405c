"""Routes by which clients look at their operations and cancel them (S16, W19)."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import quote, unquote

import anyio
import pytest
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, NoMatchFound, Route
from starlette.types import ASGIApp

from cancelable import CancelOutcome, OperationRegistry, current_operation
from cancelable.bus import BusUnavailable, CancelResult, InMemoryBus, OperationInfo
from cancelable_starlette import OperationRoutes, RequestCancelationMiddleware, operations_routes
from cancelable_starlette.testing import ScriptedConnection
from tests.starlette.visited import Visited

# A plain function that says who asks is called in a thread.
USES_THREADS = True

UNKNOWN = (404, {"detail": "no such operation"})


def signed_in(request: Request) -> None:
    if "user" not in request.headers:
        raise HTTPException(401, "sign in first", {"WWW-Authenticate": "User"})


async def owner(request: Request) -> dict[str, str]:
    return {"owner": request.headers["user"]}


class Office(Visited):
    """An app whose operations belong to their users."""

    def __init__(self, bus: InMemoryBus | None = None, prefix: str = "/operations") -> None:
        self.bus = bus or InMemoryBus(OperationRegistry())
        self.operations = operations_routes(
            authorize=signed_in, owner=owner, bus=self.bus, prefix=prefix
        )
        self.app: Starlette = Starlette(
            routes=[Route("/work", self.start_work, methods=["POST"]), *self.operations],
            middleware=[Middleware(RequestCancelationMiddleware)],
        )
        self.begun = anyio.Event()
        self.go_on = anyio.Event()

    async def start_work(self, request: Request) -> Response:
        chosen = request.query_params.get("id")
        return await self.operations.start(
            request, self.work, "x", operation_id=chosen, name="work", metadata={"owner": "bob"}
        )

    async def work(self, text: str) -> None:
        operation = current_operation()
        assert operation is not None
        await operation.report_progress(f"{text} has begun")
        self.begun.set()
        await self.go_on.wait()


async def test_an_operation_can_be_listed_followed_and_cancelled(anyio_backend: object) -> None:
    """W19: 202 where it was asked, 200 when it has ended; events until the end."""
    office = Office()
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        status, listed = await office.ask("GET", "/operations", query="state=running&name=work")
        assert (status, [each["id"] for each in listed["operations"]]) == (200, [job])
        assert (await office.ask("GET", "/operations", query="name=rest"))[1]["operations"] == []
        status, found = await office.ask("GET", f"/operations/{job}")
        assert (status, found["metadata"]) == (200, {"owner": "ann"})
        assert found["progress"]["message"] == "x has begun"

        watching = office.connection("GET", f"/operations/{job}/events")
        tasks.start_soon(watching.run, office.app)
        with anyio.fail_after(Office.limit):
            await watching.wait_for_chunks(1)
        status, answer = await office.ask("DELETE", f"/operations/{job}", query="wait=5")
        assert (status, answer["state"]) == (200, "cancelled")
    assert watching.headers["content-type"].startswith("text/event-stream")
    assert watching.body.decode().count("event: end") == 1
    assert (await office.ask("GET", f"/operations/{job}"))[1]["cancel"]["reason"] == "manual"


async def test_what_belongs_to_somebody_else_looks_unknown(anyio_backend: object) -> None:
    """W19: the same answer, to the letter, as for an id that does not exist."""
    office = Office()
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks, "id=mine")
        assert job == "mine"
        for path in (job, "nothing"):
            assert await office.ask("GET", f"/operations/{path}", user="bob") == UNKNOWN
            assert await office.ask("DELETE", f"/operations/{path}", user="bob") == UNKNOWN
            assert await office.ask("GET", f"/operations/{path}/events", user="bob") == UNKNOWN
        assert (await office.ask("GET", "/operations", user="bob"))[1]["operations"] == []
        assert (await office.ask("POST", "/work", query="id=mine"))[0] == 409
        assert (await office.ask("GET", "/operations/mine"))[1]["state"] == "running"
        office.go_on.set()


@pytest.mark.parametrize(
    ("chosen", "quoted"),
    [
        ("a?b#c", "a%3Fb%23c"),
        ("a b%2f", "a%20b%252f"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("ü", "%C3%BC"),
        ("...", "..."),
    ],
)
@pytest.mark.parametrize("form", ["plain", "mounted", "root_path"])
async def test_an_operation_is_found_at_its_address_whatever_its_id(
    anyio_backend: object, chosen: str, quoted: str, form: str
) -> None:
    """W19: the address is a path as a URL has it (RFC 3986)."""
    office = Office()
    app: ASGIApp = office.app
    before = {"plain": "", "mounted": "/ä b", "root_path": "/v1"}[form]
    if form == "mounted":
        app = Starlette(routes=[Mount(before, office.app)])

    async def ask(method: str, path: str, query: str = "") -> ScriptedConnection:
        connection = office.connection(method, path, query=query)
        if form == "root_path":
            connection.scope["root_path"] = before
        with anyio.fail_after(Office.limit):
            await connection.run(app)
        return connection

    office.go_on.set()
    started = await ask("POST", f"{before}/work", f"id={quote(chosen)}")
    address = started.headers["location"]
    found = await ask("GET", unquote(address))

    assert address == f"{quote(before)}/operations/{quoted}"
    assert (started.status, found.status) == (202, 200)
    assert json.loads(found.body)["id"] == chosen


@pytest.mark.parametrize("chosen", ["a/b", ".", "..", "a\nb", "\ud800"])
async def test_an_id_that_fits_into_no_address_is_refused_before_anything_starts(
    anyio_backend: object, chosen: str
) -> None:
    """W19: nobody is told of an operation that its owner would never find."""
    office = Office()
    request = Request(
        {**office.connection("POST", "/work").scope, "app": office.app, "router": office.app.router}
    )
    with pytest.raises(ValueError, match=r"operation_id|surrogates"):
        await office.operations.start(request, office.work, "x", operation_id=chosen)

    assert (await office.ask("GET", "/operations"))[1]["operations"] == []


async def test_routes_that_are_not_in_the_app_start_nothing(anyio_backend: object) -> None:
    """W19: without an address there is no operation either."""
    office = Office()
    stray = Office(office.bus)
    app = Starlette(routes=[Route("/work", stray.start_work, methods=["POST"]), *office.operations])
    with pytest.raises(NoMatchFound):
        await office.connection("POST", "/work").run(app)

    assert (await office.ask("GET", "/operations"))[1]["operations"] == []


async def test_who_is_not_authorised_learns_and_starts_nothing(anyio_backend: object) -> None:
    """W19: the answer is the one that the authorisation raised, as JSON."""
    office = Office()
    refused = (401, {"detail": "sign in first"})
    for method, path in (
        ("GET", "/operations"),
        ("GET", "/operations/1"),
        ("DELETE", "/operations/1"),
        ("GET", "/operations/1/events"),
        ("POST", "/work"),
    ):
        connection = office.connection(method, path, user=None)
        await connection.run(office.app)
        assert (connection.status, json.loads(connection.body)) == refused
        assert connection.headers["www-authenticate"] == "User"
    assert not office.begun.is_set()
    assert office.bus.registry.list_operations() == []


class AsyncCall:
    """A function that is an object, as dependencies with settings are."""

    def __init__(self, function: Callable[[Request], Any]) -> None:
        self.function = function

    async def __call__(self, request: Request) -> object:
        await checkpoint()
        return self.function(request)


async def signed_in_later(request: Request) -> None:
    await checkpoint()
    signed_in(request)


def counted(function: Callable[[Request], object]) -> Callable[[Request], object]:
    @functools.wraps(function)
    def call(request: Request) -> object:
        return function(request)

    return call


def plainly(request: Request) -> object:
    return signed_in_later(request)


ASYNC_KINDS: list[Callable[[Request], object]] = [
    signed_in_later,
    AsyncCall(signed_in),
    AsyncCall(signed_in).__call__,
    functools.partial(AsyncCall(signed_in)),
    functools.partial(signed_in_later),
    functools.partial(plainly),
    lambda request: signed_in_later(request),
    counted(signed_in_later),
    plainly,
]


@pytest.mark.parametrize(
    "authorize", ASYNC_KINDS, ids=[f"kind{n}" for n in range(len(ASYNC_KINDS))]
)
async def test_an_authorisation_is_awaited_whatever_is_async_of_it(
    anyio_backend: object, authorize: Callable[[Request], object]
) -> None:
    """W19: one that is called and not awaited would let everybody in."""
    routes = operations_routes(authorize=authorize, owner=None, bus=InMemoryBus())
    app = Starlette(routes=list(routes))
    for method, path in (("GET", "/operations"), ("DELETE", "/operations/1")):
        stranger = ScriptedConnection(method, path)
        await stranger.run(app)
        assert (stranger.status, json.loads(stranger.body)) == (401, {"detail": "sign in first"})
    ann = ScriptedConnection("GET", "/operations", headers=[(b"user", b"ann")])
    await ann.run(app)
    assert ann.status == 200


@pytest.mark.parametrize(
    "asked", [AsyncCall(lambda _: {"owner": "ann"}), lambda request: owner(request)]
)
async def test_an_owner_is_awaited_whatever_is_async_of_it(
    anyio_backend: object, asked: Callable[[Request], object]
) -> None:
    """W19: the operations of the caller are those of the awaited answer."""
    routes = operations_routes(authorize=signed_in, owner=asked, bus=InMemoryBus())
    ann = ScriptedConnection("GET", "/operations", headers=[(b"user", b"ann")])
    await ann.run(Starlette(routes=list(routes)))
    assert ann.status == 200


def yields(request: Request) -> Iterator[None]:
    signed_in(request)
    yield


async def yields_later(request: Request) -> AsyncIterator[None]:
    signed_in(request)
    yield


forgotten: list[Coroutine[Any, Any, None]] = []


async def forgets_to_await(request: Request) -> object:
    forgotten.append(signed_in_later(request))
    return forgotten[-1]


class Role:
    """A check that has to be made and then called."""

    def __init__(self, request: Request | str) -> None:
        self.request = request

    def __call__(self, request: Request) -> None:
        signed_in(request)


@contextlib.contextmanager
def around(request: Request) -> Iterator[None]:
    signed_in(request)
    yield


@pytest.mark.parametrize(
    "authorize",
    [Role, functools.partial(Role), lambda _: Role("admin"), lambda _: signed_in, around],
    ids=["class", "partial", "object", "function", "context"],
)
async def test_what_nobody_has_called_lets_nobody_in(
    anyio_backend: object, authorize: Callable[[Request], object]
) -> None:
    """W19: to make the check is not to make it."""
    routes = operations_routes(authorize=authorize, owner=None, bus=InMemoryBus())
    connection = ScriptedConnection("GET", "/operations")
    with pytest.raises(TypeError, match="which nobody has called"):
        await connection.run(Starlette(routes=list(routes)))
    assert connection.status in (None, 500)


@pytest.mark.parametrize("authorize", [yields, yields_later, AsyncCall(yields), forgets_to_await])
async def test_an_authorisation_of_which_nothing_runs_lets_nobody_in(
    anyio_backend: object, authorize: Callable[[Request], object]
) -> None:
    """W19: a generator and what an async function forgot to await are no yes."""
    routes = operations_routes(authorize=authorize, owner=None, bus=InMemoryBus())
    connection = ScriptedConnection("GET", "/operations", headers=[(b"user", b"ann")])
    with pytest.raises(TypeError, match="of which nothing has run"):
        await connection.run(Starlette(routes=list(routes)))
    assert connection.status in (None, 500)
    while forgotten:
        forgotten.pop().close()  # else Python warns of it


async def test_operators_see_all_where_that_was_said(anyio_backend: object) -> None:
    """`owner=None`; beside routes for users, and below a mount."""
    office = Office()
    everything = operations_routes(authorize=signed_in, owner=None, bus=office.bus)
    office.app.mount("/admin", Mount("", routes=everything))
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        status, listed = await office.ask("GET", "/admin/operations", user="root")
        assert (status, [each["id"] for each in listed["operations"]]) == (200, [job])
        assert (await office.ask("DELETE", f"/admin/operations/{job}", user="root"))[0] == 202


@pytest.mark.parametrize("given", [{}, {"owner": None}, None, "ann"], ids=repr)
async def test_an_owner_who_is_nobody_opens_nothing(anyio_backend: object, given: object) -> None:
    """What belongs to nobody would be open to all."""
    routes = operations_routes(authorize=signed_in, owner=lambda _request: given)
    connection = ScriptedConnection("GET", "/operations", headers=[(b"user", b"ann")])
    with pytest.raises(TypeError, match="`owner` must return"):
        await connection.run(Starlette(routes=list(routes)))


class Away(InMemoryBus):
    """A bus whose broker cannot be reached."""

    async def announce(self, operation: object) -> bool:
        return False

    async def cancel(self, operation_id: str, *_: Any, **__: Any) -> CancelResult:
        if operation_id == "lost":
            return CancelResult(CancelOutcome.UNSETTLED)
        raise BusUnavailable("down")

    async def get(self, *_: Any, **__: Any) -> OperationInfo | None:
        raise BusUnavailable("down")

    async def list_operations(self, *_: Any, **__: Any) -> Any:
        raise BusUnavailable("down")


async def test_a_bus_that_is_away_is_a_503_everywhere(anyio_backend: object) -> None:
    """W19: never a 404 for an operation that may be running; the client may ask again."""
    office = Office(Away(OperationRegistry()))
    for method, path in (
        ("GET", "/operations"),
        ("GET", "/operations/1"),
        ("GET", "/operations/1/events"),
        ("DELETE", "/operations/1"),
        ("DELETE", "/operations/lost"),
    ):
        connection = office.connection(method, path)
        await connection.run(office.app)
        assert (connection.status, connection.headers["retry-after"]) == (503, "1")
    assert (await office.ask("POST", "/work", query="id=mine"))[0] == 503
    office.go_on.set()
    assert (await office.ask("POST", "/work"))[0] == 202


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/operations", "state=nowhere"),
        ("GET", "/operations", "limit=0"),
        ("GET", "/operations", "limit=1001"),
        ("GET", "/operations", "limit=nan"),
        ("GET", "/operations", "after=nonsense"),
        ("DELETE", "/operations/1", "wait=-1"),
        ("DELETE", "/operations/1", "wait=inf"),
        ("DELETE", "/operations/1", "wait=soon"),
    ],
)
async def test_nonsense_is_a_422_that_says_what_is_wrong(
    anyio_backend: object, method: str, path: str, query: str
) -> None:
    """And asks for nothing."""
    status, answer = await Office().ask(method, path, query=query)
    assert status == 422
    assert answer["detail"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: operations_routes(authorize=None, owner=owner), "`authorize` must be a function"),  # type: ignore[arg-type]
        (lambda: operations_routes(authorize=signed_in, owner="ann"), "`owner` must be a function"),  # type: ignore[arg-type]
        (
            lambda: operations_routes(authorize=signed_in, owner=owner, bus="redis"),  # type: ignore[arg-type]
            "`bus` must be a CancelBus",
        ),
    ],
)
def test_the_routes_are_not_made_without_authorisation(
    make: Callable[[], OperationRoutes], error: str
) -> None:
    """W19: a mistake is told where it is made."""
    with pytest.raises(TypeError, match=error):
        make()
