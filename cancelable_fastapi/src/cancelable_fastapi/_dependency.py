"""The Cancelable and the token of a request, as FastAPI's dependencies."""

from __future__ import annotations

import functools
import logging
from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from cancelable import Cancelable, CancelationToken, current_operation
from cancelable_starlette import get_request_operation, get_request_token

from ._disconnect import DisconnectSource

logger = logging.getLogger("cancelable.fastapi")


async def _as_fastapi_sees_it(request: HTTPConnection) -> Cancelable:
    """Make the Cancelable of a request."""
    return cancelable_dependency(request)


# FastAPI looks through the wrapper: at a coroutine function, which it calls without a thread and
# awaits (a Cancelable can be awaited and gives itself), and at a signature without the timeout,
# which it would take for a query parameter, for clients to set.
@functools.wraps(_as_fastapi_sees_it, assigned=())
def cancelable_dependency(
    request: HTTPConnection | None = None, timeout: float | timedelta | None = None
) -> Cancelable:
    """Make the Cancelable of a request: enter it, and it stops when the client leaves.

    ::

        @app.get("/report")
        async def report(cancel: Cancelable = Depends(cancelable_dependency)):
            async with cancel:
                return await make_report()

    For a timeout, call it in a dependency of your own. Under the middleware the Cancelable becomes
    a child of the request's operation. Without it, the Cancelable watches its request itself from
    ``async with`` to the end of the block, once the body has been read, and no longer than until
    the endpoint has returned; for that it has to be given the request, before then.

    It may be entered in the endpoint or in the body of a streamed response, once. Awaiting the
    result gives the result.

    Args:
        request: The request, or the WebSocket; FastAPI gives it to ``Depends``.
        timeout: Seconds that the block may take; zero or less stops it at its first checkpoint,
            None and infinity mean no limit. A client has no way to set it.

    Raises:
        TypeError: If the request or the timeout is of the wrong kind.
        ValueError: If the timeout is NaN.
    """
    if request is None:
        if current_operation() is None:
            _say_that_nobody_watches()
        return Cancelable.with_timeout(timeout)
    if not isinstance(request, HTTPConnection):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = (
            f"`request` must be a Request or a WebSocket, not {request!r}; "
            "a timeout is given by name, as in `cancelable_dependency(timeout=30)`"
        )
        raise TypeError(msg)
    name = getattr(request.scope.get("endpoint"), "__name__", None)
    cancel = Cancelable.with_timeout(timeout, name=name)
    if get_request_operation(request) is None:
        cancel.add_token(get_request_token(request))
        if isinstance(request, Request):
            cancel.add_source(DisconnectSource(request))
    return cancel


@functools.cache
def _say_that_nobody_watches() -> None:
    logger.info(
        "cancelable_dependency() was called without a request and outside of the middleware: "
        "it gives the timeout and cannot notice that a client leaves. Add "
        "RequestCancelationMiddleware, or pass the request on"
    )


async def _token_of(request: HTTPConnection) -> CancelationToken:
    return get_request_token(request)


CancelableDep = Annotated[Cancelable, Depends(cancelable_dependency)]
"""The Cancelable of the request: ``async def endpoint(cancel: CancelableDep)``."""

TokenDep = Annotated[CancelationToken, Depends(_token_of)]
"""The token of the request, cancelled with it: ``async def endpoint(token: TokenDep)``."""
