"""Worker threads that know their operation, can check it and can report. (S15)"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Mapping

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread, to_thread
from anyio.abc import TaskGroup

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationToken,
    CancelOutcome,
    ManualCancelation,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    ThreadSafeRegistry,
    TimeoutCancelation,
    current_operation,
)
from tests.support.native import in_thread, on_asyncio


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


# -- cancelations that are not the operation's own -------------------------------------------


class Checker:
    """A function for a thread that checks for as long as it may, and keeps what it was told."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()
        self.told: BaseException | None = None

    def __call__(self, cancel: Cancelable) -> str:
        self.began.set()
        give_up = time.monotonic() + 5  # ends the thread of a check that tells nothing
        try:
            while time.monotonic() < give_up:
                cancel.check_cancelation_sync()
                time.sleep(0.001)
        except BaseException as told:
            self.told = told
            raise
        finally:
            self.ended.set()
        return "never told"

    async def wait_for(self, event: Callable[[Checker], threading.Event]) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(event(self).wait, 5, limiter=anyio.CapacityLimiter(1))

    @property
    def reason(self) -> CancelationReason:
        assert isinstance(self.told, CancelationError)
        return self.told.reason


async def _start_all(
    tasks: TaskGroup,
    work: Callable[[Checker], Coroutine[None, None, None]],
    checkers: list[Checker],
) -> None:
    """Start *work* with each of them, and wait until all of them check."""
    for checker in checkers:
        tasks.start_soon(work, checker)
    for checker in checkers:
        await checker.wait_for(lambda each: each.began)


async def _cancel_when(checker: Checker, *scopes: anyio.CancelScope) -> None:
    await checker.wait_for(lambda each: each.began)
    for scope in scopes:
        scope.cancel()


async def test_a_thread_hears_of_a_scope_around_its_block() -> None:
    """The block is left by the native cancelation, which that scope takes."""
    checker, operation = Checker(), Cancelable()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_when, checker, scope)
                async with operation:
                    await operation.run_in_thread(checker, operation)
    assert checker.reason is CancelationReason.EXTERNAL
    assert checker.told is not None
    assert scope.cancelled_caught
    assert operation.is_cancelled
    assert operation.cancel_reason is CancelationReason.EXTERNAL


async def test_a_thread_hears_of_a_scope_inside_its_block() -> None:
    """That scope takes the cancelation, and the block goes on behind it."""
    for plain in (False, True):
        checker = Checker()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks, Cancelable() as operation:
                with anyio.CancelScope() as scope:
                    tasks.start_soon(_cancel_when, checker, scope)
                    if plain:
                        await to_thread.run_sync(checker, operation)
                    else:
                        await operation.run_in_thread(checker, operation)
        assert checker.told is not None
        assert isinstance(checker.told, CancelationError) is not plain
        assert scope.cancelled_caught
        assert operation.is_completed


async def test_a_thread_hears_of_a_sibling_that_has_failed() -> None:
    """The group is left with the sibling's error alone."""
    checker, operation = Checker(), Cancelable()

    async def work() -> None:
        async with operation:
            await operation.run_in_thread(checker, operation)

    async def fail() -> None:
        await checker.wait_for(lambda each: each.began)
        raise LookupError("sibling")

    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            tasks.start_soon(fail)
    (error,) = caught.value.exceptions
    assert isinstance(error, LookupError)
    assert checker.reason is CancelationReason.EXTERNAL
    assert operation.is_cancelled


