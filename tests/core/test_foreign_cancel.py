"""A cancel that is not the operation's own passes through untouched, also in the same tick.

Holds to: S3, S5.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    ManualCancelation,
    OperationStatus,
    TimeoutCancelation,
)
from tests.support.clock import advance, in_virtual_time
from tests.support.native import in_thread, native_cancel, on_asyncio, open_nursery

Cancel = Callable[[Cancelable, CancelationToken], object]


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def until_blocked() -> None:
    await anyio.wait_all_tasks_blocked()


# -- task.cancel() ---------------------------------------------------------------------------


def by_operation(operation: Cancelable, token: CancelationToken) -> object:
    return operation.cancel_sync()


def by_token(operation: Cancelable, token: CancelationToken) -> object:
    return token.cancel_sync()


def by_thread(operation: Cancelable, token: CancelationToken) -> None:
    in_thread(operation.cancel_sync)


def by_deadline(operation: Cancelable, token: CancelationToken) -> object:
    operation.deadline = -1.0
    return None


OWN = [by_operation, by_token, by_thread, by_deadline]


async def start(token: CancelationToken, level: list[int]) -> tuple[asyncio.Task[str], Cancelable]:
    """Start a task that waits in a block, and then says whether it went on."""
    operation = Cancelable.with_token(token)

    async def work() -> str:
        try:
            async with operation:
                await anyio.sleep(3600)
        except Exception as error:
            level.append(cancelling())
            return type(error).__name__
        except BaseException:
            level.append(cancelling())
            raise
        return "completed"

    task = asyncio.get_running_loop().create_task(work())
    await until_blocked()
    return task, operation


@on_asyncio
async def test_a_cancel_of_the_task_leaves_as_it_came() -> None:
    """`task.cancel()` ends the task; the operation was cancelled from outside."""
    level: list[int] = []
    task, operation = await start(CancelationToken(), level)
    task.cancel("mine")
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError, match="mine"):
        await task
    assert level == [1]
    assert operation.status is OperationStatus.CANCELLED
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    assert operation.cancel_message is None


@on_asyncio
@pytest.mark.parametrize("own", OWN)
async def test_an_own_cancel_takes_back_its_own_requests(own: Cancel) -> None:
    """After an own cancelation `cancelling()` is what it was at the entry."""
    level: list[int] = []
    token = CancelationToken()
    task, operation = await start(token, level)
    own(operation, token)
    with anyio.fail_after(5):
        assert (await task).endswith("Cancelation")
    assert level == [0]


@on_asyncio
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("order", ["own first", "task first"])
async def test_a_cancel_of_the_task_in_the_same_tick_gets_out(own: Cancel, order: str) -> None:
    """Both in one tick: the native cancel leaves and its request stays counted."""
    level: list[int] = []
    token = CancelationToken()
    task, operation = await start(token, level)
    if order == "own first":
        own(operation, token)
        task.cancel("mine")
    else:
        task.cancel("mine")
        own(operation, token)
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    assert level == [1]
    assert operation.status is OperationStatus.CANCELLED
    reason = CancelationReason.TIMEOUT if own is by_deadline else CancelationReason.MANUAL
    assert operation.cancel_reason is reason


@on_asyncio
async def test_a_task_cancelled_twice_keeps_both_requests() -> None:
    """Each foreign `cancel()` call stays counted beside an own cancel."""
    level: list[int] = []
    task, operation = await start(CancelationToken(), level)
    task.cancel()
    task.cancel()
    operation.cancel_sync()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    assert level == [2]


@on_asyncio
async def test_a_swallowed_own_cancel_leaves_no_request_behind() -> None:
    """A block that swallows its cancel and completes leaves `cancelling()` at its entry value."""
    before = cancelling()
    async with Cancelable() as operation:
        await operation.cancel()
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            pass
    assert cancelling() == before
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@on_asyncio
async def test_a_cancel_without_a_checkpoint_leaves_no_request_behind() -> None:
    """A block that cancels itself and falls off is not cancelled afterwards."""
    for _ in range(3):
        async with Cancelable() as operation:
            await operation.cancel()
        async with Cancelable() as operation:
            in_thread(operation.cancel_sync)
    assert cancelling() == 0
    for _ in range(5):
        await asyncio.sleep(0)


@on_asyncio
async def test_a_foreign_cancel_that_the_block_took_back_stays_taken_back() -> None:
    """A block that swallows `task.cancel()` and calls `uncancel()` completes."""
    level: list[int] = []

    async def work() -> None:
        async with Cancelable() as operation:
            operations.append(operation)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
        level.append(cancelling())

    operations: list[Cancelable] = []
    task = asyncio.get_running_loop().create_task(work())
    await until_blocked()
    task.cancel()
    with anyio.fail_after(5):
        await task
    assert level == [0]
    assert operations[0].is_completed
    assert not operations[0].cancel_requested


@on_asyncio
async def test_waiting_for_a_task_that_was_cancelled_is_no_own_cancelation() -> None:
    """The native cancel of an awaited task leaves the block as it is."""
    task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    await until_blocked()
    task.cancel()
    operation = Cancelable()
    with pytest.raises(asyncio.CancelledError):
        async with operation:
            await task
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    assert cancelling() == 0


# -- asyncio.timeout -------------------------------------------------------------------------


@on_asyncio
async def test_asyncio_timeout_around_a_block_still_raises_timeout_error() -> None:
    """`asyncio.timeout` outside: its cancel passes, and it makes its TimeoutError of it."""
    operation = Cancelable.with_timeout(10)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1), operation:
            await anyio.sleep(3600)
    assert type(caught.value) is TimeoutError
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    assert cancelling() == 0


@on_asyncio
async def test_asyncio_timeout_inside_a_block_is_an_error_of_the_block() -> None:
    """`asyncio.timeout` inside: a TimeoutError of the body, which has failed."""
    operation = Cancelable.with_timeout(10)
    with pytest.raises(TimeoutError) as caught:
        async with operation, asyncio.timeout(1):
            await anyio.sleep(3600)
    assert type(caught.value) is TimeoutError
    assert operation.status is OperationStatus.FAILED
    assert cancelling() == 0


@on_asyncio
async def test_a_block_inside_asyncio_timeout_reports_its_own_earlier_deadline() -> None:
    """The own deadline comes first: our error, and the timeout around is unharmed."""
    async with asyncio.timeout(10) as around:
        with pytest.raises(TimeoutCancelation):
            async with Cancelable.with_timeout(1):
                await anyio.sleep(3600)
        await anyio.sleep(1)
    assert not around.expired()
    assert cancelling() == 0


@on_asyncio
async def test_an_own_deadline_outside_asyncio_timeout_is_taken() -> None:
    """The block's deadline passes while `asyncio.timeout` inside has time left."""
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(1), asyncio.timeout(10):
            await anyio.sleep(3600)
    assert cancelling() == 0


