"""How far an operation has come: listeners in line, and readers who may be slow. (S17)"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Mapping

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from cancelable import Cancelable, ManualCancelation, ProgressUpdate
from tests.support.clock import in_virtual_time
from tests.support.native import in_thread, on_asyncio, wait_for_what_was_cancelled

Metadata = Mapping[str, object] | None


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


async def test_listeners_get_id_message_and_metadata_in_order() -> None:
    """Plain and async listeners are called in line, in the order in which they were given."""
    calls: list[tuple[str, str, object, Metadata]] = []

    def plain(operation_id: str, message: object, metadata: Metadata) -> None:
        calls.append(("plain", operation_id, message, metadata))

    async def slow(operation_id: str, message: object, metadata: Metadata) -> None:
        await anyio.sleep(0.5)
        calls.append(("async", operation_id, message, metadata))

    async with Cancelable("mine").on_progress(slow).on_progress(plain) as operation:
        await operation.report_progress("one", {"percent": 50})
        await operation.report_progress(2)
    assert calls == [
        ("async", "mine", "one", {"percent": 50}),
        ("plain", "mine", "one", {"percent": 50}),
        ("async", "mine", 2, None),
        ("plain", "mine", 2, None),
    ]


async def test_a_listener_that_raises_does_not_break_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Errors of listeners are logged; the others and the work go on."""
    calls: list[object] = []

    def fail(*_: object) -> None:
        raise ValueError("plain")

    async def fail_later(*_: object) -> None:
        raise ValueError("async")

    operation = Cancelable().on_progress(fail).on_progress(fail_later)
    operation.on_progress(lambda _id, message, _metadata: calls.append(message))
    async with operation:
        await operation.report_progress("one")
        await operation.report_progress("two")
    assert calls == ["one", "two"]
    assert len([record for record in caplog.records if record.exc_info]) == 4


@on_asyncio
async def test_a_cancel_that_is_nobodys_is_an_error_of_the_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it awaits was cancelled, not the work: logged, and the work goes on."""
    calls: list[object] = []

    def fail(*_: object) -> None:
        raise asyncio.CancelledError

    async def fail_later(*_: object) -> None:
        await wait_for_what_was_cancelled()

    operation = Cancelable().on_progress(fail).on_progress(fail_later)
    operation.on_progress(lambda _id, message, _metadata: calls.append(message))
    async with operation:
        await operation.report_progress("one")
        await operation.report_progress("two")
    assert operation.is_completed
    assert calls == ["one", "two"]
    assert len([record for record in caplog.records if record.exc_info]) == 4


async def test_a_slow_listener_is_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An async listener has one second per report; after that it is not called again."""
    begun: list[object] = []
    calls: list[object] = []

    async def slow(_id: str, message: object, _metadata: Metadata) -> None:
        begun.append(message)
        await anyio.sleep(3600)

    operation = Cancelable().on_progress(slow)
    operation.on_progress(lambda _id, message, _metadata: calls.append(message))
    started = anyio.current_time()
    async with operation:
        for number in range(10_000):
            await operation.report_progress(number)
    assert anyio.current_time() - started == pytest.approx(1)
    assert begun == [0]
    assert calls == list(range(10_000))
    warnings = [record for record in caplog.records if record.name == "cancelable"]
    assert [record.levelname for record in warnings] == ["WARNING"]


async def test_a_listener_may_cancel_the_operation() -> None:
    """A listener that asks to stop does so like anybody else."""
    operation = Cancelable()
    operation.on_progress(lambda *_: operation.cancel_sync(message="enough"))
    with pytest.raises(ManualCancelation, match="enough"):
        async with operation:
            await operation.report_progress("one")
            await anyio.sleep(3600)


async def test_a_cancel_reaches_the_work_inside_a_slow_listener() -> None:
    """Waiting for a listener is part of the block: a cancel is not held up by it."""

    async def slow(*_: object) -> None:
        await anyio.sleep(3600)

    with anyio.move_on_after(0.5) as scope:
        async with Cancelable().on_progress(slow) as operation:
            await operation.report_progress("one")
    assert scope.cancelled_caught
    assert operation.is_cancelled


# -- readers ---------------------------------------------------------------------------------


async def test_a_reader_that_keeps_up_gets_everything_in_order() -> None:
    """The iteration gives each report and ends with the operation."""
    seen: list[object] = []

    async def read() -> None:
        async for update in operation.progress():
            assert update.operation_id == operation.operation_id
            seen.append(update.message)

    async with anyio.create_task_group() as tasks:
        async with Cancelable() as operation:
            tasks.start_soon(read)
            for number in range(5):
                await anyio.wait_all_tasks_blocked()
                await operation.report_progress(number)
    assert seen == [0, 1, 2, 3, 4]


async def test_a_slow_reader_misses_the_middle_and_gets_the_last() -> None:
    """Order is kept, reports in between are dropped, the last one always comes."""
    seen: list[object] = []

    async def read() -> None:
        async for update in operation.progress():
            seen.append(update.message)
            await anyio.sleep(10)

    async with anyio.create_task_group() as tasks:
        async with Cancelable() as operation:
            tasks.start_soon(read)
            for number in range(1000):
                await operation.report_progress(number)
                await anyio.sleep(0.1)
    assert seen == sorted(seen, key=lambda number: int(str(number)))
    assert seen[-1] == 999
    assert len(seen) < 20


