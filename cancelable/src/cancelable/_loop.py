"""The one room that knows event loops: which one runs here, its clock, its tasks, its doorbell.

Everything stands on the loop that anyio names in its ``native_token``: an asyncio event loop
(uvloop's too) or a Trio token. No loop library is imported here; the one that is running has
been imported by whoever runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, cast

from anyio.lowlevel import EventLoopToken, current_token


class _AsyncioLoop(Protocol):
    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object: ...
    def is_closed(self) -> bool: ...
    def time(self) -> float: ...


class _TrioToken(Protocol):
    def run_sync_soon(self, callback: Callable[[], object], /) -> None: ...


class _TrioClock(Protocol):
    def current_time(self) -> float: ...


class _TrioLowLevel(Protocol):
    def current_clock(self) -> _TrioClock: ...
    def current_task(self) -> object: ...


class _Library(Protocol):
    """What differs between the loop libraries."""

    def current_task(self) -> object: ...
    def clock(self, native: object) -> Callable[[], float]: ...
    def call_soon(self, native: object, callback: Callable[[], object]) -> bool: ...


class _Asyncio:
    def __init__(self) -> None:
        # The attribute, and not a method around it, because every block asks twice.
        self.current_task: Callable[[], object] = sys.modules["asyncio"].current_task

    def clock(self, native: object) -> Callable[[], float]:
        loop: _AsyncioLoop = native  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        return loop.time

    def call_soon(self, native: object, callback: Callable[[], object]) -> bool:
        loop = cast(_AsyncioLoop, native)
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if loop.is_closed():
                return False
            raise
        return True


class _Trio:
    def __init__(self) -> None:
        self._lowlevel = cast(_TrioLowLevel, sys.modules["trio"].lowlevel)
        self.current_task: Callable[[], object] = self._lowlevel.current_task

    def clock(self, native: object) -> Callable[[], float]:
        return self._lowlevel.current_clock().current_time

    def call_soon(self, native: object, callback: Callable[[], object]) -> bool:
        try:
            cast(_TrioToken, native).run_sync_soon(callback)
        except RuntimeError:  # trio.RunFinishedError, the only error of this call
            return False
        return True


# By anyio's class of the backend. Filled where a loop of it is first seen; a second thread that
# does so at the same time puts an equal object there.
_libraries: dict[object, _Library] = {}


def _library_of(loop: EventLoopToken) -> _Library:
    library = _libraries.get(loop.backend_class)
    if library is None:
        is_asyncio = hasattr(loop.native_token, "call_soon_threadsafe")
        library = _libraries[loop.backend_class] = _Asyncio() if is_asyncio else _Trio()
    return library


current_loop = current_token
"""Return the token of the loop that runs in this thread (anyio's own function)."""


def clock_of(loop: EventLoopToken) -> Callable[[], float]:
    """Return the clock of the running *loop*: anyio's time in seconds, readable in any thread."""
    return _library_of(loop).clock(loop.native_token)


def task_of(loop: EventLoopToken) -> object:
    """Return the task that runs in this thread's *loop*; its identity is all that is promised."""
    return _library_of(loop).current_task()


def task_is_done(task: object) -> bool:
    """Return whether *task* is known to have ended; Trio does not tell."""
    done = getattr(task, "done", None)
    return done is not None and bool(done())


def call_soon(loop: EventLoopToken, callback: Callable[[], object]) -> bool:
    """Have *loop* run a callback at its next turn; never wait for it.

    Safe from any thread, from another loop and from a signal handler: both loops document
    these calls for that (``loop.call_soon_threadsafe``, ``TrioToken.run_sync_soon``).

    Args:
        loop: The loop to wake.
        callback: What to run there. It must not raise: Trio would end the whole run.

    Returns:
        False if the loop is closed, in which case nobody is left to tell.
    """
    return _library_of(loop).call_soon(loop.native_token, callback)
