"""What an operation knows and what it has been asked, apart from how its block is run.

An operation keeps the list of requests to stop, of which the first is the cause; its place in
the tree of operations; its deadline. A request may come from any thread, at any moment, also
from a signal handler in the middle of any line of this file. Nothing here takes a lock: a
request is one append to a list, whoever stands first in that list has won, and the loop that
runs the operation is only ever rung, never waited for.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import anyio

from ._answers import Awaited
from ._cause import Cause
from ._context import OperationContext
from ._hold import Hold
from ._ids import checked_id, new_id
from ._log import logger
from ._loop import Alarm, Loop, call_soon, current_loop
from ._outcome import CancelOutcome
from ._progress import Progress
from ._reason import CancelationReason
from ._round import call_all
from ._seconds import moment, seconds as duration, zero_or_more
from ._single import Single
from ._status import OperationStatus
from ._text import checked_text
from ._token import CancelationToken, Listener, set_event
from ._update import ProgressUpdate
from .exceptions import CancelationError

NEVER = math.inf
"""A name of this file is found quicker than one of another, for each block several times."""

_NO_CHILDREN: dict[Operation, None] = {}


class Keeper(Protocol):
    """What an operation tells the registry that lists it."""

    def entered(self, operation: Operation) -> None: ...
    def id_was_made(self, operation: Operation, operation_id: str) -> None: ...
    def left(self, operation: Operation) -> None: ...
    def reported(self, operation: Operation) -> None: ...


class Operation(Awaited, Single):
    """Keep the facts of one operation and the requests that it stop."""

    # What every operation needs has a slot; what few need (an id, a token, callbacks) is put
    # into __dict__ when it is first asked for. Putting it there with setdefault is one atomic
    # step, so that two threads that ask at once get the same object.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_came",
        "_causes",
        "_clock",
        "_cut",
        "_deadline",
        "_enclosing",
        "_end_cause",
        "_ended_at",
        "_ending",
        "_failure",
        "_grace",
        "_has_more",
        "_is_in_parents_task",
        "_is_shield",
        "_loop",
        "_metadata",
        "_name",
        "_parent",
        "_scope",
        "_started_at",
        "_timeout",
        "keep_completed",
        "keeper",
    )

    keeper: Keeper | None
    """The registry that lists the operation, if one does."""
    keep_completed: bool
    """Whether that registry remembers the operation when it completes."""

    def __init__(
        self,
        operation_id: str | None = None,
        name: str | None = None,
        metadata: dict[str, object] | None = None,
        grace: float = 0.0,
    ) -> None:
        """Make an operation that has not begun."""
        if name is not None and not isinstance(name, str):
            checked_text(name, "name")  # which refuses it: most names need no call
        self._name = name
        self._metadata = metadata
        self._grace = grace
        self._causes: list[Cause] = []
        # When the first cause came, on the own clock. Until that is written down it came now.
        self._came = self._deadline = self._cut = NEVER
        # From the entry to the deadline, as long as that is known; before the entry what was given.
        self._timeout: float = NEVER
        self._ending: OperationStatus | None = None
        self._end_cause: Cause | None = None
        self._failure: str | None = None
        self._scope: anyio.CancelScope | None = None
        self._loop: Loop | None = None
        self._clock: Callable[[], float] | None = None
        self._parent: Operation | None = None
        self._enclosing: Operation | None = None
        self._is_in_parents_task = False
        self._is_shield = False
        self._started_at = 0.0
        self._ended_at = 0.0
        self.keeper = None
        self.keep_completed = True
        self._has_more = False
        if operation_id is not None:
            self._keeping()["operation_id"] = checked_id(operation_id, "operation_id")

    def _keeping(self) -> dict[str, Any]:
        """Return ``__dict__`` to put something there, and mark that there is something.

        The interpreter makes that dictionary when it is first looked at, even if only to see that
        it is empty; most operations end without it. The mark comes first: whoever sees what was
        put there sees the mark.
        """
        self._has_more = True
        return self.__dict__

    # -- facts ---------------------------------------------------------------------------

    @property
    def operation_id(self) -> str:
        """The id: the one that was given, else an unguessable one, made when first asked for."""
        known: str | None = self.__dict__.get("operation_id")
        if known is None:
            known = str(self._keeping().setdefault("operation_id", new_id()))
            keeper = self.keeper
            if keeper is not None:
                keeper.id_was_made(self, known)
        return known

    @property
    def known_id(self) -> str | None:
        """The id if it was given or somebody has asked for it, else None."""
        known: str | None = self.__dict__.get("operation_id") if self._has_more else None
        return known

    @property
    def name(self) -> str | None:
        """The name for people and for filters."""
        return self._name

    @property
    def metadata(self) -> dict[str, object]:
        """The metadata of the operation, open to changes."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def parent(self) -> Operation | None:
        """The operation under which this one is listed; found when the block is entered."""
        return self._parent

    @property
    def _children(self) -> dict[Operation, None]:
        known: dict[Operation, None] | None = self.__dict__.get("children")
        return _NO_CHILDREN if known is None else known

    @property
    def children(self) -> list[Operation]:
        """The live operations directly underneath."""
        return list(self._children)

    @property
    def status(self) -> OperationStatus:
        """Where the operation stands."""
        if self._ending is not None:
            return self._ending
        if not self._started_at:
            return OperationStatus.PENDING
        if self._is_asked():
            return OperationStatus.CANCELLING
        return OperationStatus.RUNNING

    @property
    def is_pending(self) -> bool:
        """Whether the operation has neither begun nor ended."""
        return not self._started_at and self._ending is None

    @property
    def is_running(self) -> bool:
        """Whether the operation has begun and not ended."""
        return bool(self._started_at) and self._ending is None

    @property
    def is_cancelling(self) -> bool:
        """Whether the operation is live and has been asked to stop."""
        return self._ending is None and self._is_asked()

    @property
    def is_cancelled(self) -> bool:
        """Whether a cancelation ended the block."""
        return self._ending is OperationStatus.CANCELLED

    @property
    def is_completed(self) -> bool:
        """Whether the block ran to its end."""
        return self._ending is OperationStatus.COMPLETED

    @property
    def cancel_requested(self) -> bool:
        """Whether the operation was asked to stop, however it ended."""
        return self._is_asked()

    @property
    def cause(self) -> Cause | None:
        """The first request to stop; after the end, what ended the block; or None."""
        if self._ending is not None:
            return self._end_cause
        self._notice_deadline()
        causes = self._causes
        return causes[0] if causes else None

    @property
    def cancel_reason(self) -> CancelationReason | None:
        """The reason for which the operation was asked to stop, or was ended."""
        cause = self.cause
        return None if cause is None else cause.reason

    @property
    def cancel_message(self) -> str | None:
        """The message that came with the first request."""
        cause = self.cause
        return None if cause is None else cause.message

    @property
    def last_update(self) -> ProgressUpdate | None:
        """The last report of progress, if there was one."""
        room: Progress | None = self.__dict__.get("progress_room")
        return None if room is None else room.last

    @property
    def context(self) -> OperationContext:
        """The facts of the operation now; after its end, always the same final ones."""
        if self._ending is None:
            return self._facts()
        final: OperationContext | None = self.__dict__.get("context")
        return final or self._keeping().setdefault("context", self._facts())

    def set_partial_result(self, value: object) -> None:
        """Keep what has been done so far: context and error carry it when the block ends.

        Args:
            value: Anything.
        """
        self._keeping()["partial_result"] = value

    def _facts(self) -> OperationContext:
        cause = self.cause
        context = OperationContext(
            id=self.operation_id,
            name=self._name,
            status=self.status,
            metadata=self.metadata,
            partial_result=self.__dict__.get("partial_result"),
            progress=self.last_update,
            cancel_requested=bool(self._causes),
            error=self._failure,
        )
        if self._parent is not None:
            context.parent_id = self._parent.operation_id
        if self._started_at:
            context.start_time = self._start_time
            if self._ending is not None:
                took = self._ended_at - self._started_at
                context.end_time = context.start_time + timedelta(seconds=took)
        if cause is not None:
            context.cancel_reason = cause.reason
            context.cancel_message = cause.message
            context.cancel_source = cause.source
            context.cancelled_at = cause.cancelled_at
            context.origin_id = cause.origin_id
        return context

    @property
    def _start_time(self) -> datetime:
        """When the operation began; worked out once, from the clock that never jumps."""
        known: datetime | None = self.__dict__.get("start_time")
        if known is not None:
            return known
        since = timedelta(seconds=time.monotonic() - self._started_at)
        made: datetime = self._keeping().setdefault("start_time", datetime.now(UTC) - since)
        return made

    # -- the tree ------------------------------------------------------------------------

    def _ancestors(self) -> Iterator[Operation]:
        """Yield the live operations above or around this one, nearest first.

        The way goes through the parent and through the operation around the block: the parent
        may be elsewhere, and with ``parent=None`` an operation is listed under nobody and still
        runs inside another.
        """
        return self._above(past_shields=True)

    def _askers(self) -> Iterator[Operation]:
        """Yield the operations above whose requests and deadlines reach this one, nearest first.

        A shielded section hears of nothing, and what runs inside it hears of nothing beyond;
        nor does one that holds some reasons, if another one keeps its operation out.
        """
        return self._above(past_shields=False)

    def _through_parent(self, parent: Operation) -> Iterator[Operation]:
        """Yield the parent and those whose requests and deadlines reach it, nearest first."""
        if self._is_shield:
            return
        if parent._ending is None and parent._clock is not None:
            yield parent
        yield from parent._askers()

    def _above(self, *, past_shields: bool) -> Iterator[Operation]:
        """Yield the live operations above.

        Args:
            past_shields: Whether to go on behind a shielded section.
        """
        operation, is_live = self, self._ending is None
        while past_shields or not (is_live and operation._is_shield):
            parent, around = operation._parent, operation._enclosing
            above = around if parent is None else parent
            if above is None:
                return
            # Most have one above, which is seen at once.
            if around is not None and around is not above and operation._has_two_above():
                yield from operation._both_ways(past_shields=past_shields)
                return
            is_live = above._ending is None and above._clock is not None
            if is_live:
                yield above
            operation = above

    def _has_two_above(self) -> bool:
        """Return whether the parent is not the operation around the block."""
        parent, around = self._parent, self._enclosing
        if parent is around or parent is None or around is None:
            return False
        # A section belongs to its operation, and is kept from what is around it.
        return not (self._has_more and "hold" in self.__dict__)

    def _both_ways(self, *, past_shields: bool) -> Iterator[Operation]:
        """Yield what is above an operation that has two above it; see ``_above``.

        The two ways may meet. So each operation is written down when all that is above it has
        been, and that is read backwards.
        """
        seen: set[Operation] = set()
        far_first: list[Operation] = []
        waiting: list[tuple[Operation, bool]] = [(self, False)]
        while waiting:
            operation, is_done = waiting.pop()
            is_live = operation._ending is None and operation._clock is not None
            if is_done:
                if is_live and operation is not self:
                    far_first.append(operation)
            elif operation not in seen:
                seen.add(operation)
                waiting.append((operation, True))
                if past_shields or not (is_live and operation._is_shield):
                    parent, around = operation._parent, operation._enclosing
                    if around is not None and (parent is None or operation._has_two_above()):
                        waiting.append((around, False))
                    if parent is not None:
                        waiting.append((parent, False))
        yield from reversed(far_first)

    def _adopt(self, child: Operation) -> None:
        """List *child* underneath, and let it know what was asked here before.

        The child goes in before the cause is looked up, so that a request from another thread
        in between reaches it one way or the other. When it is cut is the parent's time: at
        once, or at the end of a grace that the parent has.
        """
        children: dict[Operation, None] = self._keeping().setdefault("children", {})
        children[child] = None
        if self._causes and not child._is_shield:
            if child._has_two_above():
                child._notice_deadline()  # what is around it may have been asked before
            child._learn_from(self)

    def _release(self, child: Operation) -> None:
        self._children.pop(child, None)

    # -- the deadline --------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """The time on anyio's clock when the operation is asked to stop; infinity for none.

        It may be set, also before the block is entered: the request that is not yet due moves.
        One that has passed stands, and the block is cut when it would have been. A deadline of
        an operation around this one still holds. What is no number is a TypeError, NaN a
        ValueError.
        """
        return self._deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._set_deadline(moment(value, "deadline"))

    @property
    def remaining(self) -> float:
        """The seconds until the nearest deadline of this operation or one around it.

        Infinity if there is none, zero when it has passed or the operation was asked to stop or
        has ended. Readable in any thread; before the block is entered, a ``deadline`` that was
        set counts in the loop alone, whose clock it is on.
        """
        if self._causes or self._ending is not None:
            return 0.0
        if self._clock is None:
            return max(min(self._timeout, self._until_the_deadline_set()), 0.0)
        owner = self._earliest()
        clock = owner._clock
        if owner._deadline == math.inf or clock is None:
            return math.inf
        return max(owner._deadline - clock(), 0.0)

    def _until_the_deadline_set(self) -> float:
        """Return the seconds until a deadline that was set before the entry."""
        if self._deadline == math.inf:
            return math.inf
        try:
            return self._deadline - current_loop().clock()
        except anyio.NoEventLoopError:
            return math.inf

    def extend(self, seconds: float | timedelta | None) -> bool:
        """Put the deadline *seconds* from now: an idle timeout that starts anew.

        Call it in the thread of the operation's loop, inside the block.

        Args:
            seconds: Seconds from now, or a ``timedelta``; None and infinity for no deadline.

        Returns:
            False if the operation was asked to stop before; that stands.

        Raises:
            RuntimeError: If the block is not running.
            TypeError: If it is no duration.
            ValueError: If the number is NaN.
        """
        allowed = duration(seconds, "seconds")
        if self._clock is None or self._ending is not None:
            msg = "`extend` moves the deadline of a running block; enter it with `async with` first"
            raise RuntimeError(msg)
        if self._is_asked():
            return False
        self.deadline = self._clock() + allowed
        return True

    def _set_deadline(self, when: float) -> None:
        passed, clock = self._deadline, self._clock
        if when == passed:
            return
        # Looked at before the cause is: one that passes in between is not noticed, and moves.
        has_passed = clock is not None and passed <= clock()
        self._notice_deadline()
        if has_passed and self._causes:
            self._cut_at_the_latest(passed + self._grace)
        if clock is not None:
            self._forget_the_limit(max(when, clock()) - passed)
        self._deadline = when
        if self._ending is None and self._clock is not None:
            self._retime()

    def _forget_the_limit(self, moved_by: float) -> None:
        """Know of a deadline only when it comes, and no longer who set it.

        Args:
            moved_by: The seconds by which it comes later than before.
        """
        self._timeout = self._timeout + moved_by if self._timeout != math.inf else math.inf
        if self._has_more:
            self.__dict__.pop("limit", None)

    def _retime(self) -> None:
        """Give the scope the time of the hard cut anew; runs in the loop of the operation.

        Those of the operations underneath follow, however deep they are nested.
        """
        waiting: list[Operation] = [self]
        while waiting:
            operation = waiting.pop()
            if operation._ending is not None:
                continue
            scope = operation._scope
            if scope is not None:  # a generator has none between two steps
                when = operation._hard_cut()
                if when != scope.deadline:
                    scope.deadline = when
            for hold in operation._holds:
                hold.cut(operation._native, operation._native_message())
            token: OperationToken | None = operation.__dict__.get("token")
            if token is not None:
                token.wake_waiters()
                operation._set_alarm()
            for child in list(operation._children):
                if child._native is self._native:
                    waiting.append(child)
                elif child._loop is not None:
                    call_soon(child._loop, child._retime)

    def _is_listened_to(self) -> None:
        """Take note of a listener of the token; it may come from any thread."""
        loop = self._loop
        if loop is None or self._causes or "alarm" in self.__dict__:
            return
        if self._earliest()._deadline != math.inf:
            # Not at once: this may be a signal handler between two lines of the loop itself.
            call_soon(loop, self._set_alarm)

    def _set_alarm(self) -> None:
        """Have the nearest deadline noticed as it passes; runs in the loop of the operation.

        For those who listen to the token: otherwise a deadline is noticed when somebody asks.
        An alarm that comes too early is set anew then, so that a deadline that is put off
        again and again costs nothing.
        """
        loop = self._loop
        token: OperationToken | None = self.__dict__.get("token")
        if loop is None or token is None or self._causes or self._ending is not None:
            return
        alarm: Alarm | None = self.__dict__.get("alarm")
        if alarm is None and not token._listeners:
            return
        owner = self._earliest()
        when = self._translate(owner._deadline, owner)
        if when == math.inf or (alarm is not None and alarm.when <= when):
            return
        if alarm is not None:
            alarm.take_back()
        self._keeping()["alarm"] = Alarm(loop, when, self._hear_the_alarm)

    def _hear_the_alarm(self) -> None:
        self._drop_alarm()
        try:
            self._notice_deadline()
        except KeyboardInterrupt:
            raise
        except BaseException:
            # What a callback of the token raises leaves the call that cancels, and nobody calls.
            logger.exception("a callback of a token failed as a deadline passed: %r", self)
        self._set_alarm()

    def _drop_alarm(self) -> None:
        alarm: Alarm | None = self.__dict__.pop("alarm", None)
        if alarm is not None:
            alarm.take_back()

    def _let_go(self, parent: Operation) -> None:
        """Go on without a parent that has ended: its deadline is gone, what it asked stands.

        With a section that has ended, what was asked beyond it is no longer kept from this one.
        A generator between two steps was asked nothing by its parent.
        """
        self._notice_deadline()
        if self._causes and not self._is_shield:
            cut = min(parent._deadline + parent._grace, parent._cut)
            self._cut = min(self._cut, self._translate(cut, parent), self._nearest_cut())
        if self._loop is not None:
            call_soon(self._loop, self._retime)

    @property
    def _native(self) -> object:
        return None if self._loop is None else self._loop.native_token

    def _hard_cut(self) -> float:
        """Return when the scope has to end, on the clock of this operation.

        A child in the task of its parent lies inside the parent's scope. A child in another
        task may not, so it takes over the parent's time.
        """
        when = min(self._deadline + self._grace, self._cut)
        if self._parent is None or self._is_in_parents_task:
            return when
        # What is around this block in its own task, and not above the parent, cuts by itself.
        return self._earliest_cut(when, self._through_parent(self._parent))

    def _nearest_cut(self) -> float:
        """Return when this operation or one above is cut, up to a shield in between."""
        when = min(self._deadline + self._grace, self._cut)
        return self._earliest_cut(when, self._askers())

    def _earliest_cut(self, when: float, line: Iterator[Operation]) -> float:
        """Return when the first of *line* is cut, or *when* if that is earlier."""
        for above in line:
            cut = min(above._deadline + above._grace, above._cut)
            when = min(when, self._translate(cut, above))
        return when

    def _translate(self, when: float, other: Operation) -> float:
        """Return a time of another operation's clock as a time of this one's."""
        if other._native is self._native or when == math.inf:
            return when
        mine, others = self._clock, other._clock
        if mine is None or others is None:
            return math.inf  # one of them has ended meanwhile, in another thread
        return when - others() + mine()

    def _earliest(self) -> Operation:
        """Return the operation, here or above, whose deadline comes first.

        Among equal deadlines the outermost is the one that counts.
        """
        owner: Operation = self
        first = self._deadline
        for above in self._askers():
            if above._deadline == math.inf:
                continue
            when = self._translate(above._deadline, above)
            if when <= first:
                owner, first = above, when
        return owner

    def _notice_deadline(self) -> None:
        """Make a deadline that has passed the cause, unless something was asked before.

        A deadline counts from the moment that it passes. The loop may notice later, when its
        timers run; everything that asks about the cause comes through here first.
        """
        clock = self._clock  # looked up once: the block may be left in another thread meanwhile
        if self._causes or clock is None or self._ending is not None:
            return
        if self._parent is None and self._enclosing is None:
            deadline = self._deadline
            if deadline <= clock():
                self._time_out(deadline)
            return
        asked, owner = self._first_asked(), self._earliest()
        if asked is not None and not owner._was_due_before(owner._translate(asked._came, asked)):
            self._learn_from(asked)
            return
        clock, deadline = owner._clock, owner._deadline
        if clock is None or deadline > clock():
            return
        owner._time_out(deadline)
        if owner is not self:
            self._learn_from(owner)

    def _time_out(self, deadline: float) -> None:
        """Make the own deadline, which has passed, the cause unless there is one.

        The hard cut that belongs to it is written down, so that it stays where it is if the
        deadline is moved.
        """
        self._cut_at_the_latest(deadline + self._grace)
        self._record(self._timed_out(), came=deadline)
        loop = self._loop
        if self._deadline != deadline and loop is not None:
            # This is another thread, and the loop has moved the deadline in between.
            call_soon(loop, self._retime)

    def _cut_at_the_latest(self, when: float) -> None:
        """Have no later deadline put the hard cut off; the scope is to end at *when* already."""
        self._cut = min(self._cut, when)

    def _first_asked(self) -> Operation | None:
        """Return the operation above that was asked to stop first, the nearest of them; or None."""
        first: Operation | None = None
        since = math.inf
        for above in self._askers():
            if above._causes:
                came = self._translate(above._came, above)
                if first is None or came < since:
                    first, since = above, came
        return first

    def _found_above(self) -> tuple[Cause, float] | None:
        """Return the cause that ``_notice_deadline`` would record, and since when it is one."""
        asked, owner = self._first_asked(), self._earliest()
        if asked is not None and not owner._was_due_before(owner._translate(asked._came, asked)):
            cause = asked._causes[0].below(asked.operation_id)
            return cause, self._translate(asked._came, asked)
        clock, deadline = owner._clock, owner._deadline
        if clock is None or deadline > clock():
            return None
        timeout = owner._timed_out()
        cause = timeout if owner is self else timeout.below(owner.operation_id)
        return cause, self._translate(deadline, owner)

    def _learn_from(self, asked: Operation) -> None:
        """Take over the cause of an operation above."""
        cause = asked._causes[0].below(asked.operation_id)
        self._record(cause, came=self._translate(asked._came, asked))

    def _timed_out(self) -> Cause:
        allowed = self._timeout if self._timeout != math.inf else None
        return Cause(CancelationReason.TIMEOUT, timeout_seconds=allowed)

    # -- sections that hold requests back ------------------------------------------------

    @property
    def _holds(self) -> list[Hold]:
        # A copy, made in one step: sections of other loops come and go at the same time.
        holds: dict[Hold, None] | None = self.__dict__.get("holds")
        return [] if holds is None else list(holds)

    def _take_hold(self, hold: Hold) -> None:
        holds: dict[Hold, None] = self._keeping().setdefault("holds", {})
        holds[hold] = None

    def _drop_hold(self, hold: Hold) -> None:
        holds: dict[Hold, None] = self.__dict__.get("holds", {})
        holds.pop(hold, None)

    # -- requests ------------------------------------------------------------------------

    def _is_asked(self) -> bool:
        if self._ending is None:
            self._notice_deadline()
        return bool(self._causes)

    async def cancel(
        self,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
        propagate_to_children: bool = True,
        *,
        grace: float | timedelta | None = None,
        because: CancelationError | None = None,
    ) -> CancelOutcome:
        """Ask the operation to stop, from a task.

        The block sees the native cancelation at its next checkpoint; this call is none, so
        that a block may cancel itself and still finish a few plain steps.

        Args:
            reason: The kind of cause.
            message: A text for the people who read the error.
            propagate_to_children: Kept for callers who pass it; True. Operations underneath
                always stop with the one above; start an operation that must not with
                ``parent=None`` in a task of its own.
            grace: Seconds that the block may run on, instead of the operation's own ``grace``.
                A later request can shorten the time and never lengthen it.
            because: The cancelation of another operation that this one is not to outlive. That
                other one is named in ``origin_id`` and has the record at INFO.

        Returns:
            What became of the request; never that the block has ended.

        Raises:
            TypeError: If the message is no text, or the grace no duration.
            ValueError: If there is no such reason, the grace is negative or NaN, or
                *propagate_to_children* is not true.
        """
        if not propagate_to_children:
            msg = (
                "`propagate_to_children` cannot be False: operations underneath always stop with "
                "the one above; start one that must not with `parent=None` in a task of its own"
            )
            raise ValueError(msg)
        cause = Cause(CancelationReason.of(reason), checked_text(message, "message"))
        if because is not None:
            cause.origin_id = because.origin_id or because.operation_id
        allowed = None if grace is None else zero_or_more(grace, "grace")
        return self._request(cause, grace=allowed, here=current_loop().native_token)

    def cancel_sync(
        self,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
        *,
        grace: float | timedelta | None = None,
    ) -> CancelOutcome:
        """Ask the operation to stop, from any thread or from a signal handler.

        The request stands when this returns; the block sees it at the next turn of its loop.

        Args:
            reason: The kind of cause.
            message: A text for the people who read the error.
            grace: Seconds that the block may run on, instead of the operation's own ``grace``.

        Returns:
            What became of the request; never that the block has ended.

        Raises:
            TypeError: If the message is no text, or the grace no duration.
            ValueError: If there is no such reason, or the grace is negative or NaN.
        """
        cause = Cause(CancelationReason.of(reason), checked_text(message, "message"))
        allowed = None if grace is None else zero_or_more(grace, "grace")
        return self._request(cause, grace=allowed)

    def _request(
        self, cause: Cause, *, grace: float | None = None, here: object = None
    ) -> CancelOutcome:
        """Take a request, with a grace that was checked; see ``Listener`` for *here*."""
        if grace is None:
            grace = self._grace
        if self._ending is not None:
            return CancelOutcome.FINISHED
        holds = self._holds
        for hold in holds:
            if hold.keeps(self, cause):
                was_asked = self._is_asked() or any(other.has(self) for other in holds)
                is_first = hold.notes(self) and not was_asked
                hold.keep(partial(self._request, cause, grace=grace))
                return _answer(is_first)
        self._notice_deadline()
        try:
            is_first = self._record(cause, here)
            if not is_first:  # the first may have been kept from telling all
                self._let_know(here)
        finally:
            self._cut_after(grace, here)
        return _answer(is_first)

    def _record(self, cause: Cause, here: object = None, came: float | None = None) -> bool:
        """Make *cause* the cause unless there is one, and pass it on underneath.

        Args:
            cause: The request.
            here: See ``Listener``.
            came: When it came, on the own clock; now, unless it is given.

        Returns:
            Whether it is the cause.
        """
        causes = self._causes
        if causes:
            return False
        causes.append(cause)
        if causes[0] is not cause:
            return False
        clock = self._clock
        if came is None:
            came = -math.inf if clock is None else clock()
        self._came = came
        self._let_know(here)
        return True

    def _let_know(self, here: object) -> None:
        """Tell the token and the operations underneath of the cause, where they do not know."""
        cause = self._causes[0]
        token: OperationToken | None = self.__dict__.get("token")
        try:
            if token is not None:
                token.learn(cause, here)
        finally:
            if self._children:
                self._pass_down(cause, here)

    def _pass_down(self, cause: Cause, here: object) -> None:
        """Let the operations underneath know, however deep they are nested.

        One whose own deadline passed before, unnoticed so far, has that as its cause. One that
        has a cause may have been interrupted before it told its token and those below it.
        """
        tells: list[Callable[[], object]] = []
        waiting: list[tuple[Operation, Cause, float]] = [(self, cause, self._came)]
        while waiting:
            above, known, came = waiting.pop()
            below = known.below(above.operation_id)
            for child in list(above._children):
                if child._ending is not None or child._is_shield:
                    continue
                if not child._causes:
                    first, since = below, child._translate(came, above)
                    if child._has_two_above():
                        first, since = child._found_above() or (first, since)  # see _adopt
                    elif child._was_due_before(since):
                        first, since = child._timed_out(), child._deadline
                    child._causes.append(first)
                    if child._causes[0] is first:
                        child._came = since
                first = child._causes[0]
                token: OperationToken | None = child.__dict__.get("token")
                if token is not None:
                    tells.append(partial(token.learn, first, here))
                waiting.append((child, first, child._came))
        call_all(tells)

    def _was_due_before(self, when: float) -> bool:
        """Return whether the own deadline passed before a time that is now at the latest."""
        clock = self._clock
        return clock is not None and self._deadline < min(clock(), when)

    def _cut_after(self, grace: float, here: object) -> None:
        """Have the scope end after *grace* seconds, and those of children in other tasks."""
        loop, clock = self._loop, self._clock
        if loop is not None and clock is not None:  # else entering looks for a cause
            when = clock() + grace
            self._cut = min(self._cut, when)
            if here is loop.native_token:
                self._deliver(when)
            else:
                call_soon(loop, partial(self._deliver, when))
        waiting = list(self._children)
        while waiting:
            child = waiting.pop()
            if child._ending is not None or child._is_shield:
                continue
            # In the task of its parent the scope of the parent cuts, and a scope of its own
            # that was cancelled would only break through a shield in between.
            if child._is_in_parents_task:
                waiting.extend(child._children)
            else:
                child._cut_after(grace, here)

    def _deliver(self, when: float) -> None:
        """Cut the block at *when*; runs in the loop of the operation and never raises."""
        scope, clock = self._scope, self._clock
        if scope is None or clock is None or self._ending is not None:
            return
        self._cut = min(self._cut, when)
        now = clock()
        if when <= now:
            scope.cancel(self._native_message())
        elif when < scope.deadline:
            scope.deadline = when
        for hold in self._holds:
            hold.cut(self._native, self._native_message())

    def _deliver_if_due(self) -> None:
        """Cut the block if its time has come and the loop has not noticed."""
        self._notice_deadline()
        clock = self._clock
        when = min(self._deadline + self._grace, self._cut)
        if clock is not None and when <= clock():
            self._deliver(when)

    def _native_message(self) -> str | None:
        """Return what the native cancelation shall say of the cause."""
        if not self._causes:
            return None
        return self._causes[0].label

    # -- the end -------------------------------------------------------------------------

    async def wait_stopped(
        self, timeout: float | timedelta | None = None
    ) -> OperationContext | None:
        """Wait until the block has been left.

        Args:
            timeout: How long to wait, in seconds; None for as long as it takes.

        Returns:
            How it ended, or None if the time ran out first.

        Raises:
            TypeError: If the timeout is no duration.
            ValueError: If the timeout is NaN.
        """
        allowed = duration(timeout, "timeout")
        loop = current_loop()
        ended = anyio.Event()
        waiting: dict[anyio.Event, Loop] = self._keeping().setdefault("_waiting", {})
        # The event goes in before the ending is looked up, as with every listener here.
        waiting[ended] = loop
        try:
            if self._ending is None:
                with anyio.move_on_after(allowed):
                    await ended.wait()
        finally:
            waiting.pop(ended, None)
        return None if self._ending is None else self.context

    def _tell_the_end(self) -> None:
        """Wake those who wait for the end; their loops may be others."""
        waiting: dict[anyio.Event, Loop] | None = self.__dict__.get("_waiting")
        if waiting:
            for ended, loop in list(waiting.items()):
                call_soon(loop, ended.set)

    # -- the token of the operation ------------------------------------------------------

    @property
    def token(self) -> CancelationToken:
        """The token of this operation alone: cancelling it cancels the operation.

        It is cancelled when the operation is asked to stop, for whatever reason; its deadline
        counts as well, and those who listen hear of it when it passes. Give it to code that
        shall be able to stop this operation, or to a thread that shall notice.
        """
        known: OperationToken | None = self.__dict__.get("token")
        if known is not None:
            return known
        token: OperationToken = self._keeping().setdefault("token", OperationToken(self))
        if self._causes:
            token.learn(self._causes[0], None)
        # Looked at behind the line that puts the token where the end looks for it.
        if self._ending is not None:
            token.let_go()
        return token


def nobody() -> None:
    """Stand for an operation that has ended, where a token asks for its own."""


def _answer(is_first: bool) -> CancelOutcome:
    return CancelOutcome.REQUESTED if is_first else CancelOutcome.ALREADY_REQUESTED


class OperationToken(CancelationToken):
    """The token of one operation: a view of its requests that can also make one.

    It does not keep the operation alive. A deadline of the operation is noticed when somebody
    asks, and as it passes where somebody listens or waits. Without an operation it goes on as a
    plain token if that was dropped before its end; nothing can be asked of one that has ended.
    """

    __slots__ = ("_operation", "_waiters")

    def __init__(self, operation: Operation) -> None:
        """Make the token of *operation*."""
        super().__init__()
        self._operation: Callable[[], Operation | None] = weakref.ref(operation)
        self._waiters: dict[anyio.Event, Loop] = {}

    @property
    def cause(self) -> Cause | None:
        """The first request, or None."""
        if not self._causes:
            operation = self._operation()
            if operation is not None:
                operation._notice_deadline()
        return super().cause

    def learn(self, cause: Cause, here: object) -> None:
        """Take over the cause that the operation has recorded."""
        super()._cancel(cause, here)

    def _listen(self, key: object, listener: Listener) -> None:
        super()._listen(key, listener)
        operation = self._operation()
        if operation is not None:
            operation._is_listened_to()

    def _cancel(self, cause: Cause, here: object) -> bool:
        operation = self._operation()
        if operation is not None:
            return operation._request(cause, here=here) is CancelOutcome.REQUESTED
        return self._operation is not nobody and super()._cancel(cause, here)

    def let_go(self) -> None:
        """Know from now on that the operation has ended."""
        self._operation = nobody

    async def wait(self) -> CancelationReason:
        """Wait until the operation is asked to stop or its deadline passes.

        An operation that ends without either leaves its waiters waiting: wait in a task that
        ends with the operation.

        Returns:
            The reason of the first request.
        """
        loop = current_loop()
        key = object()
        while True:
            changed = anyio.Event()
            self._waiters[changed] = loop
            super()._listen(key, partial(set_event, changed, loop))  # it needs no alarm
            try:
                cause = self.cause
                if cause is not None:
                    return cause.reason
                operation = self._operation()
                is_live = operation is not None and operation._ending is None
                left = operation.remaining if operation is not None and is_live else math.inf
                del operation
                with anyio.move_on_after(left):
                    await changed.wait()
            finally:
                self._unlisten(key)
                self._waiters.pop(changed, None)

    def wake_waiters(self) -> None:
        """Have those who wait look at the deadline again."""
        for changed, loop in list(self._waiters.items()):
            call_soon(loop, changed.set)
