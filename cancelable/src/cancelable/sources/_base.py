"""What a source of cancelation promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio

from .._cause import Cause
from .._log import logger
from .._loop import current_loop, is_error
from .._reason import CancelationReason
from .._text import checked_text

CancelCallback: TypeAlias = Callable[[Cause], object]
"""Takes the cause of a source that has fired; safe from any thread."""

STOP_LIMIT = 1.0
"""Seconds that the sources of an operation may take to stop at its end."""


class CancelationSource:
    """Watch for something that shall stop an operation.

    Write a source of your own by giving a subclass one of these:

    - ``async def watch(self)``: runs in a task of the operation's while its block runs. Return
      or call ``trigger`` when the operation shall stop; an exception stops it with the reason
      ``error``. A source that has it must be added before the block is entered.
    - ``async def start_monitoring(self, scope)`` and ``async def stop_monitoring(self)``: run
      at the entry and at the end of the block, in its task, to subscribe to something that
      will call ``trigger``, from whatever thread.

    A source belongs to one operation. It fires once; what comes later is ignored.
    """

    def __init__(self, reason: CancelationReason | str, name: str | None = None) -> None:
        """Make a source.

        Args:
            reason: The reason that an operation stopped by it shall have.
            name: A name for people, in errors and logs.

        Raises:
            TypeError: If the name is no text.
            ValueError: If there is no such reason.
        """
        self.reason: CancelationReason = CancelationReason.of(reason)
        self.name: str = checked_text(name, "name") or type(self).__name__
        self.scope: anyio.CancelScope | None = None
        self._causes: list[Cause] = []
        self._callback: CancelCallback | None = None
        # Who comes first in here tells the callback.
        self._tellers: list[object] = []

    @property
    def triggered(self) -> bool:
        """Whether the source has fired."""
        return bool(self._causes)

    @property
    def needs_task(self) -> bool:
        """Whether the source has to run in a task of the operation's."""
        return type(self).watch is not CancelationSource.watch

    async def watch(self) -> None:
        """Watch until the operation shall stop; runs in a task of the operation's."""

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Begin: the block has been entered.

        Args:
            scope: The scope of the block. Do not cancel it: ``trigger`` says why it stops.
        """

    async def stop_monitoring(self) -> None:
        """End: the block is being left, whatever ended it; must not block."""

    def set_cancel_callback(self, callback: CancelCallback | None) -> None:
        """Set who is told; the operation that takes the source does this.

        Args:
            callback: Takes the cause. None gives the source free.

        Raises:
            RuntimeError: If the source belongs to somebody else.
        """
        if callback is not None and self._callback is not None:
            msg = (
                f"the source {self.name!r} belongs to an operation already; "
                "make one for each operation"
            )
            raise RuntimeError(msg)
        self._tellers = []
        self._callback = callback
        if self._causes:
            self._tell()

    def tells(self, callback: CancelCallback) -> bool:
        """Return whether *callback* is the one that is told."""
        return self._callback == callback

    def trigger(self, message: str | None = None, *, error: BaseException | None = None) -> None:
        """Fire: ask the operation to stop. Safe from any thread and from a signal handler.

        Args:
            message: A text for the people who read the error.
            error: The exception of a source that failed; the reason becomes ``error``.

        Raises:
            TypeError: If the message is no text.
        """
        reason = self.reason if error is None else CancelationReason.ERROR
        self.fire(
            Cause(
                reason,
                checked_text(message, "message"),
                source=self.name,
                error=error,
            )
        )

    async def trigger_cancelation(self, message: str | None = None) -> None:
        """Fire: ask the operation to stop, from a task.

        Args:
            message: A text for the people who read the error.
        """
        self.trigger(message)

    def fire(self, cause: Cause) -> None:
        """Fire with a cause that is made already, and have its reason; the first one counts."""
        if not self._causes:
            self._causes.append(cause)
        self._tell()

    def _tell(self) -> None:
        """Tell the callback of the first cause: once, unless an interrupt kept it from that."""
        cause, callback, tellers = self._causes[0], self._callback, self._tellers
        self.reason = cause.reason
        if callback is None or tellers:
            return
        me = object()
        try:
            tellers.append(me)
            if tellers[0] is me:
                callback(cause)
        except BaseException as error:
            if not isinstance(error, Exception) and tellers[:1] == [me]:
                tellers.clear()  # the next one to fire tells it
            raise

    async def run(self) -> None:
        """Run ``watch``, and fire when it returns or fails."""
        loop = current_loop()
        cancels = loop.count_cancels()
        try:
            await self.watch()
        except BaseException as error:
            if not is_error(error, loop, cancels):
                raise
            self.trigger(f"the source {self.name!r} failed: {error!r}", error=error)
        else:
            self.trigger()

    def __repr__(self) -> str:
        state = "triggered" if self.triggered else "watching"
        return f"<{type(self).__name__} {self.name!r} {state}>"


async def stop_all(sources: Sequence[CancelationSource]) -> None:
    """Stop sources, the last first, each of them whatever becomes of the others.

    This is shielded for as long as it may take. asyncio's own ``task.cancel()`` cuts through
    a shield: it is raised when all have been stopped.
    """
    late: BaseException | None = None
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + STOP_LIMIT) as limit:
        loop = current_loop()
        for source in reversed(sources):
            cancels = loop.count_cancels()
            try:
                await source.stop_monitoring()
            except BaseException as error:
                if is_error(error, loop, cancels):
                    logger.exception("a source failed to stop: %r", source)
                else:
                    late = late or error
        if late is not None and limit.cancel_called:
            raise late  # the limit takes what is its own
    try:
        if late is not None and not limit.cancelled_caught:
            raise late
    finally:
        del late
