"""A handler that goes on although it was cancelled."""

from __future__ import annotations

import logging
import math

import anyio
from starlette.types import Scope

from cancelable import Cancelable, CancelationError

logger = logging.getLogger("cancelable.starlette")

WARN_AFTER = 5.0
"""Seconds after which such a handler is reported unless it is said otherwise."""

LOOKS = 4
"""How often one looks in that time. A look at a healthy request is one question."""


class Overrun:
    """Report the handler of one request, once, if it does not end after it was cut.

    One is made for a request that was asked to stop and still runs, so most requests have none.
    """

    def __init__(self, operation: Cancelable, scope: Scope) -> None:
        """Begin to count when the time of a grace is over.

        Args:
            operation: The operation of the request.
            scope: The scope of the request, where the framework notes the endpoint.
        """
        self._operation = operation
        self._scope = scope
        self._cut_at = math.inf
        self._is_told = False

    def look(self, limit: float) -> None:
        """Look whether the handler is still there.

        Args:
            limit: Seconds that it may take to end.
        """
        now = anyio.current_time()
        if self._is_told or not self._operation.is_running or not self._is_cut():
            return
        self._cut_at = min(self._cut_at, now)
        if now - self._cut_at >= limit:
            self._is_told = True
            logger.warning(
                "%s goes on %.3g s after it was cancelled (%s): it swallows the cancelation, is"
                " shielded from it, or waits for a thread; handler: %s, operation: %s",
                self._operation.name,
                now - self._cut_at,
                self._operation.cancel_reason,
                self._handler(),
                self._operation.operation_id,
            )

    def _is_cut(self) -> bool:
        try:
            self._operation.check_cancelation_sync()
        except CancelationError:
            return True
        return False

    def _handler(self) -> str:
        """Return the name of the endpoint, if the framework has noted it where it can be seen."""
        endpoint: object = self._scope.get("endpoint")
        if endpoint is None:
            return "unknown"
        named = endpoint if hasattr(endpoint, "__qualname__") else type(endpoint)
        return f"{named.__module__}.{getattr(named, '__qualname__', '')}"
