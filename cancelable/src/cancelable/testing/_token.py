"""A token that remembers every request."""

from __future__ import annotations

import anyio

from .._cause import Cause
from .._reason import CancelationReason
from .._token import CancelationToken


class MockCancelationToken(CancelationToken):
    """A token that keeps a history of all requests, the first one and those after it."""

    def __init__(self) -> None:
        """Make a token that nobody has cancelled."""
        super().__init__()
        self.cancel_history: list[Cause] = []
        """All requests, in the order in which they came."""

    def _cancel(self, cause: Cause, here: object) -> bool:
        self.cancel_history.append(cause)
        return super()._cancel(cause, here)

    def get_cancel_count(self) -> int:
        """Return how often somebody asked."""
        return len(self.cancel_history)

    async def schedule_cancel(
        self,
        delay: float,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
    ) -> None:
        """Cancel after a while; start this in a task group.

        Args:
            delay: Seconds.
            reason: The kind of cause.
            message: A text.
        """
        await anyio.sleep(delay)
        await self.cancel(reason, message)
