"""What users of the core rely on in their type checkers; checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime, timedelta
from typing import assert_never, assert_type

import anyio

from cancelable import (
    AnyOfSource,
    Cancelable,
    CancelableAsyncIterator,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    CancelOutcome,
    ConditionSource,
    OperationContext,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    ThreadSafeRegistry,
    TimeoutCancelation,
    TimeoutSource,
    cancelable,
    cancelable_combine,
    cancelable_method,
    cancelable_stream,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    chunked_cancelable_stream,
    current_operation,
    ensure_cancelable,
    with_cancelable,
    with_current_operation,
    with_timeout,
)
from cancelable.testing import (
    InjectionReport,
    MockCancelationToken,
    OperationRecorder,
    assert_cancelation_within,
    cancel_at_each_checkpoint,
    check_source_contract,
    create_slow_stream,
)

# -- blocks ----------------------------------------------------------------------------------


async def returns_inside_a_block() -> int:
    """The block swallows nothing, so what follows it is not reached."""
    async with Cancelable.with_timeout(1):
        return 1


async def returns_inside_nested_blocks() -> str:
    async with Cancelable() as outer, Cancelable(parent=outer) as inner:
        async with inner.shield(timeout=1):
            return "a"


async def raises_inside_a_block() -> int:
    async with Cancelable.with_token(CancelationToken()):
        raise LookupError


async def enters() -> None:
    async with Cancelable() as cancel:
        assert_type(cancel, Cancelable)
    async with Cancelable.with_timeout(timedelta(seconds=1)) as limited:
        assert_type(limited, Cancelable)
    async with cancel.shield(timeout=1, reasons={"manual", CancelationReason.SIGNAL}) as section:
        assert_type(section, Cancelable)
    async with cancel.wrapping() as wrap:
        assert_type(await wrap(add)(1, b=2), int)


class Own(Cancelable):
    """A user's own kind of operation."""


def constructs(token: CancelationToken) -> None:
    assert_type(Cancelable("id", "name", None, {"owner": 7}, True, 1.5), Cancelable)
    assert_type(Cancelable.with_timeout(None), Cancelable)
    assert_type(Cancelable.with_token(token, name="n", metadata={}), Cancelable)
    assert_type(Cancelable.with_signal(15, 2, name="n"), Cancelable)
    assert_type(Cancelable.with_condition(lambda: True, 0.1, grace=1), Cancelable)
    assert_type(Cancelable.with_condition(anyio.Event()), Cancelable)
    assert_type(Own.with_timeout(1), Own)
    assert_type(Own().combine(Cancelable(), Own()), Own)
    assert_type(Own().add_source(TimeoutSource(1)).add_token(token), Own)
    assert_type(
        Own()
        .on_start(print)
        .on_cancel(notes)
        .on_complete(tells)
        .on_error(fails)
        .on_progress(shows),
        Own,
    )


def notes(context: OperationContext) -> None:
    assert_type(context.cancel_reason, CancelationReason | None)
    assert_type(context.start_time, datetime | None)
    assert_type(context.partial_result, object)
    assert_type(context.duration_seconds, float | None)


async def tells(context: OperationContext) -> str:
    return context.id


def fails(context: OperationContext, error: BaseException) -> None: ...


async def shows(operation_id: str, message: object, metadata: object) -> None: ...


async def asks(cancel: Cancelable) -> None:
    assert_type(await cancel.cancel("manual", "enough", grace=1), CancelOutcome)
    assert_type(cancel.cancel_sync(CancelationReason.SIGNAL), CancelOutcome)
    assert_type(cancel.extend(1), bool)
    assert_type(cancel.remaining, float)
    assert_type(cancel.status, OperationStatus)
    assert_type(cancel.operation_id, str)
    assert_type(cancel.token, CancelationToken)
    assert_type(await cancel.wait_cancelling(), CancelationReason)
    assert_type(await cancel.wait_stopped(1), OperationContext | None)
    cancel.deadline = anyio.current_time() + 1
    async for update in cancel.progress():
        assert_type(update.message, object)
    assert_type(current_operation(), Cancelable | None)
    assert_type(ensure_cancelable(None), Cancelable)


def covers_every_outcome(outcome: CancelOutcome) -> str:
    match outcome:
        case CancelOutcome.REQUESTED | CancelOutcome.ALREADY_REQUESTED:
            return "asked"
        case CancelOutcome.FINISHED | CancelOutcome.UNKNOWN:
            return "nobody to ask"
        case CancelOutcome.LOST | CancelOutcome.UNSETTLED | CancelOutcome.REMEMBERED:
            return "on a bus"
        case _:
            assert_never(outcome)


async def catches() -> None:
    try:
        await enters()
    except TimeoutCancelation as error:
        assert_type(error.timeout_seconds, float | None)
    except SignalCancelation as error:
        assert_type(error.signal_number, int | None)
    except ParentCancelation as error:
        assert_type(error.parent_reason, CancelationReason | None)
    except CancelationError as error:
        assert_type(error.reason, CancelationReason)
        assert_type(error.context, OperationContext | None)
        assert_type(error.operation_id, str | None)
    try:
        await enters()
    except TimeoutError as timeout:
        assert_type(timeout, TimeoutError)


