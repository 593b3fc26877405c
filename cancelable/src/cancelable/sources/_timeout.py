"""A source that fires when some time has passed in the block."""

from __future__ import annotations

import math
from datetime import timedelta

import anyio

from .._cause import Cause
from .._reason import CancelationReason
from .._seconds import seconds
from ._base import CancelationSource


class TimeoutSource(CancelationSource):
    """Fire some seconds after the block was entered.

    An operation that takes it directly sets its own deadline by it: that needs no task. In a
    running block the time counts from then on.
    """

    def __init__(self, timeout: float | timedelta | None, name: str | None = None) -> None:
        """Make a source.

        Args:
            timeout: Seconds, or a ``timedelta``; zero or less fires at the first checkpoint,
                None and infinity never.
            name: A name for people.

        Raises:
            TypeError: If the timeout is no duration.
            ValueError: If the timeout is NaN.
        """
        self.timeout: float = seconds(timeout, "timeout")
        self._deadline = math.inf
        super().__init__(CancelationReason.TIMEOUT, name)

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Start the clock, as a part of another source."""
        self._deadline = anyio.current_time() + self.timeout
        if self.timeout <= 0:
            self.fire(self.timed_out())

    async def watch(self) -> None:
        """Wait until the time has passed."""
        await anyio.sleep_until(self._deadline)
        self.fire(self.timed_out())

    def timed_out(self) -> Cause:
        """Return the cause of this timeout."""
        return Cause(CancelationReason.TIMEOUT, source=self.name, timeout_seconds=self.timeout)
