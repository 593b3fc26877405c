"""A section of a block that shall not be cut in the middle. (S13)"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationToken,
    CancelOutcome,
    DisconnectCancelation,
    ManualCancelation,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    TimeoutCancelation,
)
from cancelable._hold import Hold
from tests.support.native import in_thread


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


Strike = Callable[[Cancelable, Cancelable, CancelationToken, anyio.CancelScope], object]

STRIKES: dict[str, Strike] = {
    "manual": lambda operation, _above, _token, _around: operation.cancel_sync(),
    "disconnect": lambda _operation, _above, token, _around: token.cancel_sync("disconnect"),
    "timeout": lambda operation, _above, _token, _around: operation.extend(0),
    "parent": lambda _operation, above, _token, _around: above.cancel_sync("signal"),
    "external": lambda _operation, _above, _token, around: around.cancel(),
}


@pytest.mark.parametrize("reason", STRIKES)
async def test_whatever_comes_in_a_section_is_delivered_at_its_end_and_seen_meanwhile(
    reason: str,
) -> None:
    """Both writes, and nothing behind them; the registry lists who is to stop and has not yet."""
    written: list[int] = []
    token, above = CancelationToken(), Cancelable(name="above")
    operation = Cancelable.with_token(token, name="order", register_globally=True)
    with OperationRegistry().as_default() as registry, anyio.fail_after(5):
        with anyio.CancelScope() as around, suppress(CancelationError):
            async with above, operation:
                async with operation.shield():
                    written.append(1)
                    STRIKES[reason](operation, above, token, around)
                    for _ in range(3):
                        await anyio.lowlevel.checkpoint()
                    (listed,) = registry.list_operations()
                    written.append(2)
                written.append(3)
    assert written == [1, 2]
    assert operation.is_cancelled
    assert operation.cancel_reason == reason
    assert around.cancelled_caught is (reason == "external")
    # Nobody tells us of a scope that is not ours before it cuts.
    assert listed.status is (
        OperationStatus.RUNNING if reason == "external" else OperationStatus.CANCELLING
    )


@pytest.mark.parametrize("second", [None, "shutdown", "parent", "external"])
@pytest.mark.parametrize("is_protected", [True, False])
async def test_the_steps_of_a_cleanup_are_all_done_in_a_section(
    is_protected: bool, second: str | None
) -> None:
    """Also when one more request comes meanwhile; without a section the first await is the last."""
    steps: list[int] = []
    above, operation = Cancelable(name="above"), Cancelable(name="below")

    async def clean_up() -> None:
        for step in range(3):
            if step == 1 and second == "shutdown":
                operation.cancel_sync("signal", "shutdown")
            elif step == 1 and second is not None:
                STRIKES[second](operation, above, operation.token, around)
            await anyio.lowlevel.checkpoint()
            steps.append(step)

    with anyio.fail_after(5), anyio.CancelScope() as around, suppress(CancelationError):
        async with above, operation:
            try:
                await operation.cancel()
                await anyio.sleep_forever()
            finally:
                if is_protected:
                    async with operation.shield(timeout=60):
                        await clean_up()
                    pytest.fail("the cancel was not delivered behind the section")
                else:
                    await clean_up()
    assert steps == ([0, 1, 2] if is_protected else [])
    assert operation.cancel_reason is CancelationReason.MANUAL
    assert around.cancelled_caught is (is_protected and second == "external")


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
    asked = anyio.Event()

    async def child() -> None:
        async with Cancelable(name="child") as own:
            kids.append(own)
            await asked.wait()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield(), anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                await anyio.wait_all_tasks_blocked()
                await operation.cancel()
                await anyio.lowlevel.checkpoint()
                asked.set()
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
        for word in ("boredom", ""):
            with pytest.raises(ValueError, match=f"`reason` must be .*, not '{word}'"):
                async with operation.shield(reasons=word):
                    pass
        with pytest.raises(TypeError, match="`reasons` must be a reason or a collection"):
            async with operation.shield(reasons=5):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize("reason", ["disconnect", CancelationReason.DISCONNECT], ids=repr)
async def test_a_single_reason_is_held_back_as_a_set_of_one(reason: str) -> None:
    """A reason is a text, and yet not a collection of letters. (S13)"""
    done: list[str] = []
    with pytest.raises(DisconnectCancelation):
        async with Cancelable() as operation:
            async with operation.shield(reasons=reason):
                operation.cancel_sync("disconnect")
                assert not operation.cancel_requested
                await anyio.lowlevel.checkpoint()
                done.append("section")
            pytest.fail("the request was lost")
    assert done == ["section"]


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


# -- what a section hears, and what it does not ----------------------------------------------


async def test_a_timeout_inside_a_section_is_a_timeout_although_a_request_waits() -> None:
    """Cleanup with a limit of its own can tell that the limit was reached."""
    done: list[str] = []
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            try:
                await operation.cancel()
                await anyio.sleep_forever()
            finally:
                async with operation.shield():
                    try:
                        async with Cancelable.with_timeout(0.01):
                            await anyio.sleep_forever()
                    except TimeoutError:
                        done.append("gave up saying goodbye")
                    done.append("closed the hard way")
    assert done == ["gave up saying goodbye", "closed the hard way"]


async def test_a_bound_is_the_reason_of_the_section_that_it_cut() -> None:
    """Also when a request waits, which leaves instead of the section's error."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield(timeout=0.01) as section:
                await operation.cancel()
                await anyio.sleep_forever()
    assert section.is_cancelled
    assert section.cancel_reason is CancelationReason.TIMEOUT


