"""The turns of the loop that a stream gives to others."""

from __future__ import annotations

from time import monotonic

from anyio.lowlevel import checkpoint

GIVE_WAY = 0.005
"""Seconds after which a stream that never waited lets others run."""

QUICK_CHUNKS = 8
"""Chunks between two looks at most: to read a clock takes a part of a quick chunk.

Where a source that was quick turns slow, as many slow ones may pass before others run.
"""

QUICK = GIVE_WAY / QUICK_CHUNKS
"""Seconds between two looks below which the chunks between them were quick."""


class Turns:
    """Let others run where neither a source nor the server waits for anything.

    Whoever is to notice that the client left needs a turn of the loop.
    """

    __slots__ = ("_given_at", "_looked_at", "_until_look")

    def __init__(self) -> None:
        """Count from now."""
        self._given_at = self._looked_at = monotonic()
        self._until_look = 1

    def look(self) -> int:
        """Look whether it is time to give a turn.

        Returns:
            After how many chunks to look again: twice as many as before as long as they are quick,
            up to a bound, and one if they were not, since the next may take as long. Zero to give
            a turn first.
        """
        now = monotonic()
        if now - self._looked_at >= QUICK:
            self._until_look = 1
        elif self._until_look < QUICK_CHUNKS:
            self._until_look *= 2
        self._looked_at = now
        return self._until_look if now - self._given_at <= GIVE_WAY else 0

    async def give(self) -> int:
        """Give a turn.

        Returns:
            After how many chunks to look again.
        """
        await checkpoint()
        self._given_at = self._looked_at = monotonic()
        return self._until_look
