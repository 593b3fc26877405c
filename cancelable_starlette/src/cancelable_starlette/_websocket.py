"""A WebSocket in the block of an operation."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from cancelable import Cancelable, CancelationReason, OperationContext

from ._request import exchange_of
from ._socket import SocketExchange
from ._status import CLOSE_CODES, close_code_for

logger = logging.getLogger("cancelable.starlette")

Mode: TypeAlias = Literal["text", "binary"]

T = TypeVar("T")


class CancelableWebSocket:
    """Send and receive in the block of an operation, and close the socket when that is cancelled.

    Each call passes a checkpoint of the operation first, and what waits is cancelled with the
    block. When the block ends as cancelled, the socket is closed with the code of the reason, also
    where no middleware does that; the middleware's or the route's ``close_codes=`` count here, too.
    Use it in the block of the operation::

        async with Cancelable.with_timeout(300) as cancel:
            socket = CancelableWebSocket(websocket, cancel)
            async for text in socket.iter_text():
                await socket.send_text(text)

    Under the middleware, or on a ``CancelableWebSocketRoute``, a cancelled receive loses no
    message. Elsewhere it is the server's own that is cancelled, and some servers lose what comes
    in that moment.

    Attributes:
        websocket: The socket.
        cancelable: The operation.
    """

    def __init__(self, websocket: WebSocket, cancelable: Cancelable) -> None:
        """Tie a socket to an operation.

        Args:
            websocket: The socket of Starlette or FastAPI, accepted or not.
            cancelable: The operation.

        Raises:
            TypeError: If one of the two is of another kind.
        """
        if not isinstance(websocket, WebSocket):
            msg = f"`websocket` must be a WebSocket, not {websocket!r}"
            raise TypeError(msg)
        if not isinstance(cancelable, Cancelable):
            msg = f"`cancelable` must be a Cancelable, not {cancelable!r}"
            raise TypeError(msg)
        self.websocket = websocket
        self.cancelable = cancelable
        cancelable.on_cancel(self._close_as_cancelled)

    # -- opening and closing -------------------------------------------------------------

    async def accept(self, **options: Any) -> None:
        """Accept the socket.

        Args:
            options: What ``WebSocket.accept`` takes: ``subprotocol``, ``headers``.
        """
        await self.cancelable.check_cancelation()
        await self.websocket.accept(**options)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket; nothing happens if it is closed already.

        Args:
            code: The close code (RFC 6455, section 7.4).
            reason: A text for the client.
        """
        if not self._is_closed():
            await self.websocket.close(code, reason)

    async def _close_as_cancelled(self, _context: OperationContext) -> None:
        reason = self._first_reason()
        if reason is None or reason is CancelationReason.DISCONNECT:
            return
        try:
            await self.close(close_code_for(reason, self._close_codes()))
        except (OSError, RuntimeError, WebSocketDisconnect):
            # The client left, or the server closed the socket, before we could know of it.
            logger.debug("the socket of a cancelled operation was closed already", exc_info=True)

    def _close_codes(self) -> Mapping[CancelationReason, int]:
        """Return the codes of whoever watches the socket: it would close with them, too late."""
        exchange = exchange_of(self.websocket.scope)
        return exchange.close_codes if isinstance(exchange, SocketExchange) else CLOSE_CODES

    def _first_reason(self) -> CancelationReason | None:
        """Return why the operation was cancelled, or the one around it that took it along."""
        operation = self.cancelable
        while operation.cancel_reason is CancelationReason.PARENT:
            around = operation.parent
            if not isinstance(around, Cancelable):
                break
            operation = around
        return operation.cancel_reason

    def _is_closed(self) -> bool:
        states = (self.websocket.client_state, self.websocket.application_state)
        return WebSocketState.DISCONNECTED in states

    # -- sending -------------------------------------------------------------------------

    async def send_text(self, data: str) -> None:
        """Send a text.

        Args:
            data: The text.

        Raises:
            WebSocketDisconnect: If the server says that the client is gone.
        """
        await self.cancelable.check_cancelation()
        await self.websocket.send_text(data)

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes.

        Args:
            data: The bytes.

        Raises:
            WebSocketDisconnect: If the server says that the client is gone.
        """
        await self.cancelable.check_cancelation()
        await self.websocket.send_bytes(data)

    async def send_json(self, data: Any, mode: Mode = "text") -> None:
        """Send a value as JSON.

        Args:
            data: The value.
            mode: Whether it goes as text or as bytes.

        Raises:
            WebSocketDisconnect: If the server says that the client is gone.
        """
        await self.cancelable.check_cancelation()
        await self.websocket.send_json(data, mode)

    # -- receiving -----------------------------------------------------------------------

    async def receive_text(self) -> str:
        """Return the next text.

        Raises:
            WebSocketDisconnect: If the client has closed the socket.
        """
        await self.cancelable.check_cancelation()
        return await self.websocket.receive_text()

    async def receive_bytes(self) -> bytes:
        """Return the next bytes.

        Raises:
            WebSocketDisconnect: If the client has closed the socket.
        """
        await self.cancelable.check_cancelation()
        return await self.websocket.receive_bytes()

    async def receive_json(self, mode: Mode = "text") -> Any:
        """Return the next value that came as JSON.

        Args:
            mode: Whether it comes as text or as bytes.

        Raises:
            WebSocketDisconnect: If the client has closed the socket.
        """
        await self.cancelable.check_cancelation()
        return await self.websocket.receive_json(mode)

    def iter_text(self) -> AsyncIterator[str]:
        """Iterate over texts until the client closes the socket."""
        return _Messages(self.receive_text)

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over bytes until the client closes the socket."""
        return _Messages(self.receive_bytes)

    def iter_json(self, mode: Mode = "text") -> AsyncIterator[Any]:
        """Iterate over values that came as JSON until the client closes the socket.

        Args:
            mode: Whether they come as text or as bytes.
        """
        return _Messages(functools.partial(self.receive_json, mode))


class _Messages(AsyncIterator[T]):
    """Iterate over what a function receives.

    No generator: one that is left early stays suspended until the collector finds it.
    """

    def __init__(self, receive: Callable[[], Awaitable[T]]) -> None:
        self._receive = receive

    async def __anext__(self) -> T:
        try:
            return await self._receive()
        except WebSocketDisconnect:
            raise StopAsyncIteration from None
