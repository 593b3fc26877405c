"""How a bus is doing, for health checks and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatus:
    """Hold how a bus is doing at one moment."""

    up: bool
    """Whether other processes can be reached, as far as is known."""
    since: datetime | None = None
    """When it came up or went down, in UTC; None for a bus that is always up."""
    worker: str | None = None
    """The id of this process on the bus; None where it has none."""
    sessions: int = 0
    """How many connections to the broker have come up so far."""
    last_error: str | None = None
    """What ended or prevented the last connection."""
    live: int = 0
    """How many operations of this process are announced, or are to be."""
    backlog: int = 0
    """How many endings the broker has not been told yet."""
    dropped: int = 0
    """How many messages were ignored because they were not ours."""
