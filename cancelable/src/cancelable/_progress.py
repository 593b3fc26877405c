"""How far an operation has come: reports, listeners in line, and readers who may be slow."""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from ._answers import awaitable
from ._log import logger
from ._loop import Loop, call_soon, current_loop

ProgressCallback: TypeAlias = Callable[[str, object, Mapping[str, object] | None], object]
"""Called with the operation's id, the message and the metadata; plain, or async."""

ProgressCallbackType: TypeAlias = ProgressCallback
"""The same type, under a name that some programs know it by."""

LISTENER_LIMIT = 1.0
"""Seconds that an async listener may take over one report before it is dropped."""


@dataclass(slots=True, frozen=True)
class ProgressUpdate:
    """Hold one report of progress."""

    operation_id: str
    message: object
    metadata: Mapping[str, object] | None = None
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def time(self) -> datetime:
        """The time of the report, in UTC."""
        return datetime.fromtimestamp(self.at, UTC)


class Progress:
    """Keep the listeners and the readers of one operation's progress."""

    __slots__ = ("feeds", "last", "listeners")

    def __init__(self) -> None:
        """Start with nobody listening."""
        self.listeners: list[ProgressCallback] = []
        self.feeds: dict[weakref.ref[ProgressFeed], None] = {}
        self.last: ProgressUpdate | None = None

    @property
    def has_async_listeners(self) -> bool:
        """Whether a listener is async, a function or an object that is called as one.

        Only a task can await it.
        """
        return any(
            inspect.iscoroutinefunction(listener)
            or inspect.iscoroutinefunction(getattr(listener, "__call__", None))  # noqa: B004
            for listener in self.listeners
        )

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

    def report_plain(self, update: ProgressUpdate) -> None:
        """Hand an update to the readers and to the plain listeners, from the loop's thread."""
        self.publish(update)
        for listener in list(self.listeners):
            answer = self._call(listener, update)
            if inspect.iscoroutine(answer):
                answer.close()  # nobody can await it here

    def publish(self, update: ProgressUpdate) -> None:
        """Remember an update as the last one and show it to the readers."""
        self.last = update
        for reader in list(self.feeds):
            feed = reader()
            if feed is not None:
                feed.show(update)

    def end(self) -> None:
        """Tell the readers that no update will follow."""
        for reader in list(self.feeds):
            feed = reader()
            if feed is not None:
                feed.end()
        self.feeds.clear()
        self.listeners.clear()

    def _call(self, listener: ProgressCallback, update: ProgressUpdate) -> object:
        try:
            return listener(update.operation_id, update.message, update.metadata)
        except Exception:
            logger.exception("a progress listener raised: %r", listener)
            return None

    async def _await(self, listener: ProgressCallback, answer: Awaitable[object]) -> None:
        with anyio.move_on_after(LISTENER_LIMIT) as scope:
            try:
                await answer
            except Exception:
                logger.exception("a progress listener raised: %r", listener)
        if scope.cancelled_caught and listener in self.listeners:
            self.listeners.remove(listener)
            logger.warning(
                "a progress listener took longer than %g s and is not called again for this "
                "operation: %r; read `operation.progress()` where reading may be slow",
                LISTENER_LIMIT,
                listener,
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
                await checkpoint()
                self._seen = update
                return update
            if ended and self._latest is update:
                await checkpoint()
                raise StopAsyncIteration
            await self._changed.wait()
            self._changed = anyio.Event()


def _reference(
    feed: ProgressFeed, feeds: dict[weakref.ref[ProgressFeed], None]
) -> weakref.ref[ProgressFeed]:
    def forget(reader: weakref.ref[ProgressFeed]) -> None:
        feeds.pop(reader, None)

    return weakref.ref(feed, forget)
