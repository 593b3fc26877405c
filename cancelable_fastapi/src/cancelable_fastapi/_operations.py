"""Routes by which clients look at their operations and cancel them, and the way to start some."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVarTuple

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from cancelable.bus import CancelBus, InMemoryBus, OperationState
from cancelable_starlette import (
    EVERYBODY,
    LONGEST_WAIT,
    CancelRecord,
    OperationDesk,
    OperationPage,
    OperationRecord,
    Owner,
    checked_owner,
    whole_answer,
)

from ._routes import Responses

Dependency: TypeAlias = Callable[..., object]
"""A function that FastAPI calls for a request; plain or async."""

Args = TypeVarTuple("Args")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The body of an answer that says why there is no other.

    Attributes:
        detail: A sentence for people.
    """

    detail: str


_UNAVAILABLE: Final[Responses] = {
    503: {
        "description": "It is not known now; ask again after `Retry-After` seconds.",
        "model": Refusal,
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    },
}

_NOT_ANSWERED: Final[Responses] = {
    404: {"description": "There is no such operation of the caller.", "model": Refusal},
    **_UNAVAILABLE,
}

_OF_CANCEL: Final[Responses] = {
    200: {"description": "It has ended.", "model": CancelRecord},
    202: {"description": "It has been asked to stop, now or before.", "model": CancelRecord},
    409: {"description": "Its worker is lost.", "model": CancelRecord},
    **_NOT_ANSWERED,
}


class OperationsRouter(APIRouter):
    """The routes that ``operations_router`` makes.

    Attributes:
        desk: What answers behind them.
        start: A dependency that gives an ``OperationStarter`` to an endpoint of yours, for
            callers who are authorised.
    """

    def __init__(
        self, desk: OperationDesk, authorize: Dependency, owner: Dependency, prefix: str
    ) -> None:
        """Make the routes; see ``operations_router``, which checks what it is given."""
        super().__init__(prefix=prefix, tags=["operations"])
        self.desk: OperationDesk = desk
        caller = _caller(authorize, owner)
        self.start: Dependency = self._make_start(caller)
        self._add_routes(caller)

    def _make_start(self, caller: Dependency) -> Dependency:
        async def start(request: Request, owner: Any = Depends(caller)) -> OperationStarter:
            return OperationStarter(self, request, owner)

        return start

    def _add_routes(self, caller: Dependency) -> None:
        @self.get("", response_model=OperationPage, responses=_UNAVAILABLE)
        async def list_operations(
            owner: Any = Depends(caller),
            state: OperationState | None = None,
            name: str | None = Query(None, max_length=200),
            after: str | None = Query(None, max_length=300),
            limit: int = Query(100, ge=1, le=1000),
        ) -> Response:
            """List the operations of the caller that are live, oldest first."""
            return await self.desk.list(owner, state=state, name=name, after=after, limit=limit)

        @self.get(
            "/{operation_id}",
            name=self.desk.name_of_get,
            summary="Get Operation",
            generate_unique_id_function=_id_of_get,
            response_model=OperationRecord,
            responses=_NOT_ANSWERED,
        )
        async def get_operation(operation_id: str, owner: Any = Depends(caller)) -> Response:
            """Tell how an operation of the caller stands, or how it ended."""
            return await self.desk.get(operation_id, owner)

        @self.delete("/{operation_id}", response_model=CancelRecord, responses=_OF_CANCEL)
        async def cancel_operation(
            operation_id: str,
            owner: Any = Depends(caller),
            wait: float = Query(0, ge=0, le=LONGEST_WAIT, description="seconds"),
        ) -> Response:
            """Ask an operation of the caller to stop, and wait a while for its end."""
            return await self.desk.cancel(operation_id, owner, wait)

        @self.get(
            "/{operation_id}/events",
            response_class=Response,
            responses={200: {"content": {"text/event-stream": {}}}, **_NOT_ANSWERED},
        )
        async def watch_operation(operation_id: str, owner: Any = Depends(caller)) -> Response:
            """Follow an operation of the caller: ``progress`` events, then one ``end``."""
            return await self.desk.watch(operation_id, owner)


