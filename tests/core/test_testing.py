"""The helpers for users' tests do what they say, and find what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from cancelable import (
    AnyOfSource,
    Cancelable,
    CancelationReason,
    CancelationToken,
    ConditionSource,
    OperationRegistry,
    OperationStatus,
    TimeoutCancelation,
    cancelable,
    with_timeout,
)
from cancelable.testing import (
    CancelationScenario,
    MockCancelationToken,
    OperationRecorder,
    assert_cancelation_within,
    cancel_at_each_checkpoint,
    create_slow_stream,
    run_with_timeout_test,
    sample_async_operation,
)

# -- the injector ----------------------------------------------------------------------------


async def test_the_injector_cancels_at_each_checkpoint_once() -> None:
    """First, second, third, until the code gets through."""
    reached: list[int] = []

    async def code() -> None:
        for step in range(3):
            await anyio.lowlevel.checkpoint()
            reached.append(step)

    report = await cancel_at_each_checkpoint(code)
    report.assert_clean()
    assert report.checkpoints == 3
    assert reached == [0, 0, 1, 0, 1, 2]


async def test_the_injector_finds_a_lock_that_is_kept() -> None:
    """What the test's own check says is reported with the checkpoint."""
    lock = anyio.Lock()

    async def code() -> None:
        if not lock.locked():
            await lock.acquire()
            await anyio.lowlevel.checkpoint()
            lock.release()

    def check() -> None:
        if lock.locked():
            raise AssertionError("the lock is kept")

    report = await cancel_at_each_checkpoint(code, check=check)
    with pytest.raises(AssertionError, match="the lock is kept"):
        report.assert_clean()


async def test_the_injector_finds_a_task_that_runs_on() -> None:
    """A task that outlives its code is named."""

    async with anyio.create_task_group() as outer:

        async def forgotten() -> None:
            await anyio.sleep_forever()

        async def code(group: TaskGroup = outer) -> None:
            group.start_soon(forgotten, name="forgotten")
            await anyio.lowlevel.checkpoint()

        report = await cancel_at_each_checkpoint(code)
        outer.cancel_scope.cancel()
    with pytest.raises(AssertionError, match="forgotten"):
        report.assert_clean()


async def test_the_injector_finds_an_operation_that_stays_registered() -> None:
    """Listed in the registry of the run after the run."""

    async def code() -> None:
        registry = OperationRegistry.current()
        operation = registry.register(Cancelable(name="stays"))
        registry.entered(operation)
        await anyio.lowlevel.checkpoint()

    report = await cancel_at_each_checkpoint(code)
    with pytest.raises(AssertionError, match="stays"):
        report.assert_clean()


async def test_the_injector_tells_of_a_cancel_that_was_swallowed() -> None:
    """And of errors that come instead of it."""

    async def swallows() -> None:
        with anyio.CancelScope():
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                return

    async def breaks() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            if anyio.current_effective_deadline() < 0:
                raise LookupError("in the cleanup")

    assert (await cancel_at_each_checkpoint(swallows)).swallowed == [1]
    report = await cancel_at_each_checkpoint(breaks)
    assert "in the cleanup" in report.leftovers[0]


async def test_the_injector_gives_up_and_passes_errors_on() -> None:
    """Code without an end, and code that fails by itself."""

    async def endless() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("by itself")

    with pytest.raises(RuntimeError, match="did not get through"):
        await cancel_at_each_checkpoint(endless, most=5)
    with pytest.raises(LookupError, match="by itself"):
        await cancel_at_each_checkpoint(fails)


# -- our own code under the injector ---------------------------------------------------------


async def quiet(*_: object) -> None:
    await anyio.lowlevel.checkpoint()


async def enter_and_leave() -> None:
    operation = Cancelable.with_timeout(60, name="whole", register_globally=True)
    operation.on_start(quiet).on_complete(quiet).on_cancel(quiet).on_error(quiet)
    async with operation, Cancelable(name="inner", register_globally=True):
        await anyio.lowlevel.checkpoint()


async def with_sources() -> None:
    never = ConditionSource(lambda: False, 60)
    operation = Cancelable(register_globally=True).add_source(
        AnyOfSource([ConditionSource(anyio.Event()), never])
    )
    async with operation.combine(Cancelable.with_token(CancelationToken())):
        await anyio.lowlevel.checkpoint()


async def shielded() -> None:
    async with Cancelable(register_globally=True) as cancel:
        async with cancel.shield():
            await anyio.lowlevel.checkpoint()
        async with cancel.shield(timeout=60, reasons={"manual"}):
            await anyio.lowlevel.checkpoint()


async def streamed() -> None:
    async with Cancelable(register_globally=True) as cancel:
        async for _ in cancel.stream(create_slow_stream(range(3), 0), report_interval=1):
            pass


async def reported() -> None:
    async with Cancelable(register_globally=True) as cancel:
        cancel.on_progress(quiet)
        await cancel.report_progress("half")
        feed = cancel.progress()
        assert (await anext(feed)).message == "half"
        await cancel.check_cancelation()


async def waited_for() -> None:
    operation = Cancelable(register_globally=True)

    async def ask() -> None:
        await operation.wait_cancelling()
        await operation.token.wait()
        await operation.wait_stopped()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        try:
            async with operation:
                await anyio.lowlevel.checkpoint()
                await operation.cancel()
                await anyio.lowlevel.checkpoint()
        except Exception:
            await operation.wait_stopped()


