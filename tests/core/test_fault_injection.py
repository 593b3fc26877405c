"""Every public async operation of the core, cancelled at each of its checkpoints.

Whatever the checkpoint, nothing is left: no operation, no task, no handler, no callback that
waits on a token, no reader of progress; what ends, ends once; what was begun is ended.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    ConditionSource,
    OperationContext,
    OperationRegistry,
    ResourceConditionSource,
    SignalSource,
    TimeoutSource,
    cancelable,
    cancelable_combine,
    cancelable_method,
    cancelable_stream,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    chunked_cancelable_stream,
    current_operation,
    with_cancelable,
    with_current_operation,
    with_timeout,
)
from cancelable.testing import cancel_at_each_checkpoint
from tests.support.native import on_asyncio


@dataclass
class Run:
    """What one run of a program has begun and ended."""

    token: CancelationToken = field(default_factory=CancelationToken)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def operation(self, name: str = "whole") -> Cancelable:
        """Return an operation that uses everything: registry, token, deadline, callbacks."""
        operation = Cancelable.with_token(self.token, name=name, register_globally=True)
        operation.add_source(TimeoutSource(60))
        return self.listen(operation)

    def listen(self, operation: Cancelable) -> Cancelable:
        async def begin(context: OperationContext) -> None:
            self.begun.append(str(context.name))
            await anyio.lowlevel.checkpoint()

        async def take_a_step(*_: object) -> None:
            await anyio.lowlevel.checkpoint()

        def end(context: OperationContext, *_: object) -> None:
            self.ended.append(str(context.name))

        operation.on_start(begin)
        operation.on_complete(take_a_step).on_cancel(take_a_step).on_error(take_a_step)
        return operation.on_complete(end).on_cancel(end).on_error(end)

    def check(self) -> None:
        """Check that all is given back."""
        assert set(self.begun) == set(self.ended)
        assert len(set(self.begun)) == len(self.begun)
        assert len(set(self.ended)) == len(self.ended)
        if self.token._listeners:
            gc.collect()  # a linked token that only a traceback knows
        assert not self.token._listeners
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


class Bell(CancelationSource):
    """A source that subscribes and unsubscribes with a checkpoint in each."""

    subscribed = 0

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION, "bell")

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()
        Bell.subscribed += 1

    async def stop_monitoring(self) -> None:
        Bell.subscribed -= 1
        await anyio.lowlevel.checkpoint()


Program = Callable[[Run], Awaitable[object]]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Have a program run under the injector."""
    PROGRAMS[getattr(function, "__name__", "")] = function
    return function


async def some_steps(steps: int = 3) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()


async def numbers(run: Run) -> AsyncGenerator[int]:
    run.begun.append("source")
    try:
        for number in range(4):
            await anyio.lowlevel.checkpoint()
            yield number
    finally:
        run.ended.append("source")


@program
async def a_block(run: Run) -> None:
    async with run.operation() as cancel:
        await cancel.check_cancelation()
        await some_steps()


@program
async def blocks_in_blocks(run: Run) -> None:
    async with run.operation("1"), run.operation("2"), run.operation("3"):
        await some_steps()


@program
async def a_child_in_another_task(run: Run) -> None:
    async def child() -> None:
        async with run.operation("2"):
            await some_steps()

    async with run.operation("1"), anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        await some_steps()


@program
async def every_source(run: Run) -> None:
    operation = run.operation()
    for source in (
        Bell(),
        ConditionSource(anyio.Event()),
        ConditionSource(lambda: False, 60),
        ConditionSource(lambda: False, 60, in_thread=True),
        ResourceConditionSource(disk_threshold=100, check_interval=60, disk_path="/dev"),
        SignalSource(signal.SIGUSR2),
        AnyOfSource([Bell(), TimeoutSource(60), SignalSource(signal.SIGUSR2)]),
        AllOfSource([Bell(), ConditionSource(anyio.Event())]),
    ):
        operation.add_source(source)
    async with operation:
        await some_steps()


