"""Streams that end with their operation: nothing lost, the source closed, no scope held. (S12)"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelableAsyncIterator,
    CancelationError,
    CancelationReason,
    CancelationToken,
    ManualCancelation,
    TimeoutCancelation,
    cancelable_stream,
    chunked_cancelable_stream,
)
from cancelable.testing import cancel_at_each_checkpoint, create_slow_stream
from tests.support.native import native_cancel


class Source:
    """A generator that knows what it gave out and where it was closed."""

    def __init__(self, count: int = 10, *, pause: bool = True) -> None:
        self.count = count
        self.pause = pause
        self.given: list[int] = []
        self.closed_in: list[object] = []

    async def items(self) -> AsyncGenerator[int]:
        try:
            for number in range(self.count):
                if self.pause:
                    await anyio.lowlevel.checkpoint()
                self.given.append(number)
                yield number
        finally:
            self.closed_in.append(anyio.get_current_task().id)

    def was_closed_here(self) -> bool:
        return self.closed_in == [anyio.get_current_task().id]


async def test_a_whole_stream_passes_unchanged() -> None:
    """All items, in order, counted; the source is closed in the consumer's task."""
    source = Source()
    async with Cancelable() as cancel:
        stream = cancel.stream(source.items())
        assert [item async for item in stream] == list(range(10))
    assert stream.count == 10
    assert source.was_closed_here()
    assert cancel.context.partial_result == {
        "count": 10,
        "buffer": list(range(10)),
        "completed": True,
    }


async def test_a_loop_that_is_left_early_closes_the_source_with_the_block() -> None:
    """In the consumer's task, before the block is left."""
    source = Source()
    async with Cancelable() as cancel:
        async for item in cancel.stream(source.items()):
            if item == 3:
                break
        assert source.closed_in == []
    assert source.was_closed_here()
    assert cancel.is_completed


async def test_a_source_that_holds_a_block_across_its_yield_can_be_left_early() -> None:
    """Its block is left in the right order, without an error."""

    async def source() -> AsyncGenerator[int]:
        async with Cancelable(name="in the source"):
            for number in range(5):
                yield number

    async with Cancelable() as cancel:
        async for item in cancel.stream(source()):
            if item == 2:
                break
    assert cancel.is_completed


async def test_an_error_of_the_consumer_closes_the_source() -> None:
    """The error leaves as it was raised."""
    source = Source()
    with pytest.raises(ValueError, match="consumer"):
        async with Cancelable() as cancel:
            async for _ in cancel.stream(source.items()):
                raise ValueError("consumer")
    assert source.was_closed_here()


async def test_an_error_of_the_source_leaves_the_stream() -> None:
    """Once, and the stream is over."""

    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise LookupError("source")

    async with Cancelable() as cancel:
        stream = cancel.stream(broken())
        assert await anext(stream) == 1
        with pytest.raises(LookupError, match="source"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("reason", list(CancelationReason))
async def test_the_partial_result_is_what_was_delivered(reason: CancelationReason) -> None:
    """For each reason, on the error and in the facts."""
    operation = Cancelable()
    source = Source(100)
    with anyio.fail_after(5), pytest.raises(CancelationError) as caught:
        async with operation:
            async for item in operation.stream(source.items()):
                if item == 36:
                    await operation.cancel(reason)
    result = {"count": 37, "buffer": list(range(37)), "completed": False}
    assert caught.value.partial_result == result
    assert operation.context.partial_result == result
    assert source.was_closed_here()


async def test_the_partial_result_is_bounded() -> None:
    """The last thousand items are kept."""
    async with Cancelable() as cancel:
        stream = cancel.stream(Source(1500, pause=False).items())
        async for _ in stream:
            pass
    assert len(stream.partial) == 1000
    assert stream.partial[-1] == 1499


async def test_a_source_that_never_waits_can_be_stopped() -> None:
    """The iteration gives way by itself, so the deadline is noticed."""
    source = Source(10**9, pause=False)
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.02) as cancel:
            async for _ in cancel.stream(source.items()):
                pass
    assert source.was_closed_here()