async def test_a_thread_of_anyio_leaves_a_foreign_cancel_as_it_is() -> None:
    """The check raises what anyio's own check would."""
    checker, operation = Checker(), Cancelable()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_when, checker, scope)
                async with operation:
                    await to_thread.run_sync(checker, operation)
    assert type(checker.told) is anyio.get_cancelled_exc_class()
    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.EXTERNAL


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_group_of_threads_that_check_ends_the_block_with_its_own_error(
    number: int, plain: bool
) -> None:
    """S2: whoever waits for the block's error does not get a group of it."""
    checkers = [Checker() for _ in range(number)]
    operation = Cancelable()

    async def work(checker: Checker) -> None:
        if plain:
            await to_thread.run_sync(checker, operation)
        else:
            await operation.run_in_thread(checker, operation)

    with anyio.fail_after(10), pytest.raises(ManualCancelation, match="enough") as caught:
        async with operation, anyio.create_task_group() as tasks:
            await _start_all(tasks, work, checkers)
            await operation.cancel(message="enough")

    assert caught.value.operation_id == operation.operation_id
    assert operation.status is OperationStatus.CANCELLED
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert set(group.exceptions) == {checker.told for checker in checkers}


async def test_a_group_of_checks_and_of_something_else_is_a_failure() -> None:
    """S5: nothing of it is lost, and it leaves as the group that it is."""
    checker, operation = Checker(), Cancelable()

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("while cancelled")

    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with operation, anyio.create_task_group() as tasks:
            tasks.start_soon(operation.run_in_thread, checker, operation)
            tasks.start_soon(fail)
            await checker.wait_for(lambda each: each.began)
            await operation.cancel()

    assert {type(each) for each in caught.value.exceptions} == {LookupError, ManualCancelation}
    assert operation.status is OperationStatus.FAILED


async def test_a_group_of_checks_of_other_operations_is_a_failure() -> None:
    """S4: only those who were asked have been cancelled."""
    errors: list[CancelationError] = []
    outer = Cancelable()
    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with outer:
            for _ in range(2):
                with pytest.raises(ManualCancelation) as inner:
                    async with Cancelable() as operation:
                        operation.cancel_sync()
                        await anyio.sleep_forever()
                errors.append(inner.value)
            outer.cancel_sync()
            raise ExceptionGroup("both", errors)

    assert caught.value.exceptions == tuple(errors)
    assert outer.status is OperationStatus.FAILED
    assert outer.cancel_requested


@pytest.mark.parametrize("number", [1, 2])
async def test_an_operation_around_that_a_thread_has_just_asked_goes_before_checks(
    number: int,
) -> None:
    """S3: although the loop has not got to that request yet."""
    outer, inner = Cancelable(), Cancelable()
    leaving: list[BaseException] = []
    with pytest.raises(ManualCancelation) as caught:
        async with outer:
            try:
                async with inner:
                    inner.cancel_sync()
                    with pytest.raises(ManualCancelation) as told:
                        inner.check_cancelation_sync()
                    in_thread(outer.cancel_sync)
                    errors = [told.value] * number
                    raise errors[0] if number == 1 else ExceptionGroup("all", errors)
            except BaseException as exc:
                leaving.append(exc)
                raise

    assert [type(each) for each in leaving] == [anyio.get_cancelled_exc_class()]
    assert caught.value.operation_id == outer.operation_id
    assert (inner.is_cancelled, outer.is_cancelled) == (True, True)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("has_one_between", [False, True])
async def test_operations_of_threads_in_a_group_are_stopped_with_the_one_around(
    number: int, has_one_between: bool
) -> None:
    """S2: what each of them reports is what the one around was asked for."""
    checkers = [Checker() for _ in range(number)]
    operation = Cancelable()
    between = Cancelable() if has_one_between else None

    async def piece(checker: Checker) -> None:
        async with Cancelable() as own:
            await own.run_in_thread(checker, own)

    with anyio.fail_after(10), pytest.raises(ManualCancelation, match="enough") as caught:
        async with (
            operation,
            between or contextlib.nullcontext(),
            anyio.create_task_group() as tasks,
        ):
            await _start_all(tasks, piece, checkers)
            await operation.cancel(message="enough")

    assert caught.value.operation_id == operation.operation_id
    assert operation.status is OperationStatus.CANCELLED
    if between is not None:
        assert between.status is OperationStatus.CANCELLED
        assert between.cancel_reason is CancelationReason.PARENT


