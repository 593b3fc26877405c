"""A request to stop that can be made from anywhere: a task, a thread, a signal handler.

The cancel path takes no lock and waits for no loop. Appending to a list is one atomic step of
the interpreter, and whatever stands first in the list of causes is the cause for ever; a
listener is run by whoever takes it out of the dictionary of listeners, which is one atomic
step as well. So a signal that arrives between any two lines of a cancel, and cancels the same
token, finds a consistent state and leaves one.

An exception may arrive there as well: Python's own handler of Ctrl-C raises one between any
two lines. Whoever was not told by then is still listed, and told by the next cancel, which
finds the cause and tells those who are left.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Self, TypeAlias

import anyio

from ._cause import Cause
from ._ids import new_id
from ._log import logger
from ._loop import Loop, call_soon, current_loop, is_error
from ._reason import CancelationReason
from ._round import call_all
from ._single import Single
from ._text import checked_text
from .exceptions import error_for

Listener: TypeAlias = Callable[[Cause, object], BaseException | None]
"""What a token calls with the cause and the native token of the loop that runs the call; that
is None where nothing is known of the calling frame (a thread, a signal handler).

One that raises counts as not told and is called again by the next cancel: it must bear that.
One that has done its part returns what the cancel shall raise when all have been told."""


class CancelationToken(Single):
    """Ask any number of operations to stop.

    A token may be made before any event loop exists, be shared by operations in several
    threads and loops, and be cancelled from any of them, from a plain thread, or from a signal
    handler. The first request wins and is never taken back. Tokens are compared by identity,
    a copy of one is the same one, and none can be pickled.
    """

    __slots__ = ("__dict__", "__weakref__", "_causes", "_listeners")

    def __init__(self) -> None:
        """Make a token that nobody has cancelled."""
        self._causes: list[Cause] = []
        self._listeners: dict[object, Listener] = {}

    @property
    def id(self) -> str:
        """The unguessable id of this token, made when it is first asked for."""
        # setdefault is one atomic step: two threads that ask at once see one id.
        given: str | None = self.__dict__.get("id")
        return given or str(self.__dict__.setdefault("id", new_id()))

    @property
    def cause(self) -> Cause | None:
        """The first request, or None."""
        causes = self._causes
        return causes[0] if causes else None

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has asked to stop."""
        return self.cause is not None

    @property
    def reason(self) -> CancelationReason | None:
        """The reason of the first request, or None."""
        cause = self.cause
        return None if cause is None else cause.reason

    @property
    def message(self) -> str | None:
        """The message of the first request, or None."""
        cause = self.cause
        return None if cause is None else cause.message

    @property
    def cancelled_at(self) -> datetime | None:
        """The time of the first request in UTC, or None."""
        cause = self.cause
        return None if cause is None else cause.cancelled_at

    def is_cancelation_requested(self) -> bool:
        """Return whether somebody has asked to stop."""
        return self.is_cancelled

    def check(self) -> None:
        """Raise if somebody has asked to stop; a plain call for code in threads.

        Raises:
            CancelationError: The error of the first request.
        """
        cause = self.cause
        if cause is not None:
            raise error_for(cause)

    async def check_async(self) -> None:
        """Pass a checkpoint, then raise if somebody has asked to stop.

        Raises:
            CancelationError: The error of the first request.
        """
        await anyio.lowlevel.checkpoint()
        self.check()

    async def cancel(
        self,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
    ) -> bool:
        """Ask to stop, from a task.

        Operations of the calling loop are cancelled when this returns, those of other loops
        at the next turn of theirs. This is no checkpoint.

        Args:
            reason: The kind of cause.
            message: A text for the people who read the error.

        Returns:
            True if this was the first request.

        Raises:
            TypeError: If the message is no text.
            ValueError: If there is no such reason.
        """
        cause = Cause(CancelationReason.of(reason), checked_text(message, "message"))
        return self._cancel(cause, current_loop().native_token)

    def cancel_sync(
        self,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
    ) -> bool:
        """Ask to stop, from any thread or from a signal handler.

        Operations are cancelled at the next turn of their loops. A loop that is closed is
        ignored.

        Args:
            reason: The kind of cause.
            message: A text for the people who read the error.

        Returns:
            True if this was the first request.

        Raises:
            TypeError: If the message is no text.
            ValueError: If there is no such reason.
        """
        cause = Cause(CancelationReason.of(reason), checked_text(message, "message"))
        return self._cancel(cause, None)

    def on_cancel(self, callback: Callable[[CancelationToken], object]) -> Registration:
        """Have a plain function called with this token when somebody asks to stop.

        It runs once, in the thread that cancels (at once if that has happened), perhaps in
        a signal handler: it must be quick and must not block. Errors that it raises are logged;
        what is no error (``KeyboardInterrupt``, ``SystemExit``) leaves the call that cancels,
        when all others have been told. Where a deadline tells, nobody calls, and that is logged.

        Args:
            callback: A plain function.

        Returns:
            A handle whose ``unregister()`` takes the callback away again.

        Raises:
            TypeError: If the callback is a coroutine function, or an object whose ``__call__``
                is one: nobody could await it.
        """
        if not callable(callback):
            msg = f"`callback` must be a function, not {callback!r}"
            raise TypeError(msg)
        called: tuple[object, ...] = (callback, getattr(callback, "__call__", None))  # noqa: B004
        if any(map(inspect.iscoroutinefunction, called)):
            msg = (
                "`callback` must be a plain function: a cancel from a thread cannot await; "
                "start a task that awaits `token.wait()` instead"
            )
            raise TypeError(msg)
        registration = Registration(self)
        self._listen(registration, partial(_call_back, callback, weakref.ref(self)))
        return registration

    async def wait(self) -> CancelationReason:
        """Wait until somebody asks to stop.

        Returns:
            The reason of the first request.
        """
        loop = current_loop()
        asked = anyio.Event()
        self._listen(asked, partial(set_event, asked, loop))
        try:
            await asked.wait()
        finally:
            self._unlisten(asked)
        cause = self.cause
        assert cause is not None
        return cause.reason

    async def wait_for_cancel(self) -> None:
        """Wait until somebody asks to stop."""
        await self.wait()

    @classmethod
    def any(cls, *tokens: CancelationToken) -> CancelationToken:
        """Return a new token that is cancelled as soon as one of the given ones is.

        The cause is kept: its reason, message, source and time are the first token's. The
        given tokens do not keep the new one alive.

        Args:
            tokens: The tokens to follow; they may be cancelled already.

        Raises:
            TypeError: If one of them is no token.
        """
        linked = cls()
        for token in tokens:
            linked._follow(checked_token(token, "tokens"))
        return linked

    def _follow(self, token: CancelationToken) -> None:
        """Be cancelled when *token* is, without being kept alive by it."""
        key = object()
        unlisten = partial(token._unlisten, key)
        follower = weakref.WeakMethod(self._cancel, lambda _dead: unlisten())

        def forward(cause: Cause, here: object) -> None:
            cancel = follower()
            if cancel is not None:
                cancel(cause, here)

        token._listen(key, forward)

    def _cancel(self, cause: Cause, here: object) -> bool:
        """Make *cause* the cause unless there is one; tell the listeners.

        Args:
            cause: The request.
            here: The native token of the loop that runs this call, or None.
        """
        causes = self._causes
        is_first = False
        if not causes:
            causes.append(cause)
            is_first = causes[0] is cause
        if self._listeners:  # also those whom an earlier cancel was kept from telling
            self._tell(causes[0], here)
        return is_first

    def _tell(self, cause: Cause, here: object) -> None:
        # The copy is one atomic step; a list of the items would not be on Python 3.11.
        waiting = self._listeners.copy()
        call_all(
            partial(self._tell_one, key, listener, cause, here) for key, listener in waiting.items()
        )

    def _tell_one(self, key: object, listener: Listener, cause: Cause, here: object) -> None:
        """Call a listener if nobody else has taken it out; put it back if it has not heard.

        An interrupt just behind the call of a callback puts it back as well: it is called again
        then, since nobody can know.
        """
        raised: BaseException | None = None
        try:
            if self._listeners.pop(key, None) is not None:
                raised = listener(cause, here)
        except BaseException:
            self._listeners[key] = listener
            raise
        try:
            if raised is not None:
                raise raised
        finally:
            del raised

    def _listen(self, key: object, listener: Listener) -> None:
        """Call *listener* once when somebody asks to stop, at once if that has happened.

        The order matters: the listener goes in before the cause is looked up. A cancel in
        another thread either finds the listener or has left its cause; where both are true,
        taking the listener out decides who runs it.
        """
        self._listeners[key] = listener
        if self._causes:
            self._tell_one(key, listener, self._causes[0], None)

    def _unlisten(self, key: object) -> None:
        self._listeners.pop(key, None)

    def __copy__(self) -> Self:
        return self

    def __repr__(self) -> str:
        cause = self.cause
        state = "not cancelled" if cause is None else f"cancelled: {cause.reason.value}"
        return f"<{type(self).__name__} {state}>"