async def test_a_source_that_never_waits_lets_others_run() -> None:
    """Other tasks get their turn while items flow."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        async with Cancelable() as cancel:
            async for _ in cancel.stream(Source(10**9, pause=False).items()):
                if turns >= 5:
                    break
        tasks.cancel_scope.cancel()
    assert turns >= 5


async def test_the_generator_sees_a_cancel_that_comes_between_two_items() -> None:
    """It is thrown in at the `yield`, and its cleanup runs in this task."""
    seen: list[str] = []

    async def source() -> AsyncGenerator[int]:
        try:
            while True:
                yield 1
        except native_cancel():
            seen.append("cancel")
            raise
        finally:
            seen.append("closed")

    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.01) as cancel:
            async for _ in cancel.stream(source()):
                pass
    assert seen == ["cancel", "closed"]


async def test_progress_is_reported_at_the_interval() -> None:
    """After each so many items, and at the end."""
    seen: list[object] = []
    async with Cancelable() as cancel:
        cancel.on_progress(lambda _id, message, _metadata: seen.append(message))
        async for _ in cancel.stream(Source(5).items(), report_interval=2):
            pass
    assert seen == ["2 items", "4 items", "5 items"]


async def test_a_stream_needs_a_running_block() -> None:
    """The error says what to do."""
    with pytest.raises(RuntimeError, match="is not running"):
        await anext(Cancelable().stream(create_slow_stream([1], 0)))
    with pytest.raises(TypeError, match="async iterator"):
        Cancelable().stream([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="report_interval"):
        CancelableAsyncIterator(create_slow_stream([1], 0), Cancelable(), 0)


# -- without a block -------------------------------------------------------------------------


async def test_a_stand_alone_stream_passes_unchanged() -> None:
    """With its progress function called for each item."""
    source = Source(4)
    seen: list[tuple[int, int]] = []
    stream = cancelable_stream(
        source.items(), timeout=5, on_progress=lambda count, item: seen.append((count, item))
    )
    assert [item async for item in stream] == [0, 1, 2, 3]
    assert seen == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert source.was_closed_here()


@pytest.mark.parametrize("cause", ["timeout", "token"])
async def test_a_stand_alone_stream_is_stopped_in_the_middle_of_a_step(cause: str) -> None:
    """The error carries what was delivered, and the source is closed here."""
    source, token = Source(3), CancelationToken()

    async def stuck() -> AsyncGenerator[int]:
        async with aclosing(source.items()) as items:
            async for item in items:
                yield item
                if item == 1:
                    if cause == "token":
                        await token.cancel()
                    await anyio.sleep_forever()

    timeout = 0.02 if cause == "timeout" else None
    received: list[int] = []
    with anyio.fail_after(5), pytest.raises(CancelationError) as caught:
        async with cancelable_stream(stuck(), timeout, token, buffer_partial=True) as stream:
            async for item in stream:
                received.append(item)
    assert received == [0, 1]
    expected = TimeoutCancelation if cause == "timeout" else ManualCancelation
    assert isinstance(caught.value, expected)
    assert caught.value.partial_result == {"count": 2, "buffer": [0, 1], "completed": False}


async def test_a_stand_alone_stream_holds_no_scope_while_the_consumer_runs() -> None:
    """Scopes of the consumer may be opened and left between the items in any order."""
    scope = anyio.CancelScope()
    async with cancelable_stream(Source(3).items(), timeout=5) as stream:
        async for item in stream:
            if item == 0:
                scope.__enter__()
            if item == 1:
                scope.__exit__(None, None, None)


async def test_a_source_that_leaves_a_scope_open_is_refused_with_advice() -> None:
    """The task can go on afterwards."""

    async def holds_a_scope() -> AsyncGenerator[int]:
        with anyio.CancelScope():
            yield 1
            yield 2

    with pytest.raises(RuntimeError, match="holds a cancel scope"):
        async for _ in cancelable_stream(holds_a_scope()):
            pass
    async with Cancelable.with_timeout(5):
        await anyio.lowlevel.checkpoint()


def test_bad_arguments_are_refused_where_they_are_given() -> None:
    """A timeout above zero, a token, a source."""
    with pytest.raises(ValueError, match="timeout"):
        cancelable_stream(Source().items(), 0)
    with pytest.raises(TypeError, match="token"):
        cancelable_stream(Source().items(), token="stop")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="async iterator"):
        cancelable_stream([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk_size"):
        chunked_cancelable_stream(Source().items(), 0, Cancelable())


# -- chunks ----------------------------------------------------------------------------------


async def test_chunks_have_one_size_but_for_the_last() -> None:
    """All items, in order."""
    async with Cancelable() as cancel:
        chunks = chunked_cancelable_stream(Source(7).items(), 3, cancel)
        assert [chunk async for chunk in chunks] == [[0, 1, 2], [3, 4, 5], [6]]


async def test_what_came_before_an_error_of_the_source_is_handed_on() -> None:
    """First the items, then the error."""

    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise LookupError("source")

    async with Cancelable() as cancel:
        chunks = chunked_cancelable_stream(broken(), 3, cancel)
        assert await anext(chunks) == [1]
        with pytest.raises(LookupError, match="source"):
            await anext(chunks)


# -- cancelled everywhere --------------------------------------------------------------------


async def consume_stream(source: Source, received: list[int]) -> None:
    async with Cancelable(register_globally=True) as cancel:
        async for item in cancel.stream(source.items(), report_interval=2):
            received.append(item)


async def consume_alone(source: Source, received: list[int]) -> None:
    async with cancelable_stream(source.items(), timeout=60) as stream:
        async for item in stream:
            received.append(item)


@pytest.mark.parametrize("consume", [consume_stream, consume_alone])
async def test_no_item_is_lost_wherever_a_cancel_comes(
    consume: Callable[[Source, list[int]], object],
) -> None:
    """What the source gave out is what arrived, and the source is closed, at each checkpoint."""
    source, received = Source(), list[int]()

    async def run() -> None:
        nonlocal source, received
        source, received = Source(5), []
        await consume(source, received)  # type: ignore[misc]

    def check() -> None:
        assert source.given == received
        assert source.was_closed_here() or not source.given

    report = await cancel_at_each_checkpoint(run, check=check)
    report.assert_clean()
    assert report.checkpoints >= 5
