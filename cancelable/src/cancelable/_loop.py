"""The one room that knows event loops: which one runs here, its clock, its tasks, its doorbell.

Everything stands on the loop that anyio names in its ``native_token``: an asyncio event loop
(uvloop's too) or a Trio token. No loop library is imported here; the one that is running has
been imported by whoever runs it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio

if TYPE_CHECKING:
    # anyio.abc brings sockets in, which a program may not need; and a protocol is slow to make.
    from contextlib import AbstractContextManager
    from typing import Protocol

    from anyio.abc import AsyncBackend
    from anyio.lowlevel import EventLoopToken

    class _AsyncioHandle(Protocol):
        def cancel(self) -> object: ...

    class _AsyncioLoop(Protocol):
        def call_at(self, when: float, callback: Callable[[], object], /) -> _AsyncioHandle: ...
        def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object: ...
        def is_closed(self) -> bool: ...
        def time(self) -> float: ...

    class _AsyncioTask(Protocol):
        def cancelling(self) -> int: ...

    class _TrioToken(Protocol):
        def run_sync_soon(self, callback: Callable[[], object], /) -> None: ...

    class _TrioClock(Protocol):
        def current_time(self) -> float: ...

    class _TrioLowLevel(Protocol):
        def spawn_system_task(self, function: Callable[[], Awaitable[None]], /) -> object: ...
        def current_clock(self) -> _TrioClock: ...
        def current_trio_token(self) -> object: ...
        def current_task(self) -> object: ...

    class _TrioScope(AbstractContextManager[object, bool], Protocol):
        def cancel(self) -> object: ...

    class _Trio(Protocol):
        @property
        def lowlevel(self) -> _TrioLowLevel: ...
        def CancelScope(self, *, deadline: float) -> _TrioScope: ...
        async def sleep_forever(self) -> None: ...


class Loop:
    """One event loop, as far as operations need it.

    Attributes:
        native_token: anyio's native token; its identity is the loop's.
        backend: anyio's backend of the loop, whose calls need not look it up again.
        scope_class: What the backend makes of ``anyio.CancelScope``: a subclass, whose constructor
            need not ask which loop runs.
        clock: anyio's time in seconds, readable in any thread.
        count_cancels: How often the task that runs was asked to stop natively, by whomever; see
            ``is_error``. Zero on Trio.
        current_task: The task that runs in this thread's loop; its identity is all that is
            promised.
        running: The native token of the loop that the calling code is known to run in, without
            asking anyio; None where that is not known.
        rival: The module of another loop library that may share this loop's thread as its guest,
            in which case only anyio knows whose the calling code is.
    """

    __slots__ = (
        "backend",
        "call_at",
        "call_soon",
        "clock",
        "count_cancels",
        "current_task",
        "native_token",
        "rival",
        "running",
        "scope_class",
    )

    def __init__(self, token: EventLoopToken) -> None:
        """Learn the loop that runs in this thread."""
        self.native_token: object = token.native_token
        self.backend: type[AsyncBackend] = token.backend_class
        self.scope_class: type[anyio.CancelScope] = type(self.backend.create_cancel_scope())
        self.clock: Callable[[], float]
        self.count_cancels: Callable[[], int]
        self.current_task: Callable[[], object]
        self.call_at: Callable[[float, Callable[[], object]], Callable[[], object]]
        self.call_soon: Callable[[Callable[[], object]], bool]
        self.running: Callable[[], object]
        self.rival: str | None
        if hasattr(self.native_token, "call_soon_threadsafe"):
            loop = cast("_AsyncioLoop", self.native_token)
            self.clock = loop.time
            asyncio = sys.modules["asyncio"]
            self.current_task = asyncio.current_task
            self.count_cancels = partial(_count_cancels, asyncio.current_task)
            self.running = asyncio._get_running_loop
            self.rival = "trio"
            self.call_at = partial(_call_at_on_asyncio, loop)
            self.call_soon = partial(_call_soon_on_asyncio, loop)
        else:
            trio = cast("_Trio", sys.modules["trio"])
            lowlevel = trio.lowlevel
            self.clock = lowlevel.current_clock().current_time
            self.current_task = lowlevel.current_task
            self.count_cancels = int  # zero
            self.running = partial(_running_trio, lowlevel.current_trio_token)
            self.rival = None
            self.call_at = partial(_call_at_on_trio, trio)
            self.call_soon = partial(_call_soon_on_trio, cast("_TrioToken", self.native_token))


class _Here(threading.local):
    """The loop that this thread ran last; it is kept until the thread runs another."""

    loop: Loop | None = None


_here = _Here()

_newest: Loop | None = None
"""The loop that some thread was the last to learn of: in most programs there is no other.