# -- threads ---------------------------------------------------------------------------------


def compute(path: str, *, depth: int = 1) -> bytes:
    return path.encode() * depth


async def uses_threads(cancel: Cancelable) -> None:
    assert_type(await cancel.run_in_thread(compute, "p", depth=2), bytes)
    await cancel.run_in_thread(compute, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def from_another_thread(registry: ThreadSafeRegistry) -> None:
    assert_type(registry.cancel("id"), CancelOutcome)
    for context in registry.list_operations(status=OperationStatus.RUNNING):
        assert_type(context, OperationContext)


async def awaits_what_is_plain() -> None:
    registry = OperationRegistry.get_instance()
    assert_type(registry.register(Own()), Own)
    assert_type((await registry.list_operations())[0], OperationContext)
    assert_type(await registry.cancel("id"), CancelOutcome)


# -- streams ---------------------------------------------------------------------------------


async def numbers() -> AsyncGenerator[int]:
    yield 1


async def streams(cancel: Cancelable) -> None:
    stream = cancel.stream(numbers(), report_interval=10)
    assert_type(stream, CancelableAsyncIterator[int])
    assert_type(stream.partial, list[int])
    async for item in stream:
        assert_type(item, int)
    async for item in cancelable_stream(numbers(), 1, on_progress=lambda count, item: count + item):
        assert_type(item, int)
    async with cancelable_stream(create_slow_stream("abc")) as letters:
        assert_type([letter async for letter in letters], list[str])
    async for chunk in chunked_cancelable_stream(numbers(), 2, cancel):
        assert_type(chunk, list[int])
    takes_an_iterator(cancel.stream(numbers()))
    takes_an_iterator(cancelable_stream(numbers()))


def takes_an_iterator(items: AsyncIterator[int]) -> None: ...


# -- decorators ------------------------------------------------------------------------------


async def add(a: int, *, b: int) -> int:
    return a + b


@cancelable
async def bare(a: int, *, b: str = "x") -> bytes:
    return b""


@cancelable(timeout=timedelta(seconds=1), name="named")
async def with_arguments(a: int, cancelable: Cancelable | None = None) -> bytes:
    return b""


@cancelable(timeout=1)
async def generator(a: int) -> AsyncGenerator[str]:
    yield "a"


class Service:
    @cancelable_method(timeout=1)
    async def method(self, a: int) -> str:
        return ""

    @cancelable_method
    async def bare_method(self, a: int) -> str:
        return ""

    @classmethod
    @cancelable(timeout=1)
    async def of_class(cls, a: int) -> str:
        return ""

    @staticmethod
    @cancelable
    async def of_nobody(a: int) -> str:
        return ""


async def decorates(token: CancelationToken, cancel: Cancelable) -> None:
    assert_type(await bare(1, b="y"), bytes)
    await bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await with_arguments(1), bytes)
    async for letter in generator(1):
        assert_type(letter, str)
    assert_type(await Service().method(1), str)
    assert_type(await Service().bare_method(1), str)
    assert_type(await Service.of_class(1), str)
    assert_type(await Service.of_nobody(1), str)
    assert_type(await cancelable_with_token(token)(add)(1, b=2), int)
    assert_type(await cancelable_with_signal(15)(add)(1, b=2), int)
    assert_type(await cancelable_with_condition(lambda: True)(add)(1, b=2), int)
    assert_type(await cancelable_combine(cancel)(add)(1, b=2), int)
    assert_type(await with_cancelable(cancel, inject=True)(add)(1, b=2), int)
    assert_type(await with_current_operation()(add)(1, b=2), int)
    assert_type(await with_current_operation(add)(1, b=2), int)
    assert_type(await cancelable_with_signal(add)(1, b=2), int)
    assert_type(await with_timeout(1, add(1, b=2)), int)
    assert_type(await cancel.wrap(add)(1, b=2), int)


# -- sources and tests -----------------------------------------------------------------------


class Gauge(CancelationSource):
    """A user's own source."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION, "gauge")

    async def watch(self) -> None:
        await anyio.sleep(1)


async def tests() -> None:
    any_of = AnyOfSource([Gauge(), ConditionSource(lambda: False), TimeoutSource(None)])
    assert_type(any_of.triggered_source, CancelationSource | None)
    report = await cancel_at_each_checkpoint(tests, check=lambda: None)
    assert_type(report, InjectionReport)
    assert_type(report.leftovers, list[str])

    async def fire(source: CancelationSource) -> None: ...

    await check_source_contract(Gauge, fire, reason=CancelationReason.CONDITION)
    async with assert_cancelation_within(0, 1) as token:
        assert_type(token, MockCancelationToken)
    recorder = OperationRecorder()
    assert_type(recorder.attach(Cancelable()), Cancelable)
    assert_type(await token.cancel(), bool)
    assert_type(CancelationToken.any(token, CancelationToken()), CancelationToken)
    token.on_cancel(lambda each: assert_type(each, CancelationToken)).unregister()


# -- a block that does not raise -------------------------------------------------------------


async def moved_on() -> int:
    async with Cancelable.with_timeout(1).move_on() as cancel:
        assert_type(cancel, Cancelable)
        return 1
    assert_type(cancel.parent, Cancelable | None)
    return 2
