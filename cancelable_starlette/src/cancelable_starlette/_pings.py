"""Keeping a stream of events alive while its source has nothing to say."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import anyio

from ._inbox import Watcher

logger = logging.getLogger("cancelable.starlette")


class Pings:
    """Send a ping whenever nothing has been sent for a while.

    They run in a task of whoever watches the request, so that no task group is opened for them.
    Two tasks then send: whoever sends for the source does it in ``turn``.

    Attributes:
        turn: Held while something is sent, so that nothing is sent into the middle of it.
        broke_off: Whether a ping was begun and not ended, so that its end may be missing.
    """

    def __init__(self, interval: float, send_ping: Callable[[], Awaitable[None]]) -> None:
        """Make what does nothing yet.

        Args:
            interval: Seconds without anything sent.
            send_ping: Sends a ping if the stream is between two events, and nothing if it is not.
        """
        self.turn = anyio.Lock(fast_acquire=True)
        self.broke_off: bool = False
        self._interval = interval
        self._send_ping = send_ping
        self._sent_at = -math.inf
        self._scope: anyio.CancelScope | None = None
        self._ended = anyio.Event()

    def start(self, watcher: Watcher) -> None:
        """Send pings until ``end``.

        Args:
            watcher: Who runs the task.
        """
        self.note_sent()
        self._scope = watcher.spawn(self._run)
        if self._scope is None:
            self._ended.set()  # the server is about to end

    def note_sent(self) -> None:
        """Take note that something has been sent."""
        self._sent_at = anyio.current_time()

    def end(self) -> None:
        """Send no more."""
        if self._scope is not None and not self._ended.is_set():
            self._scope.cancel()

    async def wait_ended(self) -> None:
        """Wait until the task has ended; after ``start`` and ``end``."""
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            while True:
                await anyio.sleep_until(self._sent_at + self._interval)
                async with self.turn:
                    await self._ping_if_silent()
        except Exception:
            # The next send of the stream will meet it as well, where somebody can be told.
            logger.debug("a ping could not be sent", exc_info=True)
        finally:
            self._ended.set()

    async def _ping_if_silent(self) -> None:
        if anyio.current_time() < self._sent_at + self._interval:
            return
        self.note_sent()
        self.broke_off = True
        await self._send_ping()
        self.broke_off = False
