"""Settings of one endpoint, and the decorator that gives them to it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from types import EllipsisType
from typing import TypeVar, cast, overload

from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import CancelationError, CancelationReason

from ._answers import Answers, ResponseHook
from ._callable import is_async, made_async
from ._exchange import HTTPExchange
from ._keys import EXCHANGE_KEY
from ._overrun import WARN_AFTER
from ._policy import Policy
from ._raised import cancelation_in
from ._request import Exchange, exchange_of
from ._serving import Serving, end_as_cancelled
from ._settings import (
    OnDisconnect,
    Until,
    close_codes_of,
    duration,
    function,
    one_of,
    statuses_of,
)
from ._socket import SocketExchange
from ._status import CLIENT_CLOSED_REQUEST, STATUSES
from ._watchers import watch_alone

SETTINGS = "_cancelation_settings"
"""Where a decorated class holds its settings, and those that it inherits."""

IS_WATCHED = "_cancelation_is_on"
"""What an object of such a class has once its settings are applied."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])
Result = TypeVar("Result")


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

    It works on functions, plain and async, on ``HTTPEndpoint`` classes and on their methods, with
    and without parentheses. Without the middleware, the endpoint watches its own request until it
    has returned; a class or a ``CancelableRoute`` does so until the end of the response.

    Args:
        endpoint: The endpoint, where it is used without parentheses.
        timeout: Seconds from the start of the request; it replaces the middleware's. None: no
            timeout at all.
        until: Whether the timeout counts to the ``"start"`` or to the ``"end"`` of the response.
        on_disconnect: ``"cancel"`` or ``"continue"`` instead of what the middleware says.
        response_hook: Makes the response from the reason and the request; plain or async.
        statuses: The status of each reason; a missing one is a 500.

    Raises:
        TypeError: If the endpoint cannot be called, or a setting is of the wrong kind.
        ValueError: If a setting is not above zero, or not among what can be chosen.
    """
    settings = EndpointSettings.checked(timeout, until, on_disconnect, response_hook, statuses)

    def decorate(endpoint: Endpoint) -> Endpoint:
        given: object = endpoint
        if isinstance(given, type):
            if issubclass(given, HTTPEndpoint):
                return cast(Endpoint, _decorated_class(given, settings))
        elif callable(given) and not isinstance(given, BaseRoute):
            return cast(Endpoint, _decorated_function(given, settings))
        msg = (
            "`with_cancelation` decorates a function or an HTTPEndpoint, below the decorator "
            f"of the route, not {given!r}"
        )
        raise TypeError(msg)

    return decorate if endpoint is None else decorate(endpoint)


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Hold what was said about one endpoint; None where nothing was."""

    timeout: float | None
    until: Until
    on_disconnect: OnDisconnect | None
    answers: Answers | None
    close_codes: Mapping[CancelationReason, int] | None = None
    idle_timeout: float | None = None

    @classmethod
    def checked(
        cls,
        timeout: float | timedelta | EllipsisType | None,
        until: Until,
        on_disconnect: OnDisconnect | None,
        response_hook: ResponseHook | None,
        statuses: Mapping[CancelationReason, int] | None,
        close_codes: Mapping[CancelationReason, int] | None = None,
        idle_timeout: float | timedelta | EllipsisType | None = ...,
    ) -> EndpointSettings:
        """Return the settings, or refuse them; see ``with_cancelation``."""
        one_of(until, "until", ("start", "end"))
        if on_disconnect is not None:
            one_of(on_disconnect, "on_disconnect", ("cancel", "continue"))
        function(response_hook, "response_hook")
        answers = None
        if response_hook is not None or statuses is not None:
            table = STATUSES if statuses is None else statuses_of(statuses, "statuses")
            answers = Answers(table, response_hook)
        if close_codes is not None:
            close_codes = close_codes_of(close_codes, "close_codes")
        seconds = None if timeout is ... else duration(timeout, "timeout")
        idle = None if idle_timeout is ... else duration(idle_timeout, "idle_timeout")
        return cls(seconds, until, on_disconnect, answers, close_codes, idle)

    def or_else(self, farther: EndpointSettings) -> EndpointSettings:
        """Return these settings, and for what they leave open those of *farther*.

        Args:
            farther: What was said at a place that is farther from the endpoint.
        """
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.timeout is None:
            del said["until"]  # which says nothing by itself
        return replace(farther, **{name: it for name, it in said.items() if it is not None})

    async def apply_to(self, exchange: Exchange) -> None:
        """Change what the middleware said about a request.

        Args:
            exchange: The request.
        """
        if self.answers is not None:
            exchange.answers = self.answers
        if self.close_codes is not None and isinstance(exchange, SocketExchange):
            exchange.close_codes = self.close_codes
        if self.idle_timeout is not None and isinstance(exchange, SocketExchange):
            exchange.set_idle_timeout(self.idle_timeout)
        if self.on_disconnect is not None:
            await exchange.follow(self.on_disconnect)
        if self.timeout is not None:
            exchange.set_timeout(self.timeout, self.until)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run *app*, from the call to the end of the response, with these settings.

        Args:
            app: What answers the request.
            scope: The scope of the request.
            receive: The ``receive()`` of whoever calls.
            send: The ``send()`` of whoever calls.
        """
        exchange = exchange_of(scope)
        if exchange is None:
            app = functools.partial(self._serve_in, app)
            await Serving(app, Policy())(scope, receive, send)
        else:
            await self._serve_in(app, scope, receive, send)

    async def _serve_in(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        if exchange is None:  # neither a request nor a WebSocket
            await app(scope, receive, send)
            return
        await self.apply_to(exchange)
        try:
            await app(scope, receive, send)
        except Exception as exc:
            # Answered here, where no exception handler of the application has seen it yet.
            error = cancelation_in(exc)
            if error is None or exchange.started:
                raise
            await exchange.answer(scope, error)

    async def call(
        self, request: Request, function: Callable[[], Awaitable[Result]]
    ) -> Result | Response:
        """Call an endpoint's function for a request, and answer if it is cancelled.

        Args:
            request: The request.
            function: The function, with its arguments.

        Returns:
            What the function returned, or the response that says why it was cancelled.
        """
        exchange = exchange_of(request.scope)
        if exchange is None:
            return await self._call_alone(request, function)
        await self.apply_to(exchange)
        try:
            return await function()
        except Exception as exc:
            error = cancelation_in(exc)
            if error is None:
                raise
            return await exchange.answers.make(error.reason, request)

    async def _call_alone(
        self, request: Request, function: Callable[[], Awaitable[Result]]
    ) -> Result | Response:
        scope = request.scope
        exchange = HTTPExchange(scope, request.receive, _no_send, Policy())
        # The function reads through its request, which therefore has to read through us.
        request._receive = exchange.receive  # pyright: ignore[reportPrivateUsage]
        results: list[Result | Response] = []

        async def call() -> None:
            try:
                async with exchange.latent:
                    await self.apply_to(exchange)
                    try:
                        results.append(await function())
                    except Exception as exc:
                        if not await end_as_cancelled(exchange, exc):
                            raise
            except CancelationError as error:
                results.append(await _response_to(error, exchange, request))
            finally:
                del scope[EXCHANGE_KEY]
                await exchange.close()

        await watch_alone(exchange, call, WARN_AFTER)
        result = results[-1]
        if exchange.has_messages and _may_read(result):
            return cast(Result, _reading_on(cast(ASGIApp, result), exchange))
        return result


async def _response_to(
    error: CancelationError, exchange: HTTPExchange, request: Request
) -> Response:
    if exchange.left:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await exchange.answers.make(error.reason, request)


def _may_read(result: object) -> bool:
    """Return whether a result is an application of its own, which may read the request's body.

    The responses that Starlette knows read no body; at most they wait for the disconnect.
    """
    return not isinstance(result, Response) and callable(result) and is_async(result)


def _reading_on(app: ASGIApp, exchange: HTTPExchange) -> ASGIApp:
    """Return *app* as one that first reads what was read ahead of the function before it.

    Args:
        app: What a function returned as its response.
        exchange: What watched the function; it has ended.
    """
    exchange.hides_disconnect = False  # that was for the function

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        async def read_on() -> Message:
            if exchange.has_messages or exchange.left:
                return await exchange.receive()
            return await receive()

        await app(scope, read_on, send)

    return respond


async def _no_send(_message: object) -> None:
    """Send nothing: the response of a function goes out after it has returned."""


def _decorated_function(
    function: Callable[..., object], settings: EndpointSettings
) -> Callable[..., Awaitable[object]]:
    call = made_async(function)

    @functools.wraps(function)
    async def endpoint(*args: object, **kwargs: object) -> object:
        request = _request_among(args, kwargs, function)
        return await settings.call(request, functools.partial(call, *args, **kwargs))

    # As a route is named whose endpoint has no name of its own.
    endpoint.__name__ = getattr(function, "__name__", type(function).__name__)
    return endpoint


def _request_among(
    args: tuple[object, ...], kwargs: dict[str, object], function: Callable[..., object]
) -> Request:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Request):
            return cast(Request, value)
    msg = f"`with_cancelation` needs the Request, and {function!r} was called without one"
    raise TypeError(msg)


def _decorated_class(
    endpoint: type[HTTPEndpoint], settings: EndpointSettings
) -> type[HTTPEndpoint]:
    # The closest to the endpoint counts: a class before those that it inherits from, and of several
    # decorators of one class the lowest. What it leaves open is as the next one says.
    known: EndpointSettings | None = getattr(endpoint, SETTINGS, None)
    if known is not None:
        is_lower = SETTINGS in vars(endpoint)
        settings = known.or_else(settings) if is_lower else settings.or_else(known)
    setattr(endpoint, SETTINGS, settings)
    dispatch = endpoint.dispatch

    @functools.wraps(dispatch)
    async def watched(self: HTTPEndpoint) -> None:
        if IS_WATCHED in vars(self):
            await dispatch(self)  # for a class or a decorator that has applied these as well
            return

        async def app(_scope: Scope, receive: Receive, send: Send) -> None:
            self.receive, self.send = receive, send
            await dispatch(self)

        setattr(self, IS_WATCHED, True)
        all_settings: EndpointSettings = getattr(self, SETTINGS)
        await all_settings.serve(app, self.scope, self.receive, self.send)

    endpoint.dispatch = watched  # type: ignore[method-assign]
    return endpoint
