"""The facts of one operation at one moment, as callbacks and listings see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ._ids import new_id
from ._reason import CancelationReason
from ._status import OperationStatus
from ._update import ProgressUpdate


@dataclass(slots=True)
class OperationContext:
    """Hold what is known of an operation: a snapshot, safe to keep and to pass on.

    It does not follow the operation afterwards; ask the operation for a new one. The
    ``metadata`` dictionary is the operation's own.
    """

    id: str = field(default_factory=new_id)
    name: str | None = None
    status: OperationStatus = OperationStatus.PENDING
    start_time: datetime | None = None
    """When the block was entered, in UTC; None while pending."""
    end_time: datetime | None = None
    """When the block was left, in UTC; None while the operation is live."""
    cancel_requested: bool = False
    """Whether anybody asked it to stop, however it ended."""
    cancel_reason: CancelationReason | None = None
    cancel_message: str | None = None
    cancel_source: str | None = None
    cancelled_at: datetime | None = None
    """When the first request came, in UTC."""
    origin_id: str | None = None
    """The id of the operation that was asked, where that is another one: an ancestor, if the
    reason is ``parent``, else one whose cancelation ended this one as well."""
    error: str | None = None
    """The error that ended a failed operation, as text."""
    partial_result: object = None
    progress: ProgressUpdate | None = None
    """The last report of how far it has come."""
    metadata: dict[str, object] = field(default_factory=dict[str, object])
    parent_id: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """How long the block ran, or has been running; None while pending."""
        if self.start_time is None:
            return None
        return (self.end_time or datetime.now(UTC)) - self.start_time

    @property
    def duration_seconds(self) -> float | None:
        """The duration in seconds; None while pending."""
        duration = self.duration
        return None if duration is None else duration.total_seconds()

    @property
    def is_terminal(self) -> bool:
        """Whether the operation had ended."""
        return self.status.is_terminal

    @property
    def is_success(self) -> bool:
        """Whether the operation had completed."""
        return self.status is OperationStatus.COMPLETED

    @property
    def is_cancelled(self) -> bool:
        """Whether a cancelation had ended the operation."""
        return self.status is OperationStatus.CANCELLED

    def log_context(self) -> dict[str, object]:
        """Return the facts that a log record wants, as plain values."""
        return {
            "operation_id": self.id,
            "operation_name": self.name,
            "status": self.status.value,
            "duration": self.duration_seconds,
            "parent_id": self.parent_id,
            "cancel_reason": None if self.cancel_reason is None else self.cancel_reason.value,
            "cancel_message": self.cancel_message,
        }