@on_asyncio
@pytest.mark.parametrize(("own", "foreign"), [(1, 2), (2, 1), (1, 1)])
async def test_asyncio_timeout_gets_out_when_the_loop_was_late_for_both(
    own: int, foreign: int
) -> None:
    """Both deadlines passed before the loop noticed: the outer one is not lost."""
    operation = Cancelable.with_timeout(own)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(foreign) as around, operation:
            advance(5)
            await anyio.sleep(3600)
    assert type(caught.value) is TimeoutError
    assert around.expired()
    assert operation.cancel_reason is CancelationReason.TIMEOUT
    assert cancelling() == 0


@on_asyncio
async def test_asyncio_task_group_around_a_block_ends_as_usual() -> None:
    """A sibling's error cancels the block natively; the group reports the sibling."""
    operation = Cancelable()

    async def work() -> None:
        async with operation:
            await asyncio.sleep(3600)

    async def fail() -> None:
        await until_blocked()
        raise ValueError("sibling")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(fail())
    assert [str(each) for each in caught.value.exceptions] == ["sibling"]
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    if sys.version_info < (3, 13):
        # Up to then a TaskGroup does not take its own cancel of the body back.
        task = asyncio.current_task()
        assert task is not None
        assert task.uncancel() == 0


# -- groups of tasks -------------------------------------------------------------------------


