"""The operation as its users see it: how it is made, and what can be done inside its block."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial, wraps
from types import EllipsisType
from typing import ParamSpec, Protocol, Self, TypeVar, cast

import anyio

from ._block import Block, current_block
from ._callbacks import checked_callback
from ._cause import Cause
from ._hold import Hold
from ._iterator import CancelableAsyncIterator
from ._loop import Loop, current_loop
from ._metadata import checked_metadata
from ._move_on import MoveOn
from ._progress import Progress, ProgressCallback, ProgressFeed
from ._reason import CancelationReason
from ._seconds import grace_of, limit as bound, seconds
from ._status import OperationStatus
from ._token import CancelationToken, checked_token
from ._update import ProgressUpdate
from ._worker import WorkerCall, check_host, current_call
from .exceptions import CancelationError, error_for
from .sources import Condition, ConditionSource, SignalSource, SupportsWait, TimeoutSource

P = ParamSpec("P")
T = TypeVar("T")


class Wrap(Protocol):
    """What ``Cancelable.wrap`` is to a type checker, wherever it is handed on."""

    def __call__(self, operation: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...


def current_operation() -> Cancelable | None:
    """Return the operation whose block the calling code is in, or None.

    It is known in the task that entered the block, in tasks that it starts, and in worker
    threads of ``anyio.to_thread``. An operation that has ended is never returned.
    """
    return cast("Cancelable | None", current_block())


class Cancelable(Block):
    """Run a block that can be asked to stop, and that says why it stopped.

    ::

        async with Cancelable.with_timeout(30, name="report") as cancel:
            await make_report()

    The block is cancelled by its deadline, by its tokens, by ``cancel()`` from anywhere, and
    with the operation around it. Inside, code sees the native cancelation of its event loop;
    what leaves the block is the matching ``CancelationError``. A cancelation that is not the
    operation's own (``task.cancel()``, a scope around it) passes through untouched.

    An operation can be neither copied nor pickled; a deep copy of what holds one holds the same.
    """

    __slots__ = ()

    def __init__(
        self,
        operation_id: str | None = None,
        name: str | None = None,
        parent: Cancelable | EllipsisType | None = ...,
        metadata: Mapping[str, object] | None = None,
        register_globally: bool = False,
        grace: float | timedelta | None = None,
    ) -> None:
        """Make an operation; its clock starts when the block is entered.

        Args:
            operation_id: An id of the caller's choice, unique among the live operations of a
                registry; an unguessable one is made when none is given.
            name: A name for people and for filters.
            parent: The operation to be listed under and to be stopped with. Left out, it is
                the one around the block when that is entered; None: listed under nobody.
            metadata: Facts to be kept with the operation (owner, tenant).
            register_globally: Whether the current registry lists the operation.
            grace: Seconds that the block may run on after a request to stop, until it is cut.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If the id is empty or too long, or the grace is negative or NaN.
        """
        if parent is not None and parent is not ... and not isinstance(parent, Cancelable):
            msg = f"`parent` must be a Cancelable or None, not {parent!r}"
            raise TypeError(msg)
        checked_metadata(metadata)
        super().__init__(
            operation_id,
            name,
            None if metadata is None else dict(metadata),
            grace_of(grace),
            register_globally,
            parent is ...,
        )
        if isinstance(parent, Cancelable):
            self._parent = parent

    # -- its place among others ----------------------------------------------------------

    @property
    def parent(self) -> Cancelable | None:
        """The operation under which this one is listed; found when the block is entered."""
        return cast("Cancelable | None", super().parent)

    @property
    def children(self) -> list[Cancelable]:  # type: ignore[override]
        """The live operations directly underneath."""
        return cast("list[Cancelable]", super().children)

    # -- constructors --------------------------------------------------------------------

    @classmethod
    def with_timeout(
        cls,
        timeout: float | timedelta | None,
        operation_id: str | None = None,
        name: str | None = None,
        *,
        parent: Cancelable | EllipsisType | None = ...,
        metadata: Mapping[str, object] | None = None,
        register_globally: bool = False,
        grace: float | timedelta | None = None,
    ) -> Self:
        """Make an operation that is asked to stop after some time in its block.

        Args:
            timeout: Seconds, or a ``timedelta``. Zero or less (a budget that is used up)
                stops the block at its first checkpoint; None and infinity mean no limit.
            operation_id: See the constructor, as for the others.
            name: See the constructor.
            parent: See the constructor.
            metadata: See the constructor.
            register_globally: See the constructor.
            grace: See the constructor.

        Raises:
            TypeError: If the timeout is no duration.
            ValueError: If the timeout is NaN.
        """
        operation = cls(operation_id, name, parent, metadata, register_globally, grace)
        operation._timeout = seconds(timeout, "timeout")
        return operation

    @classmethod
    def with_token(
        cls,
        token: CancelationToken,
        operation_id: str | None = None,
        name: str | None = None,
        *,
        parent: Cancelable | EllipsisType | None = ...,
        metadata: Mapping[str, object] | None = None,
        register_globally: bool = False,
        grace: float | timedelta | None = None,
    ) -> Self:
        """Make an operation that is asked to stop when a token is cancelled.

        A token may serve any number of operations, one after another or at once.

        Args:
            token: The token. If it is cancelled already, the block stops at its first
                checkpoint.
            operation_id: See the constructor, as for the others.
            name: See the constructor.
            parent: See the constructor.
            metadata: See the constructor.
            register_globally: See the constructor.
            grace: See the constructor.

        Raises:
            TypeError: If it is no token.
        """
        operation = cls(operation_id, name, parent, metadata, register_globally, grace)
        operation._tokens = (checked_token(token, "token"),)
        return operation

    @classmethod
    def with_signal(
        cls,
        *signals: int,
        operation_id: str | None = None,
        name: str | None = None,
        parent: Cancelable | EllipsisType | None = ...,
        metadata: Mapping[str, object] | None = None,
        register_globally: bool = False,
        grace: float | timedelta | None = None,
    ) -> Self:
        """Make an operation that is asked to stop by the first of some signals.

        Enter its block in the main thread. A handler that the program or a server has
        installed is called as well; Ctrl-C twice still ends the program.

        Args:
            signals: Signals; SIGINT and SIGTERM if none is given.
            operation_id: See the constructor, as for the others.
            name: See the constructor.
            parent: See the constructor.
            metadata: See the constructor.
            register_globally: See the constructor.
            grace: See the constructor.

        Raises:
            TypeError: If a signal is no number.
            ValueError: If this platform knows no such signal.
        """
        operation = cls(operation_id, name, parent, metadata, register_globally, grace)
        return operation.add_source(SignalSource(*signals))

    @classmethod
    def with_condition(
        cls,
        condition: Condition | SupportsWait,
        check_interval: float | timedelta = 0.1,
        condition_name: str | None = None,
        operation_id: str | None = None,
        name: str | None = None,
        *,
        in_thread: bool = False,
        parent: Cancelable | EllipsisType | None = ...,
        metadata: Mapping[str, object] | None = None,
        register_globally: bool = False,
        grace: float | timedelta | None = None,
    ) -> Self:
        """Make an operation that is asked to stop when a condition holds.

        Args:
            condition: A function, plain or async, that is asked again and again; or something
                with an async ``wait()`` (an ``anyio.Event``), which is waited for instead.
            check_interval: Seconds between two questions.
            condition_name: The name of the condition in errors.
            operation_id: See the constructor, as for the others.
            name: See the constructor.
            in_thread: Ask a plain function in a worker thread, because it blocks.
            parent: See the constructor.
            metadata: See the constructor.
            register_globally: See the constructor.
            grace: See the constructor.

        Raises:
            TypeError: If the condition is neither, or the interval is no duration.
            ValueError: If the interval is NaN, zero or negative.
        """
        operation = cls(operation_id, name, parent, metadata, register_globally, grace)
        source = ConditionSource(condition, check_interval, condition_name, in_thread=in_thread)
        return operation.add_source(source)

    # -- composition ---------------------------------------------------------------------

    def combine(self, *others: Cancelable) -> Self:
        """Stop for whatever the others would stop for, too.

        Deadlines (the earliest counts) and tokens of the others are taken over, and asking
        one of the others to stop asks this one. The cause that comes first is kept. The grace
        is this operation's own, also where the other one is asked with another. Of one that
        has ended, only what it was asked before counts.

        Args:
            others: Operations; only this one is entered.

        Returns:
            This operation.

        Raises:
            TypeError: If one of them is no Cancelable.
            RuntimeError: If this operation has ended.
        """
        self.check_combinable(others)
        for other in others:
            if other is not self:
                self._take_over(other)
        return self

    @staticmethod
    def check_combinable(others: Collection[Cancelable]) -> None:
        """Refuse what is no operation.

        Raises:
            TypeError: If one of them is no Cancelable.
        """
        for other in others:
            if not isinstance(other, Cancelable):
                msg = f"only Cancelables can be combined, not {other!r}"
                raise TypeError(msg)

    def _take_over(self, other: Cancelable) -> None:
        """Stop for what *other* would stop for.

        Its sources keep telling it; this operation runs them, keeps it alive for them and for
        those who ask it by its token, and follows that token, so that whatever asks the other
        one asks this one with the same cause.
        """
        if other._sources and self._loop is not None:
            msg = "combine before the block is entered: sources are started at the entry"
            raise RuntimeError(msg)
        self.add_token(other.token)
        if other._ending is None:
            self._take_limits_over(other)
            self._keeping().setdefault("combined", []).append(other)
            # The same source may come on two ways; it is started once.
            self._sources = tuple(dict.fromkeys((*self._sources, *other._sources)))
        for token in other._tokens:
            self.add_token(token)

    def _take_limits_over(self, other: Cancelable) -> None:
        limit: tuple[float, TimeoutSource | None] = other.__dict__.get("limit", (math.inf, None))
        self._allow(other._timeout, limit[1])
        self.deadline = min(self._deadline, other._deadline)

    # -- progress ------------------------------------------------------------------------

    @property
    def _progress(self) -> Progress:
        progress: Progress | None = self.__dict__.get("progress_room")
        return progress or self._keeping().setdefault("progress_room", Progress())

    def _end_progress(self) -> None:
        progress: Progress | None = self.__dict__.get("progress_room")
        if progress is not None:
            progress.end()

    def on_progress(self, callback: ProgressCallback) -> Self:
        """Have a function called with id, message and metadata at each report.

        Args:
            callback: Plain, or async and quick: it is awaited in line, and dropped when it
                takes longer than a second. Read ``progress()`` where reading may be slow.

        Raises:
            TypeError: If it is no function.
            RuntimeError: If the operation has ended.
        """
        checked_callback(callback)
        self._refuse_after_the_end("callbacks")
        self._progress.listeners.append(callback)
        return self

    async def report_progress(
        self, message: object, metadata: Mapping[str, object] | None = None
    ) -> None:
        """Report how far the operation has come.

        Args:
            message: A text, or any value that the listeners understand.
            metadata: Figures to go with it.
        """
        update = ProgressUpdate(self.operation_id, message, metadata)
        self._progress.last = update
        if self.keeper is not None:
            self.keeper.reported(self)
        await self._progress.report(update)

    def report_progress_sync(
        self, message: object, metadata: Mapping[str, object] | None = None
    ) -> None:
        """Report how far the operation has come, from a thread.

        Listeners run in the loop of the operation. In a worker thread of anyio the call waits
        for them, async ones too. In another thread it never waits: plain listeners are called
        soon, in order, async ones are not; where more than 1,000 reports wait, the oldest are
        dropped, with one warning.

        Args:
            message: A text, or any value that the listeners understand.
            metadata: Figures to go with it.
        """
        update = ProgressUpdate(self.operation_id, message, metadata)
        progress = self._progress
        progress.last = update
        # Both are looked up once: the block may be left meanwhile.
        keeper, loop = self.keeper, self._loop
        if keeper is not None:
            keeper.reported(self)
        if loop is None:
            progress.publish(update)
        elif not (progress.listeners and _report_from_worker(loop, progress, update)):
            progress.report_from_thread(loop, update)

    def progress(self) -> ProgressFeed:
        """Return an iterator over the reports, for a reader who may be slow.

        ``async for update in operation.progress()`` keeps the order, drops reports in the
        middle when the reader is slower than they come, always gives the last one, and ends
        with the operation. It may be read in another thread's loop.
        """
        feed = ProgressFeed(self._progress, ended=self._ending is not None)
        if self._ending is not None:  # also if it ended while the reader was made
            feed.end()
        return feed

    # -- inside the block ----------------------------------------------------------------

    async def check_cancelation(self) -> None:
        """Pass a checkpoint, which raises the native cancelation if the block is to be cut.

        Raises:
            BaseException: The native cancelation of the event loop; let it pass.
        """
        # A scope may be cancelled in its own loop only, which has been rung for that.
        if self._is_cut() and self._native is current_loop().native_token:
            self._deliver(-math.inf)
        await anyio.lowlevel.checkpoint()

    def check_cancelation_sync(self) -> None:
        """Raise if the block is to be cut: the check for code in a worker thread.

        A thread cannot be interrupted. Code that calls this now and then ends soon after a
        request; the error passes through ``run_in_thread`` and leaves the block as its own.

        In a worker thread it also raises if somebody else cancels what waits for the thread (a
        scope around the block, a task group): inside ``run_in_thread`` the operation's error,
        with the reason ``parent`` or ``external``, which leaves that call as the native
        cancelation again; inside ``anyio.to_thread.run_sync`` the native cancelation. And it
        raises in a thread that was left behind, as by asyncio's ``task.cancel()``.

        Raises:
            CancelationError: The error of the first request; after the end, of what ended the
                block.
            BaseException: The native cancelation; let it pass.
        """
        if self._ending is OperationStatus.CANCELLED or self._is_cut():
            raise self._error_for_check()
        call = current_call()
        if call is not None and call.is_left:
            if self._ending is not None or self._is_around_here():
                raise self._error_for_check()
        elif self._is_around_here():
            self._check_host(call)

    def _check_host(self, call: WorkerCall | None) -> None:
        """Raise if what waits for this worker thread has been cancelled.

        Args:
            call: The call of ``run_in_thread`` that the thread runs. It makes the native
                cancelation of the error. Without it nobody would: a scope around the thread and
                inside the block would see an error, and let it pass.
        """
        loop = self._loop
        if loop is not None and loop.running() is loop.native_token:
            return  # no worker: this thread runs the loop, whose checkpoints tell
        try:
            check_host()
        except Exception:
            raise
        except BaseException:
            # The own scope may have been cancelled since the operation was asked.
            if call is None and not self._is_cut():
                raise
        else:
            return
        if call is not None:
            call.is_stopped = not self._is_cut()
        raise self._error_for_check()

    def _error_for_check(self) -> CancelationError:
        cause = self.cause or self._first_cause() or self._cause_around()
        return error_for(cause or Cause(CancelationReason.EXTERNAL), self.context)

    def _is_around_here(self) -> bool:
        """Return whether the calling code is in this block."""
        around = current_block()
        while around is not None and around is not self:
            around = around._block_around
        return around is not None

    def _is_cut(self) -> bool:
        """Return whether the time of the hard cut has come, which a grace puts off."""
        if not self._is_asked():
            return False
        clock = self._clock
        return clock is None or self._nearest_cut() <= clock()

    async def wait_cancelling(self) -> CancelationReason:
        """Wait until the operation is asked to stop.

        With a ``grace`` the block learns of a request here before it is cut; start this in a
        child task, or await it where there is nothing else to wait for.

        Returns:
            The reason of the first request.
        """
        return await self.token.wait()

    def stream(
        self,
        async_iter: AsyncIterable[T],
        report_interval: int | None = None,
        buffer_partial: bool = True,
    ) -> CancelableAsyncIterator[T]:
        """Iterate over a source inside this block.

        ``async for item in cancel.stream(source)`` opens no scope of its own, gives way to
        other tasks every few milliseconds, and closes the source in this task: at its end, at
        an error or a cancelation, and, when the loop is left early, at the end of the block.

        Args:
            async_iter: The source.
            report_interval: Report progress after each so many items.
            buffer_partial: Whether the last 1,000 items are kept as the partial result.

        Returns:
            An iterator that counts, and that may be closed by hand.

        Raises:
            TypeError: If the source cannot be iterated over.
            ValueError: If the interval is not above zero.
        """
        return CancelableAsyncIterator(async_iter, self, report_interval, buffer_partial)

    def move_on(self) -> MoveOn[Self]:
        """Return the block in a form that does not raise when it is cancelled.

        ::

            async with Cancelable.with_timeout(2).move_on() as cancel:
                async for hit in cancel.stream(search(query)):
                    hits.append(hit)
            if cancel.is_cancelled:
                print(f"{len(hits)} hits so far: {cancel.cancel_reason}")

        The program goes on behind the block, whatever asked this operation to stop. All else
        leaves the block as ever: errors, the cancelation of an operation or a scope around it.

        Returns:
            An async context manager, which gives this operation.
        """
        return MoveOn(self)

    @asynccontextmanager
    async def shield(
        self,
        *,
        timeout: float | timedelta | None = None,
        reasons: Collection[CancelationReason | str] | CancelationReason | str | None = None,
    ) -> AsyncGenerator[Cancelable]:
        """Let a section of the block finish that must not be cut in the middle.

        ::

            async with cancel.shield(timeout=5):
                await connection.rollback()

        The end of the section is a checkpoint, where a cancelation that has come meanwhile is
        delivered. asyncio's own ``task.cancel()`` cuts through every shield: run a section
        that must survive that in a task of its own.

        Args:
            timeout: Seconds after which the section is cut all the same.
            reasons: Hold back requests for this reason or these only, to this operation and to
                those around it: they are pending, and made when the section is over. A request
                for another reason, and a deadline, cut the section. Scopes of others are kept
                out as by any shield.

        Yields:
            The section, an operation of its own that is listed under this one.

        Raises:
            TimeoutCancelation: If the timeout cut the section and no cancelation was waiting.
            RuntimeError: If the block is not running.
            TypeError: If an argument is of the wrong kind.
            ValueError: If the timeout is not above zero, or there is no such reason.
        """
        if self._scope is None or self._ending is not None:
            msg = "`shield` protects a section of a running block; enter the block first"
            raise RuntimeError(msg)
        name = None if self.name is None else f"{self.name} (shielded)"
        section = Cancelable.with_timeout(bound(timeout, "timeout"), name=name, parent=self)
        around = self._holds_inside()
        section._is_shield = reasons is None or bool(around)
        nearest_cut = self._nearest_cut if reasons is not None else _never
        hold = Hold(self, () if reasons is None else reasons, nearest_cut, around)
        section._keeping()["hold"] = hold
        holders = [] if reasons is None else [self, *self._ancestors()]
        cut: CancelationError | None = None
        try:
            with hold.scope:
                for operation in holders:
                    operation._take_hold(hold)
                try:
                    async with section:
                        yield section
                except CancelationError as error:
                    if error.operation_id != section.operation_id:
                        raise
                    cut = error
        finally:
            for operation in holders:
                operation._drop_hold(hold)
            hold.release()
        try:
            await self.check_cancelation()
            if cut is not None:
                raise cut
        finally:
            del cut  # its traceback holds this frame

    def _holds_inside(self) -> list[Hold]:
        """Return the holds of the sections between this block and the calling code.

        Whatever they keep out must not cut a section of this block that stands inside them:
        its cancelation would be taken there, and the code behind it run on.
        """
        holds: list[Hold] = []
        around = current_block()
        while around is not None and around is not self:
            hold: Hold | None = around.__dict__.get("hold")
            if hold is not None and around._ending is None:
                holds.append(hold)
            around = around._block_around
        return holds

    async def run_in_thread(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in a worker thread, with the context of the caller.

        Inside it, ``current_operation()`` is known, and ``check_cancelation_sync()`` is the
        way to end early. A thread cannot be interrupted: the call returns when the function
        does, also after a request to stop, and a result that it has computed is kept. Only
        asyncio's own ``task.cancel()`` leaves the function behind, until it checks.

        Args:
            func: A plain function.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What the function returns.

        Raises:
            TypeError: If it is no function, or an async one.
        """
        _refuse_async(func)
        from anyio import to_thread  # brings threads in for those who use them

        call = WorkerCall()
        try:
            return await to_thread.run_sync(call.run, partial(func, *args, **kwargs))
        except CancelationError:
            if call.is_stopped:
                # The scope that was cancelled takes its own cancelation, and no error of ours.
                await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            call.is_left = True

    def wrap(self, operation: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Return an async function that passes a checkpoint of this operation first.

        Args:
            operation: An async function.

        Raises:
            TypeError: If it is no function.
        """
        checked_callback(operation, "operation")

        @wraps(operation)
        async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            await self.check_cancelation()
            return await operation(*args, **kwargs)

        return wrapped

    @asynccontextmanager
    async def wrapping(self) -> AsyncGenerator[Wrap]:
        """Give ``wrap`` as the value of an ``async with``, after a checkpoint."""
        await self.check_cancelation()
        yield self.wrap


def _refuse_async(func: Callable[..., object]) -> None:
    """Refuse what a thread cannot run: it would only make a coroutine, which nobody awaits."""
    if not callable(func):
        msg = f"`func` must be a plain function, not {func!r}"
        raise TypeError(msg)
    called: object = getattr(type(func), "__call__", None)  # noqa: B004 - whether it is async
    if any(is_async(each) for is_async in _ASYNC for each in (func, called)):
        msg = (
            f"`func` must be a plain function, not {func!r}, which is async: await it in the "
            "block instead, where it is cancelled at its checkpoints"
        )
        raise TypeError(msg)


_ASYNC = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def _never() -> float:
    return math.inf


def _report_from_worker(loop: Loop, progress: Progress, update: ProgressUpdate) -> bool:
    """Report from a worker thread of *loop* and wait for the listeners; False in other threads."""
    from anyio import NoEventLoopError, from_thread  # noqa: TID251 - a worker thread may block

    async def report() -> bool:
        if current_loop() is not loop:
            return False
        # Trio runs this in the task that waits for the thread. A cancelation of that task must
        # not surface in the thread, whose result would be lost.
        with anyio.CancelScope(shield=True):
            await progress.report(update)
        return True

    try:
        return from_thread.run(report)
    except NoEventLoopError:
        return False
