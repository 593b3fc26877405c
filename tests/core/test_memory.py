"""Nothing survives its block: no cycle, no link on a token, a parent or a registry."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from cancelable import (
    AnyOfSource,
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    OperationRegistry,
    TimeoutCancelation,
    TimeoutSource,
    chunked_cancelable_stream,
    current_operation,
)
from tests.support.native import on_asyncio


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Only what refers to nothing else in a circle is gone without the collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Thing:
    """Something of the user's that callbacks and bodies hold."""


ENDINGS = ["completed", "cancelled", "timeout", "failed", "foreign", "late"]


async def live(ending: str, parts: list[weakref.ref[object]], shared: CancelationToken) -> None:
    """Run one block to an ending, with everything on it that an operation can have."""
    thing = Thing()
    token = CancelationToken()
    operation = Cancelable.with_timeout(0.005 if ending in ("timeout", "late") else 60)
    operation.add_token(token).add_token(shared).add_token(CancelationToken.any(token, shared))
    operation.on_start(lambda _context, thing=thing: None)  # type: ignore[misc]
    operation.on_complete(lambda _context, thing=thing: None)  # type: ignore[misc]
    operation.on_cancel(lambda _context, thing=thing: None)  # type: ignore[misc]
    operation.on_error(lambda _context, _error, thing=thing: None)  # type: ignore[misc]
    operation.on_progress(lambda *_, thing=thing: None)
    assert operation.token is not None
    parts += [weakref.ref(each) for each in (thing, token, operation, operation.token)]
    parent = Cancelable()
    parts.append(weakref.ref(parent))
    with anyio.CancelScope() as scope:
        try:
            async with parent, operation:
                await operation.report_progress("one")
                if ending == "cancelled":
                    token.cancel_sync()
                if ending == "foreign":
                    scope.cancel()
                if ending == "failed":
                    raise ValueError("oops")
                if ending != "completed":
                    with anyio.fail_after(5):
                        await anyio.sleep_forever()
        except (CancelationError, ValueError):
            pass


@pytest.mark.parametrize("ending", ENDINGS)
async def test_all_parts_are_gone_without_a_collection(ending: str) -> None:
    """Operation, token, parent and what their callbacks hold die with the block."""
    parts: list[weakref.ref[object]] = []
    shared = CancelationToken()
    for _ in range(3):
        await live(ending, parts, shared)
        await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    alive = [ref() for ref in parts if ref() is not None]
    assert alive == []
    assert not shared._listeners


class Bell(CancelationSource):
    """A source that holds something of the user's.

    It needs no task: what tasks of a group held is kept in circles by asyncio, which are not ours.
    """

    def __init__(self, thing: Thing) -> None:
        super().__init__(CancelationReason.CONDITION, "bell")
        self.thing = thing

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()


async def live_with_more(way: str, ending: str, parts: list[weakref.ref[object]]) -> None:
    """Run one block to an ending that is busy in one way, and note what it consists of."""
    thing = Thing()
    bell = Bell(thing)
    operation = Cancelable.with_timeout(60, name=way)
    if way == "sources":
        operation.add_source(AnyOfSource([bell])).add_source(TimeoutSource(50))
    if way == "combined":
        other = Cancelable(name="other").add_source(bell).add_source(TimeoutSource(50))
        operation.combine(other)
        parts.append(weakref.ref(other))
        del other
    operation.on_cancel(lambda _context, thing=thing: None)  # type: ignore[misc]
    parts += [weakref.ref(each) for each in (thing, bell, operation, operation.token)]

    async def items() -> AsyncGenerator[Thing]:
        while True:
            yield thing

    async def end() -> None:
        if ending == "cancelled":
            operation.cancel_sync()
        if ending == "failed":
            raise ValueError("oops")
        if ending == "timeout":
            # Not before: a task that is cut in a task group of anyio's on asyncio leaves a circle.
            operation.extend(0.001)
        if ending != "completed":
            with anyio.fail_after(5):
                await anyio.sleep_forever()

    try:
        async with operation:
            if way == "streams":
                parts.append(weakref.ref(source := items()))
                parts.append(weakref.ref(stream := operation.stream(source)))
                async for _ in stream:
                    if stream.count == 3:
                        break
                chunks = chunked_cancelable_stream(items(), 2, operation)
                parts.append(weakref.ref(chunks))
                await anext(chunks)
            if way == "sections":
                async with operation.shield() as section:
                    parts.append(weakref.ref(section))
                async with operation.shield(reasons={"signal"}) as section:
                    parts.append(weakref.ref(section))
            if way == "readers":
                parts.append(weakref.ref(feed := operation.progress()))
                await operation.report_progress(thing)
                await anext(feed)
            if way == "threads":
                await operation.run_in_thread(lambda: thing)
            if way == "children":
                async with Cancelable() as child, anyio.create_task_group() as tasks:
                    parts.append(weakref.ref(child))
                    tasks.start_soon(anyio.lowlevel.checkpoint)
            await end()
    except (CancelationError, ValueError):
        pass
    if way == "threads":
        # A worker lets go of its last work a moment after it has told of the result.
        await anyio.to_thread.run_sync(int)


