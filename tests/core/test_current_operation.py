"""Code anywhere below a block knows the operation, and asks it whether to stop. (S15)"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    ManualCancelation,
    OperationStatus,
    TimeoutCancelation,
    current_operation,
)
from tests.support.native import in_thread, native_cancel, on_asyncio


async def test_the_innermost_block_is_current() -> None:
    """Inside a block it is that operation; after it, the one around; outside, none."""
    assert current_operation() is None
    async with Cancelable() as outer:
        assert current_operation() is outer
        async with Cancelable() as inner:
            assert current_operation() is inner
        assert current_operation() is outer
        with pytest.raises(ManualCancelation):
            async with Cancelable() as inner:
                await inner.cancel()
                await anyio.sleep_forever()
        assert current_operation() is outer
    assert current_operation() is None


async def test_child_tasks_know_it() -> None:
    """Tasks that a block starts are in it; their own blocks are not their siblings'."""
    seen: list[bool] = []

    async def child() -> None:
        seen.append(current_operation() is operation)
        async with Cancelable() as mine:
            await anyio.lowlevel.checkpoint()
            seen.append(current_operation() is mine)
        seen.append(current_operation() is operation)

    async with Cancelable() as operation, anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        tasks.start_soon(child)
    assert seen == [True] * 6


async def test_a_finished_operation_is_never_current() -> None:
    """A task that outlives the block sees the operation around it, or none."""
    seen: list[object] = []
    go_on = anyio.Event()

    async def child() -> None:
        await go_on.wait()
        seen.append(current_operation())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with Cancelable() as outer:
                async with Cancelable():
                    tasks.start_soon(child)
                    await anyio.wait_all_tasks_blocked()
                go_on.set()
                await anyio.wait_all_tasks_blocked()
                assert seen == [outer]
                go_on = anyio.Event()
                tasks.start_soon(child)
                await anyio.wait_all_tasks_blocked()
            go_on.set()
    assert seen == [outer, None]


async def test_a_context_of_a_block_that_has_ended_is_harmless() -> None:
    """A copied context that still points to an ended block gives none and no parent."""
    async with Cancelable():
        context = contextvars.copy_context()
    assert context.run(current_operation) is None


async def test_leaving_restores_only_what_still_points_to_the_block() -> None:
    """Blocks that are left in another order than they were entered do not bring back the dead."""
    first, second = Cancelable(), Cancelable()
    await first.__aenter__()
    await second.__aenter__()
    with pytest.raises(RuntimeError):
        await first.__aexit__(None, None, None)
    assert current_operation() is second
    await second.__aexit__(None, None, None)
    assert current_operation() is not second


# -- threads ---------------------------------------------------------------------------------


async def test_worker_threads_know_it() -> None:
    """`anyio.to_thread` and `run_in_thread` carry the operation into the thread."""
    async with Cancelable() as operation:
        assert await anyio.to_thread.run_sync(current_operation) is operation
        assert await operation.run_in_thread(current_operation) is operation
    assert await anyio.to_thread.run_sync(current_operation) is None


@on_asyncio
async def test_other_threads_know_it_when_they_are_given_the_context() -> None:
    """`asyncio.to_thread` carries it; an executor and a plain thread do not by themselves."""
    seen: list[object] = []
    async with Cancelable() as operation:
        assert await asyncio.to_thread(current_operation) is operation
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, current_operation) is None
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: seen.append(context.run(current_operation)))
        thread.start()
        await asyncio.to_thread(thread.join, 5)
        assert seen == [operation]


@on_asyncio
@pytest.mark.parametrize("kind", ["worker", "asyncio's worker", "executor", "plain thread"])
async def test_any_thread_may_use_an_operation_that_is_given_to_it(kind: str) -> None:
    """It checks and reports as the threads do that know the operation by themselves."""
    heard: list[object] = []
    operation = Cancelable().on_progress(lambda _id, message, _metadata: heard.append(message))

    results: list[type[Exception]] = []
    done = threading.Event()

    def work() -> None:
        operation.check_cancelation_sync()
        operation.report_progress_sync("half")
        operation.cancel_sync()
        try:
            operation.check_cancelation_sync()
        except Exception as error:
            results.append(type(error))
        done.set()

    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with operation:
            match kind:
                case "worker":
                    await anyio.to_thread.run_sync(work)
                case "asyncio's worker":
                    await asyncio.to_thread(work)
                case "executor":
                    await asyncio.get_running_loop().run_in_executor(None, work)
                case _:
                    in_thread(work)
            await anyio.lowlevel.checkpoint()
    assert done.wait(5)
    assert results == [ManualCancelation]
    assert heard == ["half"]


