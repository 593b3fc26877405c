"""Where an operation stands between its construction and its one ending."""

from __future__ import annotations

from enum import StrEnum


class OperationStatus(StrEnum):
    """Name the state of an operation.

    The only way through is pending, running, perhaps cancelling, then one of the three
    endings. How an operation was cancelled is the business of its reason.
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

    @classmethod
    def of(cls, status: OperationStatus | str) -> OperationStatus:
        """Return the status that *status* names.

        Args:
            status: A member, or the value of one (``"running"``).

        Raises:
            ValueError: If there is no such status.
        """
        try:
            return cls(status)
        except ValueError:
            known = ", ".join(repr(member.value) for member in cls)
            msg = f"`status` must be an OperationStatus or one of {known}, not {status!r}"
            raise ValueError(msg) from None

    @property
    def is_terminal(self) -> bool:
        """Whether an operation with this status has ended."""
        return self in _ENDINGS


_ENDINGS = frozenset({OperationStatus.COMPLETED, OperationStatus.CANCELLED, OperationStatus.FAILED})