async def in_a_thread() -> None:
    async with Cancelable(register_globally=True) as cancel:
        await cancel.run_in_thread(cancel.check_cancelation_sync)


@cancelable(timeout=60, register_globally=True)
async def decorated() -> None:
    await with_timeout(60, anyio.lowlevel.checkpoint())


@pytest.mark.parametrize(
    "code",
    [
        enter_and_leave,
        with_sources,
        shielded,
        streamed,
        reported,
        waited_for,
        in_a_thread,
        decorated,
    ],
)
async def test_nothing_of_ours_is_left_wherever_a_cancel_comes(
    code: Callable[[], Awaitable[None]],
) -> None:
    """No operation registered, no task, no current operation, at any checkpoint."""
    with anyio.fail_after(30):
        report = await cancel_at_each_checkpoint(code)
    report.assert_clean()
    assert report.checkpoints >= 1


# -- the others ------------------------------------------------------------------------------


async def test_a_mock_token_remembers_all_requests() -> None:
    """The first one counts, as on any token."""
    token = MockCancelationToken()
    await token.cancel("signal", "first")
    await token.schedule_cancel(0, "manual", "second")
    assert token.reason is CancelationReason.SIGNAL
    assert [cause.message for cause in token.cancel_history] == ["first", "second"]
    assert token.get_cancel_count() == 2


async def test_a_recorder_knows_the_events_in_order() -> None:
    """And says what is missing."""
    recorder = OperationRecorder()
    async with recorder.attach(Cancelable()) as operation:
        await operation.report_progress("half", {"percent": 50})
    assert recorder.events_of(operation) == ["start", "progress", "complete"]
    event = recorder.assert_event_occurred(operation.operation_id, "progress")
    assert event.data["metadata"] == {"percent": 50}
    recorder.assert_final_status(operation.operation_id, OperationStatus.COMPLETED)
    with pytest.raises(AssertionError, match="its events: start, progress, complete"):
        recorder.assert_event_occurred(operation.operation_id, "cancel")
    with pytest.raises(AssertionError, match="its endings: completed"):
        recorder.assert_final_status(operation.operation_id, OperationStatus.FAILED)


async def test_times_of_a_cancelation_are_checked() -> None:
    """Too early, too late, and not at all."""
    async with assert_cancelation_within(0, 5) as token, Cancelable.with_token(token):
        await token.cancel()
        await anyio.sleep_forever()
    with pytest.raises(AssertionError, match="nothing was cancelled"):
        async with assert_cancelation_within(0, 5):
            pass
    with pytest.raises(AssertionError, match="not between"):
        async with assert_cancelation_within(1, 5) as token:
            await token.cancel()
    await run_with_timeout_test(with_timeout(0.01, anyio.sleep_forever()), 0.01, tolerance=2)
    with pytest.raises(AssertionError, match="ended by itself"):
        await run_with_timeout_test(anyio.lowlevel.checkpoint(), 1)


async def test_a_scenario_plays_its_steps_beside_the_operation() -> None:
    """And names the step that failed."""
    with anyio.fail_after(5):
        recorder = await (
            CancelationScenario("stop half-way")
            .add_status_check(OperationStatus.RUNNING)
            .add_progress_check("step 2")
            .add_cancelation("signal", "enough")
            .run(sample_async_operation, 0.1)
        )
        (operation_id,) = recorder.operations
        recorder.assert_final_status(operation_id, OperationStatus.CANCELLED)
        with pytest.raises(AssertionError) as caught:
            await (
                CancelationScenario("wrong")
                .add_delay(0)
                .add_status_check(OperationStatus.FAILED)
                .run(sample_async_operation, 0.1)
            )
    assert "step 2" in caught.value.__notes__[0]


async def test_a_scenario_gives_the_operation_to_a_function_that_takes_it() -> None:
    """By the name of the parameter, as decorators do; what the test gives itself stands."""
    seen: list[object] = []

    async def takes_none(number: int) -> None:
        seen.append(number)

    async def takes_any(**others: object) -> None:
        seen.append(others)

    async def takes_it(number: int, cancelable: Cancelable | None = None) -> None:
        seen.append(cancelable)

    scenario = CancelationScenario("plain")
    with anyio.fail_after(5):
        await scenario.run(takes_none, 7)
        await scenario.run(takes_any, color="red")
        recorder = await scenario.run(takes_it, 7)
        await scenario.run(takes_it, 7, cancelable=None)
        await scenario.run(takes_it, 7, None)
    (operation,) = recorder.operations.values()
    assert seen == [7, {"color": "red"}, operation, None, None]


async def test_a_status_in_an_assertion_may_be_a_text() -> None:
    """And one that does not exist is refused where it is given, not as a check that failed."""
    with anyio.fail_after(5):
        recorder = await (
            CancelationScenario("by name")
            .add_status_check("running")
            .add_cancelation()
            .run(sample_async_operation, 0.1)
        )
    (operation_id,) = recorder.operations
    recorder.assert_final_status(operation_id, "cancelled")
    with pytest.raises(ValueError, match="`status` must be"):
        recorder.assert_final_status(operation_id, "canceled")
    with pytest.raises(ValueError, match="`status` must be"):
        CancelationScenario("wrong").add_status_check("canceled")


async def test_a_slow_stream_stops_with_its_operation() -> None:
    """It checks before each item."""
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.01) as cancel:
            async for _ in cancel.stream(create_slow_stream(range(1000), 0.001, cancel)):
                pass
