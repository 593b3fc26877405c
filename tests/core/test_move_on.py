"""The block that does not raise when it is cancelled: take what there is, and go on.

Holds to: S2, S3, S4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    ManualCancelation,
    OperationContext,
    OperationStatus,
    TimeoutCancelation,
)
from tests.support.clock import in_virtual_time


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


async def numbers() -> AsyncIterator[int]:
    for number in range(1_000):
        await anyio.sleep(1)
        yield number


async def test_what_there_is_by_the_deadline_is_taken() -> None:
    """The code behind the block runs, and can ask how it ended."""
    found: list[int] = []
    async with Cancelable.with_timeout(3.5, "search").move_on() as cancel:
        async for number in cancel.stream(numbers()):
            found.append(number)
    assert found == [0, 1, 2]
    assert cancel.is_cancelled
    assert cancel.cancel_reason is CancelationReason.TIMEOUT


def by_token(operation: Cancelable) -> None:
    token = CancelationToken()
    operation.add_token(token)
    token.cancel_sync()


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda operation: operation.cancel_sync(), id="plain"),
        pytest.param(lambda operation: operation.cancel_sync("signal", "deploy"), id="signal"),
        pytest.param(by_token, id="token"),
    ],
)
async def test_whatever_asked_it_goes_no_further(ask: Callable[[Cancelable], object]) -> None:
    """One callback, and no native cancelation either."""
    ended: list[OperationStatus] = []

    def note(context: OperationContext) -> None:
        ended.append(context.status)

    async with Cancelable().on_cancel(note).on_complete(note).move_on() as cancel:
        ask(cancel)
        await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()
    assert ended == [OperationStatus.CANCELLED]


async def test_the_check_of_a_thread_is_its_own_too() -> None:
    """The error that the thread raised names this operation."""
    async with Cancelable().move_on() as cancel:

        def work() -> None:
            cancel.cancel_sync()
            cancel.check_cancelation_sync()

        await cancel.run_in_thread(work)
    assert cancel.is_cancelled


async def test_the_checks_of_a_group_of_threads_are_its_own_too() -> None:
    """As many as there are."""
    async with Cancelable().move_on() as cancel, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(cancel.run_in_thread, cancel.check_cancelation_sync)
        cancel.cancel_sync()
    assert cancel.is_cancelled


async def test_a_block_that_ends_well_is_as_ever() -> None:
    """Also after a request that came too late."""
    async with Cancelable().move_on() as cancel:
        cancel.cancel_sync()
    assert cancel.is_completed
    assert cancel.cancel_requested


async def test_errors_leave_the_block() -> None:
    """Those of the work, and the cancelation of another operation."""
    with pytest.raises(ZeroDivisionError):
        async with Cancelable().move_on():
            _ = 1 / 0
    with pytest.raises(TimeoutCancelation) as caught:
        async with Cancelable().move_on() as outer:
            async with Cancelable.with_timeout(1) as inner:
                await anyio.sleep_forever()
    assert caught.value.operation_id == inner.operation_id
    assert outer.status is OperationStatus.FAILED


async def test_a_cancelation_around_it_goes_on() -> None:
    """Of an operation, and of a plain scope; also when both are due at once."""
    behind: list[str] = []
    with pytest.raises(ManualCancelation) as caught:
        async with Cancelable() as outer:
            async with Cancelable().move_on() as inner:
                inner.cancel_sync()
                outer.cancel_sync()
                await anyio.sleep_forever()
            behind.append("inner")
    assert caught.value.operation_id == outer.operation_id
    with anyio.CancelScope() as scope:
        async with Cancelable().move_on() as inner:
            scope.cancel()
            await anyio.sleep_forever()
        behind.append("scope")
    assert scope.cancelled_caught
    assert inner.cancel_reason is CancelationReason.EXTERNAL
    assert behind == []


async def test_a_child_in_another_task_moves_on_when_its_parent_is_cancelled() -> None:
    """What leaves its block is its own error, though the parent is the cause."""
    behind = False

    async def child(parent: Cancelable) -> None:
        nonlocal behind
        async with Cancelable(parent=parent).move_on() as cancel:
            await anyio.sleep_forever()
        behind = True
        assert cancel.cancel_reason is CancelationReason.PARENT

    async with anyio.create_task_group() as tasks:
        async with Cancelable().move_on() as parent:
            tasks.start_soon(child, parent)
            await anyio.wait_all_tasks_blocked()
            parent.cancel_sync()
            await anyio.lowlevel.checkpoint()
    assert behind


class SlowToStart(CancelationSource):
    """A source that takes for ever to begin watching."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION, "slow")

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        await super().start_monitoring(scope)
        await anyio.sleep_forever()


async def test_a_cancel_while_it_is_entered_cannot_be_moved_on_from() -> None:
    """The body would run without its block."""
    operation = Cancelable.with_timeout(1).add_source(SlowToStart())
    with pytest.raises(TimeoutCancelation):
        async with operation.move_on():
            pytest.fail("entered")
    assert operation.is_cancelled
