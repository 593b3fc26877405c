"""Routes by which clients look at their operations and cancel them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import TypeAlias, TypeVarTuple

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cancelable.bus import CancelBus, InMemoryBus, OperationState

from ._callable import is_async
from ._desk import EVERYBODY, LONGEST_WAIT, OperationDesk, Owner, checked_owner
from ._whole_answer import whole_answer

Asker: TypeAlias = Callable[[Request], object]
"""Called with the request; plain (in a thread) or async."""

Args = TypeVarTuple("Args")


class OperationRoutes(list[Route]):
    """The routes that ``operations_routes`` makes, for the list of routes of an app or a mount.

    Attributes:
        desk: What answers behind them.
    """

    def __init__(
        self, desk: OperationDesk, authorize: Asker, owner: Asker | None, prefix: str
    ) -> None:
        """Make the routes; see ``operations_routes``, which checks what it is given."""
        self.desk = desk
        self._authorize = authorize
        self._owner = owner
        one = prefix + "/{operation_id}"
        super().__init__(
            [
                Route(prefix, self._answered(self._list), methods=["GET"]),
                Route(one, self._answered(self._get), methods=["GET"], name=desk.name_of_get),
                Route(one, self._answered(self._cancel), methods=["DELETE"]),
                Route(one + "/events", self._answered(self._watch), methods=["GET"]),
            ]
        )

    async def start(
        self,
        request: Request,
        func: Callable[[*Args], object],
        *args: *Args,
        operation_id: str | None = None,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
        grace: float | timedelta | None = None,
    ) -> Response:
        """Return the answer 202, behind which an operation runs in the name of the caller.

        Who is not authorised gets the answer that the authorisation raised, and starts nothing.

        Args:
            request: The request of the caller.
            func: The function, as for ``cancelable_background``, like the others.
            args: Its arguments.
            operation_id: An id of your own, which nobody else can guess; made by default. The
                answer is 409 if it is the one of a live operation.
            name: A name for people.
            timeout: Seconds that it may run.
            metadata: Facts to go with it; the owner's go before them.
            grace: Seconds that it may run on after it was asked to stop.

        Returns:
            A response with the record of the operation and its address in ``Location``.

        Raises:
            TypeError: If the function cannot be called, or a setting is of the wrong kind.
            ValueError: If a setting is not above zero, or the id is empty or too long, or cannot
                stand in an address: "." and "..", and what has a "/", a line break or a lone
                surrogate.
        """

        async def answer(request: Request, owner: Owner) -> Response:
            return await self.desk.start(
                request,
                owner,
                func,
                *args,
                operation_id=operation_id,
                name=name,
                timeout=timeout,
                metadata=metadata,
                grace=grace,
            )

        return await self._answered(answer)(request)

    def _answered(
        self, answer: Callable[[Request, Owner], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that asks who the caller is first, and answers in JSON."""

        async def endpoint(request: Request) -> Response:
            try:
                await _asked(self._authorize, request)
                owner = EVERYBODY if self._owner is None else await _asked(self._owner, request)
                return await answer(request, checked_owner(owner))
            except HTTPException as refused:
                detail = {"detail": refused.detail}
                return JSONResponse(detail, refused.status_code, refused.headers)

        return endpoint

    async def _list(self, request: Request, owner: Owner) -> Response:
        query = request.query_params
        state = query.get("state")
        if state is not None and state not in set(OperationState):
            raise _refused(f"`state` must be one of {', '.join(OperationState)}")
        return await self.desk.list(
            owner,
            state=None if state is None else OperationState(state),
            name=query.get("name"),
            after=query.get("after"),
            limit=int(_number(query.get("limit", "100"), "limit", 1, 1_000)),
        )

    async def _get(self, request: Request, owner: Owner) -> Response:
        return await self.desk.get(request.path_params["operation_id"], owner)

    async def _cancel(self, request: Request, owner: Owner) -> Response:
        wait = _number(request.query_params.get("wait", "0"), "wait", 0, LONGEST_WAIT)
        return await self.desk.cancel(request.path_params["operation_id"], owner, wait)

    async def _watch(self, request: Request, owner: Owner) -> Response:
        return await self.desk.watch(request.path_params["operation_id"], owner)


def operations_routes(
    *,
    authorize: Asker,
    owner: Asker | None,
    bus: CancelBus | None = None,
    prefix: str = "/operations",
) -> OperationRoutes:
    """Make the routes by which clients look at their operations and cancel them.

    ::

        operations = operations_routes(authorize=signed_in, owner=owner_of_the_request)

        async def start_report(request: Request) -> Response:
            return await operations.start(request, make_report, "2026")

        app = Starlette(routes=[Route("/reports", start_report, methods=["POST"]), *operations])

    ``GET /operations`` lists what is live, ``GET /operations/{id}`` tells how one stands or ended,
    ``DELETE /operations/{id}?wait=5`` asks it to stop and waits up to so many seconds, and
    ``GET /operations/{id}/events`` streams its progress. An operation of somebody else looks
    exactly like one that does not exist.

    Args:
        authorize: Raises an ``HTTPException`` for those who may not use these routes. It is
            called with the request before anything else.
        owner: Returns what the metadata of a caller's operations contain, such as
            ``{"owner": user.id}``; never empty. None, which has to be said: whoever is
            authorised sees and cancels all operations.
        bus: Where operations are found; those of this process unless it is given. Enter a bus
            that serves several processes in the lifespan of the app.
        prefix: The path before the routes.

    Raises:
        TypeError: If one of the functions is missing, or is none.
    """
    checked_asker(authorize, "authorize")
    if owner is not None:
        checked_asker(owner, "owner")
    desk = OperationDesk(InMemoryBus() if bus is None else bus)
    return OperationRoutes(desk, authorize, owner, prefix)


def checked_asker(given: object, name: str) -> None:
    """Refuse what is no function where one says who may ask, and for what.

    Args:
        given: The function.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is none.
    """
    if not callable(given):
        msg = (
            f"`{name}` must be a function of the request, not {given!r}; without one, anybody "
            "could look at and cancel the work of others"
        )
        raise TypeError(msg)


async def _asked(function: Asker, request: Request) -> object:
    """Return what a function said of a request, after all of it has run.

    Raises:
        TypeError: If nothing has been asked; see ``whole_answer``.
    """
    if is_async(function):
        answer = function(request)
    else:
        # In a tuple: Trio lets no coroutine out of a thread.
        (answer,) = await run_in_threadpool(lambda: (function(request),))
    return await whole_answer(function, answer)


def _number(text: str, name: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise _refused(f"`{name}` must be a number from {least:g} to {most:g}")
    return number


def _refused(detail: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
