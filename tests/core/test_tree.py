"""Parents and children: down yes, up and sideways no. (S20)"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from itertools import chain

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    ManualCancelation,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    TimeoutCancelation,
)
from tests.support.clock import in_virtual_time
from tests.support.native import native_cancel, on_asyncio, open_nursery

R = CancelationReason


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


async def in_own_task(work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Run something in a task that nobody but asyncio owns, up to where it waits."""

    async def run() -> None:
        await work()

    task = asyncio.get_running_loop().create_task(run())
    await anyio.wait_all_tasks_blocked()
    return task


async def enter_and_wait(operation: Cancelable) -> None:
    async with operation:
        await anyio.sleep(3600)


# -- who is whose parent ---------------------------------------------------------------------


async def test_the_parent_is_found_at_entry() -> None:
    """The operation around the block is the parent, not the one around the construction."""
    async with Cancelable() as other:
        operation = Cancelable()
    assert operation.parent is None
    async with Cancelable() as outer:
        async with operation:
            assert operation.parent is outer
            assert outer.children == [operation]
            assert operation.context.parent_id == outer.operation_id
        assert outer.children == []
    assert other.children == []


async def test_a_parent_may_be_named() -> None:
    """An explicit parent lists the operation, whatever is around the block."""
    async with Cancelable() as chosen, Cancelable() as around:
        async with Cancelable(parent=chosen) as operation:
            assert operation.parent is chosen
            assert chosen.children == [around, operation]
            assert around.children == []
    with pytest.raises(TypeError, match="`parent` must be a Cancelable"):
        Cancelable(parent="id")  # type: ignore[arg-type]


async def test_without_a_parent_the_enclosing_scope_still_cancels() -> None:
    """`parent=None`: listed under nobody, cancelled with what is around it all the same."""
    operation = Cancelable(parent=None)
    with pytest.raises(ManualCancelation):
        async with Cancelable() as outer:
            async with operation:
                assert operation.parent is None
                assert operation.context.parent_id is None
                assert outer.children == []
                await outer.cancel()
                with pytest.raises(native_cancel()):
                    await anyio.sleep(3600)
                await anyio.sleep(3600)
    assert operation.cancel_reason is R.PARENT


async def test_an_enclosing_operation_is_the_cause_beside_an_explicit_parent() -> None:
    """A block whose named parent is elsewhere is cancelled by what is around it: parent."""
    async with Cancelable() as elsewhere:
        operation = Cancelable(parent=elsewhere)
        with pytest.raises(ManualCancelation):
            async with Cancelable(parent=None) as around:
                async with operation:
                    await around.cancel()
                    await anyio.sleep(3600)
        assert operation.is_cancelled
        assert operation.cancel_reason is R.PARENT
        assert not elsewhere.cancel_requested


async def test_a_block_with_a_named_parent_hears_of_what_is_around_it_before_it_is_left() -> None:
    """Time, request and cause are those of the nearest of all that is above."""
    seen: list[object] = []
    async with Cancelable() as parent:
        operation = Cancelable(parent=parent)
        with pytest.raises(TimeoutCancelation):
            async with Cancelable.with_timeout(30) as around, operation:
                seen.append(operation.remaining)
                try:
                    await anyio.sleep(3600)
                finally:
                    seen += [operation.is_cancelling, operation.cancel_reason]
                    seen.append(operation.context.origin_id == around.operation_id)
                    with pytest.raises(ParentCancelation):
                        operation.check_cancelation_sync()
        assert not parent.cancel_requested
    assert seen == [30, True, R.PARENT, True]
    assert operation.is_cancelled


async def test_a_block_with_a_named_parent_still_hears_of_that() -> None:
    """Also if the parent is in a task of its own."""
    parent, operation = Cancelable.with_timeout(60), Cancelable()
    parts: list[object] = []

    async def work() -> None:
        nonlocal operation
        operation = Cancelable(parent=parent)
        async with Cancelable.with_timeout(120, parent=None) as around:
            try:
                async with operation:
                    parts.append(operation.remaining)
                    await parent.cancel(message="the parent")
                    await anyio.sleep(3600)
            except ParentCancelation as error:
                parts.append(error.origin_id == parent.operation_id)
            parts.append(around.cancel_requested)

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ManualCancelation):
            async with parent:
                tasks.start_soon(work)
                await anyio.sleep(3600)
    assert parts == [60, True, False]
    assert operation.cancel_message == "the parent"


