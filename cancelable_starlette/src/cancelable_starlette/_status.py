"""Which HTTP status says why a request was cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cancelable import CancelationError, CancelationReason

CLIENT_CLOSED_REQUEST = 499
"""What nginx logs for a client that left; no server sends it to anybody."""

STATUSES: Mapping[CancelationReason, int] = MappingProxyType(
    {
        CancelationReason.TIMEOUT: 504,
        CancelationReason.MANUAL: CLIENT_CLOSED_REQUEST,
        CancelationReason.SIGNAL: 503,
        CancelationReason.DISCONNECT: CLIENT_CLOSED_REQUEST,
    }
)
"""The status of each reason; a reason that is not here is a 500."""

CLOSE_CODES: Mapping[CancelationReason, int] = MappingProxyType(
    {
        CancelationReason.TIMEOUT: 3008,
        CancelationReason.MANUAL: 1000,
        CancelationReason.SIGNAL: 1001,
    }
)
"""The close code of a WebSocket for each reason; a reason that is not here is 1011."""


def status_for(
    reason: CancelationReason | CancelationError,
    statuses: Mapping[CancelationReason, int] = STATUSES,
) -> int:
    """Return the HTTP status for a cancelation.

    Args:
        reason: The reason, or the error that left the block.
        statuses: The mapping to use; reasons that are missing in it are a 500.
    """
    if isinstance(reason, CancelationError):
        reason = reason.reason
    return statuses.get(reason, 500)


def close_code_for(
    reason: CancelationReason | CancelationError,
    codes: Mapping[CancelationReason, int] = CLOSE_CODES,
) -> int:
    """Return the close code of a WebSocket for a cancelation (RFC 6455, section 7.4).

    Args:
        reason: The reason, or the error that left the block.
        codes: The mapping to use; reasons that are missing in it are 1011.
    """
    if isinstance(reason, CancelationError):
        reason = reason.reason
    return codes.get(reason, 1011)