async def test_a_section_hears_of_nothing_that_comes_from_beyond() -> None:
    """Not of a request, not of a deadline; it can still be asked itself."""
    operation = Cancelable.with_timeout(0.01)
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation) as caught:
        async with operation:
            with pytest.raises(ManualCancelation, match="the section alone"):
                async with operation.shield() as section:
                    assert section.remaining == float("inf")
                    await anyio.sleep(0.02)
                    assert operation.is_cancelling
                    assert not section.is_cancelling
                    await section.check_cancelation()
                    await section.cancel(message="the section alone")
                    await anyio.sleep_forever()
    assert caught.value.operation_id == operation.operation_id


async def test_a_task_that_outlives_its_section_is_stopped_with_the_operation() -> None:
    """A child of the section belongs to the operation around once the section is over."""
    stopped: list[str | None] = []
    entered = anyio.Event()

    async def child() -> None:
        with pytest.raises(ParentCancelation) as caught:
            async with Cancelable():
                entered.set()
                await anyio.sleep_forever()
        stopped.append(caught.value.origin_id)

    operation = Cancelable()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ManualCancelation):
                async with operation:
                    async with operation.shield():
                        await operation.cancel()
                        tasks.start_soon(child)
                        await entered.wait()
                        assert stopped == []
    assert stopped == [operation.operation_id]


async def test_a_grace_that_ends_in_a_section_cuts_behind_it() -> None:
    """And one that has not ended lets the block go on behind the section."""
    done: list[str] = []
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable(grace=0.01) as operation:
            async with operation.shield():
                await operation.cancel()
                await anyio.sleep(0.03)
                done.append("section")
            done.append("behind")
    assert done == ["section"]

    async with Cancelable(grace=60) as operation:
        async with operation.shield():
            await operation.cancel()
        await anyio.lowlevel.checkpoint()
        done.append("within the grace")
    assert done[-1] == "within the grace"
    assert operation.is_completed
    assert operation.cancel_requested


# -- sections that hold back some reasons ----------------------------------------------------


