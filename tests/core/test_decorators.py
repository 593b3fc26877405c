"""Functions that run inside an operation of their own."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    CancelOutcome,
    ConditionCancelation,
    DisconnectCancelation,
    ManualCancelation,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    SignalSource,
    TimeoutCancelation,
    cancelable,
    cancelable_combine,
    cancelable_method,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    current_operation,
    ensure_cancelable,
    with_cancelable,
    with_current_operation,
    with_timeout,
)


class Bell(CancelationSource):
    """A source that is rung from outside."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.DISCONNECT, "bell")


@cancelable
async def bare(number: int) -> tuple[int, str | None]:
    operation = current_operation()
    return number, None if operation is None else operation.name


@cancelable(timeout=5, name="named", register_globally=True)
async def injected(number: int, *, cancelable: Cancelable | None = None) -> tuple[int, int]:
    assert cancelable is current_operation()
    return number, len(OperationRegistry.current().list_operations(name_pattern="named"))


class Service:
    @cancelable_method(timeout=5)
    async def method(self, cancelable: Cancelable | None = None) -> str | None:
        assert cancelable is not None
        return cancelable.name

    @classmethod
    @cancelable(timeout=5)
    async def of_class(cls, cancelable: Cancelable | None = None) -> tuple[type, bool]:
        return cls, cancelable is current_operation()

    @staticmethod
    @cancelable
    async def of_nobody(number: int) -> int:
        return number


async def test_a_call_runs_inside_an_operation_of_its_own() -> None:
    """With the function's name, the arguments untouched, and registered if asked for."""
    assert await bare(1) == (1, "bare")
    assert await injected(2) == (2, 1)
    assert await Service().method() == "Service.method"
    assert await Service.of_class() == (Service, True)
    assert await Service.of_nobody(3) == 3
    assert current_operation() is None


async def test_a_parameter_that_the_caller_gives_is_not_replaced() -> None:
    """By name or by position."""
    mine = Cancelable()

    @cancelable(timeout=5)
    async def function(cancelable: Cancelable | None = None) -> Cancelable | None:
        return cancelable

    assert await function(mine) is mine
    assert await function(cancelable=mine) is mine
    assert await function() is not mine


def test_the_signature_and_the_kind_stay() -> None:
    """Name, docstring, parameters, and what a framework asks for."""

    async def plain(a: int, *, b: str = "x") -> bytes:
        """Do something."""
        return b""

    async def generator(a: int) -> AsyncGenerator[int]:
        yield a

    wrapped, streamed = cancelable(timeout=1)(plain), cancelable(timeout=1)(generator)
    assert inspect.signature(wrapped) == inspect.signature(plain)
    assert wrapped.__name__ == "plain"
    assert wrapped.__doc__ == "Do something."
    assert inspect.iscoroutinefunction(wrapped)
    assert inspect.isasyncgenfunction(streamed)


async def test_calls_may_overlap_and_be_repeated() -> None:
    """Each has its own operation and its own clock."""
    seen: list[Cancelable | None] = []

    @cancelable(timeout=5)
    async def function() -> None:
        seen.append(current_operation())
        await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(function)
    await function()
    assert len(set(seen)) == 4


async def test_each_decorator_stops_its_function() -> None:
    """Timeout, token, signal, condition, and what is combined."""
    token = CancelationToken()

    async def wait() -> None:
        await anyio.sleep_forever()

    async def kill_and_wait() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        await anyio.sleep_forever()

    token.cancel_sync()
    with anyio.fail_after(5):
        with pytest.raises(TimeoutCancelation):
            await cancelable(timeout=0.01)(wait)()
        with pytest.raises(ManualCancelation):
            await cancelable_with_token(token)(wait)()
        with pytest.raises(SignalCancelation):
            await cancelable_with_signal(signal.SIGUSR1)(kill_and_wait)()
        with pytest.raises(ConditionCancelation):
            await cancelable_with_condition(lambda: True)(wait)()
        combined = cancelable_combine(Cancelable.with_timeout(0.01), Cancelable())(wait)
        for _ in range(2):
            with pytest.raises(TimeoutCancelation):
                await combined()
        with pytest.raises(TimeoutCancelation):
            await with_timeout(0.01, wait())