@pytest.mark.parametrize("ending", ["completed", "cancelled", "failed"])
async def test_every_ending_ends_the_iteration(ending: str) -> None:
    """A reader is let go however the operation ends, and has the last report by then."""
    seen: list[object] = []
    operation = Cancelable()

    async def read() -> None:
        async for update in operation.progress():
            seen.append(update.message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        try:
            async with operation:
                await operation.report_progress("last")
                if ending == "cancelled":
                    await operation.cancel()
                    await anyio.sleep(1)
                if ending == "failed":
                    raise ValueError("oops")
        except (ManualCancelation, ValueError):
            pass
    assert seen == ["last", "last"]
    assert operation.status == ending


async def test_a_reader_that_comes_late_gets_the_last_report_and_the_end() -> None:
    """Reading a finished operation gives its last report, once; one without gives nothing."""
    async with Cancelable() as operation:
        await operation.report_progress("one")
        await operation.report_progress("last")
    assert [update.message async for update in operation.progress()] == ["last"]
    async with Cancelable() as silent:
        pass
    assert [update async for update in silent.progress()] == []


async def test_a_reader_that_leaves_is_forgotten() -> None:
    """A reader that is dropped in the middle takes nothing with it and leaves nothing."""
    gc.disable()
    try:
        async with Cancelable() as operation:
            for number in range(100):
                await operation.report_progress(number)
                async for update in operation.progress():
                    assert isinstance(update, ProgressUpdate)
                    break
            assert len(operation._progress.feeds) <= 1
    finally:
        gc.enable()


async def test_a_reader_that_is_cancelled_at_a_step_loses_no_report() -> None:
    """A report that could not be given stays the next one."""
    async with Cancelable() as operation:
        reader = operation.progress()
        await operation.report_progress("one")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(reader)
        assert scope.cancelled_caught
        assert (await anext(reader)).message == "one"


# -- threads ---------------------------------------------------------------------------------


async def test_a_report_from_a_plain_thread_reaches_plain_listeners_and_readers() -> None:
    """Listeners run in the loop of the operation; the thread does not wait."""
    calls: list[tuple[object, bool]] = []
    here = threading.get_ident()
    operation = Cancelable()
    operation.on_progress(
        lambda _id, message, _metadata: calls.append((message, threading.get_ident() == here))
    )
    async with operation:
        reader = operation.progress()
        in_thread(lambda: operation.report_progress_sync("from a thread", {"percent": 1}))
        update = await anext(reader)
        assert update.message == "from a thread"
        assert update.metadata == {"percent": 1}
    assert calls == [("from a thread", True)]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_report_from_a_worker_thread_waits_for_the_listeners(kind: str) -> None:
    """In a worker thread of anyio the listeners have been called when the report returns."""
    calls: list[object] = []

    def listen(_id: str, message: object, _metadata: Metadata) -> None:
        calls.append(message)

    async def listen_later(_id: str, message: object, _metadata: Metadata) -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(message)

    listener = listen if kind == "plain" else listen_later
    async with Cancelable().on_progress(listener) as operation:

        def work() -> list[list[object]]:
            operation.report_progress_sync("one")
            first = list(calls)
            operation.report_progress_sync("two")
            return [first, list(calls)]

        assert await operation.run_in_thread(work) == [["one"], ["one", "two"]]


async def test_a_thread_that_reports_without_a_pause_leaves_the_loop_to_others() -> None:
    """Listeners are called for one report at each turn of the loop, and for all by the end."""
    calls: list[object] = []
    operation = Cancelable().on_progress(lambda _id, message, _metadata: calls.append(message))

    def work() -> None:
        for number in range(500):
            operation.report_progress_sync(number)

    async with operation:
        in_thread(work)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert 1 <= len(calls) <= 3
    assert calls == list(range(500))


async def test_a_thread_that_outruns_its_listeners_loses_the_oldest_reports(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What waits is bounded, the last report always comes, and the log says so once."""
    calls: list[object] = []
    operation = Cancelable("busy").on_progress(lambda _id, number, _data: calls.append(number))

    def work() -> None:
        for number in range(1_010):
            operation.report_progress_sync(number)

    async with operation:
        in_thread(work)
    assert calls == list(range(10, 1_010))
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "busy" in warning.getMessage()
    assert "operation.progress()" in warning.getMessage()


async def test_a_listener_that_reports_from_its_thread_again_is_served() -> None:
    """A report may come while the line is served."""
    second = anyio.Event()
    operation = Cancelable()

    def listen(_id: str, message: object, _metadata: Metadata) -> None:
        if message == "first":
            in_thread(lambda: operation.report_progress_sync("second"))
        else:
            second.set()

    async with operation.on_progress(listen):
        in_thread(lambda: operation.report_progress_sync("first"))
        await second.wait()


async def test_reports_of_a_thread_do_not_outrun_the_end() -> None:
    """A reader in the loop gets the last of many reports of a thread."""
    seen: list[object] = []

    async def read() -> None:
        async for update in operation.progress():
            seen.append(update.message)

    def work() -> None:
        for number in range(1000):
            operation.report_progress_sync(number)

    async with anyio.create_task_group() as tasks:
        async with Cancelable() as operation:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            in_thread(work)
            await anyio.wait_all_tasks_blocked()
    assert seen[-1] == 999
    assert seen == sorted(seen, key=lambda number: int(str(number)))


def test_a_report_before_the_block_is_kept_for_readers() -> None:
    """Reports of an operation that is not entered yet disturb nobody."""
    operation = Cancelable()
    operation.report_progress_sync("waiting")
    assert operation._progress.last is not None
    assert operation._progress.last.message == "waiting"
    assert operation._progress.last.time.tzinfo is not None
