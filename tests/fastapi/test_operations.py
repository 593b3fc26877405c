"""Routes by which clients look at their operations and cancel them (S16)."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from cancelable import Cancelable, CancelOutcome, OperationRegistry
from cancelable.bus import BusUnavailable, CancelResult, InMemoryBus, OperationInfo, OperationState
from cancelable_fastapi import OperationStarter, operations_router
from tests.fastapi.office import Office, owner, signed_in
from tests.fastapi.support import LIMIT, Setup

UNKNOWN = (404, {"detail": "no such operation"})

# --- What they answer ------------------------------------------------------------------------


async def test_an_operation_can_be_listed_looked_at_and_cancelled(setup: Setup) -> None:
    """S16: 202 where it was asked, 200 when it has ended, and the end stays known."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        status, listed = await office.ask("GET", "/operations")
        assert status == 200
        assert [each["id"] for each in listed["operations"]] == [job]
        assert listed["after"] is None

        status, found = await office.ask("GET", f"/operations/{job}")
        assert status == 200
        assert (found["state"], found["name"]) == ("running", "work")
        assert found["metadata"] == {"owner": "ann", "room": 7}
        assert found["progress"]["message"] == "x has begun"

        status, answer = await office.ask("DELETE", f"/operations/{job}")
        assert (status, answer["outcome"]) == (202, "requested")
        status, answer = await office.ask("DELETE", f"/operations/{job}", query="wait=5")
        assert (status, answer["state"]) == (200, "cancelled")
    assert office.ended.is_set()

    status, answer = await office.ask("DELETE", f"/operations/{job}")
    assert (status, answer["outcome"], answer["state"]) == (200, "finished", "cancelled")
    status, found = await office.ask("GET", f"/operations/{job}")
    assert (status, found["cancel"]["reason"]) == (200, "manual")
    assert (await office.ask("GET", "/operations"))[1]["operations"] == []


async def test_a_second_request_is_told_that_it_is_the_second(setup: Setup) -> None:
    """S16: both are 202; the first cause stands."""
    office = Office(setup)

    async def obstinate(_text: str) -> None:
        office.begun.set()
        with anyio.CancelScope(shield=True):
            await office.go_on.wait()

    office.work = obstinate  # type: ignore[assignment, method-assign]
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        assert (await office.ask("DELETE", f"/operations/{job}"))[0] == 202
        status, answer = await office.ask("DELETE", f"/operations/{job}", query="wait=0.01")
        assert (status, answer["outcome"]) == (202, "already_requested")
        assert answer["state"] == "cancelling"
        office.go_on.set()


async def test_a_request_that_waits_is_answered_with_the_end(setup: Setup) -> None:
    """S16: 200 when it has stopped within the time."""
    office = Office(setup)

    async def obstinate(_text: str) -> None:
        office.begun.set()
        with anyio.CancelScope(shield=True):
            await office.go_on.wait()
        await anyio.lowlevel.checkpoint()

    office.work = obstinate  # type: ignore[assignment, method-assign]
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        asking = office.connection("DELETE", f"/operations/{job}", query="wait=60")
        tasks.start_soon(asking.run, office.app)
        with anyio.fail_after(LIMIT):
            while (await office.ask("GET", f"/operations/{job}"))[1]["state"] != "cancelling":
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert asking.status is None
        office.go_on.set()
    assert asking.status == 200
    answer = json.loads(asking.body)
    assert (answer["outcome"], answer["state"]) == ("requested", "cancelled")


async def test_the_state_of_one_that_went_well_is_kept(setup: Setup) -> None:
    """S16: DELETE is idempotent, also after the end."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        office.go_on.set()
    status, answer = await office.ask("DELETE", f"/operations/{job}")
    assert (status, answer["outcome"], answer["state"]) == (200, "finished", "completed")


async def test_progress_is_streamed_until_the_end(setup: Setup) -> None:
    """S17: each event is a record; the last one is called so."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        watching = office.connection("GET", f"/operations/{job}/events")
        tasks.start_soon(watching.run, office.app)
        with anyio.fail_after(LIMIT):
            await watching.wait_for_chunks(1)
        office.go_on.set()
    assert watching.headers["content-type"].startswith("text/event-stream")
    events = [each.split("\n") for each in watching.body.decode().split("\n\n") if each]
    assert [lines[0] for lines in events[-1:]] == ["event: end"]
    assert {lines[0] for lines in events[:-1]} == {"event: progress"}
    records = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert records[0]["progress"]["message"] == "x has begun"
    assert records[-1]["progress"]["message"] == "x is done"
    assert records[-1]["state"] == "completed"


