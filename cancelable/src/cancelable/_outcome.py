"""What a request to cancel can truthfully answer at once."""

from __future__ import annotations

from enum import Enum

from ._answers import Awaited


class CancelOutcome(Awaited, Enum):
    """Say what became of a request to cancel.

    No member says "stopped": whether the work has ended is asked with ``wait_stopped``.
    A member is true in a condition when the request stands (requested, already requested,
    remembered), and it may be awaited, which gives the member itself.
    """

    REQUESTED = "requested"
    """This request is the first one: it is the cause, or will be when a section that holds it
    back is over."""

    ALREADY_REQUESTED = "already_requested"
    """An earlier request is the cause; this one may only have shortened a grace time."""

    FINISHED = "finished"
    """The operation had ended before."""

    UNKNOWN = "unknown"
    """No operation with this id is known here."""

    LOST = "lost"
    """The process that ran the operation is gone (only on a bus)."""

    UNSETTLED = "unsettled"
    """Not known now: the answer did not arrive in time, so that the request may or may not stand,
    or the broker lost its memory a moment ago (only on a bus)."""

    REMEMBERED = "remembered"
    """Unknown as yet; the request is kept for an operation of this id that starts soon
    (only on a bus)."""

    def __str__(self) -> str:
        return self.value

    def __bool__(self) -> bool:
        return self in _STANDING


_STANDING = frozenset(
    {CancelOutcome.REQUESTED, CancelOutcome.ALREADY_REQUESTED, CancelOutcome.REMEMBERED}
)