@program
async def a_source_that_fires(run: Run) -> None:
    bell = Bell()
    try:
        async with run.operation().add_source(bell):
            await some_steps(1)
            bell.trigger()
            await anyio.sleep_forever()
    except CancelationError:
        await some_steps(1)


@program
async def combined_operations(run: Run) -> None:
    other = Cancelable.with_token(run.token).add_source(Bell())
    async with run.operation().combine(other, Cancelable.with_timeout(60)):
        await some_steps()


@program
async def a_shielded_section(run: Run) -> None:
    async with run.operation() as cancel:
        async with cancel.shield():
            run.begun.append("section")
            await some_steps()
            run.ended.append("section")
        await some_steps(1)


@program
async def a_bounded_section(run: Run) -> None:
    async with run.operation() as cancel:
        async with cancel.shield(timeout=60):
            await some_steps()


@program
async def a_section_that_holds_reasons(run: Run) -> None:
    with suppress(CancelationError):
        async with run.operation() as cancel:
            async with cancel.shield(reasons={"manual", "parent"}):
                await cancel.cancel("manual")
                await some_steps()


@program
async def a_stream(run: Run) -> None:
    async with run.operation() as cancel:
        async for _ in cancel.stream(numbers(run), report_interval=2):
            await some_steps(1)


@program
async def a_stream_that_is_left(run: Run) -> None:
    async with run.operation() as cancel:
        async for number in cancel.stream(numbers(run)):
            if number == 1:
                break
        await some_steps(1)


@program
async def chunks(run: Run) -> None:
    async with run.operation() as cancel:
        async for _ in chunked_cancelable_stream(numbers(run), 3, cancel):
            await some_steps(1)


@program
async def a_stream_alone(run: Run) -> None:
    async def told(count: int, item: int) -> None:
        await anyio.lowlevel.checkpoint()

    stream = cancelable_stream(numbers(run), 60, run.token, on_progress=told, buffer_partial=True)
    async with stream:
        async for _ in stream:
            await some_steps(1)


@program
async def a_thread(run: Run) -> None:
    async with run.operation() as cancel:
        assert await cancel.run_in_thread(lambda: 7) == 7


@program
async def progress_reports(run: Run) -> None:
    async def listen(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    async with run.operation().on_progress(listen) as cancel:
        await cancel.report_progress("half")
        await cancel.run_in_thread(cancel.report_progress_sync, "from a thread")


@program
async def reading_progress(run: Run) -> None:
    async with run.operation() as cancel:
        feed = cancel.progress()
        await cancel.report_progress("half")
        assert (await anext(feed)).message == "half"
    assert [update async for update in feed] == []


@program
async def waiting_for_a_request(run: Run) -> None:
    async with run.operation() as cancel, anyio.create_task_group() as tasks:
        tasks.start_soon(cancel.wait_cancelling)
        await some_steps()
        tasks.cancel_scope.cancel()


@program
async def waiting_for_a_token(run: Run) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.token.wait)
        tasks.start_soon(CancelationToken.any(run.token).wait)
        await some_steps()
        tasks.cancel_scope.cancel()


@program
async def waiting_for_the_end(run: Run) -> None:
    async def work() -> None:
        async with operation:
            await some_steps()

    operation = run.operation()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await operation.wait_stopped()
        await operation.wait_stopped(timeout=60)