async def test_a_watcher_who_leaves_does_not_disturb_the_operation(setup: Setup) -> None:
    """W8: its stream ends, and nothing else."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        watching = office.connection("GET", f"/operations/{job}/events")
        watching._leave_after_messages = 2
        with anyio.fail_after(LIMIT):
            await watching.run(office.app)
        assert (await office.ask("GET", f"/operations/{job}"))[1]["state"] == "running"
        office.go_on.set()


# --- Before it begins ------------------------------------------------------------------------


async def test_an_operation_is_known_from_its_answer_on(setup: Setup) -> None:
    """S16: also while another background task stands before it, and it can be cancelled then."""
    office = Office(setup)
    before = anyio.Event()

    async def accept(
        start: OperationStarter = Depends(office.router.start),
    ) -> JSONResponse:
        response = await start(office.work, "y", name="later")
        later = response.background
        assert later is not None

        async def first_another() -> None:
            await before.wait()
            await later()

        response.background = BackgroundTask(first_another)
        return response

    office.app.post("/later")(accept)

    async with anyio.create_task_group() as tasks:
        starting = office.connection("POST", "/later")
        tasks.start_soon(starting.run, office.app)
        with anyio.fail_after(LIMIT):
            await starting.wait_for_chunks(1)
        job = json.loads(starting.body)["id"]
        assert (await office.ask("GET", f"/operations/{job}"))[1]["state"] == "pending"
        assert await office.ask("GET", f"/operations/{job}", user="bob") == UNKNOWN
        assert await office.ask("DELETE", f"/operations/{job}", user="bob") == UNKNOWN

        watching = office.connection("GET", f"/operations/{job}/events")
        tasks.start_soon(watching.run, office.app)
        with anyio.fail_after(LIMIT):
            await watching.wait_for_chunks(1)
        status, answer = await office.ask("DELETE", f"/operations/{job}", query="wait=0.01")
        assert (status, answer["outcome"]) == (202, "requested")
        before.set()
    # What was cancelled before it began does not begin.
    assert not office.begun.is_set()
    assert watching.body.decode().count("event: end") == 1
    assert (await office.ask("GET", f"/operations/{job}"))[1]["state"] == "cancelled"


async def test_the_end_of_one_that_has_not_begun_can_be_waited_for(setup: Setup) -> None:
    """S16: it ends when it would have begun."""
    office = Office(setup)
    before = anyio.Event()

    async def accept(
        start: OperationStarter = Depends(office.router.start),
    ) -> JSONResponse:
        response = await start(office.work, "y")
        later = response.background
        assert later is not None

        async def first_another() -> None:
            await before.wait()
            await later()

        response.background = BackgroundTask(first_another)
        return response

    office.app.post("/later")(accept)
    async with anyio.create_task_group() as tasks:
        starting = office.connection("POST", "/later")
        tasks.start_soon(starting.run, office.app)
        with anyio.fail_after(LIMIT):
            await starting.wait_for_chunks(1)
        job = json.loads(starting.body)["id"]
        asking = office.connection("DELETE", f"/operations/{job}", query="wait=60")
        tasks.start_soon(asking.run, office.app)
        await anyio.wait_all_tasks_blocked()
        assert asking.status is None
        before.set()
    assert asking.status == 200
    assert json.loads(asking.body)["state"] == "cancelled"


async def test_the_owner_cannot_be_overridden(setup: Setup) -> None:
    """S16: by metadata that come from somewhere else."""
    office = Office(setup)

    async def accept(
        start: OperationStarter = Depends(office.router.start),
    ) -> JSONResponse:
        return await start(office.work, "y", metadata={"owner": "bob", "room": 8})

    office.app.post("/for-bob")(accept)
    office.go_on.set()
    status, record = await office.ask("POST", "/for-bob")
    assert status == 202
    assert record["metadata"] == {"owner": "ann", "room": 8}


async def test_a_caller_may_choose_the_id_and_a_live_one_is_refused(setup: Setup) -> None:
    """S16: the second start is a 409, and the first goes on."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        assert await office.start(tasks, "operation_id=mine") == "mine"
        status, _answer = await office.ask("POST", "/work", query="operation_id=mine")
        assert status == 409
        assert (await office.ask("GET", "/operations/mine"))[1]["state"] == "running"
        office.go_on.set()
    # The id of one that has ended may be used again.
    assert (await office.ask("POST", "/work", query="operation_id=mine"))[0] == 202


