"""Where a request is held back, and where one has been dealt with, the loop comes to rest.

A cancelation that nobody can take must not be delivered anew at each turn of the loop. Turns are
counted and no time is measured: an hour passes at once when everything waits, and never in a
loop that does not come to rest.

Holds to: S3, S4, S13, S14, S15, S19, S20.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
from anyio.lowlevel import current_token

from cancelable import Cancelable, CancelationError, OperationContext
from tests.support.clock import VirtualLoop, VirtualSelector, in_virtual_time
from tests.support.native import native_cancel, on_asyncio

FEW = 20
"""Turns that a loop may take in an hour in which nothing happens."""

TOO_MANY = 1000
"""Turns after which a loop that does not come to rest is stopped."""

Rest = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


@contextmanager
def at_each_turn(call: Callable[[], None]) -> Generator[None]:
    """Have something called whenever the loop looks what there is to do."""
    if isinstance(current_token().native_token, VirtualLoop):
        select = VirtualSelector.select

        def call_and_select(selector: VirtualSelector, timeout: float | None = None):  # type: ignore[no-untyped-def]
            call()
            return select(selector, timeout)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VirtualSelector, "select", call_and_select)
            yield
        return

    import trio

    class Turns(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            call()

    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(turns)


async def turns_in_an_hour() -> int:
    """Let an hour pass in which this task does nothing, and count the turns of the loop."""
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        if turns == TOO_MANY:
            hour.cancel()

    with anyio.CancelScope() as hour, at_each_turn(count):
        await anyio.sleep(3600)
    return turns


# -- while a request is held back ------------------------------------------------------------


async def in_a_section(rest: Rest) -> None:
    async with Cancelable() as operation, operation.shield():
        await operation.cancel()
        await rest()


async def in_a_section_that_holds_the_reason(rest: Rest) -> None:
    async with Cancelable() as operation, operation.shield(reasons={"manual"}):
        await operation.cancel()
        await rest()


async def in_a_section_past_the_deadline(rest: Rest) -> None:
    async with Cancelable.with_timeout(1) as operation, operation.shield():
        await rest()


async def in_a_shield_of_the_event_loops(rest: Rest) -> None:
    async with Cancelable() as operation:
        with anyio.CancelScope(shield=True):
            await operation.cancel()
            await rest()


async def in_a_cleanup(rest: Rest) -> None:
    async with Cancelable() as operation:
        try:
            await operation.cancel()
            await anyio.sleep_forever()
        finally:
            async with operation.shield():
                await rest()


async def in_a_grace(rest: Rest) -> None:
    async with Cancelable(grace=86_400) as operation:
        await operation.cancel()
        await rest()


async def in_a_callback_of_the_end(rest: Rest) -> None:
    async def end(_context: OperationContext) -> None:
        await rest()

    async with Cancelable() as around:
        async with Cancelable().on_cancel(end).set_callback_limit(86_400):
            await around.cancel()
            await anyio.sleep_forever()


async def in_a_child_behind_a_shield(rest: Rest) -> None:
    async with Cancelable() as parent, anyio.create_task_group() as tasks:
        tasks.start_soon(in_a_shield_of_the_event_loops, rest)
        await anyio.wait_all_tasks_blocked()
        await parent.cancel()


async def in_a_child_outside_its_parents_scope(rest: Rest) -> None:
    async def child() -> None:
        with suppress(CancelationError):
            async with Cancelable() as operation, operation.shield():
                await rest()

    async with anyio.create_task_group() as tasks:
        with suppress(CancelationError):
            async with Cancelable() as parent:
                tasks.start_soon(child)
                await anyio.wait_all_tasks_blocked()
                await parent.cancel()
                await anyio.sleep_forever()


async def while_a_thread_works(rest: Rest) -> None:
    done = threading.Event()

    async def let_it_end() -> None:
        with anyio.CancelScope(shield=True):
            await rest()
        done.set()

    async with Cancelable() as operation, anyio.create_task_group() as tasks:
        tasks.start_soon(operation.run_in_thread, done.wait, 5)
        tasks.start_soon(let_it_end)
        await anyio.wait_all_tasks_blocked()
        await operation.cancel()


HELD_BACK = [
    in_a_section,
    in_a_section_that_holds_the_reason,
    in_a_section_past_the_deadline,
    in_a_shield_of_the_event_loops,
    in_a_cleanup,
    in_a_grace,
    in_a_callback_of_the_end,
    in_a_child_behind_a_shield,
    in_a_child_outside_its_parents_scope,
    while_a_thread_works,
]


@pytest.mark.parametrize("hold", HELD_BACK)
async def test_the_loop_rests_while_a_request_is_held_back(
    hold: Callable[[Rest], Awaitable[None]],
) -> None:
    """What the block is not to be told yet costs nothing until then."""
    turns: list[int] = []

    async def rest() -> None:
        turns.append(await turns_in_an_hour())

    with suppress(CancelationError):
        await hold(rest)
    assert len(turns) == 1
    assert turns[0] <= FEW


# -- when all is over ------------------------------------------------------------------------


async def swallows_it_many_times() -> None:
    async with Cancelable() as operation:
        await operation.cancel()
        for _ in range(100):
            with suppress(native_cancel()):
                await anyio.sleep_forever()


async def swallows_it_and_fails() -> None:
    with suppress(LookupError):
        async with Cancelable() as operation:
            await operation.cancel()
            with suppress(native_cancel()):
                await anyio.sleep_forever()
            raise LookupError


async def ends_without_a_checkpoint() -> None:
    async with Cancelable() as operation:
        await operation.cancel()


async def swallows_the_cancel_of_what_is_around() -> None:
    async with Cancelable() as around:
        async with Cancelable():
            await around.cancel()
            for _ in range(100):
                with suppress(native_cancel()):
                    await anyio.sleep_forever()


async def is_cancelled_with_many_children() -> None:
    async def child() -> None:
        async with Cancelable():
            await anyio.sleep_forever()

    async with Cancelable.with_timeout(1), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(child)


REFUSALS = [
    swallows_it_many_times,
    swallows_it_and_fails,
    ends_without_a_checkpoint,
    swallows_the_cancel_of_what_is_around,
    is_cancelled_with_many_children,
]


@pytest.mark.parametrize("work", REFUSALS)
async def test_the_loop_rests_after_a_block_however_it_took_its_cancel(
    work: Callable[[], Awaitable[None]],
) -> None:
    """However often it refused, nothing goes on cancelling when the block is left."""
    with suppress(CancelationError):
        await work()
    assert await turns_in_an_hour() <= FEW


@on_asyncio
@pytest.mark.parametrize("insists", [False, True])
async def test_the_loop_rests_after_a_block_that_waited_for_a_shielded_future(
    insists: bool,
) -> None:
    """The future itself is not cancelled, and is waited for again and again, or left alone."""
    future = asyncio.get_running_loop().create_future()
    refused = 0
    with suppress(CancelationError):
        async with Cancelable() as operation:
            await operation.cancel()
            while not future.done():
                try:
                    await asyncio.shield(future)
                except asyncio.CancelledError:
                    if not insists:
                        raise
                    refused += 1
                    if refused == 100:
                        future.set_result(None)
    assert operation.is_completed is insists
    assert not future.cancelled()
    assert await turns_in_an_hour() <= FEW
    future.cancel()


@on_asyncio
async def test_the_loop_rests_while_a_task_outlives_the_block_that_started_it() -> None:
    """Its own block has been told; it waits for something in a section of that, and ends later."""
    go_on = asyncio.Event()
    child = Cancelable()

    async def outlive() -> None:
        with suppress(CancelationError):
            async with child, child.shield():
                await go_on.wait()

    with suppress(CancelationError):
        async with Cancelable() as operation:
            task = asyncio.create_task(outlive())
            await anyio.wait_all_tasks_blocked()
            await operation.cancel()
            await anyio.sleep_forever()
    assert child.is_cancelling
    assert await turns_in_an_hour() <= FEW
    go_on.set()
    await task
    assert child.is_cancelled
    assert await turns_in_an_hour() <= FEW


@on_asyncio
async def test_the_loop_rests_when_a_block_is_asked_whose_task_has_gone_away() -> None:
    """A generator keeps the block, and nobody is left in it who could take the cancelation."""

    async def numbers() -> AsyncGenerator[int]:
        async with operation:
            yield 1

    operation = Cancelable()
    source = numbers()
    first = await asyncio.create_task(take_one(source))
    assert first == 1
    await operation.cancel()
    assert await turns_in_an_hour() <= FEW
    await source.aclose()
    assert operation.is_cancelled
    assert await turns_in_an_hour() <= FEW


async def take_one(source: AsyncGenerator[int]) -> int:
    return await anext(source)