@pytest.mark.parametrize("enters", ["before", "after"])
@pytest.mark.parametrize("first", ["parent", "around"])
async def test_of_two_above_the_one_that_was_asked_first_is_the_cause(
    first: str, enters: str
) -> None:
    """The first request of all that reach an operation, whichever way it comes."""
    parent, entered = Cancelable(name="parent", grace=60), anyio.Event()

    async def live() -> None:
        async with parent.move_on():
            entered.set()
            await anyio.sleep(3600)

    async def ask() -> None:
        for other in asked:
            await anyio.sleep(1)
            await other.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await entered.wait()
        async with Cancelable(name="around", grace=60).move_on() as around:
            asked = [parent, around] if first == "parent" else [around, parent]
            operation = Cancelable(name="operation", parent=parent)
            if enters == "after":
                await ask()
            async with operation:
                if enters == "before":
                    await ask()
                assert operation.cancel_reason is R.PARENT
                assert operation.context.origin_id == asked[0].operation_id


async def test_two_ways_up_that_meet_count_once_and_the_outermost_deadline_reports() -> None:
    """Among equal deadlines that of the operation above both ways."""
    inner = Cancelable(name="inner")
    with pytest.raises(TimeoutCancelation) as caught:
        async with Cancelable.with_timeout(30, name="top") as top:
            async with Cancelable(name="parent") as parent:
                async with Cancelable.with_timeout(30, name="around") as around:
                    inner = Cancelable(name="inner", parent=parent)
                    async with inner:
                        assert list(inner._ancestors()) == [around, parent, top]
                        await anyio.sleep(3600)
    assert caught.value.operation_id == top.operation_id
    assert inner.context.origin_id == top.operation_id


async def test_a_deadline_around_a_block_with_a_named_parent_moves() -> None:
    """The block is cut by what is around it, when that is, and by no time taken over."""
    parent, entered = Cancelable(), anyio.Event()

    async def live() -> None:
        async with parent:
            entered.set()
            await anyio.sleep(100)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await entered.wait()
        async with Cancelable.with_timeout(10) as around:
            async with Cancelable(parent=parent) as operation:
                around.extend(60)
                assert operation.remaining == 60
                await anyio.sleep(50)
    assert operation.is_completed


async def test_a_section_called_inside_another_block_is_kept_from_that_block() -> None:
    """A section belongs to its operation; its shield keeps out what is around it."""
    async with Cancelable() as outer:
        async with Cancelable().move_on() as inner:
            async with outer.shield(reasons={"manual"}) as section:
                await inner.cancel(R.SIGNAL)
                await anyio.sleep(1)
                assert not section.cancel_requested
            pytest.fail("the end of the section is a checkpoint")
        assert inner.is_cancelled
    assert outer.is_completed


async def test_a_named_parent_that_has_ended_leaves_the_way_to_what_is_around() -> None:
    """An operation that outlives its parent forgets that one alone."""
    parent = Cancelable()
    async with parent:
        pass
    async with Cancelable.with_timeout(30) as around:
        operation = Cancelable(parent=parent)
        async with operation:
            assert list(operation._ancestors()) == [around]
            assert operation.remaining == 30
        assert operation._enclosing is around


# -- down, not up, not sideways --------------------------------------------------------------


