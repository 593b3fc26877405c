"""One request to stop: what asked, why, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ._log import one_line
from ._reason import CancelationReason


@dataclass(slots=True, eq=False)
class Cause:
    """Describe one request to stop.

    Causes are compared by identity: the first one in a list of causes is *the* cause.
    """

    reason: CancelationReason
    message: str | None = None
    source: str | None = None
    """The name of the source that asked, where one did."""
    error: BaseException | None = None
    """The exception of a source that failed."""
    origin_id: str | None = None
    """The id of the operation that was asked, where that is another one, such as an ancestor."""
    origin_reason: CancelationReason | None = None
    """The reason for which that ancestor was asked."""
    timeout_seconds: float | None = None
    signal_number: int | None = None
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def cancelled_at(self) -> datetime:
        """The time of the request, in UTC."""
        return datetime.fromtimestamp(self.at, UTC)

    @property
    def label(self) -> str:
        """The reason and the message: how log records and native cancelations name the cause."""
        if self.message is None:
            return self.reason.value
        return one_line(f"{self.reason}: {self.message}")

    def below(self, origin_id: str) -> Cause:
        """Return what this cause is for an operation underneath.

        Args:
            origin_id: The id of the operation that has this cause.
        """
        return Cause(
            CancelationReason.PARENT,
            self.message,
            source=self.source,
            error=self.error,
            origin_id=self.origin_id or origin_id,
            origin_reason=self.origin_reason or self.reason,
            at=self.at,
        )
