"""The operation of a request or a WebSocket, as it is listed."""

from __future__ import annotations

from cancelable import Cancelable, LatentOperation, StatusCallback


class RequestOperation(LatentOperation):
    """Make the operation of one request or WebSocket when somebody asks for it.

    Its facts are those of the beginning: what routes and middlewares put into the scope later is
    not part of them. Whoever makes it sets the four at once: a constructor would be a call more
    for each request.
    """

    __slots__ = ("client", "method", "on_cancel", "path")

    method: str | None
    """None for a WebSocket."""
    path: str
    client: tuple[str, int] | None
    """Its address and its port."""
    on_cancel: StatusCallback | None
    """Called with the facts of the operation if it was cancelled."""

    def make_operation(self) -> Cancelable:
        """Return the operation: its name has the path, never the query string."""
        path = self.path
        if not path.isprintable():  # it is to fit one line of a log
            path = path.encode("unicode_escape").decode()
        operation = Cancelable.with_timeout(
            self.timeout,
            name=f"{self.method or 'WebSocket'} {path}",
            metadata={
                "method": self.method or "WEBSOCKET",
                "path": self.path,
                "client": None if self.client is None else self.client[0],
            },
            grace=self.grace,
        )
        if self.on_cancel is not None:
            operation.on_cancel(self.on_cancel)
        return operation
