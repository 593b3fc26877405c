"""Routes by which clients look at their operations and cancel them, and the way to start some."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVarTuple, cast

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response

from cancelable import Cancelable
from cancelable.bus import (
    BusUnavailable,
    CancelBus,
    DuplicateOperation,
    InMemoryBus,
    OperationInfo,
    OperationState,
)
from cancelable_starlette import (
    CancelableBackgroundTask,
    cancelable_background,
    cancelable_streaming_response,
)

from ._records import (
    OperationPage,
    OperationRecord,
    answer_for,
    pending_info,
    unavailable,
    unknown,
)

logger = logging.getLogger("cancelable.fastapi")

Dependency: TypeAlias = Callable[..., object]
"""A function that FastAPI calls for a request; plain or async."""

Owner: TypeAlias = Mapping[str, object]
"""What the metadata of an operation must contain so that a caller may see it."""

Args = TypeVarTuple("Args")

LONGEST_WAIT = 60.0
"""Seconds that a client may wait for the end of what it cancels, in one request."""


class OperationsRouter(APIRouter):
    """The routes that ``operations_router`` makes.

    Attributes:
        bus: Where operations are found.
        name_of_get: The name of the route of one operation, for ``url_for``.
        start: A dependency that gives an ``OperationStarter`` to an endpoint of yours, for
            callers who are authorised.
    """

    def __init__(
        self, bus: CancelBus, authorize: Dependency, owner: Dependency, prefix: str
    ) -> None:
        """Make the routes; see ``operations_router``, which checks what it is given."""
        super().__init__(prefix=prefix, tags=["operations"])
        self.bus: CancelBus = bus
        # Of its own, since an app may have a router for its users and one for its operators.
        self.name_of_get: str = f"get_operation{prefix.replace('/', '_')}"
        self.start: Dependency = self._make_start(authorize, owner)
        self._add_routes(authorize, owner)

    def _make_start(self, authorize: Dependency, owner: Dependency) -> Dependency:
        # FastAPI resolves the dependencies in the order of the parameters: who is not authorised
        # is refused before anything is asked about him.
        async def start(
            request: Request,
            _authorized: object = Depends(authorize),
            owner: object = Depends(owner),
        ) -> OperationStarter:
            return OperationStarter(self, request, checked_owner(owner))

        return start

    def _add_routes(self, authorize: Dependency, owner: Dependency) -> None:
        async def caller(
            _authorized: object = Depends(authorize), owner: object = Depends(owner)
        ) -> Owner:
            return checked_owner(owner)

        @self.get("", response_model=OperationPage)
        async def list_operations(
            owner: Any = Depends(caller),
            state: OperationState | None = None,
            name: str | None = Query(None, max_length=200),
            after: str | None = Query(None, max_length=300),
            limit: int = Query(100, ge=1, le=1000),
        ) -> Response:
            """List the operations of the caller that are live, oldest first."""
            return await self._list(owner, state, name, after, limit)

        @self.get("/{operation_id}", name=self.name_of_get, response_model=OperationRecord)
        async def get_operation(operation_id: str, owner: Any = Depends(caller)) -> Response:
            """Tell how an operation of the caller stands, or how it ended."""
            return JSONResponse((await self._get(operation_id, owner)).to_json())

        @self.delete("/{operation_id}", response_model=OperationRecord)
        async def cancel_operation(
            operation_id: str,
            owner: Any = Depends(caller),
            wait: float = Query(0, ge=0, le=LONGEST_WAIT, description="seconds"),
        ) -> Response:
            """Ask an operation of the caller to stop, and wait a while for its end."""
            return await self._cancel(operation_id, owner, wait)

        @self.get(
            "/{operation_id}/events",
            response_class=Response,
            responses={200: {"content": {"text/event-stream": {}}}},
        )
        async def watch_operation(operation_id: str, owner: Any = Depends(caller)) -> Response:
            """Follow an operation of the caller: ``progress`` events, then one ``end``."""
            await self._get(operation_id, owner)
            return cancelable_streaming_response(
                self._events(operation_id, owner), headers={"Cache-Control": "no-store"}
            )

    # -- what the routes do --------------------------------------------------------------

    async def _list(
        self,
        owner: Owner,
        state: OperationState | None,
        name: str | None,
        after: str | None,
        limit: int,
    ) -> Response:
        try:
            page = await self.bus.list_operations(
                state, name, metadata=owner, after=after, limit=limit
            )
        except BusUnavailable:
            raise unavailable() from None
        except ValueError as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        records = [info.to_json() for info in page.operations]
        return JSONResponse({"operations": records, "after": page.after})

    async def _get(self, operation_id: str, owner: Owner) -> OperationInfo:
        try:
            info = await self.bus.get(operation_id, metadata=owner)
        except BusUnavailable:
            raise unavailable() from None
        except ValueError:
            raise unknown() from None  # what cannot be an id is not one
        if info is None:
            raise unknown()
        return info

    async def _cancel(self, operation_id: str, owner: Owner, wait: float) -> Response:
        try:
            result = await self.bus.cancel(operation_id, metadata=owner)
            info = result.operation
            if result and wait:
                info = await self.bus.wait_stopped(operation_id, wait, metadata=owner) or info
        except BusUnavailable:
            raise unavailable() from None
        except ValueError:
            raise unknown() from None
        return answer_for(result.outcome, info)

    async def _events(self, operation_id: str, owner: Owner) -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            watch = self.bus.watch(operation_id, metadata=owner)
            try:
                records = await stack.enter_async_context(watch)
            except (BusUnavailable, LookupError) as error:
                # The answer has begun. A client of events asks again when they end, and is then
                # told by the status.
                logger.info("events of operation %r end at once: %s", operation_id, error)
                return
            async for record in records:
                yield event(record)


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
            ValueError: If a setting is not above zero, or the id is empty or too long.
        """
        router = self._router
        with router.bus.registry.as_default():
            task: CancelableBackgroundTask = cancelable_background(
                func,
                *args,
                operation_id=operation_id,
                name=name,
                timeout=timeout,
                metadata={**(metadata or {}), **self._owner},
                grace=grace,
            )
        await self._announce(task.operation, is_chosen=operation_id is not None)
        address = self._request.url_for(router.name_of_get, operation_id=task.operation_id)
        return JSONResponse(
            pending_info(task.operation).to_json(),
            HTTPStatus.ACCEPTED,
            {"Location": address.path},
            background=task,
        )

    async def _announce(self, operation: Cancelable, *, is_chosen: bool) -> None:
        """Let the operation be found before its id is handed out.

        An id that was made here is nobody else's: where the bus is away, it is announced later.
        """
        try:
            is_known = await self._router.bus.announce(operation)
        except DuplicateOperation:
            detail = "an operation with this id is live"
            raise HTTPException(HTTPStatus.CONFLICT, detail) from None
        if is_chosen and not is_known:
            raise unavailable()


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
    if bus is not None and not isinstance(bus, CancelBus):
        msg = f"`bus` must be a CancelBus, not {bus!r}"
        raise TypeError(msg)
    return OperationsRouter(bus or InMemoryBus(), authorize, owner or everybody, prefix)


class _Everybody(dict[str, object]):
    """The owner of all operations: the filter that nothing has to match."""


async def everybody() -> Owner:
    """Let the caller see all operations."""
    return _Everybody()


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


def checked_owner(given: object) -> Owner:
    """Refuse an owner that would let a caller see what belongs to nobody, or to all.

    Raises:
        TypeError: If it is no mapping with a value for each of its keys.
    """
    if isinstance(given, _Everybody):
        return given
    if not isinstance(given, Mapping) or not given or None in given.values():
        msg = (
            "`owner` must return what the metadata of the caller's operations contain, such as "
            f"{{'owner': 'ann'}}, not {given!r}"
        )
        raise TypeError(msg)
    return cast(Owner, given)


def event(info: OperationInfo) -> str:
    """Return a record as a server-sent event."""
    is_end = info.is_terminal or info.state is OperationState.LOST
    kind = "end" if is_end else "progress"
    return f"event: {kind}\ndata: {json.dumps(info.to_json(), separators=(',', ':'))}\n\n"