async def test_a_generator_is_stopped_at_its_step_and_closed() -> None:
    """The timeout counts for the whole stream."""
    closed: list[bool] = []

    @cancelable(timeout=0.05)
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    received: list[int] = []
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async for number in numbers():
            received.append(number)
    assert received == [1, 2]
    assert closed == [True]


async def test_a_function_can_run_in_an_operation_that_is_at_hand() -> None:
    """In its running block, or by entering it."""
    operation = Cancelable()

    @with_cancelable(operation, inject=True)
    async def function(*, cancelable: Cancelable | None = None) -> bool:
        return cancelable is operation is current_operation()

    assert await function()
    async with Cancelable() as running:

        @with_cancelable(running)
        async def inside() -> bool:
            return current_operation() is running

        assert await inside()
        assert await inside()


async def test_a_call_from_outside_the_block_of_an_operation_at_hand_is_part_of_it() -> None:
    """It runs in an operation underneath, and stops with the one at hand."""
    operation = Cancelable(name="at hand")
    went_on: list[str] = []

    @with_cancelable(operation, inject=True)
    async def work(*, cancelable: Cancelable | None = None) -> None:
        current = current_operation()
        assert current is not None
        assert cancelable is operation is current.parent
        assert current.name == "work"
        assert operation.children == [current]
        await anyio.sleep_forever()

    async def hold() -> None:
        async with operation.move_on():
            await anyio.sleep_forever()
        went_on.append("hold")

    async def call() -> None:
        with pytest.raises(ParentCancelation) as caught:
            await work()
        assert caught.value.origin_id == operation.operation_id
        went_on.append("call")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await operation.cancel()
    assert sorted(went_on) == ["call", "hold"]
    assert operation.children == []


async def test_the_second_of_two_overlapping_calls_is_part_of_the_operation_at_hand() -> None:
    """The first has entered the block, in a task of its own."""
    operation = Cancelable()
    running: list[tuple[bool, bool]] = []
    errors: list[CancelationError] = []

    @with_cancelable(operation)
    async def work() -> None:
        current = current_operation()
        assert current is not None
        running.append((current is operation, current.parent is operation))
        await anyio.sleep_forever()

    async def call() -> None:
        try:
            await work()
        except CancelationError as error:
            errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
            await operation.cancel()
    assert running == [(True, False), (False, True)]
    assert {type(error) for error in errors} == {ManualCancelation, ParentCancelation}


async def test_a_call_after_an_operation_at_hand_was_asked_does_not_begin() -> None:
    """Inside its block and outside of it."""
    operation, entered = Cancelable(), anyio.Event()
    began: list[str] = []

    @with_cancelable(operation)
    async def work() -> None:
        began.append("work")

    async def hold() -> None:
        async with operation.move_on():
            with anyio.CancelScope(shield=True):
                entered.set()
                await anyio.wait_all_tasks_blocked()
            await work()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await entered.wait()
            await operation.cancel()
            with pytest.raises(ParentCancelation):
                await work()
    assert began == []


async def test_a_task_that_was_started_in_the_block_of_an_operation_at_hand_is_inside() -> None:
    """What it reports is told by that operation itself."""
    inside: list[bool] = []
    async with Cancelable() as operation:

        @with_cancelable(operation)
        async def work() -> None:
            inside.append(current_operation() is operation)

        async def call() -> None:
            await work()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
        async with Cancelable():
            await work()
    assert inside == [True, False]


async def test_the_current_operation_can_be_a_parameter() -> None:
    """None outside of any block."""

    @with_current_operation()
    async def function(operation: Cancelable | None = None) -> Cancelable | None:
        return operation

    assert await function() is None
    async with Cancelable() as cancel:
        assert await function() is cancel


