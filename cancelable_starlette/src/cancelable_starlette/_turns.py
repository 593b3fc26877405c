"""The turns of the loop that a stream gives to others."""

from __future__ import annotations

from time import monotonic

from anyio.lowlevel import checkpoint

GIVE_WAY = 0.005
"""Seconds after which a stream that never waited lets others run."""

QUICK_CHUNKS = 8
"""Chunks between two looks, if they are quick: to read a clock takes a part of such a chunk."""


class Turns:
    """Let others run where neither a source nor the server waits for anything.

    Whoever is to notice that the client left needs a turn of the loop.
    """

    __slots__ = ("_given_at", "_looked_at")

    def __init__(self) -> None:
        """Count from now."""
        self._given_at = self._looked_at = monotonic()

    async def look(self) -> int:
        """Give a turn if it is time.

        Returns:
            After how many chunks to look again: a chunk may take as long as it likes to make, and
            is not waited for seven times more.
        """
        now = monotonic()
        took, self._looked_at = now - self._looked_at, now
        if now - self._given_at > GIVE_WAY:
            await checkpoint()
            self._given_at = self._looked_at = monotonic()
        return QUICK_CHUNKS if took < GIVE_WAY / QUICK_CHUNKS else 1
