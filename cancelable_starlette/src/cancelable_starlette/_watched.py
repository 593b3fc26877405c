"""A request or a WebSocket that is watched for the operation that it is."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cancelable import Cancelable, CancelationReason, LatentOperation

from ._inbox import Inbox
from ._overrun import Overrun
from ._read_ahead import ReadAhead

CLIENT_LEFT = "the client left"
"""The message of a cancel that a disconnect caused."""

SHUTTING_DOWN = "the server is shutting down"
"""The message of a cancel that a shutdown caused."""


class Watched(Inbox):
    """Tie the messages of a client to the operation that is cancelled when it leaves."""

    __slots__ = ("_overrun", "latent", "server_send")

    server_send: Send
    """The server's ``send()``, which knows nothing of this."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        latent: LatentOperation,
        read_ahead: ReadAhead,
    ) -> None:
        """Tie a client to its operation.

        Args:
            scope: The scope of the request or the socket.
            receive: The server's ``receive()``.
            send: The server's ``send()``.
            latent: What is cancelled when the client leaves, and made if there is a need.
            read_ahead: How much may be held of what nobody has read.
        """
        super().__init__(scope, receive, read_ahead)
        self.latent = latent
        self.server_send = send
        self._overrun: Overrun | None = None

    @property
    def operation(self) -> Cancelable:
        """What is cancelled when the client leaves; made now if nobody has asked before."""
        return self.latent.operation

    def _is_cut_here(self) -> bool:
        return self.latent.is_cut_here()

    def look_after(self, limit: float) -> None:
        """Report a handler that goes on although its operation was cut.

        Args:
            limit: Seconds after the cut.
        """
        if self.latent.cancel_requested:
            if self._overrun is None:
                self._overrun = Overrun(self.operation, self._scope)
            self._overrun.look(limit)

    async def _cancel_for_shutdown(self, grace: float) -> None:
        await self.operation.cancel(CancelationReason.SIGNAL, SHUTTING_DOWN, grace=grace)