@pytest.mark.parametrize("ending", ["completed", "cancelled", "timeout", "failed"])
@pytest.mark.parametrize(
    "way", ["streams", "sources", "combined", "sections", "readers", "threads", "children"]
)
async def test_what_a_block_has_used_is_gone_without_a_collection(way: str, ending: str) -> None:
    """Streams, sources, what was combined, sections, readers of progress, threads, children."""
    parts: list[weakref.ref[object]] = []
    for _ in range(3):
        await live_with_more(way, ending, parts)
        # No timer runs here: behind one that does asyncio keeps those that were taken back, with
        # the operation that was current when they were set.
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
    assert [ref() for ref in parts if ref() is not None] == []


async def test_a_caught_error_holds_facts_and_no_operation() -> None:
    """An error that is kept keeps the context; operation and body are gone."""
    thing = Thing()
    part = weakref.ref(thing)

    async def work(thing: Thing) -> weakref.ref[Cancelable]:
        async with Cancelable() as operation:
            ref = weakref.ref(operation)
            refs.append(ref)
            await operation.cancel()
            await anyio.sleep_forever()
        return ref

    refs: list[weakref.ref[Cancelable]] = []
    kept: CancelationError | None = None
    try:
        await work(thing)
    except CancelationError as error:
        kept = error.with_traceback(None)
        kept.__cause__ = kept.__context__ = None
    del thing
    await anyio.lowlevel.checkpoint()
    assert kept is not None
    assert kept.context is not None
    assert refs[0]() is None
    assert part() is None


async def test_a_finished_child_is_gone_while_its_parent_lives() -> None:
    """Thousands of children leave nothing on a long-lived parent."""
    parts: list[weakref.ref[Cancelable]] = []
    async with Cancelable() as parent:
        for _ in range(1000):
            async with Cancelable() as child:
                parts.append(weakref.ref(child))
        del child
        assert parent.children == []
        assert {ref() for ref in parts} == {None}


async def test_a_registry_remembers_a_bound_number_and_what_they_held_is_gone() -> None:
    """The history is bounded, and an operation in it keeps nothing of its run alive."""

    class Listener:
        def __call__(self, *_: object) -> None: ...

    registry = OperationRegistry(history=10)
    parts: list[weakref.ref[Cancelable]] = []
    held: list[weakref.ref[object]] = []
    with registry.as_default():
        for _ in range(100):
            listener, token = Listener(), CancelationToken()
            async with Cancelable.with_token(token, register_globally=True) as operation:
                operation.on_progress(listener).on_complete(listener)
                operation.token.on_cancel(listener)
                await operation.report_progress("half")
                parts.append(weakref.ref(operation))
                held += [weakref.ref(listener), weakref.ref(token), weakref.ref(operation.token)]
                assert registry.get_operation(operation.operation_id) is operation
        del operation, listener, token
    await anyio.lowlevel.checkpoint()
    assert len(registry.get_history()) == 10
    assert {ref() for ref in parts[:-10]} == {None}
    assert {ref() for ref in held} == {None}
    assert not registry._live
    assert not registry._by_id
    assert len(registry._ended_by_id) == 10


@on_asyncio
async def test_tasks_that_start_one_another_hold_no_chain_of_ancestors() -> None:
    """A task that starts the next one inside its block, for ever, keeps no ended operation."""
    import asyncio

    parts: list[weakref.ref[Cancelable]] = []
    alive: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def step(number: int) -> None:
        await asyncio.sleep(0)
        async with Cancelable() as operation:
            parts.append(weakref.ref(operation))
            del operation
            if number == 0:
                alive.append(sum(part() is not None for part in parts))
                return
            task = asyncio.get_running_loop().create_task(step(number - 1))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            for _ in range(3):
                await asyncio.sleep(0)

    with anyio.fail_after(5):
        await asyncio.get_running_loop().create_task(step(100))
        while tasks:
            await asyncio.sleep(0)
    assert alive[0] < 10


async def test_an_abandoned_generator_does_not_keep_the_task_as_current() -> None:
    """The operation of a generator that was closed is neither current nor alive."""
    parts: list[weakref.ref[Cancelable]] = []

    async def numbers() -> AsyncIterator[int]:
        async with Cancelable() as operation:
            parts.append(weakref.ref(operation))
            del operation
            yield 1

    source = numbers()
    assert await anext(source) == 1
    await source.aclose()  # type: ignore[attr-defined]
    del source
    assert current_operation() is None
    await anyio.lowlevel.checkpoint()
    assert parts[0]() is None


class SourceFailed(Exception):
    pass


async def cut_a_section() -> None:
    """Have the timeout of a section cut it."""
    async with Cancelable() as operation, operation.shield(timeout=0.001):
        await anyio.sleep_forever()


async def break_a_chunk() -> None:
    """Have a source of chunks fail behind its first item."""

    async def source() -> AsyncIterator[int]:
        yield 1
        raise SourceFailed

    async with Cancelable() as operation:
        async for _ in chunked_cancelable_stream(source(), 2, operation):
            pass


@pytest.mark.parametrize("fail", [cut_a_section, break_a_chunk])
async def test_what_leaves_late_is_gone_with_whoever_caught_it(
    fail: Callable[[], Awaitable[None]],
) -> None:
    """An error that is held while something else is done is in no circle with that frame."""
    parts: list[weakref.ref[Exception]] = []
    try:
        await fail()
    except (SourceFailed, TimeoutCancelation) as error:
        parts.append(weakref.ref(error))
    await anyio.lowlevel.checkpoint()
    assert [part() for part in parts] == [None]
