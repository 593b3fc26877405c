"""Server-sent events as text (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import json

from cancelable import CancelationReason

EVENT_STREAM = "text/event-stream"


def last_event(reason: CancelationReason) -> bytes:
    """Return the event that ends a stream which was cancelled, and says why.

    Args:
        reason: Why it was cancelled.
    """
    data = json.dumps({"reason": reason.value}, separators=(",", ":"))
    return f"event: cancelled\ndata: {data}\n\n".encode()


def ends_an_event(tail: bytes) -> bool:
    """Return whether a stream that ends with *tail* is between two events.

    Args:
        tail: The last bytes of the stream, four or more if there are so many.
    """
    return not tail or tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