def test_a_plain_function_is_refused_with_advice() -> None:
    """Nothing could cancel it."""
    decorators: list[Callable[[Callable[[], None]], object]] = [
        cancelable,
        cancelable(timeout=1),
        cancelable_method(),
        cancelable_with_token(CancelationToken()),
        cancelable_combine(),
    ]
    for decorate in decorators:
        with pytest.raises(TypeError, match="run_in_thread"):
            decorate(lambda: None)
    with pytest.raises(TypeError, match="below @classmethod"):
        cancelable(classmethod(lambda cls: None))  # type: ignore[call-overload]


async def test_what_needs_no_argument_needs_no_parentheses() -> None:
    """On a function and on a method; with a timeout or a name it is as before."""

    class Job:
        @cancelable_method
        async def named(self, cancelable: Cancelable | None = None) -> str | None:
            return None if cancelable is None else cancelable.name

        @with_current_operation
        async def given(self, number: int, operation: Cancelable | None = None) -> object:
            return operation

    @with_current_operation
    async def given(operation: Cancelable | None = None) -> object:
        return operation

    @cancelable_with_signal
    async def stoppable(cancelable: Cancelable | None = None) -> object:
        return cancelable and cancelable._sources

    assert await Job().named() == "Job.named"
    assert await given() is None
    async with Cancelable() as around:
        assert await given() is around
        assert await Job().given(1) is around
    (source,) = cast("tuple[SignalSource]", await stoppable())
    assert source.signals == (signal.SIGINT, signal.SIGTERM)
    assert given.__name__ == "given"
    for decorator in (cancelable_method, cancelable_with_signal, with_current_operation):
        with pytest.raises(TypeError, match="is not async"):
            cast("Callable[..., object]", decorator)(lambda: None)
        with pytest.raises(TypeError, match="below @classmethod"):
            decorator(classmethod(lambda cls: None))  # type: ignore[call-overload]


async def test_what_needs_an_argument_refuses_a_function_in_its_place() -> None:
    """The error says what to write."""

    async def work(number: int) -> None:
        pytest.fail("called")

    async def no_parameter() -> None:
        pytest.fail("called")

    async def pages() -> AsyncIterator[int]:
        yield pytest.fail("called")

    decorators: dict[str, Callable[..., object]] = {
        r"cancelable_with_token\(token\)": cancelable_with_token,
        r"cancelable_combine\(operation, another\)": cancelable_combine,
        r"with_cancelable\(operation\)": with_cancelable,
    }
    for usage, decorator in decorators.items():
        for function in (work, no_parameter, staticmethod(work)):
            with pytest.raises(TypeError, match=f"needs an argument: write `@{usage}`"):
                decorator(function)
    for unfit in (work, pages):
        with pytest.raises(TypeError, match=r"write `@cancelable_with_condition\(condition\)`"):
            cancelable_with_condition(cast("Callable[[], bool]", unfit))
    # This one may be a condition: it is told apart when it is called.
    decorated: Callable[..., object] = cancelable_with_condition(
        cast("Callable[[], bool]", no_parameter)
    )
    for arguments in ((), (1,), (no_parameter, no_parameter)):
        with pytest.raises(TypeError, match="the decorator needs a condition"):
            decorated(*arguments)


async def test_a_partial_is_decorated_as_a_method_too() -> None:
    """What has no name of its own runs in an operation with the name of its class."""

    async def name_of(number: int, cancelable: Cancelable | None = None) -> str | None:
        return None if cancelable is None else cancelable.name

    assert await cancelable_method()(partial(name_of, 1))() == "partial"
    assert await cancelable_method(name="mine")(partial(name_of, 1))() == "mine"


