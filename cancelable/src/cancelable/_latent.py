"""A block that is only a scope until somebody asks for its operation.

The maker of the operation may be any thread, at any moment; the entry and the end of the block
are the loop's. Who comes first is decided by one append to a list, as causes are: what stands
first in it stands for ever. There is one list for the entry and one for the end.
"""

from __future__ import annotations

import math
import time
import weakref
from functools import partial
from logging import DEBUG
from types import TracebackType
from typing import Self

import anyio

from ._block import innermost
from ._cancelable import Cancelable
from ._cause import Cause
from ._log import is_enabled_for
from ._loop import call_soon, current_loop
from ._operation import NEVER, OperationToken, nobody
from ._registry import OperationRegistry, registry_here
from ._seconds import grace_of, moment, seconds
from ._single import Single
from ._status import OperationStatus
from ._token import Listener

# Bound once: to look up a method of what is imported makes an object, for each request.
_registry_here, _innermost, _set_innermost = registry_here.get, innermost.get, innermost.set


class LatentOperation(Single):
    """Run a block whose operation is made when somebody asks for it.

    For code that opens a block for each of very many short pieces of work, as a server does for
    its requests: most are over before anybody has asked about them. Such a block costs a scope
    and one place in a registry. ``current_operation()`` inside it, a look at the registry, its
    token and ``operation`` make it a full ``Cancelable``, in any thread and as if it had been
    one from the beginning; so does any end but completion. A subclass says how it is made::

        class Visit(LatentOperation):
            def make_operation(self) -> Cancelable:
                return Cancelable.with_timeout(30, name="visit")

        async with Visit(timeout=30):
            ...

    The registry that is current at the entry lists it, and keeps no history of those that
    complete. A block inside another operation, one whose registry has an observer of all, and
    one that is logged at DEBUG have their operation from the beginning.
    """

    # Each has a slot and is set at once: what is set behind the back of a default of the class
    # is found slowly.
    __slots__ = (
        "_deadline",
        "_early",
        "_loop",
        "_made",
        "_registry",
        "_scope",
        "_started_at",
        "_task",
        "began_at",
        "grace",
        "is_untouched",
        "native_loop",
        "timeout",
        "token",
    )

    began_at: float
    """When the block was entered, on anyio's clock in seconds; infinity before."""
    grace: float
    """Seconds that the block may run on after a request to stop."""
    is_untouched: bool
    """Whether nobody has asked for the operation and it never had a deadline or a timeout.

    As long as that is so, it has not been asked to stop.
    """
    native_loop: object
    """The loop that runs the block, as anyio's ``EventLoopToken.native_token``."""
    timeout: float
    """Seconds from the entry to the deadline."""
    _registry: OperationRegistry
    """Who lists it; there as soon as there is a scope, as are the next two."""
    _started_at: float
    """When the block was entered, as ``time.monotonic()`` counts."""
    _task: object
    token: LatentToken
    """The token of the operation: asking it anything makes the operation."""

    def __init__(self, timeout: float = math.inf, grace: float = 0.0) -> None:
        """Make a block that has not been entered, in the loop that will run it.

        Args:
            timeout: Seconds from the entry to the deadline; infinity for none. The same as that
                of the operation.
            grace: Seconds that the block may run on after a request to stop. The same as that
                of the operation.

        Raises:
            anyio.NoEventLoopError: If no event loop runs in this thread.
            TypeError: If one of the two is no number of seconds.
            ValueError: If one of the two is NaN, or the grace is negative.
        """
        if timeout is NEVER and grace == 0.0:  # as for nearly each request
            self.is_untouched = True
        else:
            timeout, grace = seconds(timeout, "timeout"), grace_of(grace)
            self.is_untouched = timeout == NEVER
        self._loop = loop = current_loop()
        self.native_loop = loop.native_token
        self.timeout = timeout
        self.grace = grace
        self.began_at = self._deadline = NEVER
        self._scope: anyio.CancelScope | None = None
        # The operation comes first in here, or None: the entry, before which nobody had asked.
        self._early: list[Cancelable | None] = []
        # The operation comes first in here, or None: the end of a block nobody asked about.
        self._made: list[Cancelable | None] = []
        self.token = LatentToken(self)

    def make_operation(self) -> Cancelable:
        """Return a new operation for this block: without an id, not entered, not registered.

        It may be called in any thread, and more than once if two ask at the same moment; it
        must be quick and must not raise. The block may run already, or be over: so the operation
        comes without tokens and sources, and without callbacks of a start or a completion.
        """
        raise NotImplementedError

    # -- what it knows -------------------------------------------------------------------

    @property
    def operation(self) -> Cancelable:
        """The operation of this block, made now if nobody has asked before.

        That of a block which ended before anybody asked has completed.
        """
        return self.make() or self._ended(None)

    @property
    def known_operation(self) -> Cancelable | None:
        """The operation if there was a reason to make it, else None."""
        made = self._made
        return made[0] if made else None

    def is_cut_here(self) -> bool:
        """Return whether the calling code is in a scope that has been cancelled, of whomever.

        What it waits for now will not come. The same as to compare what anyio's
        ``current_effective_deadline()`` says with minus infinity, in the loop of the block.
        """
        return self._loop.backend.current_effective_deadline() == -math.inf

    @property
    def cancel_requested(self) -> bool:
        """Whether the operation was asked to stop, however it ended."""
        made = self._made
        if made:
            operation = made[0]
            return operation is not None and operation.cancel_requested
        return self._is_due() and self.operation.cancel_requested

    @property
    def deadline(self) -> float:
        """The time on anyio's clock when the operation is asked to stop; infinity for none.

        Set it in the thread of the loop.
        """
        operation = self.known_operation
        return self._deadline if operation is None else operation.deadline

    @deadline.setter
    def deadline(self, when: float) -> None:
        # The operation may be made in another thread between any two of these lines. Whoever
        # makes it reads the deadline again behind that, and here one looks for it at the end.
        when = moment(when, "deadline")
        self.is_untouched = False
        if self._scope is not None and not self._made and self._is_due():
            self.make()  # the deadline that has passed is the cause, and stands, as does its cut
        if not self._made:
            self._deadline = when
            if self._scope is not None:
                self._scope.deadline = when + self.grace
        operation = self.known_operation
        if operation is not None:
            operation.deadline = when

    # -- making it -----------------------------------------------------------------------

    def make(self) -> Cancelable | None:
        """Return the operation, made now if need be; None if the block ended before.

        Safe in any thread.
        """
        made = self._made
        if made:
            return made[0]
        early = self._early
        if not early:
            operation, deadline = self._new_operation(), self._deadline
            operation.deadline = deadline
            self._offer(operation, early, deadline)
        if early[0] is not None:
            made.append(early[0])
            return made[0]
        operation, deadline = self._new_operation(), self._deadline
        scope = self._scope
        assert scope is not None
        operation.keeper = self._registry
        operation.keep_completed = False
        operation.adopt(scope, self._loop, self._task, self._started_at, self.began_at, deadline)
        if self._offer(operation, made, deadline):
            self._registry.latent_was_made(self, operation)
        return made[0]

    def _new_operation(self) -> Cancelable:
        self.is_untouched = False  # before anybody else can have the operation
        operation = self.make_operation()
        operation._keeping()["token"] = self.token
        return operation

    def _offer(self, operation: Cancelable, made: list[Cancelable | None], deadline: float) -> bool:
        """Make an operation the one of this block unless something comes before it in *made*.

        Args:
            operation: The operation.
            made: Where who comes first is decided.
            deadline: The one that the operation was made with.
        """
        made.append(operation)
        if made[0] is not operation:
            return False
        if self._deadline != deadline:
            call_soon(self._loop, partial(self._catch_up, operation, deadline))
        return True

    def _catch_up(self, operation: Cancelable, seen: float) -> None:
        """Hand over a deadline that was set while another thread made the operation.

        This runs in the loop, where deadlines are set: one that was set on the operation
        itself meanwhile stands.
        """
        if operation.deadline == seen:
            operation.deadline = self._deadline

    def _ended(self, failure: BaseException | None) -> Cancelable:
        """Return an operation for a block that ended before anybody asked; keep it as its own."""
        operation = self.make_operation()
        operation._started_at = self._started_at
        ending = OperationStatus.COMPLETED if failure is None else OperationStatus.FAILED
        operation._close(ending, None, failure)
        self._made = [operation]
        return operation

    def _is_due(self) -> bool:
        """Return whether there is a deadline that has passed."""
        return self._deadline != math.inf and self._deadline <= self._loop.clock()

    # -- the block -----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if not self.enter_at_once():
            await self._enter_in_full()
        return self

    def enter_at_once(self) -> bool:
        """Enter the block if that takes no operation; ``async with`` does this first of all.

        For an adapter that counts each coroutine. A block that was entered by this call is left
        by ``leave_at_once``, or where that declines or the block raised, by ``__aexit__``.

        Returns:
            Whether the block is entered. If it is not, ``__aenter__`` enters it.

        Raises:
            RuntimeError: If it was entered before.
        """
        if self.began_at != NEVER:
            msg = "a LatentOperation is entered once; make a new one for each block"
            raise RuntimeError(msg)
        registry, early, around = _registry_here(), self._early, _innermost()
        if around is not None and not (type(around) is LatentToken and around.latent is None):
            return False
        if early or registry._eager_for or is_enabled_for(DEBUG):
            return False
        loop = self._loop
        self._registry = registry
        self._started_at = time.monotonic()  # that of the loop may be virtual, or of milliseconds
        self.began_at = now = loop.clock()
        self._task = loop.current_task()
        # A signal handler may set a deadline at any line: it finds the scope, or is found here.
        self._scope = scope = loop.scope_class()
        if not self.is_untouched:
            self._deadline = min(self._deadline, now + self.timeout)
            scope.deadline = self._deadline + self.grace
        scope.__enter__()
        # All that a maker wants is there by now.
        early.append(None)
        if early[0] is not None:
            scope.__exit__(None, None, None)
            self.began_at, self._scope = NEVER, None
            return False
        # An observer of all that is added meanwhile either finds it listed or is found behind that.
        registry._latent[self] = None
        if registry._eager_for:
            self.make()
        if self._made:  # before it was in there, so that the maker could not take it out
            registry._latent.pop(self, None)
        # Not the block itself: tasks that were started inside keep this as long as they live.
        _set_innermost(self.token)
        return True

    async def _enter_in_full(self) -> None:
        """Enter the block of the operation instead."""
        self.began_at = self._loop.clock()
        operation = self.operation
        operation.keeper = _registry_here()
        operation.keep_completed = False
        await operation.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if exc is None and self.leave_at_once():
                return
            await self.operation.__aexit__(exc_type, exc, tb)
        finally:
            self.token.latent = None
            # The frame would be part of a traceback that it holds.
            del exc, tb

    def leave_at_once(self) -> bool:
        """Leave the block that raised nothing if there is no operation that has to be ended.

        See ``enter_at_once``.

        Returns:
            Whether the block has been left. If it has not, ``__aexit__`` leaves it.

        Raises:
            RuntimeError: If a scope that was opened inside is still open.
        """
        made, scope = self._made, self._scope
        if made or scope is None:
            return False
        registry = self._registry
        if self._deadline != NEVER and self._is_due():
            return False
        if self._loop.current_task() is not self._task:
            return False  # astray, of which the operation knows what to say and to do
        made.append(None)
        if made[0] is not None:
            return False
        try:
            scope.__exit__(None, None, None)
        except BaseException as misnested:
            registry.latent_failed(self, self._ended(misnested))
            raise
        else:
            registry._latent.pop(self, None)
            registry._unasked.add()
        finally:
            # The token stays the innermost block of this task, and stands for none from now on.
            self.token.latent = None
        return True


class LatentToken(OperationToken):
    """The token of a latent operation: nothing but a name until somebody asks it something."""

    __slots__ = ("latent",)

    _causes: list[Cause]
    _listeners: dict[object, Listener]

    def __init__(self, latent: LatentOperation) -> None:
        """Make the token of *latent*."""
        self.latent: LatentOperation | None = latent

    def __getattr__(self, name: str) -> object:
        """Become a token: what a token knows is not there before."""
        if name not in ("_causes", "_listeners", "_operation", "_waiters"):
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        operation = self.make()
        # The same objects whoever comes first: two threads may be here at once.
        state = self.__dict__.setdefault("state", ([], {}, {}))
        self._causes, self._listeners, self._waiters = state
        self._operation = nobody if operation is None else weakref.ref(operation)
        if operation is not None and operation._ending is not None:
            self.let_go()
        return object.__getattribute__(self, name)

    def make(self) -> Cancelable | None:
        """Return the operation, made now if need be; None if the block was left before."""
        latent = self.latent
        return None if latent is None else latent.make()
