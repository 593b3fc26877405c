"""Streams that end with their operation: nothing lost, the source closed, no scope held. (S12)"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Protocol, cast

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelableAsyncIterator,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    ConditionSource,
    ManualCancelation,
    OperationContext,
    TimeoutCancelation,
    cancelable_stream,
    cancelable_with_token,
    chunked_cancelable_stream,
)
from cancelable._iterator import TURN
from cancelable.testing import cancel_at_each_checkpoint, create_slow_stream
from tests.support.native import native_cancel, on_asyncio


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


class Job:
    """A stream of a hundred items, and everything that may stop it."""

    def __init__(self) -> None:
        self.around = anyio.CancelScope()
        self.above = Cancelable(name="above")
        self.token = CancelationToken()
        self.is_full = anyio.Event()
        self.operation = Cancelable.with_token(self.token).add_source(ConditionSource(self.is_full))
        self.source = CancelationSource("condition", "gauge")
        self.operation.add_source(self.source)
        self.is_time = False
        self.given = 0

    async def items(self) -> AsyncGenerator[int]:
        for number in range(100):
            await anyio.lowlevel.checkpoint()
            if self.is_time:
                await anyio.sleep_forever()
            self.given += 1
            yield number


STRIKES: dict[CancelationReason, Callable[[Job], object]] = {
    CancelationReason.TIMEOUT: lambda job: job.operation.extend(0),
    CancelationReason.MANUAL: lambda job: job.operation.cancel_sync(),
    CancelationReason.SIGNAL: lambda job: job.token.cancel_sync("signal"),
    CancelationReason.CONDITION: lambda job: job.is_full.set(),
    CancelationReason.PARENT: lambda job: job.above.cancel_sync(),
    CancelationReason.ERROR: lambda job: job.source.trigger(error=LookupError("no gauge")),
    CancelationReason.DISCONNECT: lambda job: job.token.cancel_sync("disconnect"),
    CancelationReason.EXTERNAL: lambda job: job.around.cancel(),
}


@pytest.mark.parametrize("where", ["in the consumer", "in the source"])
@pytest.mark.parametrize("reason", list(CancelationReason))
async def test_what_was_delivered_is_known_whatever_stopped_the_stream(
    reason: CancelationReason, where: str
) -> None:
    """To the last callback and on the error, to the item."""
    job = Job()
    delivered: list[int] = []
    told: list[OperationContext] = []
    left: BaseException | None = None
    job.operation.on_cancel(told.append).on_complete(told.append)
    with anyio.fail_after(5), job.around, suppress(CancelationError):
        async with job.above:
            try:
                async with job.operation:
                    async for item in job.operation.stream(job.items()):
                        delivered.append(item)
                        if len(delivered) < 37:
                            continue
                        job.is_time = where == "in the source"
                        STRIKES[reason](job)
                        if not job.is_time:
                            await anyio.sleep_forever()
            except BaseException as error:
                left = error
                raise
    (context,) = told
    assert context.cancel_reason is reason
    assert context.partial_result == {"count": 37, "buffer": delivered, "completed": False}
    assert delivered == list(range(37))
    assert job.given == 37
    if reason in (CancelationReason.PARENT, CancelationReason.EXTERNAL):
        assert isinstance(left, native_cancel())
    else:
        assert isinstance(left, CancelationError)
        assert left.partial_result == context.partial_result


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


@pytest.mark.parametrize("given", ["3", 2.5, True, [3]], ids=repr)
async def test_a_number_of_items_is_a_whole_number(given: object) -> None:
    """It is refused where it is given, by its name."""
    number = cast("int", given)
    async with Cancelable() as cancel:
        makers: list[tuple[str, Callable[[], object]]] = [
            ("report_interval", lambda: cancel.stream(Source().items(), number)),
            ("keep", lambda: CancelableAsyncIterator(Source().items(), cancel, keep=number)),
            (
                "report_interval",
                lambda: cancelable_stream(Source().items(), report_interval=number),
            ),
            ("chunk_size", lambda: chunked_cancelable_stream(Source().items(), number, cancel)),
        ]
        for name, make in makers:
            with pytest.raises(TypeError, match=f"`{name}` must be a whole number of items"):
                make()


def test_what_is_no_operation_or_no_function_is_refused_by_a_stream() -> None:
    """Not at the first item, and by the name of the argument."""
    for nobody in (None, "cancel", CancelationToken()):
        operation = cast("Cancelable", nobody)
        with pytest.raises(TypeError, match="`cancelable` must be a Cancelable, not "):
            chunked_cancelable_stream(Source().items(), 3, operation)
        with pytest.raises(TypeError, match="`cancelable` must be a Cancelable, not "):
            CancelableAsyncIterator(Source().items(), operation)
    with pytest.raises(TypeError, match="`on_progress` must be a function"):
        cancelable_stream(Source().items(), on_progress=5)  # type: ignore[arg-type]


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


async def test_what_is_no_whole_chunk_yet_is_in_the_partial_result() -> None:
    """Wherever a cancel comes: delivered in chunks, or kept."""
    source, received, kept = Source(), list[int](), list[object]()

    async def run() -> None:
        nonlocal source, received, kept
        source, received, kept = Source(5), [], []
        cancel = Cancelable()
        try:
            async with cancel:
                async for chunk in chunked_cancelable_stream(source.items(), 2, cancel):
                    received.extend(chunk)
        finally:
            kept.append(cancel.context.partial_result)

    def check() -> None:
        (result,) = kept
        if source.given:
            assert isinstance(result, dict)
            assert result["buffer"] == source.given
            assert result["count"] == len(source.given)
        assert received == source.given[: len(received)]
        assert len(source.given) - len(received) < 2

    report = await cancel_at_each_checkpoint(run, check=check)
    report.assert_clean()
    assert report.checkpoints >= 5


# -- every kind of stream, every way out -----------------------------------------------------


class Stream(Protocol):
    """What every kind of stream is: an iteration that can be closed by hand."""

    def __aiter__(self) -> AsyncIterator[object]: ...
    async def aclose(self) -> None: ...


def in_a_block(source: Source, cancel: Cancelable) -> Stream:
    return cancel.stream(source.items())


def in_chunks(source: Source, cancel: Cancelable) -> Stream:
    return chunked_cancelable_stream(source.items(), 2, cancel)


def alone(source: Source, cancel: Cancelable) -> Stream:
    return cancelable_stream(source.items(), 60, cancel.token)


def decorated(source: Source, cancel: Cancelable) -> Stream:
    @cancelable_with_token(cancel.token)
    async def items() -> AsyncGenerator[int]:
        async with aclosing(source.items()) as inside:
            async for item in inside:
                yield item

    return items()


def inside_one_another(source: Source, cancel: Cancelable) -> Stream:
    return cancel.stream(cancelable_stream(cancel.stream(source.items()), 60))


KINDS = [in_a_block, in_chunks, alone, decorated, inside_one_another]
WAYS = ["end", "break", "error", "cancel in the source", "cancel in the consumer", "scope around"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_source_is_closed_here_however_the_loop_is_left(
    kind: Callable[[Source, Cancelable], Stream], way: str
) -> None:
    """In the consumer's task, and before the block is left."""
    source, operation, around = Source(6), Cancelable(), anyio.CancelScope()

    async def consume() -> None:
        async with operation:
            async with aclosing(kind(source, operation)) as stream:
                async for _ in stream:
                    if len(source.given) < 3 or way == "end":
                        continue
                    if way == "break":
                        break
                    if way == "error":
                        raise LookupError("consumer")
                    if way == "scope around":
                        around.cancel()
                    else:
                        await operation.cancel()
                    if way == "cancel in the consumer":
                        await anyio.sleep_forever()

    with anyio.fail_after(5), around:
        if way in ("end", "break", "scope around"):
            await consume()
        else:
            with pytest.raises(LookupError if way == "error" else ManualCancelation):
                await consume()
    assert source.was_closed_here()
    assert source.given == list(range(6 if way == "end" else len(source.given)))


