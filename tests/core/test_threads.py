"""Worker threads that know their operation, can check it and can report. (S15)"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread, to_thread

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelOutcome,
    ManualCancelation,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    ThreadSafeRegistry,
    TimeoutCancelation,
    current_operation,
)
from tests.support.native import in_thread


async def test_a_function_runs_in_a_thread_with_its_operation() -> None:
    """Arguments, result, error, and the operation of the block."""
    main = threading.get_ident()

    def work(a: int, *, b: int) -> tuple[bool, Cancelable | None, int]:
        return threading.get_ident() != main, current_operation(), a + b

    def fail() -> None:
        raise LookupError("in the thread")

    async with Cancelable() as cancel:
        assert await cancel.run_in_thread(work, 1, b=2) == (True, cancel, 3)
        with pytest.raises(LookupError, match="in the thread"):
            await cancel.run_in_thread(fail)


async def test_a_thread_that_checks_ends_the_block_with_its_own_error() -> None:
    """The error of the check is the block's cancelation, not a failure."""
    began = threading.Event()

    def work(cancel: Cancelable) -> None:
        began.set()
        while True:
            cancel.check_cancelation_sync()
            pause.wait(0.001)

    pause = threading.Event()
    operation = Cancelable()

    async def ask() -> None:
        await to_thread.run_sync(began.wait)
        await operation.cancel(message="enough")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with pytest.raises(ManualCancelation, match="enough") as caught:
                async with operation:
                    await operation.run_in_thread(work, operation)
    assert caught.value.operation_id == operation.operation_id
    assert operation.status is OperationStatus.CANCELLED


async def test_a_child_notices_in_its_thread_that_the_parent_was_asked() -> None:
    """The check raises for whatever cuts the block."""
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as parent:
            async with Cancelable() as child:
                parent.cancel_sync()
                with pytest.raises(ParentCancelation):
                    await to_thread.run_sync(child.check_cancelation_sync)
                await anyio.sleep_forever()


async def test_many_threads_are_stopped_by_one_request() -> None:
    """Fifty of them, more than the pool has room for."""
    ended: list[str] = []
    all_began = threading.Semaphore(0)

    def work(cancel: Cancelable) -> None:
        all_began.release()
        try:
            while True:
                cancel.check_cancelation_sync()
                pause.wait(0.001)
        finally:
            ended.append("thread")

    pause = threading.Event()

    async def one() -> None:
        try:
            async with Cancelable() as own:
                await own.run_in_thread(work, own)
        except ParentCancelation:
            ended.append("block")

    with anyio.fail_after(20), pytest.raises(ManualCancelation):
        async with Cancelable() as cancel, anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
            await to_thread.run_sync(all_began.acquire, limiter=anyio.CapacityLimiter(1))
            await cancel.cancel()
    assert ended.count("thread") == ended.count("block") >= 1


async def test_progress_from_threads_reaches_listeners_in_the_loop() -> None:
    """From a worker also the async ones, from a plain thread the plain ones, in order."""
    main = threading.get_ident()
    plain: list[tuple[object, bool]] = []
    awaited: list[object] = []

    def listen(_id: str, message: object, _metadata: Mapping[str, object] | None) -> None:
        plain.append((message, threading.get_ident() == main))

    async def listen_async(
        _id: str, message: object, _metadata: Mapping[str, object] | None
    ) -> None:
        await anyio.lowlevel.checkpoint()
        awaited.append(message)

    async with Cancelable() as cancel:
        cancel.on_progress(listen)
        thread = threading.Thread(target=cancel.report_progress_sync, args=("plain thread",))
        thread.start()
        thread.join()
        await anyio.wait_all_tasks_blocked()
        cancel.on_progress(listen_async)
        await cancel.run_in_thread(cancel.report_progress_sync, "worker")
    assert plain == [("plain thread", True), ("worker", True)]
    assert awaited == ["worker"]


def test_progress_before_the_block_is_kept_for_readers() -> None:
    """There is no loop yet to run listeners in."""
    operation = Cancelable()
    operation.report_progress_sync("prepared")
    assert operation.last_update is not None
    assert operation.last_update.message == "prepared"


async def test_a_program_in_another_thread_lists_and_cancels() -> None:
    """A plain thread needs no loop for it."""
    registry = ThreadSafeRegistry()
    answers: list[object] = []

    def other_program(operation_id: str) -> None:
        answers.append([each.id for each in registry.list_operations(name_pattern="job")])
        answers.append(registry.cancel_operation(operation_id, CancelationReason.MANUAL, "stop"))
        answers.append(registry.cancel_operation("nobody"))

    with anyio.fail_after(5), pytest.raises(ManualCancelation, match="stop"):
        async with registry.register(Cancelable(name="job")) as cancel:
            thread = threading.Thread(target=other_program, args=(cancel.operation_id,))
            thread.start()
            await anyio.sleep_forever()
    thread.join()
    assert answers == [[cancel.operation_id], CancelOutcome.REQUESTED, CancelOutcome.UNKNOWN]
    assert registry.cancel(cancel.operation_id) is CancelOutcome.FINISHED