async def test_a_held_request_is_the_same_request_when_it_is_made() -> None:
    """Reason, message and time are those of the moment when somebody asked, first come first."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation, match="first"):
        async with operation:
            async with operation.shield(reasons={"disconnect", "manual"}):
                in_thread(lambda: operation.cancel_sync("disconnect", "first"))
                await operation.token.cancel("manual", "second")
                assert not operation.token.is_cancelled
                assert operation.remaining == float("inf")
                await anyio.sleep(0.02)
                over = datetime.now(UTC)
    asked = operation.context.cancelled_at
    assert asked is not None
    assert asked < over


async def test_only_the_first_of_the_requests_that_are_held_is_told_so() -> None:
    """A held request stands; those after it change nothing, whatever they are made with."""
    outer, operation = Cancelable(), Cancelable()
    first, again = CancelOutcome.REQUESTED, CancelOutcome.ALREADY_REQUESTED
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with outer, operation:
            async with operation.shield(reasons={"manual", "signal"}):
                assert await operation.token.cancel()
                assert not await operation.token.cancel()
                assert operation.cancel_sync() is again
                assert await operation.cancel("signal") is again
                async with operation.shield(reasons={"manual"}):
                    assert operation.cancel_sync() is again
                assert not operation.cancel_requested
                assert outer.cancel_sync() is first
                assert outer.cancel_sync() is again
                assert await operation.cancel("disconnect") is first
                assert operation.cancel_sync() is again
                with anyio.CancelScope(shield=True):
                    assert outer.cancel_sync("disconnect") is first
                    assert outer.cancel_sync() is again


async def test_a_held_request_after_the_cause_is_not_the_first() -> None:
    """The own deadline has passed, or another request has come, before the section."""
    operation = Cancelable(grace=60)
    with anyio.fail_after(5):
        async with operation:
            assert await operation.cancel("disconnect") is CancelOutcome.REQUESTED
            async with operation.shield(reasons={"manual"}):
                assert operation.cancel_sync() is CancelOutcome.ALREADY_REQUESTED
        assert operation.cancel_reason is CancelationReason.DISCONNECT
        late = Cancelable.with_timeout(60, grace=60)
        async with late:
            async with late.shield(reasons={"manual"}):
                late.deadline = anyio.current_time()
                assert late.cancel_sync() is CancelOutcome.ALREADY_REQUESTED
        assert late.cancel_reason is CancelationReason.TIMEOUT


async def test_of_many_threads_whose_requests_are_held_one_is_the_first() -> None:
    """Who comes first is one atomic step."""
    answers: list[CancelOutcome] = []
    begin = threading.Barrier(8)

    def ask() -> None:
        begin.wait(5)
        answers.append(operation.cancel_sync())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            async with operation.shield(reasons={"manual"}):
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(5)
    assert sorted(answer.value for answer in answers) == ["already_requested"] * 7 + ["requested"]


async def test_requests_from_threads_are_not_lost_while_a_section_ends() -> None:
    """However close to its end they come, one of them is the cause."""
    for _ in range(20):
        operation = Cancelable()
        begin = threading.Barrier(3)

        def ask(operation: Cancelable = operation, begin: threading.Barrier = begin) -> None:
            begin.wait(5)
            operation.cancel_sync()

        threads = [threading.Thread(target=ask) for _ in range(2)]
        with anyio.fail_after(5), pytest.raises(ManualCancelation):
            async with operation:
                async with operation.shield(reasons={"manual"}):
                    for thread in threads:
                        thread.start()
                    begin.wait(5)
                for thread in threads:
                    thread.join(5)
                await anyio.sleep_forever()


async def test_a_request_that_is_kept_after_the_end_is_made_at_once() -> None:
    """The thread that comes last makes what the end of the section did not see."""
    asked: list[str] = []
    hold = Hold(object(), {"manual"}, lambda: float("inf"))
    hold.keep(lambda: asked.append("before"))
    assert asked == []
    hold.release()
    hold.keep(lambda: asked.append("after"))
    assert asked == ["before", "after"]


async def test_a_section_is_cut_in_its_own_loop_whoever_asks() -> None:
    """A scope may be cancelled in the thread of its loop alone."""
    cut_in: list[int] = []

    class Scope:
        cancel_called = False

        def cancel(self, message: str | None) -> None:
            cut_in.append(threading.get_ident())

    hold = Hold(object(), {"manual"}, lambda: float("inf"))
    hold._nearest_cut = lambda: float("-inf")
    hold.scope = Scope()  # type: ignore[assignment]
    in_thread(lambda: hold.cut(object(), None))
    with anyio.fail_after(5):
        while not cut_in:
            await anyio.sleep(0.001)
    assert cut_in == [threading.get_ident()]


async def test_sections_that_hold_reasons_nest() -> None:
    """What the inner one gives back, the outer one holds on."""
    done: list[str] = []
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            async with operation.shield(reasons={"manual"}):
                async with operation.shield(reasons={"manual", "signal"}):
                    await operation.cancel()
                    await anyio.lowlevel.checkpoint()
                done.append("inner")
                await anyio.lowlevel.checkpoint()
                assert not operation.cancel_requested
                done.append("outer")
    assert done == ["inner", "outer"]


async def test_a_deadline_that_moves_outside_does_not_move_that_of_the_section() -> None:
    """The section is cut by the nearest deadline, whichever operation was given another."""
    with anyio.fail_after(5):
        async with Cancelable.with_timeout(60) as outer:
            with pytest.raises(TimeoutCancelation) as caught:
                async with Cancelable.with_timeout(0.02, parent=None) as inner:
                    async with inner.shield(reasons={"manual"}):
                        outer.extend(100)
                        await anyio.sleep_forever()
            assert caught.value.operation_id == inner.operation_id


async def test_a_request_with_grace_cuts_the_section_when_the_grace_is_over() -> None:
    """A request for another reason cuts, but not before its time."""
    seen: list[CancelationReason] = []
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with Cancelable(grace=0.01) as operation:
            async with operation.shield(reasons={"manual"}):
                await operation.cancel("disconnect")
                await anyio.lowlevel.checkpoint()
                seen.append(await operation.wait_cancelling())
                await anyio.sleep_forever()
    assert seen == [CancelationReason.DISCONNECT]


async def test_a_section_is_cut_by_a_parent_that_runs_in_another_loop(
    anyio_backend_name: str,
) -> None:
    """The request comes from the parent's thread, the cut happens in the section's loop."""
    parent = Cancelable(name="parent")
    entered, ended = threading.Event(), list[object]()

    async def child() -> None:
        try:
            async with Cancelable(parent=parent) as own:
                async with own.shield(reasons={"manual"}):
                    entered.set()
                    await anyio.sleep_forever()
        except BaseException as error:
            ended.append(type(error))
            raise

    def other_loop() -> None:
        with pytest.raises(ParentCancelation):
            anyio.run(child, backend=anyio_backend_name)

    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with parent:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, other_loop)
                while not entered.is_set():
                    await anyio.sleep(0.001)
                await parent.cancel("disconnect")
            await anyio.sleep_forever()
    assert ended == [ParentCancelation]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sections_of_several_loops_hold_at_the_same_operation(backend: str) -> None:
    """Each takes its own hold away, and the last one leaves nothing that would hold a request."""
    interval = sys.getswitchinterval()

    async def section(parent: Cancelable) -> None:
        async with Cancelable(parent=parent) as child:
            for _ in range(150):
                async with child.shield(reasons={"signal"}):
                    pass

    async def main() -> None:
        parent = Cancelable(name="parent")
        with anyio.fail_after(20), pytest.raises(SignalCancelation):
            async with parent:
                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        run = partial(anyio.run, section, parent, backend=backend)
                        tasks.start_soon(anyio.to_thread.run_sync, run)
                assert parent._holds == []
                parent.cancel_sync("signal")
                await anyio.sleep_forever()

    sys.setswitchinterval(1e-6)
    try:
        anyio.run(main, backend=backend)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("reasons", [None, {"disconnect"}])
async def test_a_section_inside_another_operations_section_is_kept_as_that_one_is(
    reasons: set[str] | None,
) -> None:
    """What is kept out of the one around does not cut this one, which would go on half done."""
    done: list[str] = []
    outer, inner = Cancelable(name="outer"), Cancelable(name="inner")
    with anyio.fail_after(5), pytest.raises(ManualCancelation) as caught:
        async with outer, inner:
            async with outer.shield(reasons=reasons):
                await inner.cancel()
                async with inner.shield(reasons={"signal"}):
                    await anyio.lowlevel.checkpoint()
                    done.append("first")
                await anyio.lowlevel.checkpoint()
                done.append("second")
            done.append("behind")
    assert done == ["first", "second"]
    assert caught.value.operation_id == inner.operation_id


async def test_what_cuts_both_sections_leaves_nothing_to_run_on() -> None:
    """The code behind the inner one is not reached, as after any cut."""
    done: list[str] = []
    outer, inner = Cancelable(name="outer"), Cancelable(name="inner")
    with anyio.fail_after(5), pytest.raises(ManualCancelation) as caught:
        async with outer, inner:
            async with outer.shield(reasons={"disconnect"}):
                async with inner.shield(reasons={"signal"}):
                    await outer.cancel()
                    await anyio.sleep_forever()
                done.append("behind the inner one")
            done.append("behind the outer one")
    assert done == []
    assert caught.value.operation_id == outer.operation_id


async def test_a_section_of_such_a_section_is_kept_as_well() -> None:
    """Its end delivers nothing that is kept out further out."""
    done: list[str] = []
    outer, inner = Cancelable(name="outer"), Cancelable(name="inner")
    with anyio.fail_after(5), pytest.raises(ManualCancelation) as caught:
        async with outer, inner:
            async with outer.shield(reasons={"disconnect"}):
                await inner.cancel()
                async with inner.shield(reasons={"signal"}) as section:
                    async with section.shield(reasons={"signal"}):
                        await anyio.lowlevel.checkpoint()
                    await section.check_cancelation()
                    done.append("first")
                done.append("second")
    assert done == ["first", "second"]
    assert caught.value.operation_id == inner.operation_id
