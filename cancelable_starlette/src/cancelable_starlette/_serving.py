"""Serving one HTTP request that can be cancelled, under the middleware or alone."""

from __future__ import annotations

from functools import partial

from anyio.lowlevel import checkpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from cancelable import CancelationError, CancelationReason

from ._deadline_header import seconds_from
from ._exchange import HTTPExchange, cancelation_in, unwrapped
from ._keys import EXCHANGE_KEY
from ._policy import Policy
from ._request import Exchange
from ._socket import SocketExchange
from ._watched import CLIENT_LEFT, SHUTTING_DOWN
from ._watchers import WatcherService, watch_alone


async def serve_alone(app: ASGIApp, exchange: Exchange, scope: Scope, policy: Policy) -> None:
    """Run *app* for a request or a WebSocket that watches itself; see ``serve``."""
    run = partial(serve, app, exchange, scope, policy, None)
    await watch_alone(exchange, run, policy.warn_after, policy.shutdown)


async def serve(
    app: ASGIApp,
    exchange: Exchange,
    scope: Scope,
    policy: Policy,
    service: WatcherService | None,
) -> None:
    """Run *app* for a request or a WebSocket that is cancelled when its client leaves.

    Args:
        app: What handles the request.
        exchange: What ``open_exchange`` made of the scope.
        scope: The scope of the request.
        policy: What was said about it.
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
            if policy.shutdown is not None and policy.shutdown.token.cause is not None:
                await exchange.operation.cancel(CancelationReason.SIGNAL, SHUTTING_DOWN, grace=0)
                await checkpoint()
            if exchange.is_watched_at_once or policy.deadline_header is not None:
                await _begin(exchange, scope, policy)
            try:
                await app(scope, exchange.receive, exchange.send)
            except Exception as exc:
                await end_as_cancelled(exchange, exc)
        except BaseException as exc:
            await latent.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        ended_at_once = latent.leave_at_once()
        if not ended_at_once:
            await latent.__aexit__(None, None, None)
        if exchange.left or not ended_at_once:
            await exchange.end_after_handler(scope)
    except CancelationError as error:
        await exchange.answer(scope, error)
    finally:
        if service is not None:
            service.leave(exchange)
        # The scope outlives the request in the hands of others; the exchange knows the server's
        # callables, which know the scope.
        del scope[EXCHANGE_KEY]
        exchange.is_over = True
        if exchange.reading_has_begun:
            await exchange.close()


def open_exchange(scope: Scope, receive: Receive, send: Send, policy: Policy) -> Exchange:
    """Make what watches a request or a WebSocket.

    Args:
        scope: A scope that nothing watches yet; it gets the token and the exchange.
        receive: The server's.
        send: The server's.
        policy: What was said about it.
    """
    if scope["type"] == "http":
        return HTTPExchange(scope, receive, send, policy)
    return SocketExchange(scope, receive, send, policy)


async def _begin(exchange: Exchange, scope: Scope, policy: Policy) -> None:
    """Watch a WebSocket, or heed the deadline that a request says, before the handler is called."""
    if isinstance(exchange, SocketExchange):
        exchange.watch()
    elif policy.deadline_header is not None:
        seconds = seconds_from(scope["headers"], policy.deadline_header)
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
