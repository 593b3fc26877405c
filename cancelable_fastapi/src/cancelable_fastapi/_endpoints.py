"""The decorator of an endpoint whose cancelation is answered with the status of its reason."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import EllipsisType
from typing import Annotated, Literal, TypeAlias, TypeVar, cast, overload

from fastapi import Depends
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

import cancelable_starlette
from cancelable import CancelationReason
from cancelable_starlette import ResponseHook, get_request_operation

from ._callable import is_async, is_generator

AnyFunction: TypeAlias = Callable[..., object]
Endpoint = TypeVar("Endpoint", bound=AnyFunction)
OnDisconnect: TypeAlias = Literal["cancel", "continue"]
Until: TypeAlias = Literal["start", "end"]

OURS = "cancelation_request"
"""The parameter that a decorated endpoint has more than its function; it is no part of the API."""


@overload
def with_cancelation(endpoint: Endpoint, /) -> Endpoint: ...


@overload
def with_cancelation(
    *,
    timeout: float | timedelta | EllipsisType | None = ...,
    until: Until = ...,
    on_disconnect: OnDisconnect | None = ...,
    response_hook: ResponseHook | None = ...,
    statuses: Mapping[CancelationReason, int] | None = ...,
) -> Callable[[Endpoint], Endpoint]: ...


def with_cancelation(
    endpoint: Endpoint | None = None,
    /,
    *,
    timeout: float | timedelta | EllipsisType | None = ...,
    until: Until = "end",
    on_disconnect: OnDisconnect | None = None,
    response_hook: ResponseHook | None = None,
    statuses: Mapping[CancelationReason, int] | None = None,
) -> Endpoint | Callable[[Endpoint], Endpoint]:
    """Answer a cancelation of an endpoint with the status of its reason.

    ::

        @app.post("/process")
        @with_cancelation
        async def process(data: dict):
            async with Cancelable.with_timeout(30):
                return await long_operation(data)

    A timeout becomes a 504, a manual cancel a 499, a signal a 503, any other reason a 500. Put it
    below the decorator of the route, which registers what it is given. The endpoint keeps its
    parameters, its kind (``async def``, ``def``, generator) and its place in the OpenAPI document.

    Without the middleware, a function watches its own request until it has returned, and is
    cancelled when its client leaves. A generator is streamed: its response has begun when its
    first line runs, so there is no status left to choose. Its settings apply under the middleware
    or a ``CancelableAPIRoute``; where there is neither, a request for it fails and says so.

    Called by hand, in a unit test, the endpoint is the function that it was; a plain one has become
    an async one.

    Args:
        endpoint: The endpoint, where it is used without parentheses.
        timeout: Seconds from the start of the request; it replaces the middleware's. None: no
            timeout at all.
        until: Whether the timeout counts to the ``"start"`` or to the ``"end"`` of the response.
        on_disconnect: ``"cancel"`` or ``"continue"`` instead of what the middleware says.
        response_hook: Makes the response from the reason and the request; plain or async.
        statuses: The status of each reason; a missing one is a 500.

    Raises:
        TypeError: If the endpoint is no function, or one for WebSockets, or a setting is of the
            wrong kind.
        ValueError: If a setting is not above zero, or not among what can be chosen.
    """
    given_settings = (timeout, until, on_disconnect, response_hook, statuses)
    has_settings = given_settings != (..., "end", None, None, None)
    watch = cancelable_starlette.with_cancelation(
        timeout=timeout,
        until=until,
        on_disconnect=on_disconnect,
        response_hook=response_hook,
        statuses=statuses,
    )

    def decorate(endpoint: Endpoint) -> Endpoint:
        given: object = endpoint
        if not callable(given) or isinstance(given, type):
            msg = (
                "`with_cancelation` decorates a function, below the decorator of the route, "
                f"not {given!r}"
            )
            raise TypeError(msg)
        if _takes_websocket(given):
            raise _no_websockets(given)
        if is_generator(given):
            return cast(Endpoint, _decorated_generator(given, watch, has_settings))
        return cast(Endpoint, _decorated_function(given, watch))

    return decorate if endpoint is None else decorate(endpoint)


def _decorated_function(
    function: AnyFunction, watch: Callable[[AnyFunction], AnyFunction]
) -> AnyFunction:
    watched = cast(Callable[..., Awaitable[object]], watch(_without_ours(function)))

    @functools.wraps(function)
    async def endpoint(*args: object, **kwargs: object) -> object:
        if OURS in kwargs:
            return await watched(*args, **kwargs)
        return await _awaited(function(*args, **kwargs))

    async def request(connection: HTTPConnection) -> Request:
        if not isinstance(connection, Request):
            raise _no_websockets(function)
        return connection

    return _with_ours(endpoint, function, request)


def _decorated_generator(
    function: AnyFunction, watch: Callable[[AnyFunction], AnyFunction], has_settings: bool
) -> AnyFunction:
    # The settings are those of a function that does nothing: they outlast it.
    name = _name_of(function)
    apply_settings = cast(Callable[[Request], Awaitable[None]], watch(_nothing))

    async def settings(request: Request) -> None:
        if get_request_operation(request) is not None:
            await apply_settings(request)
        elif has_settings:
            msg = (
                f"the settings of `with_cancelation` on the generator {name!r} have "
                "no effect, since nothing watches its requests: add RequestCancelationMiddleware "
                "to the app, or set `route_class=CancelableAPIRoute`"
            )
            raise RuntimeError(msg)

    return _with_ours(_without_ours(function), function, settings)


async def _nothing(_request: Request) -> None:
    """Do nothing."""


def _takes_websocket(function: AnyFunction) -> bool:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except Exception:
        return False  # of what is wrong with it FastAPI tells; a connection is refused later
    kinds = (each.annotation for each in parameters)
    return any(isinstance(kind, type) and issubclass(kind, WebSocket) for kind in kinds)


def _no_websockets(function: AnyFunction) -> TypeError:
    return TypeError(
        f"`with_cancelation` is for HTTP, and {_name_of(function)!r} is an endpoint of WebSockets: "
        "add RequestCancelationMiddleware, which cancels it and closes its socket with the code "
        "of the reason, or wrap the socket in a CancelableWebSocket"
    )


def _without_ours(function: AnyFunction) -> AnyFunction:
    """Return *function* as one that is also called with our parameter."""
    if is_async(function):

        @functools.wraps(function)
        async def call_async(*args: object, **kwargs: object) -> object:
            kwargs.pop(OURS, None)
            return await _awaited(function(*args, **kwargs))

        return call_async

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        kwargs.pop(OURS, None)
        return function(*args, **kwargs)

    return call


async def _awaited(answer: object) -> object:
    return await cast(Awaitable[object], answer) if inspect.isawaitable(answer) else answer


def _with_ours(
    endpoint: AnyFunction, function: AnyFunction, dependency: AnyFunction
) -> AnyFunction:
    """Give *endpoint* the signature of *function*, and our parameter.

    What stands in annotations as text stays text: FastAPI finds the names where *function* is.
    """
    ours = inspect.Parameter(
        OURS, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[object, Depends(dependency)]
    )
    signature = _signature_of(function)
    parameters = list(signature.parameters.values())
    takes_any = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    parameters.insert(len(parameters) - takes_any, ours)
    endpoint.__dict__["__signature__"] = signature.replace(parameters=parameters)
    endpoint.__name__ = _name_of(function)
    return endpoint


def _signature_of(function: AnyFunction) -> inspect.Signature:
    if not hasattr(inspect.unwrap(function), "__globals__"):
        # Of an object or a partial FastAPI would not know where it is.
        with contextlib.suppress(NameError):  # of a name for type checkers
            return inspect.signature(function, eval_str=True)
    return inspect.signature(function)


def _name_of(function: AnyFunction) -> str:
    """Return the name of *function*, or of its type, as FastAPI names a route."""
    return getattr(function, "__name__", type(function).__name__)
