"""What was said about requests and WebSockets, as the middleware or a route applies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cancelable import CancelationReason, StatusCallback

from ._answers import Answers
from ._overrun import WARN_AFTER
from ._read_ahead import ReadAhead
from ._settings import OnDisconnect
from ._shutdown import Shutdown
from ._status import CLOSE_CODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Hold what was said about requests and WebSockets; all of it has been checked."""

    timeout: float = math.inf
    """Seconds to the start of the response."""
    on_disconnect: OnDisconnect = "cancel"
    grace: float = 0.0
    send_timeout: float = math.inf
    deadline_header: bytes | None = None
    answers: Answers = field(default_factory=Answers)
    on_cancel: StatusCallback | None = None
    read_ahead: ReadAhead = field(default_factory=ReadAhead)
    close_codes: Mapping[CancelationReason, int] = field(default_factory=lambda: CLOSE_CODES)
    shutdown: Shutdown | None = None
    socket_idle_timeout: float = math.inf
    warn_after: float = WARN_AFTER
    changes_exchange: bool = field(init=False)
    """Whether ``on_disconnect`` or ``send_timeout`` differ from what an exchange is made with.

    One look for each request, and not two.
    """

    def __post_init__(self) -> None:
        changes = self.on_disconnect != "cancel" or self.send_timeout != math.inf
        object.__setattr__(self, "changes_exchange", changes)