class Family:
    """A parent with three children in a task group, each with two children of its own."""

    def __init__(self) -> None:
        self.parent = Cancelable(name="parent")
        self.children = [Cancelable(name=f"child {n}") for n in range(3)]
        self.grandchildren = [[Cancelable(name=f"{n}.{m}") for m in range(2)] for n in range(3)]
        self.ready = anyio.Event()
        self.left: dict[str, str] = {}

    async def grandchild(self, n: int, m: int) -> None:
        operation = self.grandchildren[n][m]
        await self.run(operation, lambda: anyio.sleep(10))

    async def child(self, n: int) -> None:
        async def work() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.grandchild, n, 0)
                tasks.start_soon(self.grandchild, n, 1)

        await self.run(self.children[n], work)

    async def run(self, operation: Cancelable, work: Callable[[], Awaitable[None]]) -> None:
        assert operation.name is not None
        try:
            async with operation:
                await work()
            self.left[operation.name] = "completed"
        except Exception as error:
            self.left[operation.name] = type(error).__name__
        except BaseException:
            self.left[operation.name] = "native"
            raise

    async def live(self, strike: Callable[[Family], object]) -> None:
        async def all_of_it() -> None:
            async with anyio.create_task_group() as tasks:
                for n in range(3):
                    tasks.start_soon(self.child, n)
                await anyio.wait_all_tasks_blocked()
                strike(self)

        await self.run(self.parent, all_of_it)

    def reasons(self) -> dict[str, str | None]:
        everybody = [self.parent, *self.children, *chain.from_iterable(self.grandchildren)]
        return {
            str(each.name): None if each.cancel_reason is None else each.cancel_reason.value
            for each in everybody
        }


async def test_a_parent_takes_everybody_below_with_it() -> None:
    """Children and grandchildren in task groups end with the parent, which reports."""
    family = Family()
    await family.live(lambda family: family.parent.cancel_sync())
    assert family.left.pop("parent") == "ManualCancelation"
    assert set(family.left.values()) == {"native"}
    reasons = family.reasons()
    assert reasons.pop("parent") == "manual"
    assert set(reasons.values()) == {"parent"}
    origins = {child.context.origin_id for child in family.children}
    origins |= {each.context.origin_id for row in family.grandchildren for each in row}
    assert origins == {family.parent.operation_id}


async def test_a_child_takes_those_below_it_alone() -> None:
    """Down from the child; parent and siblings go on and complete."""
    family = Family()
    await family.live(lambda family: family.children[1].cancel_sync())
    left = family.left
    assert left.pop("child 1") == "ManualCancelation"
    assert left.pop("1.0") == left.pop("1.1") == "native"
    assert set(left.values()) == {"completed"}
    reasons = family.reasons()
    asked = {name: reason for name, reason in reasons.items() if reason is not None}
    assert asked == {"child 1": "manual", "1.0": "parent", "1.1": "parent"}


async def test_a_grandchild_ends_alone() -> None:
    """Neither up nor sideways."""
    family = Family()
    await family.live(lambda family: family.grandchildren[2][0].cancel_sync())
    assert family.left.pop("2.0") == "ManualCancelation"
    assert set(family.left.values()) == {"completed"}
    assert [name for name, reason in family.reasons().items() if reason] == ["2.0"]


async def test_a_child_that_starts_during_the_cancel_starts_cancelled() -> None:
    """A late child stops at its first checkpoint, for its parent's reason."""
    late = Cancelable()
    went_on = False
    with pytest.raises(ManualCancelation):
        async with Cancelable() as parent:
            try:
                await parent.cancel()
                await anyio.sleep(3600)
            finally:
                async with late:
                    assert late.is_cancelling
                    went_on = True
                    await anyio.lowlevel.checkpoint()
    assert went_on
    assert late.status is OperationStatus.CANCELLED
    assert late.cancel_reason is R.PARENT


async def test_a_shielded_section_of_a_child_finishes_and_stays_listed() -> None:
    """A shield inside a child holds the cancel from above back; the child stays in the tree."""
    seen: list[bool] = []
    child = Cancelable()

    async def work() -> None:
        async with child:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
                seen.append(child in parent.children)
            await anyio.lowlevel.checkpoint()
            seen.append(False)

    with pytest.raises(ManualCancelation):
        async with Cancelable() as parent, anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            await parent.cancel()
            assert child.is_cancelling
    assert seen == [True]
    assert child.is_cancelled


