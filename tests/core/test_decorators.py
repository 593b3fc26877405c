"""Functions that run inside an operation of their own."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import AsyncGenerator, Callable

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationToken,
    ConditionCancelation,
    ManualCancelation,
    OperationRegistry,
    SignalCancelation,
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


def test_bad_settings_are_refused_where_they_are_given() -> None:
    """At the decorator, not at a call."""
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            cancelable(timeout=timeout)
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
