"""A source that fires when a condition holds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol, TypeAlias, runtime_checkable

import anyio

from .._reason import CancelationReason
from .._seconds import limit
from .._text import checked_text
from ._base import CancelationSource


@runtime_checkable
class SupportsWait(Protocol):
    """Something to wait on, as ``anyio.Event`` is."""

    async def wait(self) -> object:
        """Wait until it has happened."""


Condition: TypeAlias = Callable[[], bool | Awaitable[bool]]
"""A function that tells whether the condition holds; plain or async."""


class ConditionSource(CancelationSource):
    """Fire when a condition holds.

    A condition that raises stops the operation with the reason ``error``.
    """

    def __init__(
        self,
        condition: Condition | SupportsWait,
        check_interval: float | timedelta = 0.1,
        condition_name: str | None = None,
        name: str | None = None,
        *,
        in_thread: bool = False,
    ) -> None:
        """Make a source.

        Args:
            condition: A function, plain or async, that is asked again and again; or something
                with an async ``wait()`` (an ``anyio.Event``), which is waited for instead.
            check_interval: Seconds between two questions.
            condition_name: The name of the condition in errors; the function's name if it is
                left out.
            name: A name of the source, where that shall differ.
            in_thread: Ask a plain function in a worker thread, because it blocks. In the loop
                otherwise: it must be quick.

        Raises:
            TypeError: If the condition is neither, the interval is no duration, or a name no text.
            ValueError: If the interval is NaN, zero or negative.
        """
        if not callable(condition) and not isinstance(condition, SupportsWait):
            msg = f"`condition` must be a function or have an async wait(), not {condition!r}"
            raise TypeError(msg)
        if isinstance(condition, SupportsWait) and not inspect.iscoroutinefunction(condition.wait):
            msg = (
                f"`condition` must not be a {type(condition).__name__}, whose wait() would block "
                "the loop; give a function that asks it (of a threading.Event, its `is_set`)"
            )
            raise TypeError(msg)
        self.condition: Condition | SupportsWait = condition
        self.check_interval: float = limit(check_interval, "check_interval")
        self.condition_name: str = checked_text(condition_name, "condition_name") or str(
            getattr(condition, "__name__", "condition")
        )
        self.in_thread: bool = in_thread
        super().__init__(CancelationReason.CONDITION, name or self.condition_name)

    async def watch(self) -> None:
        """Wait for the event, or ask until the condition holds."""
        condition = self.condition
        if isinstance(condition, SupportsWait):
            await condition.wait()
        else:
            while not await self._holds(condition):  # noqa: ASYNC110 - it is asked, nobody tells
                await anyio.sleep(self.check_interval)
        self.trigger(self.describe())

    def describe(self) -> str:
        """Return the message of the cancelation."""
        return f"the condition {self.condition_name!r} holds"

    async def _holds(self, condition: Condition) -> bool:
        if self.in_thread:
            from anyio import to_thread  # brings threads in for those who use them

            answer = await to_thread.run_sync(condition, abandon_on_cancel=True)
        else:
            answer = condition()
        return await answer if isinstance(answer, Awaitable) else bool(answer)