async def test_a_child_inside_somebody_elses_shield_finishes() -> None:
    """A foreign shield between parent and child keeps the cut out, but not the news."""
    with pytest.raises(ManualCancelation):
        async with Cancelable() as parent:
            with anyio.CancelScope(shield=True):
                async with Cancelable() as child:
                    await parent.cancel()
                    assert child.is_cancelling
                    await anyio.sleep(2)
            await anyio.lowlevel.checkpoint()
    assert child.is_completed
    assert child.cancel_requested


async def test_a_child_in_a_group_outside_its_parent_ends_with_its_parent() -> None:
    """A task of an outer group has the operation that started it for a parent, and no scope."""
    child = Cancelable()
    left: list[str] = []

    async def work() -> None:
        try:
            await enter_and_wait(child)
        except ParentCancelation as error:
            left.append(str(error.parent_reason))
        await anyio.sleep(1)
        left.append("went on")

    for cause in ("manual", "timeout"):
        child = Cancelable()
        async with anyio.create_task_group() as tasks:
            with pytest.raises((ManualCancelation, TimeoutCancelation)):
                async with Cancelable.with_timeout(2) as parent:
                    tasks.start_soon(work)
                    await anyio.wait_all_tasks_blocked()
                    assert child.parent is parent
                    if cause == "manual":
                        parent.cancel_sync()
                    await anyio.sleep(3600)
    assert left == ["manual", "went on", "timeout", "went on"]


# -- children in tasks of their own ----------------------------------------------------------


@on_asyncio
async def test_a_child_in_a_task_of_its_own_is_cancelled_through_its_parent() -> None:
    """No scope of the parent surrounds it, yet it ends with the parent, as ParentCancelation."""
    child, grandchild = Cancelable(), Cancelable()

    async def work() -> None:
        async with child, grandchild:
            await anyio.sleep(3600)

    with pytest.raises(ManualCancelation):
        async with Cancelable() as parent:
            task = await in_own_task(work)
            assert parent.children == [child]
            await parent.cancel(message="stop")
            await anyio.sleep(3600)
    with anyio.fail_after(5), pytest.raises(ParentCancelation, match="stop") as caught:
        await task
    assert caught.value.operation_id == child.operation_id
    assert caught.value.parent_id == parent.operation_id
    assert caught.value.parent_reason is R.MANUAL
    assert caught.value.origin_id == parent.operation_id
    assert grandchild.cancel_reason is R.PARENT


@on_asyncio
async def test_a_child_in_a_task_of_its_own_takes_over_the_deadline() -> None:
    """The parent's deadline ends the child at the same time."""
    child = Cancelable()
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(2):
            task = await in_own_task(lambda: enter_and_wait(child))
            assert child.remaining == pytest.approx(2)
            await anyio.sleep(3600)
    with anyio.fail_after(5), pytest.raises(ParentCancelation) as caught:
        await task
    assert anyio.current_time() == pytest.approx(started + 2)
    assert caught.value.parent_reason is R.TIMEOUT


@on_asyncio
async def test_a_child_in_a_task_of_its_own_does_not_wait_for_its_parent_to_leave() -> None:
    """The parent is busy behind a shield past its deadline; the child is cut in time."""
    started = anyio.current_time()
    cut_at: list[float] = []

    async def work() -> None:
        try:
            await enter_and_wait(Cancelable())
        except ParentCancelation:
            cut_at.append(anyio.current_time())

    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(2):
            task = await in_own_task(work)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
            await anyio.lowlevel.checkpoint()
    await task
    assert cut_at == [pytest.approx(started + 2)]


@on_asyncio
async def test_a_deadline_that_moves_above_moves_below() -> None:
    """A child in a task of its own follows the deadline of its parent, both ways."""
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(2) as parent:
            task = await in_own_task(lambda: enter_and_wait(Cancelable()))
            parent.deadline = started + 10
            await anyio.sleep(5)
            assert not task.done()
            parent.deadline = started + 6
            await anyio.sleep(3600)
    with anyio.fail_after(5), pytest.raises(ParentCancelation):
        await task
    assert anyio.current_time() == pytest.approx(started + 6)


