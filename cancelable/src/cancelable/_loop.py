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


class _AsyncioModule(Protocol):
    def current_task(self) -> object: ...


class _TrioToken(Protocol):
    def run_sync_soon(self, callback: Callable[[], object], /) -> None: ...


class _TrioClock(Protocol):
    def current_time(self) -> float: ...


class _TrioLowLevel(Protocol):
    def current_clock(self) -> _TrioClock: ...
    def current_task(self) -> object: ...


class _TrioModule(Protocol):
    lowlevel: _TrioLowLevel


def current_loop() -> EventLoopToken:
    """Return the token of the loop that runs in this thread.

    Raises:
        anyio.NoEventLoopError: If no supported event loop runs in this thread.
    """
    return current_token()


def clock_of(loop: EventLoopToken) -> Callable[[], float]:
    """Return the clock of the running *loop*: anyio's time in seconds, readable in any thread."""
    native = loop.native_token
    if hasattr(native, "call_soon_threadsafe"):
        return cast(_AsyncioLoop, native).time
    return cast(_TrioModule, sys.modules["trio"]).lowlevel.current_clock().current_time


def task_of(loop: EventLoopToken) -> object:
    """Return the task that runs in this thread's *loop*; its identity is all that is promised."""
    if hasattr(loop.native_token, "call_soon_threadsafe"):
        return cast(_AsyncioModule, sys.modules["asyncio"]).current_task()
    return cast(_TrioModule, sys.modules["trio"]).lowlevel.current_task()


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
    native = loop.native_token
    if not hasattr(native, "call_soon_threadsafe"):
        try:
            cast(_TrioToken, native).run_sync_soon(callback)
        except RuntimeError:  # trio.RunFinishedError, the only error of this call
            return False
        return True
    asyncio_loop = cast(_AsyncioLoop, native)
    try:
        asyncio_loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if asyncio_loop.is_closed():
            return False
        raise
    return True
