"""One watcher of one operation: a doorbell, and the records that the watcher takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from .._loop import call_soon, current_loop
from ._info import OperationInfo


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


class Watch(AsyncIterator[OperationInfo]):
    """Iterate over what becomes of one operation, at the watcher's own pace.

    The first record tells how it stands; each later one that something has changed. A watcher
    that is slower than the changes misses some in the middle and always gets the last one,
    which tells how the operation ended, or that it is lost.
    """

    __slots__ = ("_bell", "_ended", "_last", "_look", "_next")

    def __init__(
        self,
        first: OperationInfo,
        bell: Doorbell,
        look: Callable[[], Awaitable[OperationInfo]],
    ) -> None:
        """Make the iterator of one watcher.

        Args:
            first: How the operation stands.
            bell: What rings when something may have changed.
            look: Tells how the operation stands by then.
        """
        self._next: OperationInfo | None = first
        self._last: OperationInfo | None = None
        self._bell = bell
        self._look = look
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OperationInfo:
        if self._ended:
            await checkpoint()
            raise StopAsyncIteration
        found, self._next = self._next, None
        while found is None or (self._last is not None and not _differ(found, self._last)):
            await self._bell.wait()
            found = await self._look()
        await checkpoint()
        self._last = found
        self._ended = not found.state.is_live
        return found


def ended_watch(info: OperationInfo) -> Watch:
    """Return the watcher of an operation of which no more will be heard."""

    async def look() -> OperationInfo:
        return info

    return Watch(info, Doorbell(), look)


def _differ(one: OperationInfo, other: OperationInfo) -> bool:
    return (one.state, one.progress, one.cancel, one.worker) != (
        other.state,
        other.progress,
        other.cancel,
        other.worker,
    )
