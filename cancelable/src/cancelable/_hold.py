"""Requests that a section of a block holds back until it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import anyio

from ._cause import Cause
from ._loop import Loop, call_soon, current_loop
from ._reason import CancelationReason
from ._round import call_all


class Hold:
    """Keep the requests that come while a section runs that shall not be cut by them.

    A held request is pending, not yet the cause. Others become the cause and cut the section,
    whose scope keeps out what happens around it.
    """

    __slots__ = (
        "_around",
        "_asked",
        "_asks_parent",
        "_held",
        "_is_over",
        "_loop",
        "_nearest_cut",
        "_owner",
        "_reasons",
        "scope",
    )

    def __init__(
        self,
        owner: object,
        reasons: Collection[CancelationReason | str] | CancelationReason | str,
        nearest_cut: Callable[[], float],
        around: Sequence[Hold] = (),
    ) -> None:
        """Make a hold of *reasons* for the operation *owner*, in its loop.

        Args:
            owner: The operation whose section it is.
            reasons: What to hold back: one reason, or a collection of them.
            nearest_cut: Tells when the owner is to be cut, on anyio's clock.
            around: The holds of sections around this one, inside the owner's block. The section
                is cut when all of them are: what they keep out does not reach it.

        Raises:
            TypeError: If the reasons are neither.
            ValueError: If there is no such reason.
        """
        if isinstance(reasons, str):  # which is a collection of its letters, too
            reasons = (reasons,)
        elif not isinstance(reasons, Iterable):
            msg = f"`reasons` must be a reason or a collection of reasons, not {reasons!r}"
            raise TypeError(msg)
        self._owner = owner
        self._reasons = frozenset(CancelationReason.of(reason) for reason in reasons)
        self._asks_parent = CancelationReason.PARENT in self._reasons
        self._asked: dict[object, object] = {}
        self._held: deque[Callable[[], object]] = deque()
        self._is_over = False
        self._loop: Loop = current_loop()
        self._nearest_cut = nearest_cut
        self._around = around
        self.scope = anyio.CancelScope(shield=True, deadline=self.when())

    def when(self) -> float:
        """Return when the section is to be cut."""
        return max([self._nearest_cut(), *(hold.when() for hold in self._around)])

    def keeps(self, asked: object, cause: Cause) -> bool:
        """Return whether a request to the operation *asked* is to be held back."""
        return cause.reason in self._reasons or (self._asks_parent and asked is not self._owner)

    def notes(self, asked: object) -> bool:
        """Note that a request to the operation *asked* is held; it may come from any thread.

        Returns:
            Whether it is the first one in this section.
        """
        mark = object()
        return self._asked.setdefault(asked, mark) is mark  # one atomic step

    def has(self, asked: object) -> bool:
        """Return whether a request to the operation *asked* is held, or was."""
        return asked in self._asked

    def keep(self, ask_again: Callable[[], object]) -> None:
        """Hold a request; it may come from any thread.

        It goes in before the end of the section is looked for: one that comes while the others
        are made is made by whoever comes second.
        """
        self._held.append(ask_again)
        if self._is_over:
            self.release()

    def release(self) -> None:
        """Make the requests that were held, in the order in which they came."""
        self._is_over = True
        call_all(self._taken_out())

    def _taken_out(self) -> Iterator[Callable[[], object]]:
        while True:
            try:
                ask_again = self._held.popleft()
            except IndexError:
                return
            yield ask_again

    def cut(self, here: object, message: str | None) -> None:
        """End the section when the operation, or one around it, is to be cut by now.

        Args:
            here: The native token of the loop that runs this call; the operation around may
                run in another loop than the section.
            message: What the native cancelation shall say.
        """
        if here is not self._loop.native_token:
            call_soon(self._loop, partial(self.cut, self._loop.native_token, message))
        elif not self._is_over and not self.scope.cancel_called:
            when = self.when()
            if when <= self._loop.clock():
                self.scope.cancel(message)
            else:
                self.scope.deadline = when
