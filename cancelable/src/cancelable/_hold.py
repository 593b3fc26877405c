"""Requests that a section of a block holds back until it is over."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import anyio

from ._cause import Cause
from ._reason import CancelationReason


class Hold:
    """Keep the requests that come while a section runs that shall not be cut by them.

    A held request is pending, not yet the cause. Others become the cause and cut the section,
    whose scope keeps out what happens around it.
    """

    __slots__ = ("_asks_parent", "_held", "_owner", "_reasons", "scope")

    def __init__(
        self, owner: object, reasons: Collection[CancelationReason | str], cut: float
    ) -> None:
        """Make a hold of *reasons* for the operation *owner*.

        Args:
            owner: The operation whose section it is.
            reasons: What to hold back.
            cut: When a deadline cuts the section, on anyio's clock.

        Raises:
            ValueError: If there is no such reason.
        """
        self._owner = owner
        self._reasons = frozenset(CancelationReason.of(reason) for reason in reasons)
        self._asks_parent = CancelationReason.PARENT in self._reasons
        self._held: list[Callable[[], object]] = []
        self.scope = anyio.CancelScope(shield=True, deadline=cut)

    def keeps(self, asked: object, cause: Cause) -> bool:
        """Return whether a request to the operation *asked* is to be held back."""
        return cause.reason in self._reasons or (self._asks_parent and asked is not self._owner)

    def keep(self, ask_again: Callable[[], object]) -> None:
        """Hold a request; one atomic step, so it may come from any thread."""
        self._held.append(ask_again)

    def release(self) -> None:
        """Make the requests that were held, in the order in which they came."""
        while self._held:
            self._held.pop(0)()

    def cut(self, when: float, now: float, message: str | None) -> None:
        """End the section at *when*, because a request that it does not hold is the cause."""
        if when <= now:
            self.scope.cancel(message)
        elif when < self.scope.deadline:
            self.scope.deadline = when

    def cut_at(self, when: float) -> None:
        """Move the time at which a deadline cuts the section; infinity for never."""
        if not math.isclose(when, self.scope.deadline) and not self.scope.cancel_called:
            self.scope.deadline = when
