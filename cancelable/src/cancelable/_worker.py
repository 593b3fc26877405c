"""A worker thread, as the code in it sees it: who waits for what it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class WorkerCall:
    """Run one function in a worker thread.

    Attributes:
        is_left: Whether nobody waits for the function any more.
        is_stopped: Whether a check told the function of a cancelation that is not the
            operation's own.
    """

    __slots__ = ("is_left", "is_stopped")

    def __init__(self) -> None:
        """Make a call that somebody waits for."""
        self.is_left = False
        self.is_stopped = False

    def run(self, func: Callable[[], T]) -> T:
        """Call *func*; runs in the worker thread.

        Args:
            func: What to call.

        Returns:
            What it returns.
        """
        _here.call = self
        try:
            return func()
        finally:
            _here.call = None


class _Here(threading.local):
    """The call that this thread runs, if it runs one."""

    call: WorkerCall | None = None


_here = _Here()


def current_call() -> WorkerCall | None:
    """Return the call that this thread runs, or None."""
    return _here.call


def check_host() -> None:
    """Raise if what waits for this worker thread of anyio has been cancelled, of whomever.

    Harmless in all other threads.

    Raises:
        BaseException: The native cancelation, for whatever scope it is.
    """
    from anyio import NoEventLoopError, from_thread  # noqa: TID251 - it looks, and never waits

    try:
        from_thread.check_cancelled()
    except NoEventLoopError:
        return
