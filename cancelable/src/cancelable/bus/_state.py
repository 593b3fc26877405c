"""Where an operation stands, as other processes can know it."""

from __future__ import annotations

from enum import StrEnum

from .._status import OperationStatus


class OperationState(StrEnum):
    """Name the state of an operation on a bus.

    These are the values of ``OperationStatus`` (and compare equal to them), and one more.
    """

    PENDING = "pending"
    """Constructed, its block not yet entered."""

    RUNNING = "running"
    """Inside its block, and nobody has asked it to stop."""

    CANCELLING = "cancelling"
    """Inside its block, asked to stop, not ended yet."""

    COMPLETED = "completed"
    """The block ran to its end, whatever was asked meanwhile."""

    CANCELLED = "cancelled"
    """A cancelation ended the block."""

    FAILED = "failed"
    """An exception that is no cancelation of this operation ended the block."""

    LOST = "lost"
    """Its process has not been heard of for the time of a lease: it is gone, or cut off from
    the broker. In the second case the operation runs on and is listed again later."""

    @property
    def is_terminal(self) -> bool:
        """Whether the operation has ended; a lost one may or may not have."""
        return self in _ENDINGS

    @property
    def is_live(self) -> bool:
        """Whether the operation is known to be at work, or about to be."""
        return self in _LIVE

    @classmethod
    def of(cls, status: OperationStatus | OperationState | str) -> OperationState:
        """Return the state that a status of this process is for others, or that a text names.

        Args:
            status: A member of either, or the value of one (``"running"``).

        Raises:
            ValueError: If there is no such state.
        """
        try:
            return cls(status)
        except ValueError:
            known = ", ".join(repr(member.value) for member in cls)
            msg = f"`status` must be an OperationState or one of {known}, not {status!r}"
            raise ValueError(msg) from None


_LIVE = frozenset({OperationState.PENDING, OperationState.RUNNING, OperationState.CANCELLING})
_ENDINGS = frozenset({OperationState.COMPLETED, OperationState.CANCELLED, OperationState.FAILED})
