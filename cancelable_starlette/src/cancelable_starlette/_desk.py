"""What clients may know and do of the operations of a bus: each of their own."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from http import HTTPStatus
from typing import TypeAlias, TypeVarTuple, cast
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from cancelable import Cancelable
from cancelable.bus import (
    BusUnavailable,
    CancelBus,
    DuplicateOperation,
    OperationInfo,
    OperationState,
)

from ._background import unlisted_job
from ._records import answer_for, pending_info, unavailable, unknown
from ._responses import CancelableStreamingResponse, cancelable_streaming_response
from ._sse import ServerSentEvent

logger = logging.getLogger("cancelable.starlette")

Owner: TypeAlias = Mapping[str, object]
"""What the metadata of an operation must contain so that a caller may see it."""

Args = TypeVarTuple("Args")

_numbers = itertools.count(1)

UNQUOTED = "/%!$&'()*+,;=:@"
"""What stays as it is in a path whose last part has been quoted (RFC 3986, section 3.3)."""

LONGEST_WAIT = 60.0
"""Seconds that a client may wait for the end of what it cancels, in one request."""


class OperationDesk:
    """Answer clients who ask for operations, and start some for them.

    ``operations_routes`` puts routes before it; use it where your routes shall look otherwise.
    An operation of somebody else looks exactly like one that does not exist. Whether a caller
    may ask at all is yours to find out before.

    Attributes:
        bus: Where operations are found.
        name_of_get: The name that the route of one operation must have, with a parameter
            ``operation_id``: ``start`` looks its address up.
    """

    def __init__(self, bus: CancelBus) -> None:
        """Answer for the operations of a bus.

        Args:
            bus: The bus; enter one that serves several processes in the lifespan of the app.

        Raises:
            TypeError: If it is no bus.
        """
        if not isinstance(bus, CancelBus):
            msg = f"`bus` must be a CancelBus, not {bus!r}"
            raise TypeError(msg)
        self.bus = bus
        # Unlike that of every other desk of this process. Names of routes are looked up from the
        # outermost app on: two apps that are mounted in one would give each other's addresses.
        self.name_of_get: str = f"get_operation_{next(_numbers)}"

    async def list(
        self,
        owner: Owner,
        *,
        state: OperationState | None = None,
        name: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> JSONResponse:
        """List the operations of a caller that are live, oldest first.

        Args:
            owner: Whose; see ``checked_owner``, as for the others.
            state: Only those that stand there.
            name: Only those whose name matches.
            after: Where the page before ended.
            limit: At most so many, 1 to 1,000.

        Raises:
            HTTPException: With the status 503, if the bus cannot say; 422, for a bad *after*.
        """
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

    async def get(self, operation_id: str, owner: Owner) -> JSONResponse:
        """Tell how an operation of a caller stands, or how it ended.

        Args:
            operation_id: The id.
            owner: Whose.

        Raises:
            HTTPException: With the status 404, if there is none; 503, if the bus cannot say.
        """
        return JSONResponse((await self._find(operation_id, owner)).to_json())

    async def cancel(self, operation_id: str, owner: Owner, wait: float = 0) -> JSONResponse:
        """Ask an operation of a caller to stop, and wait a while for its end.

        Args:
            operation_id: The id.
            owner: Whose.
            wait: Seconds.

        Returns:
            202 where it has been asked, 200 where it has ended, 409 where its worker is lost.

        Raises:
            HTTPException: With the status 404, if there is none; 503, if the bus cannot say.
        """
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

    async def watch(self, operation_id: str, owner: Owner) -> CancelableStreamingResponse:
        """Stream what becomes of an operation: ``progress`` events, then one ``end``.

        Args:
            operation_id: The id.
            owner: Whose.

        Raises:
            HTTPException: With the status 404, if there is none; 503, if the bus cannot say.
        """
        await self._find(operation_id, owner)
        return cancelable_streaming_response(
            self._events(operation_id, owner), headers={"Cache-Control": "no-store"}
        )

    async def start(
        self,
        request: Request,
        owner: Owner,
        func: Callable[[*Args], object],
        *args: *Args,
        operation_id: str | None = None,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
        grace: float | timedelta | None = None,
    ) -> JSONResponse:
        """Return the answer 202, behind which an operation runs in the name of its owner.

        Args:
            request: The request of the caller.
            owner: Whose; that goes into the metadata, before all else.
            func: The function, as for ``cancelable_background``, like the others.
            args: Its arguments.
            operation_id: An id of your own, which nobody else can guess; made by default.
            name: A name for people.
            timeout: Seconds that it may run.
            metadata: Facts to go with it.
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
        task = unlisted_job(
            func,
            *args,
            operation_id=operation_id,
            name=name,
            timeout=timeout,
            metadata={**(metadata or {}), **owner},
            grace=grace,
        )
        # Before anybody knows of it: without an address the caller gets none of it.
        address = self._address_of(task.operation_id, request)
        # Not listed before it is announced: what is refused must be found by nobody.
        await self._announce(task.operation, is_chosen=operation_id is not None)
        self.bus.registry.register(task.operation)
        return JSONResponse(
            pending_info(task.operation).to_json(),
            HTTPStatus.ACCEPTED,
            {"Location": address},
            background=task,
        )

    def _address_of(self, operation_id: str, request: Request) -> str:
        """Return the path of an operation as a URL has it (RFC 3986, section 3.3).

        A quoted slash would be one again before any route sees it; mounts match no line break; and
        clients leave out the segments "." and "..".
        """
        if operation_id in (".", "..") or "/" in operation_id or "\n" in operation_id:
            msg = (
                "`operation_id` is a part of the operation's address, so it must have no '/' and "
                f"no line break, and be neither '.' nor '..': {operation_id!r}"
            )
            raise ValueError(msg)
        url = request.url_for(self.name_of_get, operation_id=quote(operation_id, safe=""))
        return quote(url.path, safe=UNQUOTED)

    async def _announce(self, operation: Cancelable, *, is_chosen: bool) -> None:
        """Let the operation be found before its id is handed out.

        An id that was made here is nobody else's: where the bus is away, it is announced later.
        """
        try:
            is_known = await self.bus.announce(operation)
        except DuplicateOperation:
            detail = "an operation with this id is live"
            raise HTTPException(HTTPStatus.CONFLICT, detail) from None
        if is_chosen and not is_known:
            raise unavailable()

    async def _find(self, operation_id: str, owner: Owner) -> OperationInfo:
        try:
            info = await self.bus.get(operation_id, metadata=owner)
        except BusUnavailable:
            raise unavailable() from None
        except ValueError:
            raise unknown() from None  # what cannot be an id is not one
        if info is None:
            raise unknown()
        return info

    async def _events(self, operation_id: str, owner: Owner) -> AsyncIterator[ServerSentEvent]:
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


def event(info: OperationInfo) -> ServerSentEvent:
    """Return a record as a server-sent event."""
    is_end = info.is_terminal or info.state is OperationState.LOST
    data = json.dumps(info.to_json(), separators=(",", ":"))
    return ServerSentEvent(event="end" if is_end else "progress", data=data)


class _Everybody(dict[str, object]):
    """The owner of all operations: the filter that nothing has to match."""


EVERYBODY: Owner = _Everybody()
"""The owner for those who may see and cancel the operations of all."""


def checked_owner(given: object) -> Owner:
    """Return an owner, and refuse one that would let a caller see what is nobody's, or all.

    Args:
        given: What the metadata of the caller's operations contain, or ``EVERYBODY``.

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