Looking here first saves the look at what is the thread's own, which takes longer.
"""


def current_loop() -> Loop:
    """Return the loop that runs in this thread.

    Raises:
        anyio.NoEventLoopError: If no supported event loop runs in this thread.
    """
    # Trio may run as the guest of an asyncio loop, both in one thread. Only anyio can tell then
    # which of the two the calling code belongs to; so each is only known where the other one
    # cannot be.
    loop = _newest
    if loop is not None and loop.running() is loop.native_token and loop.rival not in sys.modules:
        return loop
    loop = _here.loop
    if loop is not None and loop.running() is loop.native_token and loop.rival not in sys.modules:
        return loop
    return _ask_anyio()


def _ask_anyio() -> Loop:
    global _newest
    token = anyio.lowlevel.current_token()
    loop = _here.loop
    if loop is None or loop.native_token is not token.native_token:
        loop = _here.loop = _newest = Loop(token)
    return loop


def task_is_done(task: object) -> bool:
    """Return whether *task* is known to have ended; Trio does not tell."""
    done = getattr(task, "done", None)
    return done is not None and bool(done())


def is_error(raised: BaseException, loop: Loop | None = None, cancels: int = 0) -> bool:
    """Return whether what somebody's code raised is an error of that code.

    Errors are all ``Exception``, and asyncio's ``CancelledError`` where it is nobody's cancel of
    the running task: code that awaits a future or a task which somebody else has cancelled, or
    asks it for its result, raises that as well. Whoever cancels a task, anyio's scopes too, does
    it by ``task.cancel()``, which counts. Trio's cannot be raised by hand.

    Args:
        raised: What the code raised.
        loop: The running loop, if the code was awaited: a plain call cannot be cancelled.
        cancels: What ``loop.count_cancels()`` gave before.
    """
    if isinstance(raised, Exception):
        return True
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(raised, asyncio.CancelledError):
        return False
    return loop is None or (cancels >= 0 and loop.count_cancels() <= cancels)


def call_soon(loop: Loop, callback: Callable[[], object]) -> bool:
    """Have *loop* run a callback at its next turn; never wait for it.

    Safe from any thread, from another loop and from a signal handler: both loops document
    these calls for that (``loop.call_soon_threadsafe``, ``TrioToken.run_sync_soon``).

    Args:
        loop: The loop to wake.
        callback: What to run there. It must not raise: Trio would end the whole run.

    Returns:
        False if the loop is closed, in which case nobody is left to tell.
    """
    return loop.call_soon(callback)


def call_here(loop: Loop, callback: Callable[[], object]) -> None:
    """Run a callback at once where the calling code is known to run in *loop*, else soon there.

    Args:
        loop: The loop that is to run it.
        callback: What to run. It must not raise.
    """
    if loop.running() is loop.native_token and loop.rival not in sys.modules:
        callback()
    else:
        call_soon(loop, callback)


class Alarm:
    """One call at a time of a loop's clock.

    Attributes:
        when: That time.
    """

    __slots__ = ("_loop", "_take_back", "when")

    def __init__(self, loop: Loop, when: float, callback: Callable[[], object]) -> None:
        """Have *loop* run a callback at a time of its clock; to be called in that loop.

        It costs a timer on asyncio, and on Trio, which has none to be had outside of a task, a
        system task.

        Args:
            loop: The loop.
            when: The time.
            callback: What to run there. It must not raise.
        """
        self._loop = loop
        self._take_back = loop.call_at(when, callback)
        self.when = when

    def take_back(self) -> None:
        """Have nothing called; safe from any thread, and harmless behind the call."""
        call_here(self._loop, self._take_back)


def _count_cancels(current_task: Callable[[], object]) -> int:
    """Count the requests to an asyncio task; -1 while one waits to be delivered."""
    task = cast("_AsyncioTask", current_task())
    return -1 if getattr(task, "_must_cancel", False) else task.cancelling()


def _running_trio(current: Callable[[], object]) -> object:
    """Return the token of Trio's run; None where it is in no run, or may be a guest in one."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return None
    try:
        return current()
    except RuntimeError:  # this thread is in no run
        return None


def _call_soon_on_asyncio(loop: _AsyncioLoop, callback: Callable[[], object]) -> bool:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if loop.is_closed():
            return False
        raise
    return True


def _call_at_on_asyncio(
    loop: _AsyncioLoop, when: float, callback: Callable[[], object]
) -> Callable[[], object]:
    return loop.call_at(when, callback).cancel


def _call_at_on_trio(
    trio: _Trio, when: float, callback: Callable[[], object]
) -> Callable[[], object]:
    scope = trio.CancelScope(deadline=when)
    callbacks = [callback]

    async def wait_and_call() -> None:
        with scope:
            await trio.sleep_forever()
        for each in callbacks:
            each()

    def take_back() -> None:
        callbacks.clear()
        scope.cancel()

    trio.lowlevel.spawn_system_task(wait_and_call)
    return take_back


def _call_soon_on_trio(token: _TrioToken, callback: Callable[[], object]) -> bool:
    try:
        token.run_sync_soon(callback)
    except RuntimeError:  # trio.RunFinishedError, the only error of this call
        return False
    return True
