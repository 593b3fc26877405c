"""What a request to stop can truthfully answer at once, on a bus."""

from __future__ import annotations

from dataclasses import dataclass

from .._outcome import CancelOutcome
from ._info import OperationInfo


@dataclass(frozen=True, slots=True)
class CancelResult:
    """Hold what became of a request to stop.

    It is true in a condition when the request stands, as its outcome is.
    """

    outcome: CancelOutcome
    operation: OperationInfo | None = None
    """What was known of the operation when the request reached it, if it is known."""
    delivered: bool | None = None
    """Whether the process that runs the operation was listening at that moment; otherwise it
    will find the request when it looks. None where this is not known."""

    def __bool__(self) -> bool:
        return bool(self.outcome)
