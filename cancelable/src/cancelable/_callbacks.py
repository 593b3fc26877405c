"""The functions that an operation calls at its start and at its ending.

They run in the order in which they were given, once each, plain ones in line and async ones
awaited within one time limit that they share. What they raise is logged and hides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from ._answers import awaitable
from ._context import OperationContext
from ._log import logger
from ._loop import current_loop, is_error

StatusCallback: TypeAlias = Callable[[OperationContext], object]
"""Called with the facts of the operation; plain, or async."""

ErrorCallback: TypeAlias = Callable[[OperationContext, BaseException], object]
"""Called with the facts of the operation and the error that ended it; plain, or async."""

StatusCallbackType: TypeAlias = StatusCallback
ErrorCallbackType: TypeAlias = ErrorCallback
"""The same types, under names that some programs know them by."""

SHARED_LIMIT = 1.0
"""Seconds that the async callbacks of one ending may take together."""


class Callbacks:
    """Keep the callbacks of one operation."""

    __slots__ = ("limit", "on_cancel", "on_complete", "on_error", "on_start")

    def __init__(self) -> None:
        """Start with no callbacks and the usual limit."""
        self.limit = SHARED_LIMIT
        self.on_start: list[StatusCallback] = []
        self.on_complete: list[StatusCallback] = []
        self.on_cancel: list[StatusCallback] = []
        self.on_error: list[ErrorCallback] = []

    async def call(self, callbacks: list[StatusCallback], context: OperationContext) -> None:
        """Call each of *callbacks* with the facts of the operation."""
        await self._call_all([(callback, (context,)) for callback in callbacks])

    async def call_on_error(self, context: OperationContext, error: BaseException) -> None:
        """Call the error callbacks with the facts of the operation and its error."""
        await self._call_all([(callback, (context, error)) for callback in self.on_error])

    async def _call_all(
        self, calls: list[tuple[Callable[..., object], tuple[object, ...]]]
    ) -> None:
        deadline = None
        cut: BaseException | None = None
        for callback, arguments in calls:
            try:
                answer = callback(*arguments)
            except BaseException as raised:
                if not is_error(raised):
                    raise
                logger.exception("a callback of an operation raised: %r", callback)
                continue
            waiting = awaitable(answer)
            if waiting is not None:
                if deadline is None:
                    deadline = anyio.current_time() + self.limit
                try:
                    await _await_until(deadline, waiting, callback)
                except anyio.get_cancelled_exc_class() as cancel:
                    # asyncio's own task.cancel() cuts through a shield; the callbacks that
                    # follow are called all the same.
                    cut = cut or cancel
        try:
            if cut is not None:
                raise cut
        finally:
            del cut


async def _await_until(deadline: float, answer: Awaitable[object], callback: object) -> None:
    """Await *answer*, shielded from scopes around it, until *deadline* of anyio's clock."""
    loop = current_loop()
    with anyio.CancelScope(deadline=deadline, shield=True) as scope:
        cancels = loop.count_cancels()
        try:
            await answer
        except BaseException as raised:
            if not is_error(raised, loop, cancels):
                raise
            logger.exception("a callback of an operation raised: %r", callback)
    if scope.cancelled_caught:
        logger.warning(
            "an async callback did not end within the time that the callbacks of one ending "
            "share, and was cut: %r",
            callback,
        )


def checked_callback(callback: object, name: str = "callback") -> None:
    """Refuse what cannot be called.

    Args:
        callback: What a caller gave.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is no function.
    """
    if not callable(callback):
        msg = f"`{name}` must be a function, plain or async, not {callback!r}"
        raise TypeError(msg)