async def test_two_apps_in_one_give_their_own_addresses() -> None:
    """S16: though their routes look the same."""
    first, second = Office(), Office()
    both = FastAPI()
    both.mount("/first", first.app)
    both.mount("/second", second.app)
    for office, path in ((first, "/first"), (second, "/second")):
        office.go_on.set()
        connection = office.connection("POST", f"{path}/work")
        await connection.run(both)
        job = json.loads(connection.body)["id"]
        assert connection.headers["location"] == f"{path}/operations/{job}"


# --- Whose they are --------------------------------------------------------------------------


async def test_what_belongs_to_somebody_else_looks_unknown(setup: Setup) -> None:
    """S16: the same answer, to the letter, as for an id that does not exist."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        for path in (job, "0" * 32):
            assert await office.ask("GET", f"/operations/{path}", user="bob") == UNKNOWN
            assert await office.ask("DELETE", f"/operations/{path}", user="bob") == UNKNOWN
            assert await office.ask("GET", f"/operations/{path}/events", user="bob") == UNKNOWN
        assert (await office.ask("GET", "/operations", user="bob"))[1]["operations"] == []
        assert not office.ended.is_set()
        office.go_on.set()
    assert await office.ask("DELETE", f"/operations/{job}", user="bob") == UNKNOWN


async def test_what_belongs_to_nobody_is_not_open_to_all(setup: Setup) -> None:
    """S16: only who sees everything sees it."""
    office = Office(setup)
    everything = operations_router(authorize=signed_in, owner=None, bus=office.bus, prefix="/all")
    office.app.include_router(everything)
    operation = office.bus.registry.register(Cancelable(name="nobody's"))
    async with operation:
        job = operation.operation_id
        assert await office.ask("GET", f"/operations/{job}") == UNKNOWN
        assert await office.ask("DELETE", f"/operations/{job}") == UNKNOWN
        assert not operation.cancel_requested
        assert (await office.ask("GET", f"/all/{job}"))[0] == 200
        assert len((await office.ask("GET", "/all"))[1]["operations"]) == 1


async def test_who_is_not_authorised_learns_nothing(setup: Setup) -> None:
    """S16: and is refused before anything is cancelled."""
    office = Office(setup)
    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        for method, path in (
            ("GET", ""),
            ("GET", f"/{job}"),
            ("DELETE", f"/{job}"),
            ("GET", f"/{job}/events"),
        ):
            assert (await office.ask(method, f"/operations{path}", user=None))[0] == 401
        assert (await office.ask("POST", "/work", user=None))[0] == 401
        assert not office.ended.is_set()
        office.go_on.set()


@pytest.mark.parametrize("everything", [False, True])
async def test_the_authorisation_comes_first(everything: bool) -> None:
    """S16: also where the owner is known without it, or does not matter."""
    asked: list[str] = []

    async def refuse() -> None:
        raise HTTPException(403, "not you")

    async def ann() -> dict[str, str]:
        asked.append("owner")
        return {"owner": "ann"}

    bus = InMemoryBus(OperationRegistry())
    router = operations_router(authorize=refuse, owner=None if everything else ann, bus=bus)
    office = Office(bus=bus, router=router)
    operation = bus.registry.register(Cancelable(metadata={"owner": "ann"}))
    async with operation:
        job = operation.operation_id
        assert (await office.ask("GET", "/operations"))[0] == 403
        assert (await office.ask("GET", f"/operations/{job}"))[0] == 403
        assert (await office.ask("DELETE", f"/operations/{job}"))[0] == 403
        assert (await office.ask("GET", f"/operations/{job}/events"))[0] == 403
        assert (await office.ask("POST", "/work"))[0] == 403
        assert not operation.cancel_requested
    assert asked == []
    assert not office.begun.is_set()


@pytest.mark.parametrize("given", [{}, {"owner": None}, None, "ann"], ids=repr)
async def test_an_owner_who_is_nobody_opens_nothing(given: object) -> None:
    """S16: a mistake in the dependency is an error, never a look at everything."""

    async def nobody() -> object:
        return given

    bus = InMemoryBus(OperationRegistry())
    router = operations_router(authorize=signed_in, owner=nobody, bus=bus)
    office = Office(bus=bus, router=router)
    with pytest.raises(TypeError, match="`owner` must return what the metadata"):
        await office.ask("GET", "/operations")


@pytest.mark.parametrize(
    "arguments",
    [
        {"authorize": None, "owner": owner},
        {"authorize": Depends(signed_in), "owner": owner},
        {"authorize": signed_in, "owner": {"owner": "ann"}},
    ],
    ids=["nobody", "not the function", "an owner for all"],
)
def test_the_routes_are_not_made_without_authorisation(arguments: Mapping[str, Any]) -> None:
    """S16: anybody could cancel anybody's work."""
    with pytest.raises(TypeError, match="must be a dependency"):
        operations_router(**arguments)
    with pytest.raises(TypeError, match="authorize"):
        operations_router(owner=owner)  # type: ignore[call-arg]


