"""Serving one HTTP request that can be cancelled, under the middleware or alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from anyio.lowlevel import checkpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    OperationRegistry,
    StatusCallback,
)

from ._answers import Answers
from ._deadline_header import seconds_from
from ._exchange import CLIENT_LEFT, HTTPExchange, cancelation_in
from ._read_ahead import ReadAhead
from ._request import EXCHANGE_KEY, TOKEN_KEY
from ._settings import OnDisconnect
from ._watchers import WatcherService, watch_alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold what was said about requests; all of it has been checked."""

    timeout: float = math.inf
    """Seconds to the start of the response."""
    on_disconnect: OnDisconnect = "cancel"
    grace: float = 0.0
    send_timeout: float = math.inf
    deadline_header: bytes | None = None
    answers: Answers = field(default_factory=Answers)
    on_cancel: StatusCallback | None = None
    read_ahead: ReadAhead = field(default_factory=ReadAhead)


async def serve(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    settings: Settings,
    service: WatcherService | None = None,
) -> None:
    """Run *app* for a request that is cancelled when its client leaves or its time is up.

    Args:
        app: What handles the request.
        scope: The scope of a request that nothing watches yet.
        receive: The server's.
        send: The server's.
        settings: What was said about it.
        service: Who watches it; None: it watches itself.
    """
    exchange = open_exchange(scope, receive, send, settings)
    try:
        if service is None:
            await watch_alone(exchange, partial(_run, app, exchange, scope, settings))
        else:
            service.enter(exchange)
            await _run(app, exchange, scope, settings)
    finally:
        if service is not None:
            service.leave(exchange)
        await exchange.close()
        # The scope outlives the request in the hands of others; the exchange knows the server's
        # callables, which know the scope.
        del scope[EXCHANGE_KEY]


def open_exchange(scope: Scope, receive: Receive, send: Send, settings: Settings) -> HTTPExchange:
    """Make the exchange of a request, and its operation as it is listed.

    Args:
        scope: The scope, which gets the token and the exchange.
        receive: The server's.
        send: The server's.
        settings: What was said about it.
    """
    operation = Cancelable.with_timeout(
        settings.timeout,
        name=_name(scope),
        metadata=_facts(scope),
        grace=settings.grace or None,
    )
    if settings.on_cancel is not None:
        operation.on_cancel(settings.on_cancel)
    OperationRegistry.current().register(operation, keep_completed=False)
    exchange = HTTPExchange(scope, receive, send, operation, settings.read_ahead)
    if settings.on_disconnect == "continue":
        exchange.on_disconnect = "continue"
        exchange.hides_disconnect = True
    exchange.answers = settings.answers
    if settings.send_timeout != math.inf:
        exchange.send_timeout = settings.send_timeout
    # In place, so that middlewares around this one can ask for the reason.
    scope[TOKEN_KEY] = operation.token
    scope[EXCHANGE_KEY] = exchange
    return exchange


def _name(scope: Scope) -> str:
    """Return method and path, never the query string, fit for one line of a log."""
    path: str = scope["path"]
    if not path.isprintable():
        path = path.encode("unicode_escape").decode()
    return f"{scope['method']} {path}"


def _facts(scope: Scope) -> dict[str, object]:
    client = scope.get("client")
    return {
        "method": scope["method"],
        "path": scope["path"],
        "client": None if client is None else client[0],
    }


async def _run(app: ASGIApp, exchange: HTTPExchange, scope: Scope, settings: Settings) -> None:
    """Run the application in the operation of the request, and answer if that is cut."""
    try:
        async with exchange.operation:
            if settings.deadline_header is not None:
                await _heed_deadline(exchange, scope, settings.deadline_header)
            try:
                await app(scope, exchange.receive, exchange.send)
            except Exception as exc:
                await end_as_cancelled(exchange, exc)
    except CancelationError as error:
        await exchange.answer(scope, error)


async def _heed_deadline(exchange: HTTPExchange, scope: Scope, header: bytes) -> None:
    seconds = seconds_from(scope["headers"], header)
    if seconds is not None:
        exchange.cap_timeout(seconds)
        if seconds <= 0:
            await exchange.operation.check_cancelation()


async def end_as_cancelled(exchange: HTTPExchange, error: Exception) -> None:
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
    elif exchange.left and _is_client_disconnect(error):
        reason, message = CancelationReason.DISCONNECT, CLIENT_LEFT
    else:
        raise error
    await exchange.operation.cancel(reason, message, grace=0)
    await checkpoint()


def _is_client_disconnect(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ClientDisconnect):
            return True
        error = error.__cause__
    return False
