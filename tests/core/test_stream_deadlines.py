"""Deadlines of streams, in time that moves only when everything waits. (S12)"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationToken,
    ManualCancelation,
    TimeoutCancelation,
    cancelable_stream,
    current_operation,
)
from tests.support.clock import in_virtual_time


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


@pytest.mark.parametrize("cause", ["timeout", "token"])
async def test_a_stand_alone_stream_is_stopped_in_the_middle_of_a_step(cause: str) -> None:
    """The error carries what was delivered, and the source is closed here."""
    token, closed = CancelationToken(), list[int]()

    async def stuck() -> AsyncGenerator[int]:
        try:
            yield 0
            yield 1
            if cause == "token":
                await token.cancel()
            await anyio.sleep_forever()
        finally:
            closed.append(anyio.get_current_task().id)

    timeout = 20 if cause == "timeout" else None
    received: list[int] = []
    with anyio.fail_after(60), pytest.raises(CancelationError) as caught:
        async with cancelable_stream(stuck(), timeout, token, buffer_partial=True) as stream:
            async for item in stream:
                received.append(item)
                await anyio.sleep(8)
    assert received == [0, 1]
    expected = TimeoutCancelation if cause == "timeout" else ManualCancelation
    assert isinstance(caught.value, expected)
    assert caught.value.partial_result == {"count": 2, "buffer": [0, 1], "completed": False}
    assert closed == [anyio.get_current_task().id]


async def test_the_time_of_a_stand_alone_stream_counts_while_the_consumer_works() -> None:
    """It is for the whole stream; what was fetched in time has been handed on."""

    async def numbers() -> AsyncGenerator[int]:
        for number in range(10):
            await anyio.sleep(1)
            yield number

    received: list[int] = []
    with anyio.fail_after(60), pytest.raises(TimeoutCancelation):
        async for number in cancelable_stream(numbers(), timeout=10):
            received.append(number)
            await anyio.sleep(3)
    assert received == [0, 1, 2]


@pytest.mark.parametrize("holds", ["scope", "task group", "operation", "deadline"])
async def test_the_task_is_as_before_when_such_a_source_was_refused(holds: str) -> None:
    """Scopes around, scopes to come and the deadline of the stream: nothing is mixed up."""
    closed: list[bool] = []

    async def source() -> AsyncGenerator[int]:
        async with AsyncExitStack() as stack:
            if holds == "scope":
                stack.enter_context(anyio.CancelScope())
            elif holds == "deadline":
                stack.enter_context(anyio.move_on_after(1000))
            elif holds == "operation":
                await stack.enter_async_context(Cancelable())
            else:
                await stack.enter_async_context(anyio.create_task_group())
            stack.callback(closed.append, True)
            yield 1
            yield 2

    with anyio.fail_after(500), anyio.CancelScope() as around:
        with pytest.raises(RuntimeError, match="holds a cancel scope or a task group"):
            async for _ in cancelable_stream(source(), timeout=20):
                pass
        assert closed == [True]
        assert current_operation() is None
        await anyio.sleep(40)
        with anyio.move_on_after(10) as limit:
            await anyio.sleep_forever()
        assert limit.cancelled_caught
        async with Cancelable():
            await anyio.lowlevel.checkpoint()
        around.cancel()
        await anyio.lowlevel.checkpoint()
    assert around.cancelled_caught