async def test_a_thread_that_checks_ends_the_block_as_cancelled() -> None:
    """The error of a thread's check passes through and leaves as the operation's own."""
    operation = Cancelable()

    def work() -> None:
        inside = current_operation()
        assert inside is operation
        inside.check_cancelation_sync()
        inside.cancel_sync("disconnect", "stop")
        assert inside.remaining == 0
        inside.check_cancelation_sync()

    with pytest.raises(Exception, match="stop") as caught:
        async with operation:
            await operation.run_in_thread(work)
    assert operation.status is OperationStatus.CANCELLED
    assert operation.cancel_reason is CancelationReason.DISCONNECT
    assert getattr(caught.value, "operation_id", None) == operation.operation_id


async def test_a_thread_sees_the_deadline() -> None:
    """`remaining` counts down in a thread, and the check raises when it is over."""

    def work() -> int:
        inside = current_operation()
        assert inside is not None
        assert 0 < inside.remaining <= 0.05 + 1e-9  # sums of floats
        steps = 0
        while True:
            inside.check_cancelation_sync()
            pause.wait(0.005)
            steps += 1

    pause = threading.Event()
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.05) as operation:
            await operation.run_in_thread(work)
    assert operation.is_cancelled


async def test_a_result_that_a_thread_computed_is_kept() -> None:
    """A request while the thread works does not throw its result away."""
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as operation:

            def work() -> str:
                operation.cancel_sync()
                return "computed"

            assert await operation.run_in_thread(work) == "computed"
            await anyio.lowlevel.checkpoint()


async def test_a_thread_that_checks_after_the_end_gets_no_cancel_of_others() -> None:
    """A check in an abandoned thread raises in that thread alone, once the block was cancelled."""
    go_on, done = threading.Event(), threading.Event()
    raised: list[str] = []

    def work() -> None:
        go_on.wait(5)
        try:
            operation.check_cancelation_sync()
        except Exception as error:
            raised.append(type(error).__name__)
        assert current_operation() is None
        done.set()

    with anyio.fail_after(5):
        with pytest.raises(ManualCancelation):
            async with Cancelable() as operation, anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: anyio.to_thread.run_sync(work, abandon_on_cancel=True))
                await anyio.wait_all_tasks_blocked()
                await operation.cancel()
        go_on.set()
        assert await anyio.to_thread.run_sync(done.wait, 5)
    assert raised == ["ManualCancelation"]


async def test_a_thread_may_go_back_into_the_loop() -> None:
    """Code that a worker thread runs in the loop is in the operation as well."""

    async def inside() -> bool:
        return current_operation() is operation

    async with Cancelable() as operation:
        assert await operation.run_in_thread(anyio.from_thread.run, inside)


# -- checks in the loop ----------------------------------------------------------------------


async def test_a_check_is_a_checkpoint() -> None:
    """Other tasks run at a check, and a scope around cancels there."""
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    async with Cancelable() as operation, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(3):
            await operation.check_cancelation()
        assert ran == ["other"]
    with anyio.CancelScope() as scope:
        async with Cancelable() as operation:
            scope.cancel()
            await operation.check_cancelation()
            pytest.fail("the check let the block go on")
    assert scope.cancelled_caught


async def test_a_check_raises_the_native_cancel() -> None:
    """In the loop a check raises what every await raises, no ordinary exception."""
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            in_thread(operation.cancel_sync)
            with pytest.raises(native_cancel()):
                await operation.check_cancelation()
            await operation.check_cancelation()


async def test_a_wrapped_function_checks_before_it_runs() -> None:
    """`wrap` and `wrapping` stop before the call once the operation was asked."""
    calls: list[int] = []

    async def work(number: int) -> int:
        calls.append(number)
        return number

    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            wrapped = operation.wrap(work)
            assert wrapped.__name__ == "work"
            assert await wrapped(1) == 1
            async with operation.wrapping() as wrap:
                assert await wrap(work)(2) == 2
            await operation.cancel()
            await wrapped(3)
    assert calls == [1, 2]


async def test_an_async_generator_runs_in_the_operation_of_its_consumer() -> None:
    """A generator asks for the current operation at each step of its consumer's block."""

    async def numbers() -> AsyncIterator[object]:
        for _ in range(2):
            yield current_operation()

    source = numbers()
    async with Cancelable() as first:
        assert await anext(source) is first
    async with Cancelable() as second:
        assert await anext(source) is second
    await source.aclose()  # type: ignore[attr-defined]