class OperationStarter:
    """Start operations in the name of one caller; see ``OperationsRouter.start``."""

    def __init__(self, router: OperationsRouter, request: Request, owner: Owner) -> None:
        """Start in the name of the owner.

        Args:
            router: Where the operations can be looked at.
            request: The request of the caller.
            owner: What goes into the metadata of each operation.
        """
        self._router = router
        self._request = request
        self._owner = owner

    async def __call__(
        self,
        func: Callable[[*Args], object],
        *args: *Args,
        operation_id: str | None = None,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
        grace: float | timedelta | None = None,
    ) -> JSONResponse:
        """Return the answer 202, behind which the operation runs.

        Args:
            func: The function, as for ``cancelable_background``, like the others.
            args: Its arguments.
            operation_id: An id of your own, which nobody else can guess; made by default.
            name: A name for people.
            timeout: Seconds that it may run.
            metadata: Facts to go with it; the owner's go before them.
            grace: Seconds that it may run on after it was asked to stop.

        Returns:
            A response with the record of the operation and its address in ``Location``.

        Raises:
            HTTPException: With the status 409, if the id is the one of a live operation; with the
                status 503, if you chose the id and the bus cannot say.
            TypeError: If the function cannot be called, or a setting is of the wrong kind.
            ValueError: If a setting is not above zero, or the id is empty or too long, or cannot
                stand in an address: "." and "..", and what has a "/", a line break or a lone
                surrogate.
        """
        return await self._router.desk.start(
            self._request,
            self._owner,
            func,
            *args,
            operation_id=operation_id,
            name=name,
            timeout=timeout,
            metadata=metadata,
            grace=grace,
        )


def operations_router(
    *,
    authorize: Dependency,
    owner: Dependency | None,
    bus: CancelBus | None = None,
    prefix: str = "/operations",
) -> OperationsRouter:
    """Make the routes by which clients look at their operations and cancel them.

    ::

        operations = operations_router(authorize=signed_in, owner=owner_of_the_request)
        app.include_router(operations)

        @app.post("/reports", status_code=202)
        async def start_report(start: Annotated[OperationStarter, Depends(operations.start)]):
            return await start(make_report, "2026")

    ``GET /operations`` lists what is live, ``GET /operations/{id}`` tells how one stands or ended,
    ``DELETE /operations/{id}?wait=5`` asks it to stop and waits up to so many seconds, and
    ``GET /operations/{id}/events`` streams its progress. An operation of somebody else looks
    exactly like one that does not exist.

    Args:
        authorize: A dependency that raises an ``HTTPException`` for those who may not use these
            routes. It runs before anything else.
        owner: A dependency that returns what the metadata of a caller's operations contain, such
            as ``{"owner": user.id}``; never empty. None, which has to be said: whoever is
            authorised sees and cancels all operations.
        bus: Where operations are found; those of this process unless it is given. Enter a bus
            that serves several processes in the lifespan of the app.
        prefix: The path before the routes.

    Raises:
        TypeError: If one of the dependencies is missing, or is no function.
    """
    checked_dependency(authorize, "authorize")
    if owner is not None:
        checked_dependency(owner, "owner")
    desk = OperationDesk(InMemoryBus() if bus is None else bus)
    return OperationsRouter(desk, authorize, owner or everybody, prefix)


def _caller(authorize: Dependency, owner: Dependency) -> Dependency:
    """Make the dependency that gives the owner for whom an authorised caller asks."""

    async def authorized(answer: object = Depends(authorize)) -> None:
        await whole_answer(authorize, answer)

    # FastAPI resolves the dependencies in the order of the parameters: whom *authorize* refuses,
    # about him nothing is asked. Without the cache, since a coroutine is awaited once.
    async def caller(
        _authorized: object = Depends(authorized),
        answer: object = Depends(owner, use_cache=False),
    ) -> Owner:
        return checked_owner(await whole_answer(owner, answer))

    return caller


def _id_of_get(route: APIRoute) -> str:
    """Return the id in the OpenAPI document, without the number in the name of the route."""
    return re.sub(r"\W", "_", f"get_operation{route.path_format}_get")


async def everybody() -> Owner:
    """Let the caller see all operations."""
    return EVERYBODY


def checked_dependency(given: object, name: str) -> None:
    """Refuse what is no function.

    Raises:
        TypeError: If it is none.
    """
    if not callable(given):
        msg = (
            f"`{name}` must be a dependency (the function itself), not {given!r}; without one, "
            "anybody could look at and cancel the work of others"
        )
        raise TypeError(msg)