async def test_threads_that_know_no_operation_are_told_so() -> None:
    """A plain thread inherits nothing; the operation is given to it."""
    seen: list[Cancelable | None] = []
    async with Cancelable():
        thread = threading.Thread(target=lambda: seen.append(current_operation()))
        thread.start()
        thread.join()
    assert seen == [None]


async def test_an_error_of_a_check_is_no_failure_of_the_operation_around() -> None:
    """The thread of an inner block notices a request to the outer one; both end cancelled."""
    inner = Cancelable(name="inner")
    with anyio.fail_after(5), pytest.raises(ManualCancelation) as caught:
        async with Cancelable(name="outer") as outer, inner:

            def work() -> None:
                outer.cancel_sync()
                inner.check_cancelation_sync()

            await inner.run_in_thread(work)
    assert caught.value.operation_id == outer.operation_id
    assert outer.status is inner.status is OperationStatus.CANCELLED
    assert inner.cancel_reason is CancelationReason.PARENT


async def test_a_retry_in_a_thread_that_swallows_the_error_does_not_outlive_the_request() -> None:
    """The error of a check is an ordinary one there; each check raises it, and then the loop."""
    swallowed: list[type[Exception]] = []
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as cancel:

            def work() -> str:
                cancel.cancel_sync()
                for check in (cancel.check_cancelation_sync, cancel.token.check) * 3:
                    try:
                        check()
                    except Exception as error:
                        swallowed.append(type(error))
                return "given up"

            assert await cancel.run_in_thread(work) == "given up"
            await anyio.lowlevel.checkpoint()
            pytest.fail("the checkpoint let the block go on")
    assert swallowed == [ManualCancelation] * 6


async def test_a_thread_that_does_not_check_is_seen_until_it_has_ended() -> None:
    """The operation is listed as cancelling, and its place among the workers is taken."""
    registry = ThreadSafeRegistry()
    began, release = threading.Event(), threading.Event()
    workers = to_thread.current_default_thread_limiter()

    def work() -> None:
        began.set()
        release.wait(5)

    async def run() -> None:
        with pytest.raises(ManualCancelation):
            async with registry.register(Cancelable("import")) as cancel:
                await cancel.run_in_thread(work)
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await to_thread.run_sync(began.wait, limiter=anyio.CapacityLimiter(1))
            assert registry.cancel("import") is CancelOutcome.REQUESTED
            assert await registry.wait_stopped("import", timeout=0.01) is None
            (listed,) = registry.list_operations(status=OperationStatus.CANCELLING)
            assert listed.id == "import"
            assert workers.borrowed_tokens == 1
            release.set()
            ended = await registry.wait_stopped("import")
    assert ended is not None
    assert ended.is_cancelled
    assert workers.borrowed_tokens == 0


async def test_a_result_that_was_computed_is_kept_although_a_request_came() -> None:
    """The call returns it; the next checkpoint is where the block is cut."""
    results: list[int] = []
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as cancel:

            def work() -> int:
                cancel.cancel_sync()
                return 7

            results.append(await cancel.run_in_thread(work))
            await anyio.lowlevel.checkpoint()
            results.append(8)
    assert results == [7]


async def test_a_report_from_a_thread_does_not_cost_its_result() -> None:
    """An async listener is awaited in the loop although the block is being cut there."""
    heard: list[object] = []

    async def listen(_id: str, message: object, _metadata: Mapping[str, object] | None) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(message)

    results: list[int] = []
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable().on_progress(listen) as cancel:

            def work() -> int:
                cancel.cancel_sync()
                from_thread.run(anyio.lowlevel.cancel_shielded_checkpoint)
                cancel.report_progress_sync("nearly there")
                return 7

            results.append(await cancel.run_in_thread(work))
            await anyio.lowlevel.checkpoint()
    assert results == [7]
    assert heard == ["nearly there"]


async def test_a_check_with_nothing_to_tell_lets_the_thread_go_on() -> None:
    """Before a request, within a grace, and with a deadline to come."""
    async with Cancelable.with_timeout(60, grace=60) as cancel:
        await cancel.run_in_thread(cancel.check_cancelation_sync)
        await cancel.cancel()
        await cancel.run_in_thread(cancel.check_cancelation_sync)