class Registration(Single):
    """The handle of one callback on one token."""

    __slots__ = ("_token",)

    def __init__(self, token: CancelationToken) -> None:
        """Make the handle of a callback on *token*, which it does not keep alive."""
        self._token = weakref.ref(token)

    def unregister(self) -> None:
        """Take the callback away; harmless when it has run or is gone."""
        token = self._token()
        if token is not None:
            token._unlisten(self)


def checked_token(value: CancelationToken, name: str) -> CancelationToken:
    """Return *value* if it is a token.

    Args:
        value: What a caller gave.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, CancelationToken):
        msg = f"`{name}` must be a CancelationToken, not {value!r}"
        raise TypeError(msg)
    return value


def _call_back(
    callback: Callable[[CancelationToken], object],
    known: weakref.ref[CancelationToken],
    _cause: Cause,
    _here: object,
) -> BaseException | None:
    token = known()
    if token is None:
        return None  # nobody cancels a token that is gone
    begun: object = None
    try:
        # On one line, so that nothing comes in between: one that has begun has been told.
        (begun := callback)(token)
    except BaseException as raised:
        if begun is None:
            raise
        if not is_error(raised):
            return raised
        logger.exception("a callback of a cancelation token raised")
    return None


def set_event(event: anyio.Event, loop: Loop, _cause: Cause, here: object) -> None:
    """Set an event that a task of *loop* waits for: a listener, with its first two arguments."""
    if here is loop.native_token:
        event.set()
    else:
        call_soon(loop, event.set)