def test_a_bus_is_a_bus() -> None:
    """S7: refused where it is given."""
    with pytest.raises(TypeError, match="`bus` must be a CancelBus"):
        operations_router(authorize=signed_in, owner=owner, bus="redis")  # type: ignore[arg-type]


# --- Through a bus that serves several processes ---------------------------------------------


class OtherProcess(InMemoryBus):
    """A bus that answers as one does whose operation lives elsewhere, or that is down."""

    def __init__(self, outcome: CancelOutcome | None) -> None:
        super().__init__(OperationRegistry())
        self.outcome = outcome

    async def cancel(self, operation_id: str, *_: Any, **__: Any) -> CancelResult:
        if self.outcome is None:
            msg = "down"
            raise BusUnavailable(msg)
        lost = OperationInfo(id=operation_id, state=OperationState.LOST)
        return CancelResult(self.outcome, lost if self.outcome is CancelOutcome.LOST else None)

    async def announce(self, operation: object) -> bool:
        return False

    async def get(self, *_: Any, **__: Any) -> OperationInfo | None:
        msg = "down"
        raise BusUnavailable(msg)

    async def list_operations(self, *_: Any, **__: Any) -> Any:
        msg = "down"
        raise BusUnavailable(msg)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (CancelOutcome.REMEMBERED, 202),
        (CancelOutcome.LOST, 409),
        (CancelOutcome.UNSETTLED, 503),
        (None, 503),
    ],
    ids=str,
)
async def test_the_outcomes_of_a_bus_have_their_statuses(
    outcome: CancelOutcome | None, status: int
) -> None:
    """S16: lost is a conflict; what cannot be known now may be asked again."""
    office = Office(bus=OtherProcess(outcome))
    connection = office.connection("DELETE", "/operations/elsewhere")
    await connection.run(office.app)
    assert connection.status == status
    assert ("retry-after" in connection.headers) == (status == 503)


async def test_a_bus_that_is_away_is_a_503_everywhere() -> None:
    """S16: never a 404 for an operation that may be running."""
    office = Office(bus=OtherProcess(None))
    assert (await office.ask("GET", "/operations"))[0] == 503
    assert (await office.ask("GET", "/operations/elsewhere"))[0] == 503
    assert (await office.ask("GET", "/operations/elsewhere/events"))[0] == 503
    assert (await office.ask("POST", "/work", query="operation_id=mine"))[0] == 503
    office.go_on.set()
    # An id that was made here is nobody else's.
    assert (await office.ask("POST", "/work"))[0] == 202


class Forgetful(InMemoryBus):
    """A bus that knows an operation, and no longer when it is to be watched."""

    def __init__(self, error: Exception) -> None:
        super().__init__(OperationRegistry())
        self.error = error

    async def get(self, operation_id: str, **_: Any) -> OperationInfo | None:
        return OperationInfo(id=operation_id, state=OperationState.RUNNING)

    @asynccontextmanager
    async def watch(self, *_: Any, **__: Any) -> AsyncGenerator[Any]:
        raise self.error
        yield


@pytest.mark.parametrize("error", [LookupError("gone"), BusUnavailable("down")], ids=repr)
async def test_events_end_when_the_bus_cannot_go_on(setup: Setup, error: Exception) -> None:
    """W8: the stream is over, so that the client asks again and is told by the status."""
    office = Office(setup, bus=Forgetful(error))
    connection = office.connection("GET", "/operations/elsewhere/events")
    await connection.run(office.app)
    assert (connection.status, connection.body, connection.complete) == (200, b"", True)


# --- What a client may send ------------------------------------------------------------------