@on_asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_the_source_is_closed_here_when_the_task_is_cancelled(
    kind: Callable[[Source, Cancelable], Stream],
) -> None:
    """By `task.cancel()`, which passes through as it came."""
    source, operation = Source(6), Cancelable()
    closed_here: list[bool] = []

    async def consume() -> None:
        try:
            async with operation:
                async for _ in kind(source, operation):
                    if len(source.given) == 4:
                        task.cancel()
        finally:
            await aclose_all(source)
            closed_here.append(source.was_closed_here())

    async def aclose_all(source: Source) -> None:
        """A generator that is left in the middle is closed by the loop, a turn later."""
        while not source.closed_in:
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        task = asyncio.create_task(consume())
        with pytest.raises(asyncio.CancelledError):
            await task
    assert closed_here == [True]
    assert operation.cancel_reason is CancelationReason.EXTERNAL


# -- turns of the loop -----------------------------------------------------------------------


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_an_iteration_that_takes_its_time_gives_way_before_each_step() -> None:
    """Steps that compute for longer than a turn may take leave one turn each to the others."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def heavy() -> AsyncGenerator[int]:
        for number in range(6):
            busy(TURN * 1.1)
            yield number

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await anyio.lowlevel.checkpoint()
        async with Cancelable() as cancel:
            began = turns
            async for _ in cancel.stream(heavy()):
                pass
            assert turns - began >= 5
        tasks.cancel_scope.cancel()


async def test_an_iteration_of_light_steps_does_not_give_way_at_each() -> None:
    """A checkpoint for each item would cost more than the item."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        async with Cancelable() as cancel:
            count = 0
            async for _ in cancel.stream(Source(2000, pause=False).items()):
                count += 1
        tasks.cancel_scope.cancel()
    assert count == 2000
    assert turns < 1000


