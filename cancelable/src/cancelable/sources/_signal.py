"""A source that fires when the process receives a signal.

Handlers are chained, never replaced for good: a handler that a server or the program has
installed is called as well, for every signal. The interpreter's and the event loops' own
handlers would end the process, so the first signal is kept from them; a second one is theirs,
and Ctrl-C twice still ends the program.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TypeAlias

import anyio

from .._cause import Cause
from .._reason import CancelationReason
from .._round import call_all
from ._base import CancelationSource

Handler: TypeAlias = Callable[[int, FrameType | None], object]
Installed: TypeAlias = Handler | int | signal.Handlers | None
"""What ``signal.getsignal`` tells of a signal."""


class SignalSource(CancelationSource):
    """Fire at the first of some signals."""

    def __init__(self, *signals: int, name: str | None = None) -> None:
        """Make a source.

        Args:
            signals: Signals (``signal.SIGTERM``); SIGINT and SIGTERM if none is given.
            name: A name for people.

        Raises:
            TypeError: If one of them is no number.
            ValueError: If this platform knows no such signal.
        """
        self.signals: tuple[signal.Signals, ...] = tuple(
            _checked_signal(number) for number in signals
        ) or (
            signal.SIGINT,
            signal.SIGTERM,
        )
        self._chains: list[_Chain] = []
        super().__init__(CancelationReason.SIGNAL, name)

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Listen to the signals.

        Raises:
            RuntimeError: If this is not the main thread, where alone Python runs handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            msg = (
                "signals can be listened to in the main thread only; in another thread, "
                "cancel a token from a handler that the main thread installs"
            )
            raise RuntimeError(msg)
        try:
            for number in self.signals:
                self._chains.append(_listen(number, self))
        except BaseException:  # SIGKILL, for one, is a signal that nobody can listen to
            await self.stop_monitoring()
            raise

    async def stop_monitoring(self) -> None:
        """Stop listening, and give the handlers back."""
        while self._chains:
            self._chains.pop().remove(self)

    def received(self, number: int) -> None:
        """Fire because of a signal; runs in the signal handler."""
        message = f"received {signal.Signals(number).name}"
        self.fire(Cause(self.reason, message, source=self.name, signal_number=number))


class _Chain:
    """Our handler of one signal: the sources that listen, and the handler before it."""

    before: Installed

    def __init__(self, number: int, source: SignalSource) -> None:
        """Put our handler on top; a signal may come before this returns."""
        self.number = number
        self.sources: dict[SignalSource, None] = {source: None}
        before: Installed = signal.getsignal(number)
        # A server that saved our handler and put it back when nobody listened any more.
        while isinstance(left := getattr(before, "__self__", None), _Chain) and not left.sources:
            before = left.before
        self.before = before
        signal.signal(number, self.handle)

    def remove(self, source: SignalSource) -> None:
        self.sources.pop(source, None)
        if not self.sources:
            if _chains.get(self.number) is self:
                del _chains[self.number]
            # Somebody may have put another handler on top: then it is not ours to take away.
            if signal.getsignal(self.number) == self.handle and self.before is not None:
                signal.signal(self.number, self.before)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Fire the sources; call the handler before unless it would end the process."""
        waiting = [source for source in list(self.sources) if not source.triggered]
        try:
            call_all(partial(source.received, number) for source in waiting)
        finally:
            self._pass_on(number, frame, is_first=bool(waiting))

    def _pass_on(self, number: int, frame: FrameType | None, *, is_first: bool) -> None:
        before = self.before
        if callable(before) and not (is_first and _ends_the_process(before)):
            before(number, frame)
        elif before is signal.SIG_DFL and not is_first:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


_chains: dict[int, _Chain] = {}


def _listen(number: int, source: SignalSource) -> _Chain:
    """Have a source told of a signal: by our handler if that is on top, else by a new one."""
    chain = _chains.get(number)
    if chain is None or signal.getsignal(number) != chain.handle:
        chain = _chains[number] = _Chain(number, source)
    chain.sources[source] = None
    return chain


def _ends_the_process(handler: object) -> bool:
    """Return whether a handler is the interpreter's or an event loop's own."""
    if handler is signal.default_int_handler:
        return True
    function = getattr(handler, "func", handler)  # asyncio.Runner installs a partial
    module = str(getattr(function, "__module__", "")).partition(".")[0]
    return module in {"asyncio", "trio"}


def _checked_signal(number: int) -> signal.Signals:
    if isinstance(number, bool) or not isinstance(number, int):
        msg = f"`signals` must be signal numbers, not {number!r}"
        raise TypeError(msg)
    try:
        return signal.Signals(number)
    except ValueError:
        msg = f"`signals`: this platform knows no signal {number!r}"
        raise ValueError(msg) from None
