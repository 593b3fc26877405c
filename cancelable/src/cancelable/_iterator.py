"""One step after another through an async iterator, inside the block of an operation.

No scope is held across a step: the consumer may do what it likes between two items. An item
that was fetched is always handed on, since nothing that could be cancelled stands between the
two. The source is closed in the consumer's task when the iteration ends, however it ends; if
it is left in the middle, when the block of the operation is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

import anyio

from ._closing import SelfClosing
from ._count import count

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

KEPT = 1000
"""How many of the last items are kept as the partial result, where items are kept."""

TURN = 0.005
"""Seconds of the loop that an iteration may use before it gives way to other tasks."""

StepHook = Callable[[int, T], object]


class StreamOperation(Protocol):
    """What an iteration needs of the operation in whose block it runs."""

    @property
    def is_running(self) -> bool: ...
    def set_partial_result(self, value: object) -> None: ...
    def closes(self, close: Callable[[], Awaitable[None]]) -> Callable[[], object]: ...
    async def report_progress(
        self, message: object, metadata: Mapping[str, object] | None = None
    ) -> None: ...


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> object: ...


@runtime_checkable
class _Throwable(Protocol):
    async def athrow(self, error: BaseException, /) -> object: ...


class CancelableAsyncIterator(SelfClosing, AsyncIterator[T], Generic[T]):
    """Iterate over a source as part of an operation.

    Attributes:
        count: How many items were handed to the consumer.
    """

    def __init__(
        self,
        iterator: AsyncIterable[T],
        cancelable: StreamOperation,
        report_interval: int | None = None,
        buffer_partial: bool = False,
        *,
        keep: int = KEPT,
    ) -> None:
        """Make an iteration.

        Args:
            iterator: The source.
            cancelable: The operation. Its block must be running when the first item is asked
                for; the source is closed at the end of it at the latest.
            report_interval: Report progress after each so many items.
            buffer_partial: Whether the last items are kept, as the partial result.
            keep: How many of them.

        Raises:
            TypeError: If the source cannot be iterated over, it is no operation, or a number is
                not whole.
            ValueError: If a number is not above zero.
        """
        if not isinstance(iterator, AsyncIterable):
            msg = f"`iterator` must be an async iterator, not {iterator!r}"
            raise TypeError(msg)
        if not callable(getattr(cancelable, "closes", None)):
            msg = f"`cancelable` must be a Cancelable, not {cancelable!r}"
            raise TypeError(msg)
        if report_interval is not None:
            count(report_interval, "report_interval", "items")
        count(keep, "keep", "items")
        self.count: int = 0
        self._source = aiter(iterator)
        self._operation = cancelable
        self._interval = report_interval
        self._kept: deque[T] | None = deque(maxlen=keep) if buffer_partial else None
        self._gave_way = 0.0
        self._is_over = False
        self._forget: Callable[[], object] | None = None

    @property
    def partial(self) -> list[T]:
        """The last items that were handed on, where items are kept."""
        return list(self._kept or ())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        if self._forget is None:
            self._begin()
        try:
            await self._before_the_step()
            item = await anext(self._source)
        except StopAsyncIteration:
            await self._end(completed=True)
            raise
        except BaseException as error:
            await self._break_off(error)
            raise
        self.count += 1
        if self._kept is not None:
            self._kept.append(item)
        return item

    async def aclose(self) -> None:
        """Close the source, in the calling task; harmless when the iteration is over."""
        if not self._is_over:
            await self._end(completed=False)
            if isinstance(self._source, _Closable):
                await self._source.aclose()

    def _begin(self) -> None:
        if not self._operation.is_running:
            msg = (
                "the block of the operation is not running: iterate inside "
                "`async with cancel:`, or use `cancelable_stream`, which needs no block"
            )
            raise RuntimeError(msg)
        self._forget = self._operation.closes(self.aclose)
        self._gave_way = time.monotonic()

    async def _before_the_step(self) -> None:
        """Report what is due, and give way if this iteration has used up its turn.

        Both come before the fetch and not after it, because they can be cancelled.
        """
        interval = self._interval
        if interval is not None and self.count and self.count % interval == 0:
            await self._operation.report_progress(f"{self.count} items", {"count": self.count})
        now = time.monotonic()
        if now - self._gave_way >= TURN:
            await anyio.lowlevel.checkpoint()
            self._gave_way = time.monotonic()

    async def _break_off(self, error: BaseException) -> None:
        """End because of an error; one that did not come out of the source is thrown into it.

        A generator then sees the cancelation at its ``yield``, as it would inside an await,
        and cleans up in this task. Nothing is shielded here: a new scope around a source that
        holds one of its own open across its ``yield`` would break the order of the scopes.
        """
        if getattr(self._source, "ag_running", False):
            return  # another task is in the middle of a step, which stays its own
        await self._end(completed=False)
        source = self._source
        try:
            if isinstance(source, _Throwable):
                await source.athrow(error)
            # A generator that is here has taken the error and yielded once more.
            if isinstance(source, _Closable):
                await source.aclose()
        except StopAsyncIteration:
            pass  # the generator took it, or was over already
        except BaseException as raised:
            if raised is not error and not isinstance(raised, type(error)):
                raise

    async def _end(self, *, completed: bool) -> None:
        self._is_over = True
        # What takes the iteration out of the operation refers to it: kept, it would be a circle.
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        if self._kept is not None or not completed:
            self._operation.set_partial_result(
                {"count": self.count, "buffer": self.partial, "completed": completed}
            )
        if completed and self._interval is not None:
            await self._operation.report_progress(
                f"{self.count} items", {"count": self.count, "completed": True}
            )
