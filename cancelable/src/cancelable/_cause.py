"""One request to stop: what asked, why, and when."""

from __future__ import annotations

import copy
import time
from datetime import UTC, datetime

from ._log import one_line
from ._reason import CancelationReason


class Cause:
    """Describe one request to stop.

    Causes are compared by identity: the first one in a list of causes is *the* cause.
    """

    # Written out: the decorator of a dataclass takes longer than all the rest of this file to load.
    __slots__ = (
        "at",
        "error",
        "message",
        "origin_id",
        "origin_reason",
        "reason",
        "signal_number",
        "source",
        "timeout_seconds",
    )

    reason: CancelationReason
    message: str | None
    source: str | None
    """The name of the source that asked, where one did."""
    error: BaseException | None
    """The exception of a source that failed."""
    origin_id: str | None
    """The id of the operation that was asked, where that is another one, such as an ancestor."""
    origin_reason: CancelationReason | None
    """The reason for which that ancestor was asked."""
    timeout_seconds: float | None
    signal_number: int | None
    at: float
    """Seconds since the epoch."""

    def __init__(
        self,
        reason: CancelationReason,
        message: str | None = None,
        source: str | None = None,
        error: BaseException | None = None,
        origin_id: str | None = None,
        origin_reason: CancelationReason | None = None,
        timeout_seconds: float | None = None,
        signal_number: int | None = None,
        at: float | None = None,
    ) -> None:
        """Make a request.

        Args:
            reason: The kind of cause.
            message: What it was about, in words.
            source: See the attribute, as for the others.
            error: See there.
            origin_id: See there.
            origin_reason: See there.
            timeout_seconds: The timeout that has passed.
            signal_number: The signal that came.
            at: When; now unless it is given.
        """
        self.reason = reason
        self.message = message
        self.source = source
        self.error = error
        self.origin_id = origin_id
        self.origin_reason = origin_reason
        self.timeout_seconds = timeout_seconds
        self.signal_number = signal_number
        self.at = time.time() if at is None else at

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({facts})"

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

    def without_error(self) -> Cause:
        """Return the same request without the exception, whose frames would live as long as it."""
        same = copy.copy(self)
        same.error = None
        return same
