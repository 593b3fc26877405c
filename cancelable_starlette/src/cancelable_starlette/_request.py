"""The token and the operation of the current request."""

from __future__ import annotations

from typing import TypeAlias

from starlette.requests import HTTPConnection
from starlette.types import Scope

from cancelable import Cancelable, CancelationToken

from ._exchange import HTTPExchange
from ._keys import EXCHANGE_KEY, TOKEN_KEY
from ._socket import SocketExchange

Exchange: TypeAlias = HTTPExchange | SocketExchange
"""What watches a request or a WebSocket."""


def get_request_token(request: HTTPConnection) -> CancelationToken:
    """Return the token of a request: cancelled when its client leaves or its time is up.

    Cancelling it stops the request. Where nothing watches the request, it is a token that only
    its users cancel, the same one for all of them.

    Args:
        request: The request, or the WebSocket.
    """
    token: CancelationToken | None = request.scope.get(TOKEN_KEY)
    if token is None:
        token = request.scope[TOKEN_KEY] = CancelationToken()
    return token


def get_request_operation(request: HTTPConnection) -> Cancelable | None:
    """Return the operation of a running request, or None where nothing watches it.

    Args:
        request: The request, or the WebSocket.
    """
    exchange = exchange_of(request.scope)
    return None if exchange is None else exchange.operation


def exchange_of(scope: Scope) -> Exchange | None:
    """Return what watches the request or the WebSocket of *scope*, or None."""
    exchange: Exchange | None = scope.get(EXCHANGE_KEY)
    return exchange