async def test_a_check_notices_a_deadline_that_the_loop_has_not_noticed() -> None:
    """The thread stops by the clock."""
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation) as caught:
        async with Cancelable.with_timeout(0.01) as cancel:

            def work() -> None:
                while True:
                    cancel.check_cancelation_sync()

            in_thread(work)
    assert caught.value.operation_id == cancel.operation_id
    assert cancel.is_cancelled


async def test_what_is_left_can_be_read_in_any_thread() -> None:
    """A worker, a plain thread, before the block and after it."""
    left: list[float] = []
    operation = Cancelable.with_timeout(60)
    in_thread(lambda: left.append(operation.remaining))
    async with operation:
        await operation.run_in_thread(lambda: left.append(operation.remaining))
        in_thread(lambda: left.append(operation.remaining))
        async with Cancelable() as inner:
            in_thread(lambda: left.append(inner.remaining))
        await operation.cancel()
        in_thread(lambda: left.append(operation.remaining))
    assert left[0] == 60
    assert all(59 < seconds <= 60 for seconds in left[1:4])
    assert left[4] == 0


async def test_a_check_after_the_end_still_tells() -> None:
    """A thread that was left behind and checks late ends with the operation's own error."""
    operation = Cancelable()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            await operation.cancel()
            await anyio.lowlevel.checkpoint()
    with pytest.raises(ManualCancelation) as caught:
        in_thread(operation.check_cancelation_sync)
    assert caught.value.operation_id == operation.operation_id

    quiet = Cancelable()
    async with quiet:
        pass
    in_thread(quiet.check_cancelation_sync)


async def test_a_report_after_the_end_reaches_nobody_and_harms_nothing() -> None:
    """Such as the last one of a thread that was left behind."""
    heard: list[object] = []
    operation = Cancelable().on_progress(lambda _id, message, _metadata: heard.append(message))
    async with operation:
        pass
    in_thread(lambda: operation.report_progress_sync("late"))
    await anyio.wait_all_tasks_blocked()
    assert operation.is_completed


async def test_a_worker_of_a_section_knows_the_section() -> None:
    """Its check follows the section, which is not cut by what is asked outside."""
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as cancel:
            async with cancel.shield() as section:
                await cancel.cancel()

                def work() -> Cancelable | None:
                    current = current_operation()
                    assert current is not None
                    current.check_cancelation_sync()
                    return current

                assert await to_thread.run_sync(work) is section


def test_a_thread_without_a_loop_lists_cancels_and_reads_history() -> None:
    """A program in another thread, such as a web server's, sees what a loop here runs."""
    registry = ThreadSafeRegistry()
    ready, told = threading.Event(), threading.Event()
    seen: dict[str, object] = {}

    def plain_program() -> None:
        ready.wait(5)
        (running,) = registry.list_operations(status=OperationStatus.RUNNING)
        seen["before"] = running.name
        seen["statistics"] = registry.get_statistics()["active_operations"]
        seen["outcome"] = registry.cancel(running.id, "signal", "from the outside")
        told.set()

    async def main() -> None:
        with registry.as_default(), pytest.raises(SignalCancelation, match="from the outside"):
            async with Cancelable(name="import", register_globally=True):
                ready.set()
                with anyio.fail_after(5):
                    await anyio.sleep_forever()

    thread = threading.Thread(target=plain_program)
    thread.start()
    anyio.run(main)
    thread.join(5)
    assert told.is_set()
    assert seen == {"before": "import", "statistics": 1, "outcome": CancelOutcome.REQUESTED}
    (ended,) = registry.get_history()
    assert ended.cancel_reason is CancelationReason.SIGNAL


async def test_a_report_from_a_worker_waits_for_an_object_that_is_called_as_an_async_function() -> (
    None
):
    """It is a listener like a function; the report has reached it when the call returns."""
    heard: list[object] = []

    class Listener:
        async def __call__(
            self, operation_id: str, message: object, metadata: Mapping[str, object] | None
        ) -> None:
            await anyio.lowlevel.checkpoint()
            heard.append(message)

    async with Cancelable().on_progress(Listener()) as cancel:
        await cancel.run_in_thread(cancel.report_progress_sync, "half")
        assert heard == ["half"]


async def test_a_check_in_another_loop_leaves_the_scope_to_its_own(
    anyio_backend_name: str,
) -> None:
    """A scope may be cancelled in the thread of its loop alone; the check is a checkpoint there."""
    operation = Cancelable()

    async def elsewhere() -> None:
        await operation.check_cancelation()

    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            operation.cancel_sync()
            in_thread(lambda: anyio.run(elsewhere, backend=anyio_backend_name))
            assert operation._scope is not None
            assert not operation._scope.cancel_called
            await anyio.sleep_forever()