async def test_a_native_group_inside_a_block_is_cancelled_with_it(anyio_backend_name: str) -> None:
    """The children of a TaskGroup or nursery in the block end with the block."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep(3600)
        except native_cancel():
            ended.append("child")
            raise

    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation, open_nursery(anyio_backend_name) as start_soon:
            start_soon(child)
            start_soon(child)
            await until_blocked()
            operation.cancel_sync()
            await anyio.sleep(3600)
    assert ended == ["child", "child"]


async def test_a_block_in_a_child_of_a_native_group_ends_alone(anyio_backend_name: str) -> None:
    """A cancelled block in one child does not cancel the group or the other children."""
    ended: list[str] = []

    async def child(name: str, operation: Cancelable) -> None:
        try:
            async with operation:
                await anyio.sleep(1)
            ended.append(name)
        except ManualCancelation:
            ended.append(name + " cancelled")

    target = Cancelable()
    async with open_nursery(anyio_backend_name) as start_soon:
        start_soon(child, "a", target)
        start_soon(child, "b", Cancelable())
        await until_blocked()
        target.cancel_sync()
    assert sorted(ended) == ["a cancelled", "b"]


async def test_a_block_in_the_body_of_a_native_group_ends_alone(anyio_backend_name: str) -> None:
    """The line behind it runs, and so do the group's children, to their end."""
    ended: list[str] = []

    async def child() -> None:
        await anyio.sleep(3)
        ended.append("child")

    async with open_nursery(anyio_backend_name) as start_soon:
        start_soon(child)
        try:
            async with Cancelable.with_timeout(1):
                await anyio.sleep(3600)
        except TimeoutCancelation:
            await anyio.sleep(1)
            ended.append("fallback")
    assert ended == ["fallback", "child"]


async def test_an_error_of_a_block_in_a_task_group_is_an_ordinary_member() -> None:
    """The error of a cancelled block stands in the group of whoever let it out."""

    async def child() -> None:
        async with Cancelable.with_timeout(1):
            await anyio.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(anyio.sleep, 3600)
    assert [type(each) for each in caught.value.exceptions] == [TimeoutCancelation]


# -- anyio's and trio's scopes ---------------------------------------------------------------


async def test_a_scope_around_takes_its_own_cancel() -> None:
    """`move_on_after` around a block works as without it."""
    operation = Cancelable.with_timeout(10)
    with anyio.move_on_after(1) as scope:
        async with operation:
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.EXTERNAL


async def test_a_scope_inside_takes_its_own_cancel() -> None:
    """`move_on_after` inside a block is no business of the block."""
    async with Cancelable.with_timeout(10) as operation:
        with anyio.move_on_after(1) as scope:
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert operation.is_completed
    assert not operation.cancel_requested


@pytest.mark.parametrize(("own", "foreign"), [(1, 2), (1, 1), (2, 1)])
async def test_a_scope_around_gets_out_when_the_loop_was_late_for_both(
    own: int, foreign: int
) -> None:
    """Both deadlines passed before the loop noticed: the cancel of the scope around leaves."""
    operation = Cancelable.with_timeout(own)
    went_on = False
    with anyio.move_on_after(foreign) as scope:
        try:
            async with operation:
                advance(5)
                await anyio.sleep(3600)
        except TimeoutCancelation:
            went_on = True
    assert not went_on
    assert scope.cancelled_caught
    assert operation.status is OperationStatus.CANCELLED
    assert operation.cancel_reason is CancelationReason.TIMEOUT


async def test_a_scope_around_whose_deadline_passes_in_the_cleanup_gets_out() -> None:
    """Its time runs out in the `finally` of a cancelled block, and the loop has not noticed."""
    operation = Cancelable()
    with anyio.move_on_after(1) as scope:
        async with operation:
            try:
                await operation.cancel()
                await anyio.sleep(3600)
            finally:
                advance(5)
        pytest.fail("the block let its caller go on")
    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.MANUAL


async def test_with_equal_deadlines_the_scope_around_reports() -> None:
    """The same deadline outside and inside, met in time: the outermost takes it."""
    operation = Cancelable.with_timeout(1)
    with anyio.move_on_after(1) as scope:
        async with operation:
            await anyio.sleep(3600)
        pytest.fail("the block let its caller go on")
    assert scope.cancelled_caught
    assert operation.status is OperationStatus.CANCELLED