@pytest.mark.parametrize("cause", ["timeout", "token from a thread"])
async def test_a_stand_alone_stream_without_an_await_can_be_stopped(cause: str) -> None:
    """Each step of it is a checkpoint."""
    source, token = Source(10**9, pause=False), CancelationToken()
    timer = threading.Timer(0.01, token.cancel_sync)
    timeout = 0.01
    if cause != "timeout":
        timeout = 60
        timer.start()
    with anyio.fail_after(5), pytest.raises(CancelationError):
        async for _ in cancelable_stream(source.items(), timeout, token):
            pass
    if cause != "timeout":
        timer.join()
    # On a busy machine the time may be over before the source has begun.
    assert source.was_closed_here() or not source.given


# -- chunks and errors -----------------------------------------------------------------------


async def test_a_timeout_inside_the_source_does_not_cost_the_items_before_it() -> None:
    """The error of another operation is an error of the source like any other."""

    async def source() -> AsyncGenerator[int]:
        yield 1
        yield 2
        async with Cancelable.with_timeout(0.01):
            await anyio.sleep_forever()

    async with Cancelable() as cancel:
        chunks = chunked_cancelable_stream(source(), 5, cancel)
        assert await anext(chunks) == [1, 2]
        with pytest.raises(TimeoutCancelation):
            await anext(chunks)
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_a_generator_that_takes_an_error_and_yields_once_more_is_closed() -> None:
    """The error leaves the loop all the same."""
    closed: list[bool] = []

    async def obstinate() -> AsyncGenerator[int]:
        try:
            while True:
                try:
                    yield 1
                except native_cancel():
                    yield 2
        finally:
            closed.append(True)

    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.01) as cancel:
            async for _ in cancel.stream(obstinate()):
                pass
    assert closed == [True]


async def test_an_error_while_the_source_is_closed_is_noted_and_hides_nothing() -> None:
    """The first error leaves, with a note of the second."""

    class Fragile:
        def __aiter__(self) -> Fragile:
            return self

        async def __anext__(self) -> int:
            raise LookupError("first")

        async def aclose(self) -> None:
            raise OSError("second")

    with pytest.raises(LookupError, match="first") as caught:
        async for _ in cancelable_stream(Fragile()):
            pass
    assert "second" in caught.value.__notes__[0]


async def test_an_iteration_can_be_closed_by_hand_and_again() -> None:
    """Later steps find it over; `async with` does the same."""
    source = Source()
    async with Cancelable() as cancel:
        async with cancel.stream(source.items()) as stream:
            assert await anext(stream) == 0
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert source.was_closed_here()
    assert cancel.context.partial_result == {"count": 1, "buffer": [0], "completed": False}


@pytest.mark.parametrize("kind", ["in the block", "alone"])
async def test_a_second_consumer_at_once_costs_the_first_one_nothing(kind: str) -> None:
    """It is refused by the source, whose step in the other task goes on, and all that follow."""
    received: list[int] = []
    waiting, go_on = anyio.Event(), anyio.Event()

    async def source() -> AsyncGenerator[int]:
        yield 0
        waiting.set()
        await go_on.wait()
        yield 1
        yield 2

    async def consume(items: AsyncIterator[int]) -> None:
        async for item in items:
            received.append(item)

    with anyio.fail_after(5):
        async with Cancelable() as cancel, anyio.create_task_group() as tasks:
            items: AsyncIterator[int] = (
                cancel.stream(source()) if kind == "in the block" else cancelable_stream(source())
            )
            tasks.start_soon(consume, items)
            await waiting.wait()
            with pytest.raises(RuntimeError, match="already running"):
                await anext(items)
            go_on.set()
    assert received == [0, 1, 2]


async def test_chunks_that_are_left_early_are_closed_by_their_block() -> None:
    """`async with` around the chunks closes the source there and then."""
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.append(True)

    async with Cancelable() as cancel:
        async with chunked_cancelable_stream(numbers(), 3, cancel) as chunks:
            assert await anext(chunks) == [0, 1, 2]
        assert closed == [True]


# -- steps in other tasks --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_each_step_may_be_made_in_a_task_of_its_own(
    kind: Callable[[Source, Cancelable], Stream],
) -> None:
    """No scope is left open in a task that goes away between two items, or at the end."""
    source, operation = Source(6), Cancelable()
    received: list[object] = []
    is_over = False

    async def step(stream: AsyncIterator[object]) -> None:
        nonlocal is_over
        try:
            received.append(await anext(stream))
        except StopAsyncIteration:
            is_over = True

    with anyio.fail_after(5):
        async with operation:
            stream = aiter(kind(source, operation))
            while not is_over:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(step, stream)
    assert received == ([[0, 1], [2, 3], [4, 5]] if kind is in_chunks else list(range(6)))
    assert len(source.closed_in) == 1
    assert operation.is_completed