@on_asyncio
async def test_a_child_that_outlives_its_parent_is_not_cut_by_its_deadline() -> None:
    """The deadline of a parent that has completed is gone; the child runs on."""
    child = Cancelable()

    async def work() -> None:
        async with child:
            await anyio.sleep(10)

    async with Cancelable.with_timeout(2):
        task = await in_own_task(work)
    with anyio.fail_after(60):
        await task
    assert child.is_completed


@on_asyncio
async def test_a_child_whose_parent_completes_is_left_alone() -> None:
    """The end of a parent is no cancel for a child in a task of its own."""
    child = Cancelable()
    async with Cancelable():
        task = await in_own_task(lambda: enter_and_wait(child))
    await anyio.sleep(1)
    assert child.is_running
    assert not child.cancel_requested
    child.cancel_sync()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        await task


@on_asyncio
async def test_a_child_in_a_task_of_its_own_does_not_cancel_up_or_sideways() -> None:
    """A cancelled child leaves its parent and its sibling alone."""
    first, second = Cancelable(), Cancelable()
    async with Cancelable() as parent:
        one = await in_own_task(lambda: enter_and_wait(first))
        two = await in_own_task(lambda: enter_and_wait(second))
        first.cancel_sync()
        with anyio.fail_after(5), pytest.raises(ManualCancelation):
            await one
        assert not parent.cancel_requested
        assert not second.cancel_requested
        second.cancel_sync()
        with anyio.fail_after(5), pytest.raises(ManualCancelation):
            await two
    assert parent.is_completed


@on_asyncio
async def test_a_detached_operation_in_a_task_of_its_own_is_free() -> None:
    """`parent=None` in a task that nothing surrounds: no cancel, no deadline from above."""
    detached = Cancelable(parent=None)

    async def work() -> None:
        async with detached:
            await anyio.sleep(1)
            assert not detached.is_cancelling
            await detached.check_cancelation()
            await anyio.sleep(10)

    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(5) as around:
            task = await in_own_task(work)
            assert detached.remaining == float("inf")
            await around.cancel()
            try:
                await anyio.sleep(3600)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(2)
                    assert not detached.cancel_requested
    with anyio.fail_after(60):
        await task
    assert detached.is_completed


async def test_a_detached_operation_in_a_native_group_is_told_by_the_native_cancel(
    anyio_backend_name: str,
) -> None:
    """`parent=None` below the scope of another operation is cancelled natively with it."""
    detached = Cancelable(parent=None)

    async def work() -> None:
        async with detached:
            await anyio.sleep(3600)

    with pytest.raises(ManualCancelation):
        async with Cancelable() as around, open_nursery(anyio_backend_name) as start_soon:
            start_soon(work)
            await anyio.wait_all_tasks_blocked()
            await around.cancel()
            await anyio.sleep(3600)
    assert detached.is_cancelled
    assert detached.cancel_reason is R.PARENT


# -- parents in odd states -------------------------------------------------------------------


async def test_a_child_of_a_parent_that_is_not_entered_ends_with_it() -> None:
    """A named parent may be asked before it is entered; its children are cut."""
    parent = Cancelable()
    child = Cancelable(parent=parent)
    with anyio.fail_after(5), pytest.raises(ParentCancelation):
        async with child:
            parent.cancel_sync()
            assert child.is_cancelling
            await anyio.sleep(3600)


async def test_a_child_of_a_parent_that_was_cancelled_before_stops_at_once() -> None:
    """A named parent that ended cancelled, or was asked while pending, stops a late child."""
    with pytest.raises(ManualCancelation):
        async with Cancelable() as ended:
            await ended.cancel()
            await anyio.sleep(3600)
    asked = Cancelable()
    asked.cancel_sync()
    for parent in (ended, asked):
        with anyio.fail_after(5), pytest.raises(ParentCancelation):
            async with Cancelable(parent=parent) as child:
                await anyio.sleep(3600)
        assert child.cancel_reason is R.PARENT