async def test_nonsense_is_refused() -> None:
    """S7: a wait that is none is a 422, an id that cannot be one is unknown."""
    office = Office()
    for wait in ("-1", "nan", "1000", "soon"):
        assert (await office.ask("DELETE", "/operations/x", query=f"wait={wait}"))[0] == 422
    assert (await office.ask("GET", "/operations", query="after=nonsense"))[0] == 422
    assert (await office.ask("GET", "/operations", query="limit=0"))[0] == 422
    assert await office.ask("GET", f"/operations/{'x' * 1000}") == UNKNOWN
    assert await office.ask("DELETE", f"/operations/{'x' * 1000}") == UNKNOWN


async def test_the_openapi_document_says_what_is_answered() -> None:
    """F2: each status with its model, and the outcome of a request to stop."""
    office = Office()
    document = office.app.openapi()
    one = "/operations/{operation_id}"
    documented = {
        (method, path): {
            status: answer.get("content", {}).get("application/json", {}).get("schema", {})
            for status, answer in operation["responses"].items()
        }
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(documented["get", "/operations"]) == {"200", "422", "503"}
    assert set(documented["get", one]) == {"200", "404", "422", "503"}
    assert set(documented["get", f"{one}/events"]) == {"200", "404", "422", "503"}
    cancel = documented["delete", one]
    assert set(cancel) == {"200", "202", "404", "409", "422", "503"}
    refusal = {"$ref": "#/components/schemas/Refusal"}
    assert cancel["404"] == cancel["503"] == refusal
    assert cancel["200"] == cancel["202"] == cancel["409"]
    assert cancel["200"] == {"$ref": "#/components/schemas/CancelRecord"}
    assert UNKNOWN[1].keys() == document["components"]["schemas"]["Refusal"]["properties"].keys()

    async with anyio.create_task_group() as tasks:
        job = await office.start(tasks)
        for query, wanted in (("", 202), ("wait=5", 200), ("", 200)):
            status, answer = await office.ask("DELETE", f"/operations/{job}", query=query)
            assert status == wanted
            schema = document["components"]["schemas"]["CancelRecord"]
            assert answer.keys() == set(schema["required"]) == schema["properties"].keys()


def test_the_routes_are_in_the_openapi_document() -> None:
    """F2: with their records."""
    paths = Office().app.openapi()["paths"]
    assert set(paths) == {
        "/work",
        "/operations",
        "/operations/{operation_id}",
        "/operations/{operation_id}/events",
    }
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert "get_operation_operations__operation_id__get" in ids
    again = Office().app.openapi()["paths"]
    assert again == paths


# --- Who may ask -----------------------------------------------------------------------------


def asks_later(user: Annotated[str | None, Header()] = None) -> object:
    return signed_in(user)


class PlainCall:
    """A dependency that is an object, and gives back what is to be awaited."""

    def __call__(self, user: Annotated[str | None, Header()] = None) -> object:
        return signed_in(user)


async def forgets_to_await(user: Annotated[str | None, Header()] = None) -> object:
    async def ask() -> object:
        return signed_in(user)

    return await ask()


KINDS = [asks_later, PlainCall(), functools.partial(asks_later), forgets_to_await]


@pytest.mark.parametrize("authorize", KINDS, ids=["plain", "object", "partial", "forgetful"])
async def test_an_authorisation_is_awaited_whatever_is_async_of_it(
    anyio_backend: object, authorize: Callable[..., object]
) -> None:
    """W19: an answer that nobody awaits would let everybody in."""
    bus = InMemoryBus(OperationRegistry())
    router = operations_router(authorize=authorize, owner=None, bus=bus)
    office = Office("alone", bus, router)
    on_trio = "trio" in anyio.lowlevel.current_token().backend_class.__module__
    if on_trio and authorize is not forgets_to_await:
        # FastAPI calls it in a thread, out of which Trio lets no coroutine.
        with pytest.raises(TypeError, match="sync function"):
            await office.ask("GET", "/operations", user=None)
        return
    for method, path in (("GET", "/operations"), ("DELETE", "/operations/1")):
        assert (await office.ask(method, path, user=None))[0] == 401
    assert (await office.ask("POST", "/work", user=None))[0] == 401
    assert (await office.ask("GET", "/operations"))[0] == 200


async def makes_a_check() -> object:
    return signed_in


@pytest.mark.parametrize("authorize", [PlainCall, makes_a_check], ids=["class", "factory"])
async def test_what_nobody_has_called_lets_nobody_in(
    anyio_backend: object, authorize: Callable[..., object]
) -> None:
    """W19: to make the check is not to make it."""
    router = operations_router(authorize=authorize, owner=None)
    with pytest.raises(TypeError, match="which nobody has called"):
        await Office("alone", None, router).ask("GET", "/operations", user=None)
