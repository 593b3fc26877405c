"""The operations of a program by id: those that are live, and a bounded history.

All calls are plain functions that may be made from any thread. Entering and leaving are one
dictionary step each; the id of an operation is made only when somebody asks for it, since an
id that nobody has seen cannot be asked for. An operation that is registered before it begins is
held weakly until then: it may never begin.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from ._answers import AwaitedCount, AwaitedDict, AwaitedList
from ._context import OperationContext
from ._count import count
from ._doorbell import Doorbell
from ._ids import text_id
from ._metadata import checked_metadata
from ._operation import Operation
from ._outcome import CancelOutcome
from ._pending import Pending
from ._reason import CancelationReason
from ._seconds import seconds, zero_or_more
from ._status import OperationStatus
from ._tally import Tally
from ._text import checked_text
from ._watch import Watch, Watchers

OperationT = TypeVar("OperationT", bound=Operation)

HISTORY = 1000
"""How many ended operations a registry remembers unless it is told otherwise."""


@dataclass(slots=True)
class OperationNode:
    """Hold one live operation and those underneath it."""

    context: OperationContext
    children: list[OperationNode] = field(default_factory=list["OperationNode"])


class Latent(Protocol):
    """A running block whose operation is made when somebody asks for it."""

    _started_at: float
    """When the block was entered, as ``time.monotonic()`` counts."""

    def make(self) -> Operation | None:
        """Have the operation, made now if need be, list itself; None if the block ended before."""
        ...


class RegistryObserver(Protocol):
    """What a registry tells those who follow it.

    The calls come in any thread: mostly in that of the operation's loop. They must be quick,
    must not block, and must not raise. ``entered`` comes twice for an operation that is
    registered before it begins, the first time while it is pending.
    """

    def entered(self, operation: Operation) -> None: ...
    def left(self, operation: Operation) -> None: ...
    def reported(self, operation: Operation) -> None: ...


class OperationRegistry:
    """List, find and cancel operations by id.

    A program has one default registry. ``with registry.as_default():`` puts another in its
    place for the code inside and the tasks that it starts, so that a test need not clear
    anything. Operations enter it by ``register_globally=True`` or by ``register``.
    """

    def __init__(self, *, history: int = HISTORY) -> None:
        """Make an empty registry.

        Args:
            history: How many ended operations it remembers, the newest ones.

        Raises:
            TypeError: If it is no whole number.
            ValueError: If the number is negative.
        """
        self._limit = count(history, "history", "operations", least=0)
        self._live: dict[Operation, bool] = {}
        # Those that run and have no operation. They step in and out themselves, and add to
        # ``_unasked`` when they complete: a call would be a part of what they cost.
        self._latent: dict[Latent, None] = {}
        self._pending = Pending()
        self._by_id: dict[str, Operation] = {}
        self._ended: dict[Operation, None] = {}
        self._ended_by_id: dict[str, Operation] = {}
        self._observers: tuple[RegistryObserver, ...] = ()
        # Those of them for whom a block has its operation from the beginning.
        self._eager_for: tuple[RegistryObserver, ...] = ()
        self._watchers = Watchers(self)
        self._totals = {status: 0 for status in OperationStatus if status.is_terminal}
        self._unasked = Tally()
        # Guards the history and the totals, which change only where an operation ends: never
        # on the path of a cancel, which a signal handler may take in the middle of it. A handler
        # that prints the counts may: hence one that its own thread passes.
        self._lock = threading.RLock()

    # -- which registry ------------------------------------------------------------------

    @classmethod
    def current(cls) -> OperationRegistry:
        """Return the registry that is the default here."""
        return registry_here.get()

    @classmethod
    def get_instance(cls) -> OperationRegistry:
        """Return the registry that is the default here."""
        return cls.current()

    @contextmanager
    def as_default(self) -> Generator[OperationRegistry]:
        """Make this registry the default for the code inside and the tasks that it starts."""
        token = registry_here.set(self)
        try:
            yield self
        finally:
            registry_here.reset(token)

    # -- entering and leaving ------------------------------------------------------------

    def register(self, operation: OperationT, *, keep_completed: bool = True) -> OperationT:
        """List an operation here, from now to the end of its block.

        One that is pending is held weakly until it begins, so that it goes if it never does.
        Asked to stop before that, it stops at its first checkpoint.

        Args:
            operation: An operation that has not ended; it may be pending or running.
            keep_completed: Whether an operation that completes goes into the history. Those
                that are cancelled or fail always do.

        Raises:
            TypeError: If it is no operation.
            RuntimeError: If the operation is registered or has ended.
            ValueError: If it is running and its id is the one of a live operation.
        """
        if not isinstance(operation, Operation):
            msg = f"`operation` must be a Cancelable, not {operation!r}"
            raise TypeError(msg)
        if operation.keeper is not None:
            msg = "the operation is registered already; it belongs to one registry"
            raise RuntimeError(msg)
        if operation.status.is_terminal:
            msg = "the operation has ended; register an operation before its block is left"
            raise RuntimeError(msg)
        operation.keeper = self
        operation.keep_completed = keep_completed
        if operation.is_running:
            self.register_at_entry(operation)
        else:
            self._pending.add(operation)
            for observer in self._observers:
                observer.entered(operation)
        return operation

    def register_at_entry(self, operation: Operation) -> None:
        """Register an operation whose block is being entered.

        Raises:
            ValueError: If its id is the one of a live operation; it is not registered then.
        """
        operation.keeper = self
        try:
            self.entered(operation)
        except ValueError:
            operation.keeper = None
            raise

    def unregister(self, operation_id: str) -> AwaitedCount:
        """Take an operation that is live or pending out without asking it to stop.

        Args:
            operation_id: The id.

        Returns:
            1 if it was listed, else 0.

        Raises:
            TypeError: If the id is no text.
        """
        text_id(operation_id, "operation_id")
        operation = self._by_id.pop(operation_id, None) or self._pending.find(operation_id)
        if operation is None:
            return AwaitedCount(0)
        was_pending = self._pending.discard(operation)
        # One that was latent may be about to be listed, by the thread that made it.
        was_live = self._live.pop(operation, None) is not None or operation.is_running
        if not (was_pending or was_live):
            return AwaitedCount(0)
        operation.keeper = None
        for observer in self._observers:
            observer.left(operation)
        return AwaitedCount(1)

    def entered(self, operation: Operation) -> None:
        """List an operation whose block is being entered.

        Raises:
            ValueError: If its id is the one of a live operation.
        """
        known = operation.known_id
        if known is not None and self._by_id.setdefault(known, operation) is not operation:
            msg = f"an operation with the id {known!r} is live; `operation_id` must be unique"
            raise ValueError(msg)
        self._live[operation] = True
        if self._pending and self._pending.discard(operation) and known is None:
            # Another thread may have asked for the id between these lines.
            known = operation.known_id
            if known is not None:
                self.id_was_made(operation, known)
        for observer in self._observers:
            observer.entered(operation)

    def latent_was_made(self, latent: Latent, operation: Operation) -> None:
        """List the operation of a block that runs already; in any thread.

        It is listed before the block goes out, so that nobody misses both. The block may be
        left meanwhile, and somebody may have asked for the id: whoever comes second, this call
        or ``left`` or ``id_was_made``, does what there is to do.
        """
        self.entered(operation)
        self._latent.pop(latent, None)
        known = operation.known_id
        if operation.keeper is None:
            # Taken out before it was listed, by ``clear_all`` or ``unregister``.
            self._drop(operation)
            return
        if known is not None:
            self.id_was_made(operation, known)
        if operation.status.is_terminal:
            self.left(operation)

    def _drop(self, operation: Operation) -> None:
        """Take out an operation that is not to be counted."""
        known = operation.known_id
        if known is not None:
            self._by_id.pop(known, None)
        if self._live.pop(operation, None) is not None:
            for observer in self._observers:
                observer.left(operation)

    def latent_failed(self, latent: Latent, operation: Operation) -> None:
        """Remember how a block failed that nobody has asked about."""
        operation.keeper = self
        self._live[operation] = True
        self._latent.pop(latent, None)
        self.left(operation)

    def latent_older_than(self, age: float) -> list[Latent]:
        """Return the running blocks that nobody has asked about for some time.

        Args:
            age: How long ago they began at least, in seconds.
        """
        latest = time.monotonic() - age
        return [latent for latent in list(self._latent) if latent._started_at <= latest]

    def _everybody(self) -> list[Operation]:
        """Return the live operations, oldest first, and the pending ones behind them.

        The latent ones are made for that. One that another thread is making just now may not be
        listed yet.
        """
        made = [latent.make() for latent in list(self._latent)]
        found = dict.fromkeys(self._live)
        for operation in made:
            if operation is not None and operation.is_running:
                found[operation] = None
        return self._in_order(found)

    def _in_order(self, live: Iterable[Operation]) -> list[Operation]:
        pending = self._pending.all() if self._pending else []
        return sorted(dict.fromkeys([*live, *pending]), key=_started_at)

    def id_was_made(self, operation: Operation, operation_id: str) -> None:
        """Let an operation be found by the id that somebody has just asked it for.

        The operation may be ending in another thread. Whoever comes second of the two, this
        call or ``left``, finds what the other did and takes the entry away. Or it was latent,
        and the thread that made it is about to list it. Or it is pending.
        """
        if operation.is_pending:
            self._pending.note_id(operation, operation_id)
        if operation in self._live or operation.is_running:
            self._by_id[operation_id] = operation
            if operation.status.is_terminal:
                self._by_id.pop(operation_id, None)
        if operation in self._ended:
            self._ended_by_id[operation_id] = operation
            if operation not in self._ended:
                self._ended_by_id.pop(operation_id, None)

    def reported(self, operation: Operation) -> None:
        """Pass on that an operation has reported progress."""
        for observer in self._observers:
            observer.reported(operation)

    def left(self, operation: Operation) -> None:
        """Take out an operation that has ended, and remember how."""
        if self._live.pop(operation, None) is None:
            return
        known = operation.known_id
        if known is not None:
            self._by_id.pop(known, None)
        status = operation.status
        keep = self._limit > 0 and (
            operation.keep_completed or status is not OperationStatus.COMPLETED
        )
        with self._lock:
            self._totals[status] += 1
            if keep:
                self._remember(operation)
        for observer in self._observers:
            observer.left(operation)

    def _remember(self, operation: Operation) -> None:
        """Put an operation into the history, and drop the oldest if that is full.

        Its facts are made when somebody asks: most histories are never read.
        """
        self._ended[operation] = None
        known = operation.known_id
        if known is not None:
            self._ended_by_id[known] = operation
        if len(self._ended) > self._limit:
            self._forget(next(iter(self._ended)))

    def _forget(self, operation: Operation) -> None:
        del self._ended[operation]
        known = operation.known_id
        if known is not None and self._ended_by_id.get(known) is operation:
            del self._ended_by_id[known]

    def add_observer(self, observer: RegistryObserver, *, latent: bool = True) -> list[Operation]:
        """Tell somebody what happens here from now on.

        Args:
            observer: Whom to tell. An operation that enters at this moment in another thread
                may be both told and returned.
            latent: Whether to tell of each ``LatentOperation`` from its beginning, which makes
                its operation; without it, one is told of when somebody else has asked for it.

        Returns:
            The operations that are live, oldest first, and those that are pending.
        """
        with self._lock:
            self._observers = (*self._observers, observer)
            if latent:
                self._eager_for = (*self._eager_for, observer)
        return self._everybody() if latent else self._in_order(list(self._live))

    def remove_observer(self, observer: RegistryObserver) -> None:
        """Tell this observer no more; harmless when it is not told anyway."""
        with self._lock:
            self._observers = tuple(each for each in self._observers if each is not observer)
            self._eager_for = tuple(each for each in self._eager_for if each is not observer)

    # -- asking --------------------------------------------------------------------------

    def get(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> OperationContext | None:
        """Return the facts of an operation: live, pending or remembered.

        Args:
            operation_id: The id.
            metadata: What the operation's metadata must contain (its owner, its tenant); an
                operation that differs looks unknown.

        Raises:
            TypeError: If an argument is of the wrong kind.
        """
        checked_metadata(metadata)
        operation = self.get_operation(operation_id) or self._ended_by_id.get(operation_id)
        if operation is None or not _has(operation.metadata, metadata):
            return None
        return operation.context

    def get_operation(self, operation_id: str) -> Operation | None:
        """Return the operation with this id if it is live or pending, else None.

        Raises:
            TypeError: If the id is no text.
        """
        text_id(operation_id, "operation_id")
        return self._by_id.get(operation_id) or self._pending.find(operation_id)

    def list_operations(
        self,
        status: OperationStatus | str | None = None,
        parent_id: str | None = None,
        name_pattern: str | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
    ) -> AwaitedList[OperationContext]:
        """Return the facts of the operations that match: live, oldest first, then pending.

        Args:
            status: Only those that stand there.
            parent_id: Only those directly under this operation.
            name_pattern: Only those whose name matches this pattern (``*`` and ``?`` stand
                for anything), or contains this text where it has neither.
            metadata: Only those whose metadata contain this (owner, tenant).

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If there is no such status.
        """
        found = self._matching(status, parent_id, name_pattern, metadata)
        return AwaitedList(operation.context for operation in found)

    def tree(self) -> list[OperationNode]:
        """Return the operations as trees of parents and children, in the order of a listing."""
        nodes = {operation: OperationNode(operation.context) for operation in self._everybody()}
        roots: list[OperationNode] = []
        for operation, node in nodes.items():
            above = nodes.get(operation.parent) if operation.parent is not None else None
            (roots if above is None else above.children).append(node)
        return roots

    def get_history(
        self,
        limit: int | None = None,
        status: OperationStatus | str | None = None,
        since: datetime | None = None,
    ) -> AwaitedList[OperationContext]:
        """Return the facts of operations that have ended, oldest first.

        Args:
            limit: At most so many, the newest ones.
            status: Only those that ended so.
            since: Only those that ended at this time or later; a time without a zone is UTC.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If the limit is negative, or there is no such status.
        """
        if limit is not None:
            count(limit, "limit", "operations", least=0)
        wanted = None if status is None else OperationStatus.of(status)
        since = _checked_time(since)
        found = [
            context
            for context in [operation.context for operation in list(self._ended)]
            if (wanted is None or context.status is wanted)
            and (since is None or (context.end_time is not None and context.end_time >= since))
        ]
        return AwaitedList(found if limit is None else found[max(len(found) - limit, 0) :])

    def get_statistics(self) -> AwaitedDict[object]:
        """Return counts: of the operations by status, and of all that ended by ending.

        Returns:
            ``active_operations`` and ``active_by_status`` of those that are live or pending;
            ``total_completed``, ``total_cancelled`` and ``total_failed`` since the registry was
            made or its history cleared; ``history_size`` and ``history_by_status`` of those that
            are remembered, and ``average_duration_seconds`` of those among them that completed,
            0 if none did.
        """
        live = {status.value: 0 for status in OperationStatus if not status.is_terminal}
        for operation in self._everybody():
            status = operation.status
            if not status.is_terminal:
                live[status.value] += 1
        with self._lock:
            ended = {status.value: count for status, count in self._totals.items()}
            ended["completed"] += self._unasked.total
        remembered = [operation.context for operation in list(self._ended)]
        return AwaitedDict(
            {
                "active_operations": sum(live.values()),
                "active_by_status": live,
                "total_completed": ended["completed"],
                "total_cancelled": ended["cancelled"],
                "total_failed": ended["failed"],
                "history_size": len(remembered),
                "history_by_status": _by_status(remembered),
                "average_duration_seconds": _average_duration(remembered),
            }
        )

    # -- cancelling ----------------------------------------------------------------------

    def cancel(
        self,
        operation_id: str,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
        *,
        grace: float | timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> CancelOutcome:
        """Ask an operation to stop, and answer at once what became of the request.

        Args:
            operation_id: The id.
            reason: The kind of cause.
            message: A text for the people who read the error.
            grace: Seconds that its block may run on, instead of its own grace.
            metadata: What the operation's metadata must contain (its owner, its tenant); an
                operation that differs looks unknown and is left alone.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If there is no such reason, or the grace is negative or NaN.
        """
        reason = CancelationReason.of(reason)
        checked_text(message, "message")
        checked_metadata(metadata)
        allowed = None if grace is None else zero_or_more(grace, "grace")
        operation = self.get_operation(operation_id)
        if operation is not None and _has(operation.metadata, metadata):
            return operation.cancel_sync(reason, message, grace=allowed)
        if self.get(operation_id, metadata=metadata) is not None:
            return CancelOutcome.FINISHED
        return CancelOutcome.UNKNOWN

    def cancel_operation(
        self,
        operation_id: str,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
    ) -> CancelOutcome:
        """Ask an operation to stop; see ``cancel``."""
        return self.cancel(operation_id, reason, message)

    def cancel_all(
        self,
        status: OperationStatus | str | None = None,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
        *,
        parent_id: str | None = None,
        name_pattern: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> AwaitedCount:
        """Ask all operations that match to stop, live or pending.

        Args:
            status: Only those that stand there.
            reason: The kind of cause.
            message: A text for the people who read the errors.
            parent_id: Only those directly under this operation.
            name_pattern: Only those whose name matches; see ``list_operations``.
            metadata: Only those whose metadata contain this.

        Returns:
            How many of them this call was the first to ask.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If there is no such reason, or no such status.
        """
        reason = CancelationReason.of(reason)
        checked_text(message, "message")
        found = self._matching(status, parent_id, name_pattern, metadata)
        outcomes = [operation.cancel_sync(reason, message) for operation in found]
        return AwaitedCount(outcomes.count(CancelOutcome.REQUESTED))

    async def wait_stopped(
        self, operation_id: str, timeout: float | timedelta | None = None
    ) -> OperationContext | None:
        """Wait until an operation has ended.

        Args:
            operation_id: The id of an operation that is live or remembered.
            timeout: How long to wait, in seconds; None for as long as it takes.

        Returns:
            How it ended, or None if the time ran out first.

        Raises:
            LookupError: If no such operation is known here.
            TypeError: If the id is no text, or the timeout no duration.
            ValueError: If the timeout is NaN.
        """
        allowed = seconds(timeout, "timeout")
        operation = self.get_operation(operation_id)
        if operation is not None:
            return await operation.wait_stopped(allowed)
        context = self.get(operation_id)
        if context is None:
            raise _unknown(operation_id)
        return context

    @asynccontextmanager
    async def watch(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> AsyncGenerator[AsyncIterator[OperationContext]]:
        """Follow an operation: how it stands, each change of status or progress, its end.

        ::

            async with registry.watch(job_id) as contexts:
                async for context in contexts:
                    print(context.status, context.progress)

        Whoever is slower than the changes misses some in the middle and always gets the last,
        after which the iteration ends. The watcher may run in another loop than the operation.

        Args:
            operation_id: The id of an operation that is live or remembered.
            metadata: What the operation's metadata must contain (its owner, its tenant); an
                operation that differs looks unknown.

        Raises:
            LookupError: If no such operation is known here.
            TypeError: If an argument is of the wrong kind.
        """
        checked_metadata(metadata)
        operation = self.get_operation(operation_id)
        operation = operation or self._ended_by_id.get(operation_id)
        if operation is None or not _has(operation.metadata, metadata):
            raise _unknown(operation_id)
        watched = operation

        async def look() -> OperationContext:
            return watched.context

        ended = nullcontext(Doorbell()) if watched.status.is_terminal else None
        with ended or self._watchers.follow(watched) as bell:
            yield Watch(watched.context, bell, look, _marks, _is_last)

    # -- keeping house -------------------------------------------------------------------

    def cleanup_completed(
        self, older_than: float | timedelta | None = None, keep_failed: bool = True
    ) -> AwaitedCount:
        """Forget operations that have ended.

        Args:
            older_than: Only those that ended longer ago than so many seconds, or than this
                ``timedelta``.
            keep_failed: Whether those that failed stay.

        Returns:
            How many were forgotten.

        Raises:
            TypeError: If the age is no duration.
            ValueError: If the age is NaN.
        """
        now, age = datetime.now(UTC), seconds(older_than, "older_than")
        with self._lock:
            old = [
                operation
                for operation in self._ended
                if not (keep_failed and operation.status is OperationStatus.FAILED)
                and (older_than is None or _ended_ago(operation, now) > age)
            ]
            for operation in old:
                self._forget(operation)
        return AwaitedCount(len(old))

    def clear_history(self) -> None:
        """Forget all operations that have ended, and start counting anew."""
        with self._lock:
            self._ended.clear()
            self._ended_by_id.clear()
            self._totals = dict.fromkeys(self._totals, 0)
            self._unasked = Tally()

    def clear_all(self) -> AwaitedCount:
        """Forget everything: the history, and the live operations, which run on unlisted.

        Returns:
            How many operations were forgotten.
        """
        live = self._everybody()
        for operation in live:
            operation.keeper = None
        self._live.clear()
        self._pending.clear()
        self._by_id.clear()
        for observer in self._observers:
            for operation in live:
                observer.left(operation)
        forgotten = len(live) + len(self._ended)
        self.clear_history()
        return AwaitedCount(forgotten)

    def _matching(
        self,
        status: OperationStatus | str | None,
        parent_id: str | None,
        name_pattern: str | None,
        metadata: Mapping[str, object] | None,
    ) -> list[Operation]:
        wanted = None if status is None else OperationStatus.of(status)
        checked_text(parent_id, "parent_id")
        checked_text(name_pattern, "name_pattern")
        checked_metadata(metadata)
        return [
            operation
            for operation in self._everybody()
            if (wanted is None or operation.status is wanted)
            and (parent_id is None or _is_under(operation, parent_id))
            and (name_pattern is None or _is_named(operation.name, name_pattern))
            and _has(operation.metadata, metadata)
        ]

    # -- the same calls under the names that say that they are plain -----------------------

    get_operation_sync = get_operation
    list_operations_sync = list_operations
    get_history_sync = get_history
    get_statistics_sync = get_statistics
    cancel_operation_sync = cancel_operation
    cancel_all_sync = cancel_all


def _started_at(operation: Operation) -> float:
    # One that is just being entered is listed before its time is written down.
    return operation._started_at or math.inf


def _by_status(ended: list[OperationContext]) -> dict[str, int]:
    statuses = [context.status for context in ended]
    return {each.value: statuses.count(each) for each in OperationStatus if each.is_terminal}


def _average_duration(ended: list[OperationContext]) -> float:
    took = [context.duration_seconds or 0.0 for context in ended if context.is_success]
    return sum(took) / len(took) if took else 0.0


def _checked_time(since: datetime | None) -> datetime | None:
    """Return a time that a caller gave, in UTC if it has no zone."""
    if since is None:
        return None
    if not isinstance(since, datetime):
        msg = f"`since` must be a datetime or None, not {since!r}"
        raise TypeError(msg)
    return since.replace(tzinfo=UTC) if since.tzinfo is None else since


def _unknown(operation_id: str) -> LookupError:
    return LookupError(f"no operation with the id {operation_id!r} is known to this registry")


def _marks(context: OperationContext) -> object:
    return context.status, context.progress, context.cancel_reason


def _is_last(context: OperationContext) -> bool:
    return context.is_terminal


def _is_under(operation: Operation, parent_id: str) -> bool:
    return operation.parent is not None and operation.parent.operation_id == parent_id


def _is_named(name: str | None, pattern: str) -> bool:
    if name is None:
        return False
    if not any(character in pattern for character in "*?["):
        return pattern in name
    from fnmatch import fnmatchcase  # needed by those who filter so, not by every import

    return fnmatchcase(name, pattern)


def _ended_ago(operation: Operation, now: datetime) -> float:
    """Return how many seconds ago an operation ended; infinity where that is not known."""
    ended = operation.context.end_time
    return math.inf if ended is None else (now - ended).total_seconds()


def _has(metadata: Mapping[str, object], wanted: Mapping[str, object] | None) -> bool:
    if wanted is None:
        return True
    missing = object()
    return all(metadata.get(key, missing) == value for key, value in wanted.items())


ThreadSafeRegistry = OperationRegistry
"""The same class: every call of a registry is safe from any thread."""

_default = OperationRegistry()

registry_here: ContextVar[OperationRegistry] = ContextVar("cancelable_registry", default=_default)
"""The registry that is the default for the running code."""