async def test_a_child_of_a_parent_that_completed_runs() -> None:
    """A named parent that has completed does nothing to its late child."""
    async with Cancelable.with_timeout(1) as parent:
        pass
    async with Cancelable(parent=parent) as child:
        await anyio.sleep(10)
    assert child.is_completed
    assert parent.children == []


async def test_the_registry_shows_the_tree() -> None:
    """Live operations stand under their parents; an unlisted parent makes roots."""
    registry = OperationRegistry()
    with registry.as_default():
        async with (
            Cancelable("a", register_globally=True),
            Cancelable("b", register_globally=True),
            Cancelable("c"),
            Cancelable("d", register_globally=True),
        ):
            roots = registry.tree()
            assert [node.context.id for node in roots] == ["a", "d"]
            assert [node.context.id for node in roots[0].children] == ["b"]
            assert [each.id for each in registry.list_operations(parent_id="a")] == ["b"]
    assert registry.tree() == []


async def test_a_deep_tree_is_cancelled_without_recursion() -> None:
    """A chain of hundreds of operations is asked and left like one."""
    from contextlib import AsyncExitStack

    operations = [Cancelable() for _ in range(400)]
    with pytest.raises(ManualCancelation):
        async with AsyncExitStack() as stack:
            for operation in operations:
                await stack.enter_async_context(operation)
            operations[0].deadline = anyio.current_time() + 100
            operations[0].cancel_sync()
            await anyio.sleep(3600)
    assert operations[0].cancel_reason is R.MANUAL
    assert {each.cancel_reason for each in operations[1:]} == {R.PARENT}


async def test_a_deadline_above_comes_before_a_later_cancel_around() -> None:
    """S3, S6: also where the parent is elsewhere, and nobody noticed its deadline."""
    with_deadline: list[Cancelable] = []
    causes: list[CancelationReason | None] = []
    began, release = anyio.Event(), anyio.Event()

    async def elsewhere() -> None:
        async with Cancelable.with_timeout(1).move_on() as parent:
            with_deadline.append(parent)
            began.set()
            with anyio.CancelScope(shield=True):
                await release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere)
        await began.wait()
        async with Cancelable().move_on() as around:
            async with Cancelable(parent=with_deadline[0]) as child:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(2)
                await around.cancel()
                assert child.cause is not None
                causes.append(child.cause.origin_reason)
        release.set()
    assert causes == [R.TIMEOUT]


async def test_a_cancel_passes_however_many_ways_lead_up() -> None:
    """No deeper in Python than one."""
    line: list[Cancelable] = []

    async def nest(depth: int) -> None:
        if depth == 0:
            await line[0].cancel()
            assert all(operation.cancel_requested for operation in line)
            await anyio.lowlevel.checkpoint()
            return
        async with Cancelable(parent=line[-2]) as operation:
            line.append(operation)
            await nest(depth - 1)

    with pytest.raises(ManualCancelation):
        async with Cancelable() as first, Cancelable() as second:
            line.extend([first, second])
            await nest(120)


async def test_a_block_that_was_refused_may_be_entered_elsewhere() -> None:
    """S8, S16: a try whose id was taken leaves nothing behind."""
    registry = OperationRegistry()
    second = Cancelable("mine", register_globally=True)
    with registry.as_default():
        async with Cancelable("mine", register_globally=True):
            with pytest.raises(ValueError, match="'mine' is live"):
                async with second:
                    pytest.fail("entered")
        other = OperationRegistry()
        with other.as_default():
            async with second:
                assert second.parent is None
                assert other.get_operation("mine") is second
        assert registry.get_operation("mine") is None


@pytest.mark.parametrize("between", [False, True])
async def test_a_parent_is_not_entered_inside_its_child(between: bool) -> None:
    """The way up would have no end; the child goes on."""
    parent = Cancelable()
    async with Cancelable(parent=parent) as child:
        async with Cancelable() if between else contextlib.nullcontext():
            with anyio.fail_after(5), pytest.raises(RuntimeError, match="enter the parent first"):
                async with parent:
                    pytest.fail("entered")
        await anyio.sleep(1)
        assert child.remaining == math.inf
        assert parent.parent is None
    async with parent:
        await anyio.sleep(1)
