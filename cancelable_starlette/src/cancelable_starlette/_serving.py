"""Serving requests that can be cancelled, under the middleware or alone."""

from __future__ import annotations

import math
from functools import partial

from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Receive, Scope, Send

from cancelable import CancelationError, CancelationReason

from ._deadline_header import seconds_from
from ._exchange import HTTPExchange
from ._keys import EXCHANGE_KEY
from ._policy import Policy
from ._raised import cancelation_in, is_of_a_leave
from ._request import Exchange
from ._socket import SocketExchange
from ._watched import CLIENT_LEFT, SHUTTING_DOWN
from ._watchers import WatcherService, watch_alone

WATCHED = ("http", "websocket")
"""The types of the scopes that are requests; any other passes."""


class Serving:
    """Serve requests and WebSockets, each under an operation that ends when its client leaves.

    The middleware is one, for all requests of an application. Where nothing watches a request, a
    route or a response makes one for itself.
    """

    _applies_to_all: bool = True

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        """Make what serves the requests of an application.

        Args:
            app: What handles them.
            policy: What was said about them.
        """
        self.app = app
        self._policy = policy
        # By the loop whose requests it watches.
        self._services: dict[object, WatcherService] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or pass on what is none."""
        # One function for all of it: each coroutine more would be a part of what a request costs.
        exchange: Exchange | None = scope.get(EXCHANGE_KEY)
        policy = self._policy
        service: WatcherService | None = None
        if exchange is None:
            kind = scope["type"]
            if kind not in WATCHED or not (self._applies_to_all or self._applies_to(scope)):
                await self._pass(scope, receive, send)
                return
            if kind == "http":
                exchange = HTTPExchange(scope, receive, send, policy)
            else:
                exchange = SocketExchange(scope, receive, send, policy)
            service = self._services.get(exchange.latent.native_loop)
            if service is None:
                # It comes here again, and is watched then. Here, and not into what a subclass or
                # somebody's patch has put around this function, which has been gone through once.
                again = partial(Serving.__call__, self, scope, receive, send)
                await watch_alone(exchange, again, policy.warn_after, policy.shutdown)
                return
        elif exchange.latent.began_at != math.inf:
            if self._applies_to(scope):
                self._add_to(exchange)
            await self.app(scope, receive, send)
            return
        latent = exchange.latent
        try:
            if service is not None:
                if not service.knows_server:
                    self._ask_server(service, send)
                service.enter(exchange)
            # What follows is ``async with`` without its two coroutines, for every request.
            if not latent.enter_at_once():
                await latent.__aenter__()
            try:
                if policy.shutdown is not None and policy.shutdown.token.cause is not None:
                    await _refuse(exchange)
                if policy.deadline_header is not None or isinstance(exchange, SocketExchange):
                    await _begin(exchange, scope, policy)
                try:
                    await self.app(scope, exchange.receive, exchange.send)
                except Exception as exc:
                    if not await end_as_cancelled(exchange, exc):
                        raise
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
            # For most that is all that there is to close, and takes no coroutine. It comes first:
            # behind an interrupt in these lines nobody goes on reading.
            exchange.is_over = True
            if exchange.reading_has_begun:
                await exchange.close()

    def _applies_to(self, scope: Scope) -> bool:
        """Return whether a request is to be watched; all are, as ``_applies_to_all`` says."""
        return True

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not watched."""
        await self.app(scope, receive, send)

    def _add_to(self, outer: Exchange) -> None:
        """Add to what serves a request already, around this one: nothing."""

    def _ask_server(self, service: WatcherService, send: Send) -> None:
        """Have the server tell of its end, at the first request of a loop that has a service."""
        raise NotImplementedError


async def _refuse(exchange: Exchange) -> None:
    """Cancel a request that comes when the server is shutting down."""
    await exchange.operation.cancel(CancelationReason.SIGNAL, SHUTTING_DOWN, grace=0)
    await checkpoint()


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


async def end_as_cancelled(exchange: Exchange, error: Exception) -> bool:
    """End the operation of a request as cancelled if that is what *error* says.

    An operation inside the request was cancelled and nobody handled its error, or a handler's
    read met the disconnect. Call it in the block of the operation.

    Args:
        exchange: The request.
        error: What the application raised.

    Returns:
        Whether it is. If it is not, raise it again: a frame that raises its own argument and is in
        the traceback of it is garbage that only the collector finds.
    """
    inner = cancelation_in(error)
    if inner is not None:
        reason, message = inner.reason, inner.message
    elif exchange.left and is_of_a_leave(error):
        reason, message = CancelationReason.DISCONNECT, CLIENT_LEFT
    else:
        return False
    await exchange.operation.cancel(reason, message, grace=0, because=inner)
    # No checkpoint: a task group of asyncio that has failed while it was cancelled cancels its task
    # once more, and the scope would not know that for its own.
    exchange.operation.check_cancelation_sync()
    return True
