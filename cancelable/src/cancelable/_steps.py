"""The block of an operation that is left between the steps of a generator and entered again.

The operation is one from the first step to the end: its clock, its tokens, its callbacks and its
place in a registry are those of any block. Only the scope is new at each step, so that none is
open while the consumer runs.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import anyio

from ._block import Block, current_block, innermost, runs_inside
from ._cancelable import Cancelable
from ._loop import current_loop
from .exceptions import CancelationError
from .sources import CancelationSource

T = TypeVar("T")

SCOPE_LEFT_OPEN = (
    "the source holds a cancel scope or a task group open across its `yield`, so its steps "
    "cannot be cancelled one by one; iterate over it inside a block, with "
    "`async with Cancelable() as cancel: async for item in cancel.stream(source)`"
)


class Steps(Generic[T]):
    """Run the steps of a generator, one after another, in the block of one operation.

    Between two steps the operation hears of its own deadline, tokens and requests. What is asked
    of the operations around reaches it in a step only: a consumer may give each item a block of
    its own, whose end is not that of the generator.
    """

    __slots__ = ("_idle", "_source", "_whole")

    def __init__(self, whole: Cancelable, source: AsyncGenerator[T, object]) -> None:
        """Take an operation that was not entered, and a generator that was not begun."""
        self._whole = whole
        self._source = source
        # Sources that need a task, which cannot go on between two steps.
        self._idle: tuple[CancelationSource, ...] = ()

    async def step(self, fetch: Callable[[], Awaitable[T]]) -> T:
        """Fetch one item inside the block.

        Args:
            fetch: Resumes the generator.

        Raises:
            StopAsyncIteration: If there is none; the operation has completed.
            BaseException: What ended the operation, as it leaves a block.
        """
        whole = self._whole
        is_first = whole._loop is None
        if is_first:
            await whole.__aenter__()
        elif not await self._go_on():
            await self._end_cut()
        try:
            if is_first:
                await whole.check_cancelation()
            item = await fetch()
        except StopAsyncIteration:
            await whole.__aexit__(None, None, None)
            raise
        except BaseException as error:
            await whole.__aexit__(type(error), error, error.__traceback__)
            raise
        if whole._tasks is not None:
            await self._stop_watching()
        scope = whole._scope
        assert scope is not None
        try:
            self._leave_scope(scope)
        except RuntimeError as misnested:
            await self._refuse(scope, misnested)
        return item

    async def throw(self, error: BaseException) -> T:
        """Throw an error into the generator, outside of any step.

        The generator handles it or cleans up because of it, also when its time is over.

        Args:
            error: What is raised at its ``yield``.
        """
        try:
            return await self._source.athrow(error)
        except StopAsyncIteration:
            await self.end(None)
            raise
        finally:
            del error  # whose traceback holds this frame, as with those below

    async def end(self, exc: BaseException | None) -> None:
        """Close the generator and end the operation; harmless if its last step has done so.

        Args:
            exc: What leaves the generator, or None.

        Raises:
            BaseException: What leaves it in the end, if anything does.
        """
        try:
            if self._whole._loop is None:
                await self._close_source(exc)  # which has not begun, or has ended
            else:
                await self._whole.end_between_steps(await self._wind_up(exc))
        finally:
            del exc

    # -- from one step to the next ---------------------------------------------------------

    async def _go_on(self) -> bool:
        """Enter the block again; False if its time came before, in which case it stays left."""
        whole = self._whole
        self._connect()
        # Outside of the own scope: what is cut here is no generator in the middle of a step.
        await anyio.lowlevel.checkpoint()
        if whole._is_cut():
            return False
        self._enter_scope()
        if whole._has_more:
            whole._set_alarm()  # there may be another deadline around than before
        return not self._idle or await self._watch_again()

    def _connect(self) -> None:
        """Find the operation around the step, which may be another one than before."""
        whole = self._whole
        loop = current_loop()
        whole._loop = loop
        whole._clock = loop.clock
        whole._task = task = loop.current_task()
        around = innermost.get()
        if around is not None:
            around = current_block()
        if around is not whole._block_around and not runs_inside(around, whole):
            self._move_under(around)
        parent = whole._parent
        is_in_parents_task = isinstance(parent, Block) and parent._task is task
        whole._is_in_parents_task = is_in_parents_task
        whole._enclosing = parent if is_in_parents_task else None
        # From here on it hears of what is asked above; what was asked before is looked for next.
        whole._is_shield = False

    def _move_under(self, around: Block | None) -> None:
        whole = self._whole
        if whole._parent is not None:
            whole._parent._release(whole)
        whole._block_around = whole._parent = around
        if around is not None:
            around._adopt(whole)

    def _enter_scope(self) -> None:
        whole = self._whole
        loop = whole._loop
        assert loop is not None
        cut = whole._hard_cut()
        make = loop.scope_class
        whole._scope = scope = make() if cut == math.inf else make(deadline=cut)
        scope.__enter__()
        innermost.set(whole)

    def _leave_scope(self, scope: anyio.CancelScope) -> None:
        """Leave the block until the next step.

        Raises:
            RuntimeError: If the generator holds a scope of its own open.
        """
        whole = self._whole
        # A shield: nothing that is asked above is heard of until the next step.
        whole._is_shield = True
        whole._scope = whole._task = None
        try:
            scope.__exit__(None, None, None)
        finally:
            if innermost.get() is whole:
                innermost.set(whole._block_around)

    async def _refuse(self, scope: anyio.CancelScope, misnested: RuntimeError) -> None:
        """Close a generator that holds a scope open across its ``yield``; raise the advice."""
        await self._close_source(misnested)
        # asyncio refuses to leave a scope before the one inside it, which is left by now; Trio
        # has left both and refuses here.
        with suppress(RuntimeError):
            scope.__exit__(None, None, None)
        if innermost.get() is self._whole:
            innermost.set(self._whole._block_around)
        raise RuntimeError(SCOPE_LEFT_OPEN) from misnested

    # -- sources that need a task ------------------------------------------------------------

    async def _stop_watching(self) -> None:
        """Stop the sources that need a task, until the next step."""
        whole = self._whole
        self._idle = tuple(source for source in whole._sources if source.needs_task)
        whole._sources = tuple(source for source in whole._sources if not source.needs_task)
        failure = await whole._stop_monitoring(self._idle, None)
        try:
            if failure is not None:
                await whole.__aexit__(type(failure), failure, failure.__traceback__)
                raise failure
        finally:
            del failure  # its traceback holds this frame

    async def _watch_again(self) -> bool:
        """Start those sources again; False if one of them fired at once: the block is left."""
        whole = self._whole
        listening, whole._sources = whole._sources, self._idle
        try:
            try:
                await whole._start_sources()
            finally:
                whole._sources = (*listening, *whole._sources)
            # A turn for them, so that they stop a generator that never waits itself. Trio runs
            # the tasks of one turn in any order.
            await anyio.lowlevel.cancel_shielded_checkpoint()
            await anyio.lowlevel.cancel_shielded_checkpoint()
        except BaseException as error:
            await whole.__aexit__(type(error), error, error.__traceback__)
            raise
        if not whole._is_cut():
            return True
        await self._stop_watching()
        scope = whole._scope
        assert scope is not None
        self._leave_scope(scope)
        return False

    # -- the end between two steps -----------------------------------------------------------

    async def _end_cut(self) -> None:
        """Close the generator because the operation was asked to stop; raise what leaves."""
        failure = await self._wind_up(None)
        if failure is not None and not isinstance(failure, Exception):
            await self._whole.end_between_steps(failure)
        try:
            await self._whole.end_between_steps(None, is_cut=True)
        except CancelationError as error:
            if failure is not None:
                error.add_note(f"closing the source failed as well: {failure!r}")
            raise

    async def _wind_up(self, exc: BaseException | None) -> BaseException | None:
        """Close the generator, then its iterations that were left in the middle, and sources.

        Returns:
            What ends the operation: *exc*, or what came while all that was closed.
        """
        whole = self._whole
        exc = await self._close_source(exc)
        exc = await whole.close_iterations(exc)
        return await whole._stop_sources(exc) if whole._sources else exc

    async def _close_source(self, exc: BaseException | None) -> BaseException | None:
        try:
            await self._source.aclose()
        except BaseException as second:
            # A task group around the `yield` wraps what closes a generator.
            if _is_exit(second):
                return exc
            if exc is None or isinstance(exc, GeneratorExit) or not isinstance(second, Exception):
                return second
            exc.add_note(f"closing the source failed as well: {second!r}")
        return exc


def _is_exit(error: BaseException) -> bool:
    if not isinstance(error, BaseExceptionGroup):
        return False
    group = cast("BaseExceptionGroup[BaseException]", error)
    return group.split(GeneratorExit)[1] is None
