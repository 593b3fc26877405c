"""Streams that can be cancelled where there is no block around them.

Each step enters an operation of its own and leaves it before the item is handed on, so that
no scope is open while the consumer runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Generic, Self, TypeVar

import anyio

from ._answers import awaitable
from ._callbacks import checked_callback
from ._cancelable import Cancelable
from ._closing import SelfClosing
from ._count import count
from ._ids import checked_id, new_id
from ._iterator import KEPT, CancelableAsyncIterator
from ._seconds import limit
from ._steps import SCOPE_LEFT_OPEN
from ._text import checked_text
from ._token import CancelationToken, checked_token

T = TypeVar("T")


class CancelableStream(SelfClosing, AsyncIterator[T], Generic[T]):
    """Iterate over a source, each step an operation of its own.

    Attributes:
        count: How many items were handed to the consumer.
    """

    def __init__(
        self,
        stream: AsyncIterable[T],
        make_step: Callable[[float], Cancelable],
        *,
        timeout: float = math.inf,
        report_interval: int | None = None,
        on_progress: Callable[[int, T], object] | None = None,
        buffer_partial: bool = False,
    ) -> None:
        """Make a stream; ``cancelable_stream`` is the usual way.

        Args:
            stream: The source.
            make_step: Makes the operation of one step, given the deadline of all steps.
            timeout: Seconds for the whole stream, from its first step on.
            report_interval: Call *on_progress* after each so many items.
            on_progress: Takes the count and the item; plain or async.
            buffer_partial: Whether the last items are kept.

        Raises:
            TypeError: If the interval is no whole number, or *on_progress* no function.
            ValueError: If the interval is not above zero.
        """
        if report_interval is not None:
            count(report_interval, "report_interval", "items")
        if on_progress is not None:
            checked_callback(on_progress, "on_progress")
        self.count: int = 0
        self._stream = stream
        self._make_step = make_step
        self._timeout = timeout
        self._deadline: float | None = None
        self._interval = report_interval or 1
        self._on_progress = on_progress
        self._kept: deque[T] | None = deque(maxlen=KEPT) if buffer_partial else None
        self._unreported: tuple[int, T] | None = None
        self._source: AsyncIterator[T] | None = None
        self._is_over = False

    @property
    def partial(self) -> list[T]:
        """The last items that were handed on, where items are kept."""
        return list(self._kept or ())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        if self._source is None:
            self._source = aiter(self._stream)
            self._deadline = anyio.current_time() + self._timeout
        item = await self._step(self._source)
        self.count += 1
        if self._kept is not None:
            self._kept.append(item)
        if self._on_progress is not None and self.count % self._interval == 0:
            self._unreported = (self.count, item)
        return item

    async def _step(self, source: AsyncIterator[T]) -> T:
        """Fetch one item inside an operation of its own."""
        assert self._deadline is not None
        step = self._make_step(self._deadline)
        step.set_partial_result({"count": self.count, "buffer": self.partial, "completed": False})
        fetched: list[T] = []
        is_exhausted = False
        scope: anyio.CancelScope | None = None
        try:
            async with step:
                scope = step._scope
                await self._report()
                await step.check_cancelation()
                try:
                    fetched.append(await anext(source))
                except StopAsyncIteration:
                    is_exhausted = True
        except RuntimeError as error:
            await self._close_after(error)
            if fetched and scope is not None:
                # asyncio refuses to leave a scope before the one inside it, which is left by
                # now; Trio has left both and refuses here.
                with suppress(RuntimeError):
                    scope.__exit__(None, None, None)
                raise RuntimeError(SCOPE_LEFT_OPEN) from error
            raise
        except BaseException as error:
            await self._close_after(error)
            raise
        if is_exhausted:
            self._is_over = True
            raise StopAsyncIteration
        return fetched[0]

    async def _report(self) -> None:
        """Report the item before, which the consumer has by now."""
        waiting, self._unreported = self._unreported, None
        if waiting is not None and self._on_progress is not None:
            answer = awaitable(self._on_progress(*waiting))
            if answer is not None:
                await answer

    async def _close_after(self, error: BaseException) -> None:
        """Close the source because of an error, without hiding the error."""
        if getattr(self._source, "ag_running", False):
            return  # another task is in the middle of a step, which stays its own
        try:
            await self.aclose()
        except Exception as second:
            error.add_note(f"closing the source failed as well: {second!r}")
        except BaseExceptionGroup as group:
            # A task group around the `yield` wraps what closes a generator.
            if group.split(GeneratorExit)[1] is not None:
                raise

    async def aclose(self) -> None:
        """Close the source, in the calling task; harmless when the stream is over."""
        self._is_over = True
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


def cancelable_stream(
    stream: AsyncIterable[T],
    timeout: float | timedelta | None = None,
    token: CancelationToken | None = None,
    report_interval: int | None = None,
    on_progress: Callable[[int, T], object] | None = None,
    buffer_partial: bool = False,
    operation_id: str | None = None,
    name: str | None = None,
) -> CancelableStream[T]:
    """Iterate over a source that a deadline or a token can stop, without a block around it.

    Leave the loop early inside ``async with cancelable_stream(...) as items:``, so that the
    source is closed there and then.

    Args:
        stream: The source. It must not hold a scope open across its ``yield``.
        timeout: Seconds for the whole stream, from the first step on.
        token: A token that stops it.
        report_interval: Call *on_progress* after each so many items; each one if left out.
        on_progress: Takes the count and the item; plain or async.
        buffer_partial: Whether the last 1,000 items are kept, as the error's partial result.
        operation_id: An id for the operation; an unguessable one if left out.
        name: A name for people.

    Returns:
        An async iterator that counts, and that may be closed by hand.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a number is not above zero, or the id is empty or too long.
    """
    if not isinstance(stream, AsyncIterable):
        msg = f"`stream` must be an async iterator, not {stream!r}"
        raise TypeError(msg)
    allowed = limit(timeout, "timeout")
    tokens = () if token is None else (checked_token(token, "token"),)
    known_id = new_id() if operation_id is None else checked_id(operation_id, "operation_id")
    checked_text(name, "name")

    def make_step(deadline: float) -> Cancelable:
        step = Cancelable.with_timeout(None, known_id, name)
        step.deadline = deadline
        for each in tokens:
            step.add_token(each)
        return step

    return CancelableStream(
        stream,
        make_step,
        timeout=allowed,
        report_interval=report_interval,
        on_progress=on_progress,
        buffer_partial=buffer_partial,
    )


class ChunkedStream(SelfClosing, AsyncIterator[list[T]], Generic[T]):
    """Collect the items of an iteration into lists of one size; the last may be shorter."""

    def __init__(self, items: CancelableAsyncIterator[T], chunk_size: int) -> None:
        """Make a stream of chunks; ``chunked_cancelable_stream`` is the usual way."""
        self._items = items
        self._size = chunk_size
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        chunk: list[T] = []
        try:
            while len(chunk) < self._size:
                chunk.append(await anext(self._items))
        except StopAsyncIteration:
            if not chunk:
                raise
        except Exception as error:
            # What was fetched before the source failed is handed on first.
            if not chunk:
                raise
            self._error = error
        return chunk

    async def aclose(self) -> None:
        """Close the source, in the calling task."""
        await self._items.aclose()


def chunked_cancelable_stream(
    stream: AsyncIterable[T], chunk_size: int, cancelable: Cancelable
) -> ChunkedStream[T]:
    """Iterate over a source in lists of *chunk_size* items, inside the block of an operation.

    Items that a cancelation keeps from becoming a whole chunk are in the partial result of
    the operation, with all that came before, up to the last 1,000.

    Args:
        stream: The source.
        chunk_size: Items in a chunk; the last chunk may be shorter.
        cancelable: The operation, whose block must be running.

    Returns:
        An async iterator of lists.

    Raises:
        TypeError: If the source cannot be iterated over, it is no operation, or the size is no
            whole number.
        ValueError: If the size is not above zero.
    """
    count(chunk_size, "chunk_size", "items")
    return ChunkedStream(CancelableAsyncIterator(stream, cancelable, None, True), chunk_size)
