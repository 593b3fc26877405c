"""Whom an operation tells of its start and of its end. (S14)"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    ManualCancelation,
    OperationContext,
    OperationStatus,
    current_operation,
)
from tests.support.clock import in_virtual_time
from tests.support.native import on_asyncio, wait_for_what_was_cancelled


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


def listened(operation: Cancelable, calls: list[str]) -> Cancelable:
    async def slowly(context: OperationContext) -> None:
        await anyio.sleep(0.1)
        calls.append(f"async {context.status}")

    operation.on_start(lambda context: calls.append(f"start {context.status}"))
    for listen in (operation.on_complete, operation.on_cancel):
        listen(lambda context: calls.append(f"first {context.status}"))
        listen(slowly)
        listen(lambda context: calls.append(f"last {context.status}"))
    operation.on_error(lambda context, error: calls.append(f"error {context.status} {error}"))
    return operation


async def test_callbacks_run_once_each_and_in_order() -> None:
    """Plain and async ones in the order in which they were given, of one kind only."""
    calls: list[str] = []
    async with listened(Cancelable(), calls):
        calls.append("body")
    assert calls == [
        "start running",
        "body",
        "first completed",
        "async completed",
        "last completed",
    ]
    calls.clear()
    with pytest.raises(ManualCancelation):
        async with listened(Cancelable(), calls) as operation:
            await operation.cancel()
            await anyio.sleep(3600)
    assert calls[1:] == ["first cancelled", "async cancelled", "last cancelled"]
    calls.clear()
    with pytest.raises(ValueError, match="oops"):
        async with listened(Cancelable(), calls):
            raise ValueError("oops")
    assert calls[1:] == ["error failed oops"]


async def test_callbacks_run_after_the_scope_and_before_the_exception_goes_on() -> None:
    """In a callback the cancel is over and the operation has its final facts."""
    order: list[str] = []
    operation = Cancelable()

    async def callback(context: OperationContext) -> None:
        await anyio.sleep(0.1)
        assert context.end_time is not None
        assert context is operation.context
        assert current_operation() is None
        order.append("callback")

    operation.on_cancel(callback)
    try:
        async with operation:
            await operation.cancel()
            await anyio.sleep(3600)
    except ManualCancelation:
        order.append("exception")
    assert order == ["callback", "exception"]


async def test_callbacks_run_while_everything_around_is_cancelled() -> None:
    """An async callback gets its time also where a scope around is cancelled."""
    calls: list[str] = []
    with anyio.CancelScope() as scope:
        async with listened(Cancelable(), calls):
            scope.cancel()
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert calls[1:] == ["first cancelled", "async cancelled", "last cancelled"]


async def test_async_callbacks_share_one_second(caplog: pytest.LogCaptureFixture) -> None:
    """Together they may take a second; what is not done is cut and named in a warning."""
    calls: list[str] = []

    async def take(seconds: float) -> None:
        await anyio.sleep(seconds)
        calls.append(f"async {seconds}")

    operation = Cancelable()
    for seconds in (0.75, 0.75, 0.75):
        operation.on_complete(lambda _context, seconds=seconds: take(seconds))  # type: ignore[misc]
    operation.on_complete(lambda _context: calls.append("plain"))
    started = anyio.current_time()
    async with operation:
        pass
    assert anyio.current_time() - started == pytest.approx(1)
    assert calls == ["async 0.75", "plain"]
    assert [record.levelname for record in caplog.records if record.name == "cancelable"] == [
        "WARNING",
        "WARNING",
    ]


async def test_the_shared_time_can_be_set() -> None:
    """`set_callback_limit` gives the callbacks of an ending another limit."""
    operation = Cancelable().set_callback_limit(5)
    done: list[bool] = []

    async def slowly(_context: OperationContext) -> None:
        await anyio.sleep(4)
        done.append(True)

    operation.on_complete(slowly)
    async with operation:
        pass
    assert done == [True]


@pytest.mark.parametrize("error", [ValueError, ManualCancelation, TimeoutError])
async def test_an_error_of_a_callback_hides_nothing(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """What callbacks raise is logged; the others run and the block's own outcome leaves."""
    calls: list[str] = []

    def fail(_context: OperationContext) -> None:
        raise error("plain")

    async def fail_later(_context: OperationContext) -> None:
        await anyio.lowlevel.checkpoint()
        raise error("async")

    operation = Cancelable().on_start(fail).on_start(fail_later)
    operation.on_cancel(fail).on_cancel(fail_later)
    operation.on_cancel(lambda _context: calls.append("ran"))
    with pytest.raises(ManualCancelation, match="mine"):
        async with operation:
            await operation.cancel(message="mine")
            await anyio.sleep(3600)
    assert calls == ["ran"]
    failures = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info[1]) for record in failures if record.exc_info] == [
        "plain",
        "async",
        "plain",
        "async",
    ]