async def test_with_equal_deadlines_the_outermost_operation_reports() -> None:
    """Of operations with one deadline the outermost has timed out, the others because of it."""
    when = anyio.current_time() + 1
    operations = [Cancelable() for _ in range(4)]
    for operation in operations:
        operation.deadline = when
    with pytest.raises(TimeoutCancelation) as caught:
        async with operations[0], operations[1], operations[2], operations[3]:
            await anyio.sleep(3600)
    assert caught.value.operation_id == operations[0].operation_id
    assert [each.cancel_reason for each in operations] == [
        CancelationReason.TIMEOUT,
        *[CancelationReason.PARENT] * 3,
    ]


@pytest.mark.parametrize("explicit", [False, True])
async def test_equal_deadlines_met_late_are_the_outermosts(explicit: bool) -> None:
    """A loop that was late for equal deadlines reports as one that was in time."""
    when = anyio.current_time() + 1
    outer, inner = Cancelable(), Cancelable(parent=None) if explicit else Cancelable()
    outer.deadline = inner.deadline = when
    with pytest.raises(TimeoutCancelation) as caught:
        async with outer:
            async with inner:
                advance(2)
                await anyio.sleep(3600)
    assert caught.value.operation_id == outer.operation_id
    assert inner.cancel_reason is CancelationReason.PARENT


async def test_a_scope_cancelled_in_the_same_tick_gets_out() -> None:
    """A scope around that is cancelled beside an own cancel is not lost, in either order."""
    for own_first in (True, False):
        operation = Cancelable()
        with anyio.CancelScope() as scope:
            async with operation:
                if own_first:
                    operation.cancel_sync()
                    scope.cancel()
                else:
                    scope.cancel()
                    operation.cancel_sync()
                await anyio.sleep(3600)
            pytest.fail("the block let its caller go on")
        assert scope.cancelled_caught
        assert operation.cancel_reason is CancelationReason.MANUAL


async def test_a_shielded_scope_around_keeps_a_foreign_cancel_out() -> None:
    """Behind a shield only the own cancel is due, and it leaves as the own error."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True), pytest.raises(ManualCancelation):
            async with Cancelable() as operation:
                await operation.cancel()
                await anyio.sleep(3600)


async def test_a_scope_around_that_swallows_nothing_after_an_uncancelled_block() -> None:
    """A block that was not cancelled swallows nothing on its way out."""
    with anyio.CancelScope() as scope:
        async with Cancelable():
            scope.cancel()
        assert not scope.cancelled_caught
        await anyio.lowlevel.checkpoint()
        pytest.fail("the cancel was lost")
    assert scope.cancelled_caught


async def test_a_late_request_from_a_thread_above_is_due_as_well() -> None:
    """A request above that the loop has not got to yet counts when the block is left."""
    outer, inner = Cancelable(), Cancelable()
    with pytest.raises(ManualCancelation) as caught:
        async with outer:
            async with inner:
                await inner.cancel("disconnect")
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    in_thread(outer.cancel_sync)
            pytest.fail("the block let its caller go on")
    assert caught.value.operation_id == outer.operation_id
    assert inner.cancel_reason is CancelationReason.DISCONNECT


async def test_blocks_are_cancelled_again_and_again_in_one_task() -> None:
    """A thousand cancelled blocks in a row leave the task as it was."""
    for turn in range(1000):
        with pytest.raises(ManualCancelation):
            async with Cancelable() as operation, Cancelable():
                operation.cancel_sync()
                await anyio.sleep(3600)
        if turn % 100 == 0:
            await anyio.sleep(0.1)


async def test_a_block_that_refuses_its_cancel_stops_spinning_when_it_is_left() -> None:
    """After a block that swallowed a hundred cancels the loop has nothing to do."""
    async with Cancelable() as operation:
        operation.cancel_sync()
        for _ in range(100):
            try:
                await anyio.sleep(3600)
            except native_cancel():
                continue
    turns = 0
    waiting = anyio.Event()

    async def count() -> None:
        nonlocal turns
        with anyio.move_on_after(1):
            while True:
                await anyio.sleep(0.25)
                turns += 1
        waiting.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await waiting.wait()
    assert turns <= 4