def test_bad_settings_are_refused_where_they_are_given() -> None:
    """At the decorator, not at a call."""
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            cancelable(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            cancelable_method(timeout=timeout)
    with pytest.raises(TypeError, match="token"):
        cancelable_with_token("stop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="check_interval"):
        cancelable_with_condition(lambda: True, 0)
    with pytest.raises(TypeError, match="Cancelables"):
        cancelable_combine(CancelationToken())  # type: ignore[arg-type]


def test_ensure_gives_an_operation_always() -> None:
    """The given one, or a new one."""
    mine = Cancelable()
    assert ensure_cancelable(mine) is mine
    assert isinstance(ensure_cancelable(None), Cancelable)


async def test_a_coroutine_is_not_left_unawaited_by_a_bad_timeout() -> None:
    """It is closed before the error leaves."""
    with pytest.raises(ValueError, match="NaN"):
        await with_timeout(float("nan"), anyio.sleep(1))
    with pytest.raises(ValueError, match="operation_id"):
        await with_timeout(1, anyio.sleep(1), operation_id="")


# -- generators, sources, and what cannot be decorated ---------------------------------------


async def test_a_condition_stops_a_generator_at_any_of_its_steps() -> None:
    """The first, a later one, and one that comes after a pause of the consumer."""
    for last in (0, 1, 3):
        holds = False

        @cancelable_with_condition(lambda: holds, 0.001)
        async def numbers(stop_at: int) -> AsyncGenerator[int]:
            nonlocal holds
            for number in range(10):
                if number == stop_at:
                    holds = True
                    await anyio.sleep_forever()
                yield number

        received: list[int] = []
        with anyio.fail_after(5), pytest.raises(ConditionCancelation):
            async for number in numbers(last):
                received.append(number)
                await anyio.sleep(0.002)
        assert received == list(range(last))


async def test_a_signal_between_two_steps_of_a_generator_stops_it() -> None:
    """The handler is in place also while the consumer works; it is given back at the end."""
    before = signal.getsignal(signal.SIGUSR1)

    @cancelable_with_signal(signal.SIGUSR1)
    async def numbers() -> AsyncGenerator[int]:
        for number in range(10):
            yield number

    received: list[int] = []
    with anyio.fail_after(5), pytest.raises(SignalCancelation):
        async for number in numbers():
            received.append(number)
            if number == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
    assert received == [0, 1, 2]
    assert signal.getsignal(signal.SIGUSR1) is before


async def test_a_combined_source_serves_each_call() -> None:
    """The second as well as the first, and when it has fired, all that follow."""
    bell = Bell()

    @cancelable_combine(Cancelable().add_source(bell))
    async def work(ring: bool) -> str:
        if ring:
            bell.trigger("ding")
        if bell.triggered:  # the loop is rung, and gets to it in a turn or two
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        return "done"

    assert await work(False) == "done"
    assert await work(False) == "done"
    with anyio.fail_after(5):
        for ring in (True, False):
            with pytest.raises(DisconnectCancelation, match="ding"):
                await work(ring)


async def test_each_call_of_a_generator_has_an_operation_of_its_own() -> None:
    """Injected, with the clock of its own call, and one id for all steps."""

    @cancelable(timeout=60)
    async def ids(cancelable: Cancelable | None = None) -> AsyncGenerator[tuple[str, str]]:
        assert cancelable is not None
        for _ in range(2):
            current = current_operation()
            assert current is not None
            yield cancelable.operation_id, current.operation_id

    first = [pair async for pair in ids()]
    second = [pair async for pair in ids()]
    assert len({each for pair in first for each in pair}) == 1
    assert first != second
    assert current_operation() is None


async def test_the_operation_of_a_generator_can_be_cancelled_from_inside() -> None:
    """The step is cut, and the generator sees it at its next await."""

    @cancelable(timeout=60)
    async def numbers(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        yield 1
        await cancelable.cancel(message="no more")
        await anyio.sleep_forever()

    received: list[int] = []
    with anyio.fail_after(5), pytest.raises(ManualCancelation, match="no more"):
        async for number in numbers():
            received.append(number)
    assert received == [1]


def test_generators_are_refused_where_a_function_is_awaited() -> None:
    """The error says what to do with them instead."""

    async def numbers() -> AsyncGenerator[int]:
        yield 1

    for decorate in (with_cancelable(Cancelable()), with_current_operation()):
        with pytest.raises(TypeError, match=r"cancel\.stream"):
            decorate(numbers)  # type: ignore[arg-type]


async def test_what_has_no_name_is_decorated_too() -> None:
    """Such as a function with some of its arguments given."""

    async def add(a: int, b: int) -> tuple[int, str | None]:
        operation = current_operation()
        return a + b, None if operation is None else operation.name

    decorated = cancelable(timeout=5)(partial(add, 1))
    assert await decorated(2) == (3, "partial")


async def test_an_operation_at_hand_is_entered_once() -> None:
    """A second call would need a new one; the error says so."""

    @with_cancelable(Cancelable())
    async def work() -> None: ...

    await work()
    with pytest.raises(RuntimeError, match="entered once"):
        await work()


async def test_an_error_and_a_cancelation_of_the_function_leave_as_in_a_block() -> None:
    """An error as raised, the cancelation as the matching error, a foreign one as it came."""

    @cancelable(timeout=60)
    async def work(kind: str, *, cancelable: Cancelable | None = None) -> None:
        assert cancelable is not None
        if kind == "error":
            raise LookupError("own")
        if kind == "cancel":
            await cancelable.cancel()
        await anyio.sleep_forever()

    with pytest.raises(LookupError, match="own"):
        await work("error")
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        await work("cancel")
    with anyio.move_on_after(0.01) as scope:
        await work("wait")
    assert scope.cancelled_caught


async def test_the_operation_is_given_behind_any_number_of_arguments() -> None:
    """A parameter that is taken by name is not filled by the arguments in front of it."""

    @cancelable(timeout=5)
    async def count(*numbers: int, cancelable: Cancelable | None = None) -> int:
        assert cancelable is not None
        assert cancelable is current_operation()
        return len(numbers)

    for many in (0, 1, 2, 5):
        assert await count(*range(many)) == many


async def test_what_collects_arguments_is_no_place_for_the_operation() -> None:
    """It is left as the caller filled it, whatever its name."""

    @cancelable(timeout=5)
    async def by_position(*cancelable: int) -> tuple[int, ...]:
        return cancelable

    @cancelable(timeout=5)
    async def by_name(**cancelable: int) -> dict[str, int]:
        return cancelable

    assert await by_position(1, 2) == (1, 2)
    assert await by_name(a=1) == {"a": 1}


@pytest.mark.parametrize("is_asked", [False, True])
async def test_an_error_is_thrown_into_a_generator_as_it_is(is_asked: bool) -> None:
    """A context manager that rolls back does so, also when it was asked to stop meanwhile."""
    done: list[str] = []
    token = CancelationToken()

    @asynccontextmanager
    @cancelable_with_token(token)
    async def transaction() -> AsyncGenerator[str]:
        try:
            yield "open"
        except LookupError:
            await anyio.lowlevel.checkpoint()
            done.append("rolled back")
            raise
        else:
            done.append("committed")
        finally:
            await anyio.lowlevel.checkpoint()
            done.append("closed")

    with pytest.raises(LookupError, match="inside"):
        async with transaction() as state:
            assert state == "open"
            if is_asked:
                token.cancel_sync()
            raise LookupError("inside")
    assert done == ["rolled back", "closed"]


async def test_a_generator_may_handle_an_error_and_go_on() -> None:
    """Its next item is handed on, and the steps after it are operations as before."""
    token = CancelationToken()

    @cancelable_with_token(token)
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        except LookupError:
            yield 2
        yield 3
        token.cancel_sync()
        await anyio.sleep_forever()

    broken = numbers()
    await anext(broken)
    with pytest.raises(ValueError, match=r"^$"):
        await broken.athrow(ValueError())
    with pytest.raises(StopAsyncIteration):
        await anext(broken)

    items = numbers()
    assert await anext(items) == 1
    assert await items.athrow(LookupError()) == 2
    assert await anext(items) == 3
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def test_a_generator_gets_the_values_that_are_sent_to_it() -> None:
    """Each at the `yield` that waits for it."""

    @cancelable(timeout=60)
    async def echo() -> AsyncGenerator[object, object]:
        said: object = "hello"
        while said is not None:
            said = yield said

    items = echo()
    assert await anext(items) == "hello"
    assert [await items.asend(word) for word in ("a", 0, "")] == ["a", 0, ""]
    with pytest.raises(StopAsyncIteration):
        await items.asend(None)


@cancelable(name="numbers", register_globally=True)
async def listed_numbers(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
    assert cancelable is not None
    for number in range(3):
        await anyio.lowlevel.checkpoint()
        yield number


async def test_a_registered_generator_is_listed_from_its_first_step_to_its_end() -> None:
    """Between the steps as well, so that it can be found; once, with its end in the history."""
    registry = OperationRegistry()
    with registry.as_default():
        items = listed_numbers()
        assert registry.list_operations() == []
        async for _ in items:
            (known,) = registry.list_operations(name_pattern="numbers")
            assert known.status is OperationStatus.RUNNING
        assert registry.list_operations() == []
        (ended,) = registry.get_history()
    assert (ended.id, ended.status) == (known.id, OperationStatus.COMPLETED)


@pytest.mark.parametrize("between_steps", [False, True])
async def test_a_registered_generator_is_stopped_by_its_id(
    between_steps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At its next step, with the reason that was given; one record in the log says so."""
    caplog.set_level("INFO", "cancelable")
    registry = OperationRegistry()

    def ask() -> None:
        (known,) = registry.list_operations()
        assert registry.cancel(known.id, message="no more") is CancelOutcome.REQUESTED

    @cancelable(register_globally=True)
    async def numbers() -> AsyncGenerator[int]:
        yield 0
        if not between_steps:
            ask()
        await anyio.sleep_forever()

    with registry.as_default(), anyio.fail_after(5):
        with pytest.raises(ManualCancelation, match="no more"):
            async for _ in numbers():
                if between_steps:
                    ask()
        (ended,) = registry.get_history()
        assert registry.list_operations() == []
    assert (ended.status, ended.cancel_reason) == (OperationStatus.CANCELLED, "manual")
    assert len(caplog.records) == 1


async def test_a_registered_generator_ends_as_a_block_would() -> None:
    """Left early, failed, stopped by its own time, and by the operation around."""
    registry = OperationRegistry()

    @cancelable(timeout=0.01, register_globally=True)
    async def late() -> AsyncGenerator[int]:
        yield 0
        await anyio.sleep_forever()

    with registry.as_default(), anyio.fail_after(5):
        items = listed_numbers()
        await anext(items)
        await items.aclose()
        items = listed_numbers()
        await anext(items)
        with pytest.raises(LookupError):
            await items.athrow(LookupError("own"))
        with pytest.raises(TimeoutCancelation):
            assert [number async for number in late()]
        with pytest.raises(ManualCancelation):
            async with Cancelable() as around:
                async for _ in listed_numbers():
                    await around.cancel()
        history = registry.get_history()
        assert registry.list_operations() == []
    assert [(each.status.value, each.cancel_reason) for each in history] == [
        ("cancelled", "external"),
        ("failed", None),
        ("cancelled", "timeout"),
        ("cancelled", "parent"),
    ]
    assert history[1].error == "LookupError: own"


async def test_a_section_of_a_step_of_a_generator_is_shielded() -> None:
    """The operation of a generator has no block of its own; that of the step is meant."""
    events: list[str] = []

    @cancelable(timeout=5)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        yield 1
        async with cancelable.shield():
            cancelable.cancel_sync()
            await anyio.lowlevel.checkpoint()
            events.append("written")
        events.append("never")
        yield 2

    with pytest.raises(ManualCancelation):
        async for _row in rows():
            pass
    assert events == ["written"]
    whole = Cancelable()
    with pytest.raises(RuntimeError, match="enter the block first"):
        async with whole.shield():
            pass


async def test_a_stream_within_a_generator_lasts_for_all_its_steps() -> None:
    """It is closed with the generator, in the task that iterates over that."""
    closed: list[str | None] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            for number in range(10):
                await anyio.lowlevel.checkpoint()
                yield number
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append(anyio.get_current_task().name)

    @cancelable(timeout=5)
    async def doubled(last: int, cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        async for number in cancelable.stream(numbers()):
            yield 2 * number
            if number == last:
                break

    here = anyio.get_current_task().name
    assert [number async for number in doubled(3)] == [0, 2, 4, 6]
    assert closed == [here]

    steps = doubled(20)
    assert await anext(steps) == 0
    assert await anext(steps) == 2
    await steps.aclose()
    assert closed == [here, here]
