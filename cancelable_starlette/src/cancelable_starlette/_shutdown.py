"""Learning that the server shuts down, without taking its signals away from it."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import CellType

import anyio
from starlette.types import Send

from cancelable import CancelationReason, CancelationToken
from cancelable.sources import SignalSource

LAYERS = 10
"""How many layers around a server's ``send()`` are looked through."""

GRACE = 1.0
"""Seconds that streams and sockets may go on after they were told, unless it is said otherwise."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Hold what tells of a shutdown.

    Attributes:
        token: Cancelled when the server shuts down, from any thread.
        grace: Seconds between telling streams and sockets and cutting them.
    """

    token: CancelationToken = field(default_factory=CancelationToken)
    grace: float = GRACE

    @asynccontextmanager
    async def heed_signals(self) -> AsyncGenerator[None]:
        """Cancel the token at the first signal that stops the server, inside the block.

        The server's handler is called as well, and put back at the end. Where there is none that
        is the server's own, and outside of the main thread, nothing is installed: the interpreter's
        handlers end the process, and are not to be kept from it.
        """
        numbers = _signals_of_the_server()
        if not numbers:
            yield
            return
        source = SignalSource(*numbers, name="server shutdown")
        source.set_cancel_callback(self._begin)
        await source.start_monitoring(anyio.CancelScope())
        try:
            yield
        finally:
            await source.stop_monitoring()

    def _begin(self, *_cause: object) -> None:
        self.token.cancel_sync(CancelationReason.SIGNAL, "the server was told to stop")

    async def heed(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Cancel the token when *wait* returns.

        Args:
            wait: Waits for the end of the server.
        """
        await wait()
        self._begin()


def wait_of_server(send: Send) -> Callable[[], Awaitable[object]] | None:
    """Return what waits until the server behind *send* shuts down, if that can be known.

    Hypercorn's worker processes get no signal. Each connection there has an event that is set when
    the server begins to stop (seen in Hypercorn 0.18). It is not documented, so it is only looked
    at, and its absence means that nothing is known. Starlette puts a function around the ``send()``
    of all the middlewares that it is given, which is looked through, as are others like it.

    Args:
        send: The ``send()`` of a request.
    """
    around: object = send
    for _ in range(LAYERS):
        context = getattr(getattr(around, "__self__", None), "context", None)
        wait: Callable[[], Awaitable[object]] | None = getattr(
            getattr(context, "terminated", None), "wait", None
        )
        if wait is not None:
            return wait
        around = _wrapped_by(around)
    return None


def _wrapped_by(send: object) -> object:
    """Return the ``send()`` that a function is put around, or None.

    Functions of this kind, as frameworks have them in their middlewares, refer to what they wrap
    by the name that the ASGI specification uses.
    """
    names: tuple[str, ...] = getattr(getattr(send, "__code__", None), "co_freevars", ())
    cells: tuple[CellType, ...] | None = getattr(send, "__closure__", None)
    cell = dict(zip(names, cells or (), strict=False)).get("send")
    try:
        return None if cell is None else cell.cell_contents
    except ValueError:
        return None  # the function has deleted it


def _signals_of_the_server() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = (signal.SIGINT, signal.SIGTERM)
    return [number for number in numbers if _is_a_servers(signal.getsignal(number))]


def _is_a_servers(handler: object) -> bool:
    """Return whether a handler is neither the interpreter's nor an event loop's own.

    ``asyncio.Runner`` installs a partial. What is left of asyncio's are the placeholders of
    ``loop.add_signal_handler()``, which servers use and which a handler above does not disturb.
    """
    if not callable(handler) or isinstance(handler, functools.partial):
        return False
    module = str(getattr(handler, "__module__", "")).partition(".")[0]
    return handler is not signal.default_int_handler and module != "trio"
