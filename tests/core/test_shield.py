"""A section of a block that shall not be cut in the middle. (S13)"""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelOutcome,
    DisconnectCancelation,
    ManualCancelation,
    OperationStatus,
    TimeoutCancelation,
)


async def two_writes(written: list[int]) -> None:
    written.append(1)
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    written.append(2)


@pytest.mark.parametrize("from_thread", [False, True])
async def test_a_section_finishes_and_the_cancel_is_delivered_at_its_end(from_thread: bool) -> None:
    """Both writes or none; the request shows meanwhile, and nothing runs behind the section."""
    written: list[int] = []
    operation = Cancelable(name="order")
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield() as section:
                if from_thread:
                    thread = threading.Thread(target=operation.cancel_sync)
                    thread.start()
                    thread.join()
                else:
                    await operation.cancel()
                assert operation.status is OperationStatus.CANCELLING
                assert operation.children == [section]
                await two_writes(written)
            written.append(3)
    assert written == [1, 2]
    assert section.is_completed
    assert operation.is_cancelled


async def test_a_section_without_a_request_changes_nothing() -> None:
    """An uncancelled section swallows nothing and ends like any block."""
    async with Cancelable() as operation:
        async with operation.shield() as section:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(ValueError, match="inside"):
            async with operation.shield():
                raise ValueError("inside")
    assert section.is_completed
    assert operation.is_completed


async def test_a_bound_cuts_the_section_and_says_so() -> None:
    """With no request waiting a TimeoutCancelation of the section leaves it."""
    async with Cancelable() as operation:
        with anyio.fail_after(5), pytest.raises(TimeoutCancelation) as caught:
            async with operation.shield(timeout=0.01) as section:
                await anyio.sleep_forever()
        assert caught.value.operation_id == section.operation_id
        assert section.is_cancelled
    assert operation.is_completed


async def test_a_bound_that_cuts_gives_way_to_the_request_that_waits() -> None:
    """The block ends as cancelled by its own cause."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            await operation.cancel()
            async with operation.shield(timeout=0.01):
                await anyio.sleep_forever()
    assert operation.cancel_reason is CancelationReason.MANUAL


async def test_an_error_of_the_section_leaves_it_although_a_request_waits() -> None:
    """The user's error is not replaced."""
    operation = Cancelable()
    with pytest.raises(ValueError, match="inside"):
        async with operation:
            async with operation.shield():
                await operation.cancel()
                raise ValueError("inside")
    assert operation.status is OperationStatus.FAILED
    assert operation.cancel_requested


async def test_sections_inside_one_another_end_one_by_one() -> None:
    """The end of the inner one is no end of the outer one."""
    done: list[str] = []
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield():
                async with operation.shield():
                    await operation.cancel()
                    await anyio.lowlevel.checkpoint()
                done.append("inner")
                await anyio.lowlevel.checkpoint()
                done.append("outer")
    assert done == ["inner", "outer"]


async def test_requests_for_the_given_reasons_are_held_back() -> None:
    """They are pending, here and at the operation around, and made at the end."""
    done: list[str] = []
    outer, inner = Cancelable(name="outer"), Cancelable(name="inner")
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with outer, inner:
            async with inner.shield(reasons={"disconnect"}):
                assert await outer.cancel("disconnect", "gone") is CancelOutcome.REQUESTED
                assert not outer.cancel_requested
                assert not inner.cancel_requested
                await anyio.lowlevel.checkpoint()
                done.append("section")
            done.append("behind")
    assert done == ["section"]
    assert outer.cancel_message == "gone"
    assert inner.cancel_reason is CancelationReason.PARENT


async def test_a_request_for_another_reason_cuts_the_section() -> None:
    """It becomes the cause, although a held one came before."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with operation:
            async with operation.shield(reasons=[CancelationReason.MANUAL]):
                await operation.cancel()
                await operation.cancel("disconnect")
                await anyio.sleep_forever()
    assert operation.cancel_reason is CancelationReason.DISCONNECT


async def test_the_own_deadline_cuts_a_section_that_holds_some_reasons() -> None:
    """Also one that is moved while the section runs."""
    operation = Cancelable.with_timeout(60)
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with operation:
            async with operation.shield(reasons={"manual"}):
                await operation.cancel()
                operation.extend(0.01)
                await anyio.sleep_forever()
    assert operation.cancel_reason is CancelationReason.TIMEOUT


async def test_the_deadline_of_an_operation_around_cuts_such_a_section_too() -> None:
    """The outer operation reports the timeout."""
    outer, inner = Cancelable.with_timeout(0.01), Cancelable()
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation) as caught:
        async with outer, inner:
            async with inner.shield(reasons={"manual"}):
                await anyio.sleep_forever()
    assert caught.value.operation_id == outer.operation_id


async def test_children_that_a_section_starts_are_protected_by_it() -> None:
    """An operation in a child task of the section is not cut through its parent."""
    operation = Cancelable()
    kids: list[Cancelable] = []

    async def child() -> None:
        async with Cancelable(name="child") as own:
            kids.append(own)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield(), anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                await anyio.wait_all_tasks_blocked()
                await operation.cancel()
    assert [kid.status for kid in kids] == [OperationStatus.COMPLETED]


async def test_a_foreign_scope_is_kept_out_and_delivered_behind_the_section() -> None:
    """As by any shield of the event loop."""
    done: list[str] = []
    with anyio.CancelScope() as scope:
        async with Cancelable() as operation:
            async with operation.shield():
                scope.cancel()
                await anyio.lowlevel.checkpoint()
                done.append("section")
            done.append("behind")
    assert done == ["section"]
    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.EXTERNAL


async def test_a_section_needs_a_running_block_and_good_arguments() -> None:
    """Each mistake is told where it is made."""
    with pytest.raises(RuntimeError, match="enter the block first"):
        async with Cancelable().shield():
            pass
    async with Cancelable() as operation:
        for timeout in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                async with operation.shield(timeout=timeout):
                    pass
        with pytest.raises(ValueError, match="reason"):
            async with operation.shield(reasons={"boredom"}):
                pass


async def test_a_thread_in_the_section_is_not_told_to_stop() -> None:
    """The check of the section raises only when the section is cut."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(CancelationError):
        async with operation:
            async with operation.shield() as section:
                await operation.cancel()
                await section.run_in_thread(section.check_cancelation_sync)
                with pytest.raises(ManualCancelation):
                    await section.run_in_thread(operation.check_cancelation_sync)
