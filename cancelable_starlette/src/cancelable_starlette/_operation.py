"""The operation of a request or a WebSocket, as it is listed."""

from __future__ import annotations

from starlette.types import Scope

from cancelable import Cancelable, LatentOperation, StatusCallback


class RequestOperation(LatentOperation):
    """Make the operation of one request or WebSocket when somebody asks for it.

    Its facts are those of the beginning: what routes and middlewares put into the scope later is
    not part of them.
    """

    __slots__ = ("_client", "_method", "_on_cancel", "_path")

    def __init__(
        self, scope: Scope, timeout: float, grace: float, on_cancel: StatusCallback | None
    ) -> None:
        """Take the facts of a request.

        Args:
            scope: The scope of the request or the WebSocket.
            timeout: Seconds from the entry of the block; infinity for none.
            grace: Seconds that the handler may run on after it was asked to stop.
            on_cancel: Called with the facts of the operation if it was cancelled.
        """
        super().__init__(timeout, grace)
        self._method: str | None = scope.get("method")
        self._path: str = scope["path"]
        self._client: tuple[str, int] | None = scope.get("client")
        self._on_cancel = on_cancel

    def make_operation(self) -> Cancelable:
        """Return the operation: its name has the path, never the query string."""
        path = self._path
        if not path.isprintable():  # it is to fit one line of a log
            path = path.encode("unicode_escape").decode()
        operation = Cancelable.with_timeout(
            self.timeout,
            name=f"{self._method or 'WebSocket'} {path}",
            metadata={
                "method": self._method or "WEBSOCKET",
                "path": self._path,
                "client": None if self._client is None else self._client[0],
            },
            grace=self.grace,
        )
        if self._on_cancel is not None:
            operation.on_cancel(self._on_cancel)
        return operation
