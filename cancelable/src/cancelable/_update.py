"""One report of how far an operation has come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True, frozen=True)
class ProgressUpdate:
    """Hold one report of progress."""

    operation_id: str
    message: object
    metadata: Mapping[str, object] | None = None
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def time(self) -> datetime:
        """The time of the report, in UTC."""
        return datetime.fromtimestamp(self.at, UTC)
