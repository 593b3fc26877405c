"""How far an operation has come: reports, listeners in line, and readers who may be slow."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Self, TypeAlias

import anyio

from ._answers import awaitable
from ._log import logger
from ._loop import Loop, call_soon, current_loop, is_error
from ._update import ProgressUpdate

ProgressCallback: TypeAlias = Callable[[str, object, Mapping[str, object] | None], object]
"""Called with the operation's id, the message and the metadata; plain, or async."""

ProgressCallbackType: TypeAlias = ProgressCallback
"""The same type, under a name that some programs know it by."""

LISTENER_LIMIT = 1.0
"""Seconds that an async listener may take over one report before it is dropped."""

LINE_LIMIT = 1_000
"""Reports from threads that may wait for the listeners of one operation."""


class Progress:
    """Keep the listeners and the readers of one operation's progress."""

    __slots__ = ("feeds", "last", "line", "listeners")

    def __init__(self) -> None:
        """Start with nobody listening."""
        self.listeners: list[ProgressCallback] = []
        self.feeds: dict[weakref.ref[ProgressFeed], None] = {}
        self.last: ProgressUpdate | None = None
        self.line: _Line | None = None

    async def report(self, update: ProgressUpdate) -> None:
        """Hand an update to the readers, then to each listener in turn.

        An async listener that takes longer than a second is dropped with one warning, so
        that it cannot slow the work again.
        """
        self.publish(update)
        for listener in list(self.listeners):
            answer = self._call(listener, update)
            waiting = awaitable(answer)
            if waiting is not None:
                await self._await(listener, waiting)

    def report_from_thread(self, loop: Loop, update: ProgressUpdate) -> None:
        """Hand an update to the readers, and have the loop call the plain listeners soon.

        Args:
            loop: Where the listeners are called.
            update: What they are told.
        """
        self.publish(update)
        if self.listeners:
            with _line_lock:
                if self.line is None:
                    self.line = _Line(self._call_plain)
                self.line.add(loop, update)

    def publish(self, update: ProgressUpdate) -> None:
        """Remember an update as the last one and show it to the readers."""
        self.last = update
        for reader in list(self.feeds):
            feed = reader()
            if feed is not None:
                feed.show(update)

    def end(self) -> None:
        """Call the listeners for what still waits; tell the readers that nothing will follow."""
        if self.line is not None:
            self.line.finish()
        for reader in list(self.feeds):
            feed = reader()
            if feed is not None:
                feed.end()
        self.feeds.clear()
        self.listeners.clear()

    def _call_plain(self, update: ProgressUpdate) -> None:
        for listener in list(self.listeners):
            answer = self._call(listener, update)
            if inspect.iscoroutine(answer):
                answer.close()  # nobody can await it here

    def _call(self, listener: ProgressCallback, update: ProgressUpdate) -> object:
        try:
            return listener(update.operation_id, update.message, update.metadata)
        except BaseException as raised:
            if not is_error(raised):
                raise
            logger.exception("a progress listener raised: %r", listener)
            return None

    async def _await(self, listener: ProgressCallback, answer: Awaitable[object]) -> None:
        loop = current_loop()
        with anyio.move_on_after(LISTENER_LIMIT) as scope:
            cancels = loop.count_cancels()
            try:
                await answer
            except BaseException as raised:
                if not is_error(raised, loop, cancels):
                    raise
                logger.exception("a progress listener raised: %r", listener)
        if scope.cancelled_caught and listener in self.listeners:
            self.listeners.remove(listener)
            logger.warning(
                "a progress listener took longer than %g s and is not called again for this "
                "operation: %r; read `operation.progress()` where reading may be slow",
                LISTENER_LIMIT,
                listener,
            )


# One lock for all lines: it is held for a few instructions, and a lock for each would cost every
# operation. A signal handler may report while its own thread holds it.
_line_lock = threading.RLock()


class _Line:
    """Let reports from threads wait for the listeners, which the loop calls for one at a turn.

    A thread may report faster than listeners can be called. If each report rang for itself, a
    turn of the loop would answer all that had come, meanwhile many more would come, and nothing
    else would run; so there is one ring at a time, and an end to the line.
    """

    __slots__ = ("_call", "_dropped", "_ringing", "_waiting")

    def __init__(self, call: Callable[[ProgressUpdate], None]) -> None:
        self._call = call
        self._waiting = deque[ProgressUpdate]()
        self._ringing = False
        self._dropped = False

    def add(self, loop: Loop, update: ProgressUpdate) -> None:
        """Put an update at the end of the line; the caller holds the lock."""
        if len(self._waiting) == LINE_LIMIT:
            self._drop_oldest()
        self._waiting.append(update)
        if not self._ringing:
            self._ringing = True
            call_soon(loop, partial(self._serve, loop))

    def finish(self) -> None:
        """Serve all that wait, at once."""
        while self._serve_one():
            pass

    def _serve(self, loop: Loop) -> None:
        self._serve_one()
        with _line_lock:
            self._ringing = bool(self._waiting)
            if self._ringing:
                call_soon(loop, partial(self._serve, loop))

    def _serve_one(self) -> bool:
        with _line_lock:
            if not self._waiting:
                return False
            update = self._waiting.popleft()
        self._call(update)
        return True

    def _drop_oldest(self) -> None:
        dropped = self._waiting.popleft()
        if not self._dropped:
            self._dropped = True
            logger.warning(
                "operation %r: a thread reports progress faster than its listeners can be "
                "called, which now miss the oldest of %d reports that wait; read "
                "`operation.progress()` where reading may be slow",
                dropped.operation_id,
                LINE_LIMIT,
            )


class ProgressFeed:
    """Iterate over the progress of an operation at the reader's own pace.

    Updates come in order. A reader that is slower than the reports misses some in the middle
    and always gets the last one; the iteration ends when the operation has ended.
    """

    __slots__ = ("__weakref__", "_changed", "_ended", "_latest", "_loop", "_seen")

    def __init__(self, progress: Progress, *, ended: bool) -> None:
        """Make a reader; it follows the reports from its first step on.

        Args:
            progress: What to read.
            ended: Whether the operation has ended already.
        """
        self._latest = progress.last
        self._seen: ProgressUpdate | None = None
        self._ended = ended
        self._loop: Loop | None = None
        self._changed: anyio.Event | None = None
        if not ended:
            # A reader that is dropped in the middle takes its place among the feeds with it.
            progress.feeds[_reference(self, progress.feeds)] = None

    def show(self, update: ProgressUpdate) -> None:
        """Keep the newest update for the reader; safe from any thread."""
        self._latest = update
        self._wake()

    def end(self) -> None:
        """Tell the reader that the last update is out; safe from any thread."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is not None and changed is not None:
            call_soon(loop, changed.set)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressUpdate:
        # The event goes in before the update is looked up: a report from a thread in between
        # is either seen here or sets the event.
        self._loop = current_loop()
        self._changed = anyio.Event()
        while True:
            update, ended = self._latest, self._ended
            if update is not None and update is not self._seen:
                await anyio.lowlevel.checkpoint()
                self._seen = update
                return update
            if ended and self._latest is update:
                await anyio.lowlevel.checkpoint()
                raise StopAsyncIteration
            await self._changed.wait()
            self._changed = anyio.Event()


def _reference(
    feed: ProgressFeed, feeds: dict[weakref.ref[ProgressFeed], None]
) -> weakref.ref[ProgressFeed]:
    def forget(reader: weakref.ref[ProgressFeed]) -> None:
        feeds.pop(reader, None)

    return weakref.ref(feed, forget)