async def test_an_operation_around_goes_before_what_a_check_tells_of_it() -> None:
    """S3: in the same task, where the error would be taken for one of the work."""
    outer, inner = Cancelable(), Cancelable()
    leaving: list[BaseException] = []
    with pytest.raises(ManualCancelation) as caught:
        async with outer:
            try:
                async with inner:
                    outer.cancel_sync()
                    inner.check_cancelation_sync()
            except BaseException as exc:
                leaving.append(exc)
                raise

    assert [type(each) for each in leaving] == [anyio.get_cancelled_exc_class()]
    assert caught.value.operation_id == outer.operation_id
    assert inner.cancel_reason is CancelationReason.PARENT


@on_asyncio
async def test_operations_of_a_group_of_asyncio_are_stopped_with_the_one_around() -> None:
    """S2: that group takes what its tasks raise for more than a cancelation of its own."""

    async def fetch() -> None:
        async with Cancelable():
            await anyio.sleep_forever()

    operation = Cancelable()
    with anyio.fail_after(10), pytest.raises(ManualCancelation) as caught:
        async with operation, asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(fetch())
            await anyio.wait_all_tasks_blocked()
            await operation.cancel()

    assert caught.value.operation_id == operation.operation_id
    assert operation.status is OperationStatus.CANCELLED
    await asyncio.sleep(0)  # no cancel is left over


async def test_an_operation_elsewhere_that_its_parent_stops_is_an_error_of_its_own() -> None:
    """S4: it is not underneath the block that meets its error."""
    parent, other = Cancelable(), Cancelable(parent=None)
    with pytest.raises(ManualCancelation):
        async with parent, Cancelable() as child:
            parent.cancel_sync()
            with pytest.raises(ParentCancelation) as stopped:
                child.check_cancelation_sync()
            await anyio.sleep(1)
    with pytest.raises(ParentCancelation):
        async with other:
            other.cancel_sync()
            raise stopped.value
    assert other.status is OperationStatus.FAILED


@pytest.mark.parametrize("plain", [False, True])
async def test_a_scope_around_goes_before_the_check_of_a_lone_thread(plain: bool) -> None:
    """S3: as it goes before an operation that sleeps."""
    checker, token = Checker(), CancelationToken()

    async def job() -> None:
        async with Cancelable.with_token(token) as own:
            if plain:
                await to_thread.run_sync(checker, own)
            else:
                await own.run_in_thread(checker, own)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job)
            await checker.wait_for(lambda each: each.began)
            token.cancel_sync()
            tasks.cancel_scope.cancel()
    assert checker.reason is CancelationReason.MANUAL


async def test_a_scope_around_goes_before_a_group_of_checks() -> None:
    """S3: what both of them have cancelled is left by the native cancelation."""
    checkers, operation = [Checker(), Checker()], Cancelable()

    async def work(checker: Checker) -> None:
        await operation.run_in_thread(checker, operation)

    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with operation, anyio.create_task_group() as tasks:
            await _start_all(tasks, work, checkers)
            operation.cancel_sync()
            scope.cancel()

    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.MANUAL
    assert operation.status is OperationStatus.CANCELLED


async def test_a_thread_in_a_group_hears_of_an_operation_around_a_detached_one() -> None:
    """The reason is that of the block: an operation around it is the cause."""
    checker, detached = Checker(), Cancelable(parent=None)

    async def work() -> None:
        async with detached:
            await detached.run_in_thread(checker, detached)

    with anyio.fail_after(10), pytest.raises(ManualCancelation):
        async with Cancelable() as outer, anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await checker.wait_for(lambda each: each.began)
            await outer.cancel()
    assert checker.reason is CancelationReason.PARENT
    assert detached.cancel_reason is CancelationReason.PARENT


async def test_a_thread_in_a_shielded_section_does_not_hear_of_a_scope_around() -> None:
    """What does not reach the section does not reach its thread."""
    checks: list[str] = []
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            async with Cancelable() as cancel:
                async with cancel.shield() as section:
                    scope.cancel()
                    for operation in (section, cancel):
                        await cancel.run_in_thread(operation.check_cancelation_sync)
                        await to_thread.run_sync(operation.check_cancelation_sync)
                        checks.append("silent")
    assert checks == ["silent"] * 2
    assert scope.cancelled_caught


