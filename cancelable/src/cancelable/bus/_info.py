"""What is known of an operation wherever it runs: one record, the same for every bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .._reason import CancelationReason
from ._state import OperationState


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Name the process that runs an operation."""

    id: str
    """The id of its bus, made anew when that is entered."""
    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressInfo:
    """Hold the last report of progress, as plain JSON values."""

    message: object = None
    metadata: Mapping[str, object] | None = None
    at: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelInfo:
    """Hold the first request to stop an operation."""

    reason: CancelationReason = CancelationReason.MANUAL
    message: str | None = None
    by: str | None = None
    """Who asked, where that was said."""
    at: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationInfo:
    """Hold what is known of one operation: a snapshot, safe to keep and to pass on.

    Times are seconds since the epoch, by the clock of the broker where there is one.
    """

    id: str
    state: OperationState
    name: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    """What is plain and short of the metadata, as it was when the operation began."""
    parent_id: str | None = None
    worker: Worker | None = None
    started_at: float | None = None
    ended_at: float | None = None
    progress: ProgressInfo | None = None
    cancel: CancelInfo | None = None
    error: str | None = None
    """The error that ended a failed operation, as text."""

    @property
    def is_terminal(self) -> bool:
        """Whether the operation has ended."""
        return self.state.is_terminal

    @property
    def start_time(self) -> datetime | None:
        """When the block was entered, in UTC."""
        return None if self.started_at is None else datetime.fromtimestamp(self.started_at, UTC)

    @property
    def end_time(self) -> datetime | None:
        """When the block was left, in UTC; None while it is not known to have been."""
        return None if self.ended_at is None else datetime.fromtimestamp(self.ended_at, UTC)

    def to_json(self) -> dict[str, object]:
        """Return the record as plain values, for an answer over HTTP or a log.

        Worker, host and process stay out: they are the operator's, not the client's.
        """
        progress, cancel = self.progress, self.cancel
        return {
            "id": self.id,
            "state": self.state.value,
            "name": self.name,
            "metadata": dict(self.metadata),
            "parent_id": self.parent_id,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "progress": progress
            and {"message": progress.message, "metadata": progress.metadata, "at": progress.at},
            "cancel": cancel
            and {
                "reason": cancel.reason.value,
                "message": cancel.message,
                "by": cancel.by,
                "at": cancel.at,
            },
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Hold some of the operations that a listing found, oldest first."""

    operations: tuple[OperationInfo, ...]
    after: str | None = None
    """What to pass as ``after`` for the next page; None if this is the last one. A page may
    hold fewer operations than were asked for, also none, and not be the last one."""
