"""A request to stop on its way to the process that can act on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .._cause import Cause
from .._reason import CancelationReason
from .._seconds import seconds
from .._text import checked_text
from ._payload import cut

LONGEST_GRACE = 366 * 86_400
"""The most seconds of grace that a request may give."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Hold who wants an operation to stop, why, and how soon."""

    reason: CancelationReason
    message: str | None = None
    by: str | None = None
    grace: float | None = None
    """Seconds that the block may run on; None for the operation's own grace."""

    @classmethod
    def checked(
        cls,
        reason: CancelationReason | str,
        message: str | None,
        by: str | None,
        grace: float | timedelta | None,
    ) -> CancelRequest:
        """Return the request that a caller describes.

        Raises:
            TypeError: If one of the values is of the wrong kind.
            ValueError: If there is no such reason, or the grace is negative, too long or NaN.
        """
        for name, text in (("message", message), ("by", by)):
            checked_text(text, name)
        if grace is not None:
            grace = seconds(grace, "grace")
            if not 0 <= grace <= LONGEST_GRACE:
                msg = f"`grace` must be 0 to {LONGEST_GRACE} seconds, not {grace!r}"
                raise ValueError(msg)
        return cls(
            CancelationReason.of(reason),
            None if message is None else cut(message),
            None if by is None else cut(by),
            grace,
        )

    @property
    def cause(self) -> Cause:
        """The cause that this request is for the operation."""
        return Cause(self.reason, self.message, source=self.by)
