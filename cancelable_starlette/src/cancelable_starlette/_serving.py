"""Serving one HTTP request that can be cancelled, under the middleware or alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from anyio.lowlevel import checkpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from cancelable import CancelationError, CancelationReason, StatusCallback

from ._answers import Answers
from ._deadline_header import seconds_from
from ._exchange import HTTPExchange, cancelation_in, unwrapped
from ._operation import RequestOperation
from ._overrun import WARN_AFTER
from ._read_ahead import ReadAhead
from ._request import EXCHANGE_KEY, TOKEN_KEY, Exchange
from ._settings import OnDisconnect
from ._shutdown import Shutdown
from ._socket import SocketExchange
from ._status import CLOSE_CODES
from ._watched import CLIENT_LEFT, SHUTTING_DOWN
from ._watchers import WatcherService, watch_alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold what was said about requests and WebSockets; all of it has been checked."""

    timeout: float = math.inf
    """Seconds to the start of the response."""
    on_disconnect: OnDisconnect = "cancel"
    grace: float = 0.0
    send_timeout: float = math.inf
    deadline_header: bytes | None = None
    answers: Answers = field(default_factory=Answers)
    on_cancel: StatusCallback | None = None
    read_ahead: ReadAhead = field(default_factory=ReadAhead)
    close_codes: Mapping[CancelationReason, int] = field(default_factory=lambda: CLOSE_CODES)
    shutdown: Shutdown | None = None
    socket_idle_timeout: float = math.inf
    warn_after: float = WARN_AFTER


async def serve_alone(app: ASGIApp, exchange: Exchange, scope: Scope, settings: Settings) -> None:
    """Run *app* for a request or a WebSocket that watches itself; see ``serve``."""
    run = partial(serve, app, exchange, scope, settings, None)
    await watch_alone(exchange, run, settings.warn_after, settings.shutdown)


async def serve(
    app: ASGIApp,
    exchange: Exchange,
    scope: Scope,
    settings: Settings,
    service: WatcherService | None,
) -> None:
    """Run *app* for a request or a WebSocket that is cancelled when its client leaves.

    Args:
        app: What handles the request.
        exchange: What ``open_exchange`` made of the scope.
        scope: The scope of the request.
        settings: What was said about it.
        service: Who watches it from now on; None if somebody does already.
    """
    latent = exchange.latent
    try:
        if service is not None:
            service.enter(exchange)
        # What follows is ``async with`` without its two coroutines, for every request.
        if not latent.enter_at_once():
            await latent.__aenter__()
        try:
            if settings.shutdown is not None and settings.shutdown.token.cause is not None:
                await exchange.operation.cancel(CancelationReason.SIGNAL, SHUTTING_DOWN, grace=0)
                await checkpoint()
            if isinstance(exchange, SocketExchange):
                exchange.watch()
            elif settings.deadline_header is not None:
                await _heed_deadline(exchange, scope, settings.deadline_header)
            try:
                await app(scope, exchange.receive, exchange.send)
            except Exception as exc:
                await end_as_cancelled(exchange, exc)
        except BaseException as exc:
            await latent.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        if not latent.leave_at_once():
            await latent.__aexit__(None, None, None)
        if isinstance(exchange, SocketExchange):
            await _end_if_told(exchange, scope)
        elif exchange.left:
            await exchange.end_after_client(scope)
    except CancelationError as error:
        await exchange.answer(scope, error)
    finally:
        if service is not None:
            service.leave(exchange)
        # The scope outlives the request in the hands of others; the exchange knows the server's
        # callables, which know the scope.
        del scope[EXCHANGE_KEY]
        if exchange.stop():
            await exchange.close()


def open_exchange(scope: Scope, receive: Receive, send: Send, settings: Settings) -> Exchange:
    """Make what watches a request or a WebSocket.

    Args:
        scope: A scope that nothing watches yet; it gets the token and the exchange.
        receive: The server's.
        send: The server's.
        settings: What was said about it.
    """
    begin = open_request if scope["type"] == "http" else open_socket
    return begin(scope, receive, send, settings)


def open_request(scope: Scope, receive: Receive, send: Send, settings: Settings) -> HTTPExchange:
    """Make the exchange of a request; see ``open_exchange``."""
    latent = RequestOperation(scope, settings.timeout, settings.grace, settings.on_cancel)
    exchange = HTTPExchange(scope, receive, send, latent, settings.read_ahead, settings.answers)
    if settings.on_disconnect == "continue":
        exchange.on_disconnect = "continue"
        exchange.hides_disconnect = True
    if settings.send_timeout != math.inf:
        exchange.limit_sends(settings.send_timeout)
    # In place, so that middlewares around this one can ask for the reason.
    scope[TOKEN_KEY] = latent.token
    scope[EXCHANGE_KEY] = exchange
    return exchange


def open_socket(scope: Scope, receive: Receive, send: Send, settings: Settings) -> SocketExchange:
    """Make the exchange of a WebSocket; see ``open_exchange``. The timeout is for requests."""
    latent = RequestOperation(scope, math.inf, settings.grace, settings.on_cancel)
    exchange = SocketExchange(
        scope,
        receive,
        send,
        latent,
        settings.read_ahead,
        settings.answers,
        settings.close_codes,
    )
    exchange.on_disconnect = settings.on_disconnect
    if settings.socket_idle_timeout != math.inf:
        exchange.set_idle_timeout(settings.socket_idle_timeout)
    scope[TOKEN_KEY] = latent.token
    scope[EXCHANGE_KEY] = exchange
    return exchange


async def _end_if_told(exchange: SocketExchange, scope: Scope) -> None:
    """Close a socket whose handler was told to stop and returned by itself."""
    operation = exchange.latent.known_operation
    reason = None if operation is None else operation.cancel_reason
    if reason is not None:
        await exchange.end(scope, reason)


async def _heed_deadline(exchange: HTTPExchange, scope: Scope, header: bytes) -> None:
    seconds = seconds_from(scope["headers"], header)
    if seconds is not None:
        exchange.cap_timeout(seconds)
        if seconds <= 0:
            await exchange.operation.check_cancelation()


async def end_as_cancelled(exchange: Exchange, error: Exception) -> None:
    """End the operation of a request as cancelled if that is what *error* says.

    An operation inside the request was cancelled and nobody handled its error, or a handler's
    read met the disconnect. Call it in the block of the operation.

    Args:
        exchange: The request.
        error: What the application raised; anything else is raised again.
    """
    inner = cancelation_in(error)
    if inner is not None:
        reason, message = inner.reason, inner.message
    elif exchange.left and isinstance(unwrapped(error), (ClientDisconnect, WebSocketDisconnect)):
        reason, message = CancelationReason.DISCONNECT, CLIENT_LEFT
    else:
        raise error
    await exchange.operation.cancel(reason, message, grace=0, because=inner)
    await checkpoint()
