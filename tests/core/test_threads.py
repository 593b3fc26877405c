"""Worker threads that know their operation, can check it and can report. (S15)"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelOutcome,
    ManualCancelation,
    OperationStatus,
    ParentCancelation,
    ThreadSafeRegistry,
    current_operation,
)


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
