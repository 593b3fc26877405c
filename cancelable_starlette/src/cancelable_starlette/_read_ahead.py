"""How much of unread request bodies the watchers may hold."""

from __future__ import annotations

import threading

PER_REQUEST = 256 * 1024
"""Bytes of one request that are held unless it is said otherwise."""

IN_TOTAL = 64 * 1024 * 1024
"""Bytes of all requests together that are held unless it is said otherwise."""

PER_MESSAGE = 512
"""Bytes that a message counts beside its body.

A body that arrives in pieces of one byte must not hold a dictionary for each of 262,144 of them.
"""


class ReadAhead:
    """Count the bytes that are held for all requests of one middleware.

    Safe in any thread: the loops of one process may share a middleware. A watcher looks before it
    reads, so the bounds may be passed by one message for each request.
    """

    __slots__ = ("_held", "_lock", "in_total", "per_request")

    def __init__(self, per_request: int = PER_REQUEST, in_total: int = IN_TOTAL) -> None:
        """Start with nothing held.

        Args:
            per_request: Bytes that may be held for one request.
            in_total: Bytes that may be held for all of them together.
        """
        self.per_request: int = per_request
        self.in_total: int = in_total
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be read ahead, for any request."""
        return self._held >= self.in_total

    def hold(self, size: int) -> None:
        """Count *size* bytes more, or fewer if it is negative."""
        with self._lock:
            self._held += size