async def test_a_foreign_cancel_does_not_wait_for_the_grace_of_a_request() -> None:
    """The thread is told that the block is cut, with the reason of the request."""
    checker, operation = Checker(), Cancelable(grace=60)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_when, checker, scope)
                async with operation:
                    await operation.cancel()
                    await operation.run_in_thread(checker, operation)
    assert checker.reason is CancelationReason.MANUAL
    assert scope.cancelled_caught
    assert operation.cancel_reason is CancelationReason.MANUAL


async def test_a_thread_of_a_cancelled_scope_may_check_an_operation_elsewhere() -> None:
    """Only the blocks around the thread are cut with it."""
    elsewhere = Cancelable()
    entered, release = anyio.Event(), anyio.Event()

    async def run() -> None:
        async with elsewhere:
            entered.set()
            await release.wait()

    def work(scope_is_cancelled: Checker) -> str:
        with pytest.raises(CancelationError):
            scope_is_cancelled(operation)
        elsewhere.check_cancelation_sync()
        return "went on"

    checker, operation, results = Checker(), Cancelable(), list[str]()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await entered.wait()
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_when, checker, scope)
                async with operation:
                    results.append(await operation.run_in_thread(work, checker))
                    await anyio.lowlevel.checkpoint()
            release.set()
    assert results == ["went on"]
    assert elsewhere.is_completed


@on_asyncio
async def test_a_thread_that_a_native_cancel_leaves_behind_ends_at_its_next_check() -> None:
    """However the block has ended by then, or goes on; asyncio alone can leave a thread."""

    async def cancelled(operation: Cancelable, checker: Checker) -> None:
        async with operation:
            await operation.run_in_thread(checker, operation)

    async def failed(operation: Cancelable, checker: Checker) -> None:
        async with operation:
            try:
                await operation.run_in_thread(checker, operation)
            except asyncio.CancelledError:
                raise LookupError("instead") from None

    async def completed(operation: Cancelable, checker: Checker) -> None:
        async with operation:
            try:
                await operation.run_in_thread(checker, operation)
            except asyncio.CancelledError:
                return

    async def running(operation: Cancelable, checker: Checker) -> None:
        async with operation:
            try:
                await operation.run_in_thread(checker, operation)
            except asyncio.CancelledError:
                await checker.wait_for(lambda each: each.ended)

    with anyio.fail_after(20):
        for work in (cancelled, failed, completed, running):
            checker, operation = Checker(), Cancelable()
            task = asyncio.ensure_future(work(operation, checker))
            await checker.wait_for(lambda each: each.began)
            task.cancel()
            await asyncio.wait([task])
            await checker.wait_for(lambda each: each.ended)
            assert checker.reason is CancelationReason.EXTERNAL, work
            assert task.cancelled() or task.exception() is None or work is failed


async def test_a_check_in_the_loop_itself_does_not_ask_who_waits_for_a_thread() -> None:
    """A loop that runs in a worker thread of another one has checkpoints of its own."""

    def inner(backend: str) -> str:
        async def main() -> str:
            async with Cancelable() as own:
                began.set()
                await to_thread.run_sync(go_on.wait, 5)
                own.check_cancelation_sync()
            return "went on"

        return anyio.run(main, backend=backend)

    began, go_on, results = threading.Event(), threading.Event(), list[str]()

    async def cancel(scope: anyio.CancelScope) -> None:
        await to_thread.run_sync(began.wait, 5, limiter=anyio.CapacityLimiter(1))
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        go_on.set()

    for backend in ("asyncio", "trio"):
        began.clear()
        go_on.clear()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as scope:
                    tasks.start_soon(cancel, scope)
                    results.append(await to_thread.run_sync(inner, backend))
    assert results == ["went on"] * 2
