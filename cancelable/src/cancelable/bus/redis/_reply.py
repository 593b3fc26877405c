"""What a caller waits for: an answer from the loop of the bus, in whatever loop the caller is."""

from __future__ import annotations

import anyio

from ..._loop import call_soon, current_loop


class Reply:
    """Hand one answer from the loop of the bus to one waiting task.

    The task may go away at any moment; nobody minds.
    """

    __slots__ = ("_came", "_loop", "answer", "is_answered", "is_wanted", "was_sent")

    def __init__(self) -> None:
        """Make a reply for a task of the running loop."""
        self._loop = current_loop()
        self._came = anyio.Event()
        self.answer: object = None
        self.is_answered = False
        self.is_wanted = True
        self.was_sent = False

    def settle(self, answer: object) -> None:
        """Give the answer; only the first one counts."""
        if not self.is_answered:
            self.answer = answer
            self.is_answered = True
            call_soon(self._loop, self._came.set)

    async def wait(self, timeout: float) -> bool:
        """Wait for the answer.

        Args:
            timeout: How long, in seconds.

        Returns:
            Whether it came.
        """
        try:
            with anyio.move_on_after(timeout):
                await self._came.wait()
        finally:
            self.is_wanted = False
        return self.is_answered