def raise_it_by_hand() -> None:
    raise asyncio.CancelledError


@on_asyncio
@pytest.mark.parametrize("ending", ["complete", "cancel", "native"])
async def test_a_cancel_that_is_nobodys_is_an_error_of_the_callback(
    ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it awaits was cancelled, not the task: logged, and what ends the block leaves."""
    calls: list[str] = []

    async def fail_later(_context: OperationContext) -> None:
        await wait_for_what_was_cancelled()

    operation = Cancelable().on_start(fail_later)
    for listen in (operation.on_complete, operation.on_cancel):
        listen(fail_later)
        listen(lambda _context: raise_it_by_hand())
        listen(lambda context: calls.append(context.status.value))
    task = asyncio.current_task()
    assert task is not None
    with anyio.fail_after(5):
        try:
            async with operation.move_on():
                if ending == "cancel":
                    await operation.cancel()
                elif ending == "native":
                    task.cancel()
                await anyio.sleep(1)
        except asyncio.CancelledError:
            assert ending == "native"
            task.uncancel()
        else:
            assert ending != "native"
    assert calls == ["completed" if ending == "complete" else "cancelled"]
    assert task.cancelling() == 0
    failures = [record.exc_info for record in caplog.records if record.exc_info]
    assert [each[0] for each in failures] == [asyncio.CancelledError] * 3


@on_asyncio
@pytest.mark.parametrize("when", ["before", "inside"])
async def test_a_cancel_of_the_task_in_a_callback_leaves_the_block(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Made just before the callback, or in it: it is the task's, and not lost."""
    calls: list[str] = []
    task = asyncio.current_task()
    assert task is not None

    async def wait(_context: OperationContext) -> None:
        if when == "inside":
            task.cancel()
        await anyio.sleep(0.1)

    operation = Cancelable()
    if when == "before":
        operation.on_complete(lambda _context: task.cancel())
    operation.on_complete(wait).on_complete(lambda _context: calls.append("ran"))
    with pytest.raises(asyncio.CancelledError):
        async with operation:
            pass
    task.uncancel()
    assert calls == ["ran"]
    assert not caplog.records


async def test_an_error_callback_that_fails_lets_the_error_out() -> None:
    """The error of the block leaves, not the one of its callback."""

    def fail(_context: OperationContext, _error: BaseException) -> None:
        raise TypeError("callback")

    with pytest.raises(ValueError, match="block"):
        async with Cancelable().on_error(fail):
            raise ValueError("block")


async def test_a_block_that_is_stopped_before_its_start_has_one_ending() -> None:
    """Entering with a request made: started, cancelled, each told once."""
    calls: list[str] = []
    operation = listened(Cancelable(), calls)
    operation.cancel_sync()
    with pytest.raises(ManualCancelation):
        async with operation:
            await anyio.lowlevel.checkpoint()
    assert calls == [
        "start cancelling",
        "first cancelled",
        "async cancelled",
        "last cancelled",
    ]


@on_asyncio
async def test_a_task_cancelled_in_a_start_callback_leaves_the_block() -> None:
    """asyncio's own cancel cuts the shield of a callback; the operation ends all the same."""
    import asyncio

    calls: list[str] = []
    started = anyio.Event()
    operation = Cancelable().on_cancel(lambda _context: calls.append("cancel"))

    async def wait(_context: OperationContext) -> None:
        started.set()
        await asyncio.sleep(3600)

    async def work() -> None:
        async with operation.on_start(wait).set_callback_limit(7200):
            pytest.fail("the body ran")

    task = asyncio.get_running_loop().create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert operation.is_cancelled
    assert calls == ["cancel"]
    assert current_operation() is None


class SlowToStart(CancelationSource):
    """A source whose start takes a moment, in which a cancelation may come."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION, "slow")

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        await anyio.sleep(1)


@pytest.mark.parametrize("seed", range(2))
async def test_a_counter_of_running_operations_ends_at_zero(seed: int) -> None:
    """One up at the start and one down at the end, of thousands that end at random moments.

    Also while they wait for their turn, and while their sources start.
    """
    running, lowest = 0, 0
    chance = random.Random(seed)
    live: dict[Cancelable, None] = {}
    endings = Counter[OperationStatus]()
    slots = anyio.Semaphore(20)

    def up(_context: OperationContext) -> None:
        nonlocal running
        running += 1

    def down(context: OperationContext, *_: object) -> None:
        nonlocal running, lowest
        running -= 1
        lowest = min(lowest, running)
        endings[context.status] += 1

    async def work() -> None:
        await anyio.sleep(chance.uniform(0, 100))
        operation = Cancelable.with_timeout(chance.uniform(0, 20))
        operation.on_start(up).on_complete(down).on_cancel(down).on_error(down)
        if chance.random() < 0.2:
            operation.add_source(SlowToStart())
        live[operation] = None
        with anyio.move_on_after(chance.uniform(0, 20)), suppress(CancelationError, LookupError):
            async with operation, slots:
                await anyio.sleep(chance.uniform(0, 3))
                if chance.random() < 0.2:
                    raise LookupError
        del live[operation]

    async def cancel_somebody() -> None:
        for _ in range(1000):
            await anyio.sleep(0.1)
            if live:
                chance.choice(list(live)).cancel_sync()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_somebody)
        for _ in range(2000):
            tasks.start_soon(work)
    assert running == 0
    assert lowest == 0
    assert sum(endings.values()) == 2000
    assert min(endings[status] for status in OperationStatus if status.is_terminal) > 50
    assert slots.value == 20
    assert slots.statistics().tasks_waiting == 0


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_a_block_that_ends_while_its_sources_start_has_started(ending: str) -> None:
    """Who counts what runs is told of both, in this order."""

    class Broken(SlowToStart):
        async def start_monitoring(self, scope: anyio.CancelScope) -> None:
            raise LookupError("no such gauge")

    calls: list[str] = []
    operation = listened(Cancelable.with_timeout(0.5), calls)
    operation.add_source(SlowToStart() if ending == "cancelled" else Broken())
    with pytest.raises((TimeoutError, LookupError)):
        async with operation:
            pytest.fail("the body ran")
    assert [call.split()[:2] for call in calls] == (
        [["start", "cancelling"]] + [[each, "cancelled"] for each in ("first", "async", "last")]
        if ending == "cancelled"
        else [["start", "running"], ["error", "failed"]]
    )


def test_what_is_no_function_is_refused() -> None:
    """A callback that cannot be called is refused where it is given."""
    operation = Cancelable()
    for listen in (
        operation.on_start,
        operation.on_complete,
        operation.on_cancel,
        operation.on_error,
        operation.on_progress,
    ):
        with pytest.raises(TypeError, match="`callback` must be a function"):
            listen("function")  # type: ignore[arg-type]
