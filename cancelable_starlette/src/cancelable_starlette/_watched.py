"""A request or a WebSocket that is watched for the operation that it is."""

from __future__ import annotations

from starlette.types import Send

from cancelable import Cancelable, CancelationReason, LatentOperation

from ._inbox import Inbox
from ._overrun import Overrun

CLIENT_LEFT = "the client left"
"""The message of a cancel that a disconnect caused."""

SHUTTING_DOWN = "the server is shutting down"
"""The message of a cancel that a shutdown caused."""


class Watched(Inbox):
    """Tie the messages of a client to the operation that is cancelled when it leaves."""

    __slots__ = ("latent", "server_send")

    # Set by the two kinds of it, as are the facts of the operation and the keys of the scope: a
    # call more for each request would be more than these few lines.
    latent: LatentOperation
    """What is cancelled when the client leaves, and made if there is a need."""
    server_send: Send
    """The server's ``send()``, which knows nothing of this."""
    _overrun: Overrun | None = None

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