@program
async def waiting_at_the_registry(run: Run) -> None:
    async def work() -> None:
        async with operation:
            entered.set()
            await some_steps()

    operation, entered = run.operation(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await entered.wait()
        await OperationRegistry.current().wait_stopped(operation.operation_id)


@program
async def a_grace(run: Run) -> None:
    async with run.operation() as cancel:
        await cancel.cancel(grace=60)
        await cancel.wait_cancelling()
        await some_steps()


@program
async def wrapped_functions(run: Run) -> None:
    async with run.operation() as cancel:
        await cancel.wrap(some_steps)(1)
        async with cancel.wrapping() as wrap:
            await wrap(some_steps)(1)


@program
async def decorated_functions(run: Run) -> None:
    class Service:
        @cancelable_method(register_globally=True)
        async def method(self) -> None:
            await some_steps(1)

    await cancelable(timeout=60, register_globally=True)(some_steps)(1)
    await Service().method()
    await cancelable_with_token(run.token, register_globally=True)(some_steps)(1)
    await cancelable_with_signal(signal.SIGUSR2, register_globally=True)(some_steps)(1)
    await cancelable_with_condition(lambda: False, 60, register_globally=True)(some_steps)(1)
    await cancelable_combine(Cancelable().add_source(Bell()))(some_steps)(1)
    await with_cancelable(run.operation())(some_steps)(1)
    await with_current_operation()(some_steps)(1)
    await with_timeout(60, some_steps(1))


@program
async def a_decorated_generator(run: Run) -> None:
    @cancelable_with_token(run.token)
    async def decorated() -> AsyncGenerator[int]:
        async for number in source:
            yield number

    source = numbers(run)
    iteration = decorated()
    try:
        async for _ in iteration:
            await some_steps(1)
    finally:
        with anyio.CancelScope(shield=True):
            await iteration.aclose()
            await source.aclose()


@program
async def a_decorated_generator_with_a_condition(run: Run) -> None:
    @cancelable_with_condition(lambda: False, 60, register_globally=True)
    async def decorated(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        run.begun.append("decorated")
        run.listen(cancelable)
        async for number in source:
            yield number

    source = numbers(run)
    iteration = decorated()
    try:
        async for _ in iteration:
            await some_steps(1)
    finally:
        with anyio.CancelScope(shield=True):
            await iteration.aclose()
            await source.aclose()


@program
async def a_decorated_context_manager(run: Run) -> None:
    @asynccontextmanager
    @cancelable(register_globally=True)
    async def managed() -> AsyncGenerator[None]:
        run.begun.append("managed")
        try:
            await some_steps(1)
            yield
            await some_steps(1)
        finally:
            run.ended.append("managed")

    async with managed():
        await some_steps(1)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_nothing_is_left_wherever_a_cancel_comes(name: str) -> None:
    """At each checkpoint of each program: everything that was begun is ended, once."""
    run = Run()
    began_with = Bell.subscribed

    async def play() -> None:
        nonlocal run
        run = Run()
        await PROGRAMS[name](run)

    def check() -> None:
        run.check()
        assert Bell.subscribed == began_with

    report = await cancel_at_each_checkpoint(play, check=check)
    report.assert_clean()
    assert report.checkpoints > 0


class Counted:
    """Await something, and call a function with the number of each suspension."""

    def __init__(self, awaited: Awaitable[object], passing: Callable[[int], object]) -> None:
        self.awaited = awaited
        self.passing = passing

    def __await__(self) -> Generator[object, object, object]:
        inner = self.awaited.__await__()
        number, sent = 0, None
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = inner.throw(thrown) if thrown is not None else inner.send(sent)
            except StopIteration as done:
                return done.value
            number += 1
            self.passing(number)
            sent, thrown = None, None
            try:
                sent = yield waits_for
            except BaseException as error:
                thrown = error


@on_asyncio
@pytest.mark.parametrize("name", PROGRAMS)
async def test_nothing_is_left_wherever_a_task_is_cancelled(name: str) -> None:
    """`task.cancel()` comes once and finds the code at each of its suspensions."""
    began_with = Bell.subscribed

    async def play(run: Run, cut: int) -> bool:
        def passing(number: int) -> None:
            if number == cut:
                task = asyncio.current_task()
                assert task is not None
                cancelled.append(task.cancel())

        cancelled: list[bool] = []
        with OperationRegistry().as_default() as registry, suppress(asyncio.CancelledError):
            await Counted(PROGRAMS[name](run), passing)
        assert not registry.list_operations()
        assert current_operation() is None
        return bool(cancelled)

    with anyio.fail_after(20):
        for cut in count(1):
            run = Run()
            task = asyncio.create_task(play(run, cut))
            was_cancelled = await task
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            # Such a cancel cuts through a shield: the section need not have come to its end.
            run.begun, run.ended = (
                [each for each in names if each != "section"] for names in (run.begun, run.ended)
            )
            run.check()
            assert Bell.subscribed == began_with
            if not was_cancelled:
                break
    assert cut > 1
