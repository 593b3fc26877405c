"""The block of an operation: entering it, leaving it, and how it ends."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from logging import DEBUG, INFO
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeGuard, cast

import anyio

from ._callbacks import Callbacks, ErrorCallback, StatusCallback, checked_callback
from ._cause import Cause
from ._log import is_enabled_for, logger, one_line
from ._loop import Loop, call_soon, current_loop, task_is_done
from ._operation import NEVER, Operation, OperationToken
from ._reason import CancelationReason
from ._registry import OperationRegistry
from ._seconds import limit as bound
from ._status import OperationStatus
from ._token import CancelationToken, checked_token
from .exceptions import CancelationError, error_for
from .sources import CancelationSource, TimeoutSource, stop_all

if TYPE_CHECKING:  # anyio.abc brings sockets in, which a program may not need
    from anyio.abc import AsyncBackend, TaskGroup

TURNS_UNTIL_A_DEADLINE_IS_NOTICED = 3
"""Turns of a loop after which a timer that is due has run: asyncio takes up timers at the
start of a turn and runs them behind what is ready by then, so two, and one to be delivered."""

ASTRAY = (
    "the block of a Cancelable was left in another task than it was entered in. Usual causes: "
    "it surrounds a `yield` of an async generator that somebody else closes or the collector "
    "found, of a fixture, or of a context manager driven by a framework. Enter it in the task "
    "that runs the work, or iterate with `Cancelable.stream()`, which holds no scope open"
)

Closer: TypeAlias = Callable[[], Awaitable[None]]


class Latent(Protocol):
    """A running block whose operation is made when somebody asks for it."""

    def make(self) -> Block | None:
        """Return the operation, made now if need be; None if the block ended before."""
        ...


innermost: ContextVar[Block | Latent | None] = ContextVar("cancelable_operation", default=None)


def current_block() -> Block | None:
    """Return the innermost live operation around the calling code, or None."""
    found = innermost.get()
    operation = found if found is None or isinstance(found, Block) else found.make()
    while operation is not None and operation._ending is not None:
        operation = operation._block_around
    return operation


class Block(Operation):
    """Run the block of an operation under a scope, and settle how it ends."""

    __slots__ = (
        "_block_around",
        "_callbacks",
        "_finds_parent",
        "_is_traced",
        "_register",
        "_sources",
        "_task",
        "_tasks",
        "_tokens",
    )

    def __init__(
        self,
        operation_id: str | None,
        name: str | None,
        metadata: dict[str, object] | None,
        grace: float,
        register: bool,
        finds_parent: bool,
    ) -> None:
        """Make an operation whose block has not been entered."""
        super().__init__(operation_id, name, metadata, grace)
        self._block_around: Block | None = None
        self._callbacks: Callbacks | None = None
        self._finds_parent = finds_parent
        self._is_traced = False  # whether its entry was logged, so that its end is as well
        self._register = register
        self._sources: tuple[CancelationSource, ...] = ()
        self._task: object = None
        self._tasks: TaskGroup | None = None
        self._tokens: tuple[CancelationToken, ...] = ()

    # -- what may stop it ----------------------------------------------------------------

    def add_token(self, token: CancelationToken) -> Self:
        """Stop when *token* is cancelled, too; at any time before the end.

        Args:
            token: The token; it may be cancelled already.

        Returns:
            This operation.

        Raises:
            TypeError: If it is no token.
            RuntimeError: If this operation has ended.
        """
        checked_token(token, "token")
        self._refuse_after_the_end("tokens")
        self._tokens = (*self._tokens, token)
        if self._loop is not None:
            token._listen(self, self._token_was_cancelled)
        return self

    def add_source(self, source: CancelationSource) -> Self:
        """Stop when *source* fires, too.

        Args:
            source: The source; it belongs to this operation from now on.

        Returns:
            This operation.

        Raises:
            TypeError: If it is no source.
            RuntimeError: If the source belongs to somebody else, the operation has ended, or
                the block has been entered and the source is no ``TimeoutSource``.
        """
        if not isinstance(source, CancelationSource):
            msg = f"`source` must be a CancelationSource, not {source!r}"
            raise TypeError(msg)
        if self._ending is not None:
            msg = "the operation has ended; add sources before its block is entered"
            raise RuntimeError(msg)
        if isinstance(source, TimeoutSource):
            self._limit(source)
        elif self._loop is not None:
            msg = (
                f"the source {source.name!r} must be added before the block is entered: it is "
                "started at the entry; a token or a TimeoutSource may be added at any time"
            )
            raise RuntimeError(msg)
        else:
            source.set_cancel_callback(self._asked_by_sources())
            self._sources = (*self._sources, source)
        return self

    def _asked_by_sources(self) -> Callable[[Cause], object]:
        """Return what the sources of this operation tell, always the same.

        An operation keeps its sources alive, and not the other way round.
        """
        known: Callable[[Cause], object] | None = self.__dict__.get("asked_by_sources")
        if known is not None:
            return known
        asked: Callable[[Cause], object] = partial(_request_if_alive, weakref.ref(self))
        made: Callable[[Cause], object] = self._keeping().setdefault("asked_by_sources", asked)
        return made

    def _limit(self, source: TimeoutSource) -> None:
        """Let a timeout set the deadline of this operation, which needs no task."""
        source.set_cancel_callback(self._asked_by_sources())
        self._allow(source.timeout, source)

    def _allow(self, timeout: float, source: TimeoutSource | None) -> None:
        """Let the deadline come after *timeout* seconds, unless it comes before that anyway.

        Who set a deadline, and what was allowed, is kept as long as that deadline stands. In a
        running block the moments are compared: the deadline may have been moved.
        """
        clock = self._clock
        if clock is None:
            if timeout >= self._timeout:
                return
            self._timeout = timeout
        else:
            when = clock() + timeout
            if when >= self._deadline:
                return
            self.deadline = when
        self._keeping()["limit"] = (timeout, source)

    def _timed_out(self) -> Cause:
        limit: tuple[float, TimeoutSource | None] | None = self.__dict__.get("limit")
        if limit is None:
            return super()._timed_out()
        timeout, source = limit
        if source is None:
            return Cause(CancelationReason.TIMEOUT, timeout_seconds=timeout)
        source.set_cancel_callback(None)
        cause = source.timed_out()
        source.fire(cause)
        return cause

    def _refuse_after_the_end(self, added: str) -> None:
        """Refuse what would come too late to have an effect."""
        if self._ending is not None:
            msg = f"the operation has ended; add {added} before its block is left"
            raise RuntimeError(msg)

    # -- callbacks -----------------------------------------------------------------------

    def on_start(self, callback: StatusCallback) -> Self:
        """Have a function called with the context when the block has been entered.

        Args:
            callback: Plain or async.

        Raises:
            TypeError: If it is no function.
            RuntimeError: If the operation has ended.
        """
        self._own_callbacks(callback).on_start.append(callback)
        return self

    def on_complete(self, callback: StatusCallback) -> Self:
        """Have a function called with the context when the block has completed.

        Args:
            callback: Plain or async; see ``on_cancel``.

        Raises:
            TypeError: If it is no function.
            RuntimeError: If the operation has ended.
        """
        self._own_callbacks(callback).on_complete.append(callback)
        return self

    def on_cancel(self, callback: StatusCallback) -> Self:
        """Have a function called with the context when a cancelation has ended the block.

        The callbacks of an ending run after the scope has been left and before its exception
        goes on, in the order in which they were given. Exactly one kind of them runs.

        Args:
            callback: Plain or async; the async ones of one ending share one second.

        Raises:
            TypeError: If it is no function.
            RuntimeError: If the operation has ended.
        """
        self._own_callbacks(callback).on_cancel.append(callback)
        return self

    def on_error(self, callback: ErrorCallback) -> Self:
        """Have a function called with the context and the error when the block has failed.

        Args:
            callback: Plain or async; see ``on_cancel``.

        Raises:
            TypeError: If it is no function.
            RuntimeError: If the operation has ended.
        """
        self._own_callbacks(callback).on_error.append(callback)
        return self

    def set_callback_limit(self, limit: float | timedelta) -> Self:
        """Set how long the async callbacks of the ending may take together.

        Args:
            limit: Seconds, or a ``timedelta``; one second unless it is set.

        Raises:
            TypeError: If the limit is no duration.
            ValueError: If the limit is NaN, zero or negative.
            RuntimeError: If the operation has ended.
        """
        self._own_callbacks(None).limit = bound(limit, "limit")
        return self

    def _own_callbacks(self, callback: object) -> Callbacks:
        if callback is not None:
            checked_callback(callback)
        self._refuse_after_the_end("callbacks")
        if self._callbacks is None:
            self._callbacks = Callbacks()
        return self._callbacks

    # -- entering ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._loop is not None or self._ending is not None:
            msg = (
                "a Cancelable is entered once; make a new one for each block "
                "(a token may serve any number of them)"
            )
            raise RuntimeError(msg)
        loop = current_loop()
        around = innermost.get()
        if around is not None:
            around = current_block()
            if self._has_more and self._children:
                self._refuse_to_run_inside(around)
            if self._finds_parent:
                self._parent = around
        if self._register or self.keeper is not None:
            self._list()
        self._loop = loop
        self._clock = clock = loop.clock
        self._task = task = loop.current_task()
        self._started_at = time.monotonic()
        self._block_around = around
        if around is not None and around._task is task:
            self._enclosing = around
        if self._timeout != NEVER:
            when = clock() + self._timeout
            if when <= self._deadline:
                self._deadline = when
            else:
                self._forget_the_limit(max(self._deadline - when, -self._timeout))
        parent = self._parent
        cut = self._deadline + self._grace
        if parent is not None:
            self._is_in_parents_task = isinstance(parent, Block) and parent._task is task
            cut = self._hard_cut()
        make = loop.scope_class
        self._scope = scope = make() if cut == NEVER else make(deadline=cut)
        scope.__enter__()
        innermost.set(self)
        # From here on a request from any thread finds the scope. Those that came before have
        # left their cause, which is looked for when all listeners are in place.
        if parent is not None:
            parent._adopt(self)
        for token in self._tokens:
            token._listen(self, self._token_was_cancelled)
        if self._causes or self._timeout <= 0:
            self._stop_at_once(clock())
        if self._has_more:
            self._set_alarm()
        if is_enabled_for(DEBUG):
            self._is_traced = True
            logger.debug("operation %s entered", self.label)
        if self._sources or (self._callbacks is not None and self._callbacks.on_start):
            await self._start()
        return self

    def _refuse_to_run_inside(self, around: Block | None) -> None:
        """Refuse to be underneath what is underneath this operation.

        Raises:
            RuntimeError: If *around* is, so that the way up would have no end.
        """
        if runs_inside(around, self):
            msg = (
                "the operation around names this one as its parent, or one above it does; "
                "enter the parent first"
            )
            raise RuntimeError(msg)

    def adopt(
        self,
        scope: anyio.CancelScope,
        loop: Loop,
        task: object,
        started_at: float,
        began_at: float,
        deadline: float,
    ) -> None:
        """Become the operation of a block that runs already, with nobody's around it.

        Args:
            scope: The scope that was entered for it.
            loop: The loop that runs it.
            task: The task that entered it.
            started_at: When that was, as ``time.monotonic()`` counts.
            began_at: The same on anyio's clock.
            deadline: When it is to be asked to stop, on anyio's clock.
        """
        self._clock = loop.clock
        self._task = task
        self._started_at = started_at
        if deadline != began_at + self._timeout:
            self._timeout = deadline - began_at
        self._deadline = deadline
        self._loop = loop
        self._scope = scope

    def _list(self) -> None:
        """Enter the registry, if one shall list the operation."""
        try:
            if self.keeper is not None:
                self.keeper.entered(self)
            elif self._register:
                OperationRegistry.current().register_at_entry(self)
        except ValueError:
            # As if nothing had been tried: it may be entered when the id is free.
            if self._finds_parent:
                self._parent = None
            raise

    def _stop_at_once(self, now: float) -> None:
        """Cut a block that is entered with its request already made.

        Where the request came to an operation above, that one's scope or the time taken over
        from it cuts, perhaps later: after a grace, or behind a shield.
        """
        self._notice_deadline()
        if not self._causes:
            return
        asked_above = self._causes[0].reason is CancelationReason.PARENT and any(
            above._causes for above in self._askers()
        )
        if self._hard_cut() <= now or not (asked_above or self._grace_is_running(now)):
            self._deliver(-math.inf)

    def _grace_is_running(self, now: float) -> bool:
        return self._deadline <= now < self._deadline + self._grace

    def _token_was_cancelled(self, cause: Cause, here: object) -> None:
        self._request(cause, here=here)

    async def _start(self) -> None:
        """Start the sources and run the start callbacks; leave the block if that fails.

        The callbacks run also if a source does not start: those of the ending will, and who
        counts what is running needs both.
        """
        try:
            try:
                await self._start_sources()
            finally:
                if self._callbacks is not None:
                    await self._callbacks.call(self._callbacks.on_start, self.context)
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise

    async def _start_sources(self) -> None:
        """Start the sources, in a task group if one of them needs a task.

        The group is opened only then, since it costs more than all the rest of the block.
        """
        scope = self._scope
        assert scope is not None
        sources, self._sources = self._sources, ()
        for source in sources:
            await source.start_monitoring(scope)
            self._sources = (*self._sources, source)
        if any(source.needs_task for source in sources):
            self._tasks = await anyio.create_task_group().__aenter__()
            scopes: list[anyio.CancelScope] = self._keeping().setdefault("source_scopes", [])
            for source in sources:
                if source.needs_task:
                    scopes.append(anyio.CancelScope())
                    self._tasks.start_soon(_run_source, source, scopes[-1])
        self._deliver_if_due()

    async def _end_the_rest(self, exc: BaseException | None) -> BaseException | None:
        """Close the iterations that were left in the middle, then stop the sources.

        Only the task that entered the block can close iterations and wait for the tasks of
        sources. Another one stops the sources all the same: a handler of signals would swallow
        the next one for an operation that has ended.

        Returns:
            What ended the block, as ``_stop_sources`` does.
        """
        loop = self._loop
        if loop is None:
            return exc
        if loop.current_task() is not self._task:
            # To cancel their group would cancel the task that entered the block as well.
            for scope in self.__dict__.pop("source_scopes", ()):
                call_soon(loop, scope.cancel)
            return await self._stop_sources_astray(exc) if self._sources else exc
        exc = await self.close_iterations(exc)
        return await self._stop_sources(exc) if self._sources else exc

    async def close_iterations(self, exc: BaseException | None) -> BaseException | None:
        """Close the iterations that were left in the middle, the last one first.

        Args:
            exc: What ends the block, or None.

        Returns:
            The same, or what closing raised where nothing did before.
        """
        closers: dict[Closer, None] = self.__dict__.pop("closers", {})
        for close in reversed(list(closers)):
            try:
                await close()
            except BaseException as error:
                if exc is None:
                    exc = error
                elif error is not exc and isinstance(error, Exception):
                    logger.exception("a source of items failed to close")
        return exc

    def closes(self, close: Closer) -> Callable[[], object]:
        """Have something closed before the block is left, in the task of the block.

        Args:
            close: An async function; it must not block.

        Returns:
            A function that takes it out again.
        """
        closers: dict[Closer, None] = self._keeping().setdefault("closers", {})
        closers[close] = None
        return partial(closers.pop, close, None)

    async def _stop_sources(self, exc: BaseException | None) -> BaseException | None:
        """Stop the sources and wait for their tasks.

        The tasks end because their own scope is cancelled; it is shielded, so that waiting for
        them is over in a turn or two whatever is being cancelled around. What ended the block
        is not shown to the task group, which would wrap it.

        Returns:
            What ended the block: *exc*, a cancelation that came while the tasks ended, or what
            ended a source and is no error (``KeyboardInterrupt``). The latter comes first: on
            Trio the cancelation by which the block heard of it is the group's own.
        """
        sources, self._sources = self._sources, ()
        exc = await self._stop_monitoring(sources, exc)
        self._hear_no_more_of(sources)
        return exc

    async def _stop_monitoring(
        self, sources: tuple[CancelationSource, ...], exc: BaseException | None
    ) -> BaseException | None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            self.__dict__.pop("source_scopes", None)
            tasks.cancel_scope.shield = True
            tasks.cancel_scope.cancel()
            try:
                await tasks.__aexit__(None, None, None)
            except BaseExceptionGroup as group:
                exc = _the_only_one(group)
            except BaseException as late:
                exc = exc or late
        return await _all_stopped(sources, exc)

    async def _stop_sources_astray(self, exc: BaseException | None) -> BaseException | None:
        """Stop the sources from another task than that which entered the block."""
        sources, self._sources = self._sources, ()
        exc = await _all_stopped(sources, exc)
        self._hear_no_more_of(sources)
        return exc

    def _hear_no_more_of(self, sources: tuple[CancelationSource, ...]) -> None:
        own = self.__dict__.get("asked_by_sources")
        for source in sources:
            # One that was taken over from another operation goes on telling that one, which
            # may be combined with more operations to come.
            if own is not None and source.tells(own):
                source.set_cancel_callback(None)

    # -- leaving -------------------------------------------------------------------------

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        ended_by: BaseException | None = exc
        leaving: BaseException | None = None
        loop = self._loop
        try:
            if self._sources or self._has_more:
                ended_by = await self._end_the_rest(exc)
            leaving = self._leave(ended_by)
            if leaving is None and ended_by is not exc:
                leaving = ended_by
            elif loop is not None and isinstance(leaving, CancelationError):
                leaving = await _let_the_outer_go_first(leaving, loop.backend)
            elif loop is not None and exc is not None and self._is_from_a_check(exc):
                # The operation around it in this task would take the error for a failure.
                leaving = await _let_the_outer_go_first(exc, loop.backend)
                leaving = None if leaving is exc else leaving
            if self._callbacks is not None:
                await self._end(self._callbacks, leaving or ended_by)
            if leaving is not None:
                raise leaving
        finally:
            # The frame of this call is part of the traceback of what it raises; without this
            # the error and the frame would keep each other alive.
            del leaving, ended_by, exc, tb

    async def end_between_steps(self, exc: BaseException | None, *, is_cut: bool = False) -> None:
        """End as the operation of a generator that is not in a step, so that no scope is open.

        Args:
            exc: What ends it, or None.
            is_cut: Whether a request does, which no scope delivers here.

        Raises:
            BaseException: What leaves the generator.
        """
        assert self._loop is not None
        backend = self._loop.backend
        leaving = exc
        try:
            self._notice_deadline()
            if is_cut:
                leaving = self._settle(exc, is_cancel=True, is_taken=True)
            elif exc is None:
                self._close(OperationStatus.COMPLETED, self._first_cause())
            else:
                is_cancel = _is_cancel(exc, backend.cancelled_exception_class())
                leaving = self._settle(exc, is_cancel, is_taken=False) or exc
            if isinstance(leaving, CancelationError) and (is_cut or self._is_from_a_check(leaving)):
                leaving = await _let_the_outer_go_first(leaving, backend)
            if self._callbacks is not None:
                await self._end(self._callbacks, leaving)
            if leaving is not None:
                raise leaving
        finally:
            del leaving, exc

    def _leave(self, exc: BaseException | None) -> BaseException | None:
        """Leave the scope and settle how the operation ended.

        Returns:
            What shall leave the block instead of *exc*, or None if *exc* shall go on.
        """
        loop, scope = self._loop, self._scope
        if loop is None or scope is None:
            msg = "the block of a Cancelable is left before it was entered"
            raise RuntimeError(msg)
        if loop.current_task() is not self._task:
            return self._leave_astray(scope, exc)
        is_due = self._deadline != NEVER and self._deadline <= loop.clock()
        if is_due or self._enclosing is not None or self._parent is not None:
            self._notice_deadline()
        if exc is None:
            try:
                scope.__exit__(None, None, None)
            except BaseException as misnested:
                self._close(OperationStatus.FAILED, self._first_cause(), misnested)
                return misnested
            self._close(OperationStatus.COMPLETED, self._first_cause())
            return None
        is_cancel = _is_cancel(exc, loop.backend.cancelled_exception_class())
        if is_cancel or self._is_own(exc):
            self._settle_above()
        try:
            is_taken = scope.__exit__(type(exc), exc, exc.__traceback__)
        except BaseException as rest:
            if not (isinstance(rest, RuntimeError) and _is_interrupt(exc, is_cancel=is_cancel)):
                # What the scope leaves of a group once its own cancelations are out.
                return self._settle(rest, is_cancel=False, is_taken=False) or rest
            # A Ctrl-C between two lines of a scope that is just being entered inside this one
            # leaves it open, so that this one refuses to be left. Whoever waits for the interrupt
            # has to get that.
            is_taken = False
        return self._settle(exc, is_cancel, is_taken)

    def _settle(
        self, exc: BaseException | None, is_cancel: bool, is_taken: bool
    ) -> BaseException | None:
        if is_cancel or isinstance(exc, GeneratorExit):
            ended_by = self.cause or self._cause_around() or Cause(CancelationReason.EXTERNAL)
            self._close(OperationStatus.CANCELLED, ended_by)
            return self._error_from(ended_by, exc) if is_taken else None
        is_own = self._is_own(exc)
        if is_own:
            self._hear_tokens()
        cause = self._first_cause()
        if cause is None or not is_own:
            self._close(OperationStatus.FAILED, cause, exc)
            return None
        self._close(OperationStatus.CANCELLED, cause)
        if isinstance(exc, CancelationError) and exc.operation_id == self.known_id is not None:
            return None
        # A token knows no operation. And of tasks that were told of this cancelation, each raises
        # it: a native one is no error of a task group, so that nobody expects a group here.
        return self._error_from(cause, exc)

    def _error_from(self, cause: Cause, exc: BaseException | None) -> CancelationError:
        """Return the error that leaves the block in the place of what ended it."""
        error = error_for(cause, self.context)
        error.__cause__ = error.__cause__ or exc
        return error

    def _is_own(self, exc: BaseException | None) -> bool:
        """Return whether this reports what the block was asked for, or is a group of nothing else.

        A check has raised it, of the operation, of its token, or of a token that it was given; or
        an operation underneath, in another task, was stopped with this one.
        """
        if isinstance(exc, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", exc)
            # Until Python 3.13 it takes functions, and no methods.
            return group.split(lambda each: self._reports_own_request(each))[1] is None
        return exc is not None and self._reports_own_request(exc)

    def _reports_own_request(self, exc: BaseException) -> bool:
        if not isinstance(exc, CancelationError):
            return False
        if exc.operation_id is not None:
            return exc.operation_id == self.known_id or self._is_from_underneath(exc)
        request = exc._request
        requests = [self._first_cause(), *(token.cause for token in self._tokens)]
        return request is not None and any(each is request for each in requests)

    def _is_from_underneath(self, error: CancelationError) -> bool:
        cause = self._first_cause()
        if cause is None or error.reason is not CancelationReason.PARENT:
            return False
        return error.origin_id == (cause.origin_id or self.known_id)

    def _hear_tokens(self) -> None:
        """Take over what a token is about to tell of in another thread: a check came first."""
        for token in self._tokens:
            if token.cause is not None:
                self._record(token.cause)

    def _cause_around(self) -> Cause | None:
        """Return the cause that a live operation around the block is, if one was asked.

        It need not be an ancestor: the parent may be another one, or none.
        """
        around = self._block_around
        while around is not None:
            if around.is_cancelling:
                return around._causes[0].below(around.operation_id)
            around = around._block_around
        return None

    def _is_from_a_check(self, exc: BaseException | None) -> TypeGuard[CancelationError]:
        """Return whether a check ended the block, and a scope around it may be due as well.

        If that is the parent's, in another task, this error is how the task hears of it.
        """
        if not (self._ending is OperationStatus.CANCELLED and isinstance(exc, CancelationError)):
            return False
        cause = self._end_cause
        is_of_parent = cause is not None and cause.reason is CancelationReason.PARENT
        return self._enclosing is not None or not is_of_parent

    def _first_cause(self) -> Cause | None:
        return self._causes[0] if self._causes else None

    def _settle_above(self) -> None:
        """Have the scopes above that are due by now cancelled before this one is left.

        A deadline that has passed, and a request from a thread that the loop has not got to
        yet, are due. The scope of this block leaves the cancelation to them only if they are
        cancelled already.
        """
        for above in self._ancestors():
            if above._native is self._native:
                above._deliver_if_due()

    def _leave_astray(
        self, scope: anyio.CancelScope, exc: BaseException | None
    ) -> BaseException | None:
        """Settle a block that is left in another task than it was entered in.

        The scope cannot be left from here. Its deadline is taken away, so that it will not
        cancel the task that entered it; what else that task loses cannot be mended.
        """
        assert self._loop is not None
        entered_by = self._task
        call_soon(self._loop, partial(setattr, scope, "deadline", math.inf))
        native = self._loop.backend.cancelled_exception_class()
        if exc is not None and (isinstance(exc, GeneratorExit) or _is_cancel(exc, native)):
            self._close(OperationStatus.CANCELLED, self.cause or Cause(CancelationReason.EXTERNAL))
        else:
            self._close(OperationStatus.FAILED, self._first_cause(), exc)
        if isinstance(exc, GeneratorExit) and task_is_done(entered_by):
            return None
        error = RuntimeError(ASTRAY)
        error.__cause__ = exc
        return error

    def _close(
        self,
        ending: OperationStatus,
        cause: Cause | None,
        error: BaseException | None = None,
    ) -> None:
        """Write down the ending, and take the operation out of everything that knows it."""
        self._ended_at = time.monotonic()
        self._end_cause = cause
        if error is not None:
            self._failure = f"{type(error).__name__}: {error}"
        self._ending = ending
        if innermost.get() is self:
            innermost.set(self._block_around)
        for token in self._tokens:
            token._unlisten(self)
        if self._has_more:
            for child in list(self._children):
                child._let_go(self)
        if self._parent is not None:
            self._parent._release(self)
        if self._block_around is not None or self._parent is not None:
            self._forget_the_ended()
        self._scope = self._task = self._loop = self._clock = None
        self._tokens = ()
        if cause is not None:
            self._shed_error(cause)
        keeper = self.keeper
        if keeper is not None:
            keeper.left(self)
        if self._has_more:
            self._drop_alarm()
            self._tell_the_end()
            self._end_progress()
            # The token lives on with those who hold it; it does not need the operation, and
            # a registry that remembers the operation must not keep its listeners.
            own: OperationToken | None = self.__dict__.pop("token", None)
            if own is not None:
                own.let_go()
            self.__dict__.pop("combined", None)
        if ending is OperationStatus.CANCELLED or self._is_traced:
            self._log_the_end(ending, cause)

    def _shed_error(self, cause: Cause) -> None:
        """Let go of the error of a source: its frames would live as long as the operation."""
        if cause.error is not None:
            self._end_cause = cause.without_error()
            self._causes = [self._end_cause]

    def _forget_the_ended(self) -> None:
        """Let go of operations around that have ended before.

        Tasks that start one another inside their blocks would pile them up for ever.
        """
        around = self._block_around
        while around is not None and around._ending is not None:
            around = around._block_around
        self._block_around = around
        parent = self._parent
        if parent is not None and parent._ending is not None:
            _ = self.context  # the final facts, which name the parent
            self._enclosing = next(self._ancestors(), None)
            self._parent = None

    def _end_progress(self) -> None:
        """Tell the readers of progress that the operation has ended."""

    def _log_the_end(self, ending: OperationStatus, cause: Cause | None) -> None:
        took = self._ended_at - self._started_at
        if ending is OperationStatus.CANCELLED and cause is not None:
            is_another = cause.origin_id is not None or cause.reason is CancelationReason.PARENT
            level = DEBUG if is_another else INFO  # which has had, or will have, its own record
            if is_enabled_for(level):
                text = "operation %s cancelled after %.3f s: %s"
                logger.log(level, text, self.label, took, cause.label)
        else:
            logger.debug("operation %s %s after %.3f s", self.label, ending.value, took)

    async def _end(self, callbacks: Callbacks, error: BaseException | None) -> None:
        """Run the callbacks of the ending, once."""
        self._callbacks = None
        match self._ending:
            case OperationStatus.COMPLETED:
                await callbacks.call(callbacks.on_complete, self.context)
            case OperationStatus.CANCELLED:
                await callbacks.call(callbacks.on_cancel, self.context)
            case _ if error is not None:
                await callbacks.call_on_error(self.context, error)
            case _:
                pass

    # -- looks ---------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The id, with the name where there is one: how log records name the operation."""
        name = "" if self._name is None else f" ({self._name})"
        return one_line(self.operation_id + name)

    def __repr__(self) -> str:
        name = "" if self._name is None else f" {self._name!r}"
        known = "" if self.known_id is None else f" {one_line(self.known_id)}"
        return f"<{type(self).__name__}{name}{known} {self.status.value}>"


