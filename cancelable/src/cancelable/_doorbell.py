"""A doorbell that one task answers and any thread may ring."""

from __future__ import annotations

import anyio

from ._loop import call_soon, current_loop


class Doorbell:
    """Wake one task, from any thread; rings that come before it looks are one ring."""

    __slots__ = ("_loop", "_rang", "_rung")

    def __init__(self) -> None:
        """Make a doorbell for a task of the running loop."""
        self._loop = current_loop()
        self._rang = anyio.Event()
        self._rung = False

    def ring(self) -> None:
        """Wake the task; safe from any thread and from a signal handler."""
        if not self._rung:
            self._rung = True
            call_soon(self._loop, self._wake)

    async def wait(self) -> None:
        """Wait until somebody rings, or has rung since the last wait."""
        await self._rang.wait()
        # The flag is taken back before the caller looks: whoever rings from here on rings
        # again, and whoever found the flag still set did its change before that look.
        self._rang = anyio.Event()
        self._rung = False

    def _wake(self) -> None:
        self._rang.set()