def _request_if_alive(known: weakref.ref[Block], cause: Cause) -> None:
    block = known()
    if block is not None:
        block._request(cause)


def runs_inside(around: Operation | None, whole: Block) -> bool:
    """Return whether an operation is underneath *whole* or in its block.

    Such a one cannot be above *whole* as well. In another task that a step of a generator has
    started, it may take the next step.
    """
    found: dict[Operation | None, None] = {around: None}
    waiting = [around]
    while waiting:
        each = waiting.pop()
        if each is whole:
            return True
        if isinstance(each, Block):
            above = (each._parent, each._enclosing, each._block_around)
            waiting.extend(one for one in above if one not in found)
            found.update(dict.fromkeys(above))
    return False


async def _run_source(source: CancelationSource, scope: anyio.CancelScope) -> None:
    """Run a source in a scope of its own, which ends it without its group."""
    with scope:
        await source.run()


async def _all_stopped(
    sources: tuple[CancelationSource, ...], exc: BaseException | None
) -> BaseException | None:
    """Stop sources; return *exc*, or a cancelation that came meanwhile."""
    try:
        await stop_all(sources)
    except BaseException as late:
        exc = exc or late
    return exc


async def _let_the_outer_go_first(
    error: CancelationError, backend: type[AsyncBackend]
) -> BaseException:
    """Return what leaves: the native cancelation if a scope around is due as well.

    A foreign scope around this block may have a deadline that has passed and that the loop has
    not noticed. Its cancelation comes within a turn or two of the loop, and would be lost to
    the code in between if this block's own error went out now.
    """
    if backend.current_effective_deadline() > backend.current_time():
        return error
    try:
        for _ in range(TURNS_UNTIL_A_DEADLINE_IS_NOTICED):
            await anyio.lowlevel.checkpoint()
    except backend.cancelled_exception_class() as native:
        return native
    return error


def _the_only_one(exc: BaseException) -> BaseException:
    """Return what a group of exceptions holds if that is one only, else the group."""
    while isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        if len(group.exceptions) != 1:
            return group
        exc = group.exceptions[0]
    return exc


def _is_interrupt(exc: BaseException, *, is_cancel: bool) -> bool:
    """Return whether what ends a block ends the program, as KeyboardInterrupt and SystemExit do.

    Args:
        exc: What ends the block.
        is_cancel: Whether that is the native cancelation.
    """
    return not (is_cancel or isinstance(exc, Exception | GeneratorExit | BaseExceptionGroup))


def _is_cancel(exc: BaseException, native: type[BaseException]) -> bool:
    """Return whether an exception is the native cancelation, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.split(native)[1] is None
    return isinstance(exc, native)
