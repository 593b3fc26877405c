"""The messages of one client: one reader, nothing lost, and a disconnect that is kept.

This room knows ASGI messages and nothing of operations; the design note ``0002`` says why it reads
as it does. What it does otherwise than the server behind it, on purpose:

- A disconnect is answered to every later read, where some servers say it once and then block.
- Body that was read before the client left is delivered before the disconnect, where one server
  throws it away.
- A read in a scope that is cancelled already never reaches the server: it is a look.
- Body that arrives after the response is complete is thrown away.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled
from starlette.types import Message, Receive, Scope

from ._head import BODILESS, expects_continue, may_have_body
from ._read_ahead import PER_MESSAGE, ReadAhead
from ._workers import Work

RETRY = 0.05
"""Seconds after which a watcher that the bound in total stopped looks whether there is room."""

DISCONNECTS = ("http.disconnect", "websocket.disconnect")
"""The types of the messages that say that the client is gone."""

TURNS = 2
"""Turns of the loop that a reader has to end by itself when the response is complete."""

STOP_LIMIT = 1.0
"""Seconds that the end of a request waits for a server's ``receive()`` to take a cancel."""


class Watcher(Protocol):
    """Who runs the task that reads for a request."""

    def spawn(self, work: Work) -> anyio.CancelScope | None:
        """Have a task do work for the request.

        Args:
            work: What it does.

        Returns:
            A scope around the work, to be cancelled only as long as the work has not ended: the
            task may do other work afterwards. None if no task can be started any more.
        """
        ...


class Inbox:
    """Read the messages of one request, for the application and to notice that the client left.

    All calls belong to the loop of the request.
    """

    # Most requests are over in microseconds, and nobody has read or watched them. So what reading
    # takes is set by the first to do either, and what few requests need (here and below: defaults
    # of the class) is in __dict__. The rest has a slot, which is found quicker.
    __slots__ = (
        "__dict__",
        "_body_has_ended",
        "_disconnect",
        "_failure",
        "_headers",
        "_held",
        "_invited",
        "_messages",
        "_method",
        "_news",
        "_pump_ended",
        "_pump_scope",
        "_pumping",
        "_read_ahead",
        "_reading",
        "_room",
        "_scope",
        "_server_receive",
        "_waiting_reads",
        "_watched",
        "complete",
        "is_over",
        "left",
        "reading_has_begun",
        "started",
        "watcher",
    )

    left: bool
    """Whether the client has left, or the server has said so of a finished response."""
    started: bool
    """Whether the server has the start of the response; a WebSocket has none."""
    complete: bool
    """Whether the response is complete, so that a disconnect is none."""
    hides_disconnect: bool = False
    """Whether reads wait for the end of the response instead of telling of a disconnect."""
    _disconnect: Message
    """What said that the client has left; there when it has."""
    _pump_ended: anyio.Event | None
    """Set at the end of the task that reads; None until somebody waits for that."""
    is_over: bool
    """Whether the application has returned, and nothing is read for it any more."""
    reading_has_begun: bool
    """Whether somebody has read or watched, so that what reading takes is there."""
    watcher: Watcher | None
    """Who runs the task that reads; None until the request is known to one."""

    def __init__(self, scope: Scope, receive: Receive, read_ahead: ReadAhead) -> None:
        """Stand in front of a server's ``receive()``.

        Args:
            scope: The scope of the request.
            receive: The server's own.
            read_ahead: How much may be held.
        """
        self.left = False
        self.started = False
        self.complete = False
        self.watcher = None
        self._scope = scope
        # As the client sent them: a middleware may take the length of a body out of the scope when
        # it changes the body, and say that a HEAD is a GET.
        self._headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self._method: str = scope.get("method", "GET")  # of a WebSocket, too: RFC 6455, section 4.1
        self._server_receive = receive
        self._read_ahead = read_ahead
        self.is_over = False
        self.reading_has_begun = False

    def _begin_to_read(self) -> None:
        self.reading_has_begun = True
        self._watched = False
        self._invited = self.started
        self._messages: deque[Message] | None = None
        self._held = 0
        self._reading = False  # the application itself waits in the server's receive()
        self._pumping = False  # a task of the watcher does
        self._pump_scope: anyio.CancelScope | None = None
        self._failure: BaseException | None = None
        self._waiting_reads = 0
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._body_has_ended = False

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is there to be told anything."""
        return self.left

    @property
    def has_messages(self) -> bool:
        """Whether something was read ahead that the application has not taken."""
        return self.reading_has_begun and bool(self._messages)

    async def client_left(self) -> None:
        """Learn that the client left before the response was complete; called once."""

    async def shut_down(self, grace: float) -> None:
        """Learn that the server shuts down.

        Args:
            grace: Seconds until what does not end by itself is cut.
        """

    def look_after(self, limit: float) -> None:
        """Look, now and then, whether the application goes on although it was told to stop.

        Args:
            limit: Seconds after which that is reported.
        """

    # -- for the application -------------------------------------------------------------

    async def receive(self) -> Message:
        """Give the application its next message.

        Cancelling a read loses nothing once the request is watched.
        """
        if not self.reading_has_begun:
            self._begin_to_read()
        if self._is_cut_here():
            return await self._look()
        self._invited = True
        while True:
            if self._messages:
                return self._take()
            if self.left:
                return await self._answer_left()
            if self._failure is not None:
                raise self._hand_over_failure()
            if self._reading or self._pumping:
                await self._wait_for_news()
                continue
            if self._watched and self._start_pump():
                continue
            # The application's own task reads; not in a coroutine more.
            self._reading = True
            try:
                message = await self._server_receive()
            except BaseException:
                # The application may cancel its own read and go on.
                self._reading = False
                self._read_is_over()
                raise
            self._reading = False
            if message["type"] in DISCONNECTS:
                await self._leave(message)
                continue
            self._note(message)
            if self._watched or self._news is not None:
                self._read_is_over()
            return message

    def _is_cut_here(self) -> bool:
        """Return whether the calling code is in a scope that has been cancelled."""
        raise NotImplementedError

    async def _look(self) -> Message:
        """Answer a read that does not wait.

        Starlette asks ``is_disconnected()`` with a read in a scope that was cancelled before. On
        one backend such a read would take a message from the server and throw it away, on the
        other it would never get one.
        """
        while not self.left:
            self.watch()
            await checkpoint()
        return self._disconnect

    def _read_is_over(self) -> None:
        """Let the next one read: the watcher if the request came of age meanwhile."""
        if self._watched:
            self._start_pump()
        self._notify()

    def _take(self) -> Message:
        assert self._messages
        message = self._messages.popleft()
        if self._held:  # else the request has ended, and its reader takes what is left
            self._hold(-_size(message))
        self._make_room()
        return message

    async def _answer_left(self) -> Message:
        """Tell of the disconnect whoever is not stopped by it.

        The cancel that came with the disconnect goes first: a handler in the middle of a body
        would otherwise see an error of its read and take it for its own. What is left over are
        shielded reads, reads in a time of grace, and tasks outside of the request's scope.
        """
        await checkpoint_if_cancelled()
        while self.hides_disconnect and not self.complete:
            if not self._body_has_ended:
                if self._may_have_more_body():
                    break  # the rest of this body will never come, and waiting would not end
                self._body_has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._wait_for_news()
        return self._disconnect

    def _hand_over_failure(self) -> BaseException:
        failure, self._failure = self._failure, None
        assert failure is not None
        return failure

    # -- for the middleware --------------------------------------------------------------

    def watch(self) -> None:
        """Have the watcher read from now on, or as soon as the application's own read ends."""
        if not self.reading_has_begun:
            self._begin_to_read()
        self._watched = True
        if not self._reading and not self._pumping:
            self._start_pump()

    def invite(self) -> None:
        """Allow reading although the client waits for ``100 Continue``: a response has begun.

        Reading that begins later knows that by ``started``.
        """
        if self.reading_has_begun:
            self._invited = True
            if self._watched and not self._reading and not self._pumping:
                self._start_pump()

    def finish(self) -> None:
        """Take note that the response is about to be complete.

        Call it before the server sees the last message: all servers answer with a disconnect as
        soon as they have it, some from within that ``send()``. If there may be body that nobody
        has read, somebody must read it: one server waits in that ``send()`` for its queue. A GET
        seldom has one, and a server that waits waits until the request is watched.
        """
        self.complete = True
        is_watched = self.reading_has_begun and self._watched
        if (is_watched or self._method not in BODILESS) and self._may_have_more_body():
            self.watch()
        if self.reading_has_begun:
            self._make_room()
            self._notify()

    async def close(self) -> None:
        """Read no more, and wait until no task of ours is in the server's ``receive()``.

        All servers answer with a disconnect as soon as they have the whole response to a request.
        So the task mostly ends by itself in this turn of the loop or, since Trio runs the tasks of
        a turn in any order, in the next one. A cancel would cost as much as all the rest of a
        watched request, and the task, which can be used again.

        A cancel may come at each ``await`` here: that of a scope around, unless an error is on its
        way there, or asyncio's own ``task.cancel()``, whatever the shields. The task is cancelled
        and what was held is given back all the same.
        """
        self.is_over = True
        if not (self.reading_has_begun and (self._pumping or self._held)):
            return
        try:
            if self.complete:
                # A shield costs more than the rest of a turn. Without one, the cancel of a scope
                # could take the place of an error, and the scope would keep both to itself.
                take_turn = checkpoint if sys.exception() is None else cancel_shielded_checkpoint
                for _ in range(TURNS):
                    if self._pumping:
                        await take_turn()
        finally:
            try:
                await self._end_pump()
            finally:
                self._hold(-self._held)

    async def _end_pump(self) -> None:
        if self._pump_scope is not None:
            # Others may wait already: a socket is closed by several tasks at once.
            ended = self._pump_ended
            if ended is None:
                ended = self._pump_ended = anyio.Event()
            self._pump_scope.cancel()
            deadline = anyio.current_time() + STOP_LIMIT
            with anyio.CancelScope(deadline=deadline, shield=True):
                await ended.wait()

    # -- the watcher's task --------------------------------------------------------------

    def _start_pump(self) -> bool:
        """Start the task that reads, if there is something to read and somebody to run it."""
        if self.left or self.is_over or self._failure is not None:
            return False
        if self.complete and not self._may_have_more_body():
            return False
        if not self._invited and expects_continue(self._headers):
            return False
        self._pump_ended = None
        # Set before the task starts: an eager one may have ended when spawn() returns.
        self._pumping = True
        scope = None if self.watcher is None else self.watcher.spawn(self._pump)
        if scope is None:
            self._pumping = False
        elif self._pumping:
            self._pump_scope = scope
        return scope is not None

    async def _pump(self) -> None:
        try:
            await self._read_until_left()
        except Exception as exc:
            self._keep_failure(exc)
        except anyio.get_cancelled_exc_class() as exc:
            # Either the whole service ends, or the server's receive() raised this although
            # nobody had cancelled it; then it is for the application, as without us.
            if self._is_cut_here():
                raise
            self._keep_failure(exc)
            if self._pump_scope is not None:
                # asyncio may go on counting the cancel: nobody else is to get this task.
                self._pump_scope.cancel()
        finally:
            self._pumping = False
            self._pump_scope = None
            if self._pump_ended is not None:
                self._pump_ended.set()
            self._notify()

    def _keep_failure(self, failure: BaseException) -> None:
        """Keep it for the next read; when the request is over, there is none.

        The error knows the frames that know this, which would be garbage for the collector alone.
        """
        if not self.is_over:
            self._failure = failure

    async def _read_until_left(self) -> None:
        while not self.is_over:
            while not self._has_room():
                await self._wait_for_room()
            message = await self._server_receive()
            if message["type"] in DISCONNECTS:
                await self._leave(message)
                return
            said_all = self._body_has_ended
            self._note(message)
            if not self.complete:
                # Also if it came while the application returned: one may come after it.
                self._keep(message)
            elif said_all:
                return  # a server that answers so without ever waiting would hold the loop

    async def _leave(self, message: Message) -> None:
        """Latch the disconnect: cancel first, then wake those who wait for a message.

        In this order a read that waits is cancelled and not answered, on both backends.
        """
        self.left = True
        self._disconnect = message
        if not self.complete:
            await self.client_left()
        self._notify()

    def _note(self, message: Message) -> None:
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._body_has_ended = True

    def _may_have_more_body(self) -> bool:
        if self.reading_has_begun and self._body_has_ended:
            return False
        version = self._scope.get("http_version", "1.1")
        return may_have_body(self._method, self._headers, version)

    def _keep(self, message: Message) -> None:
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if not self.is_over:  # else what was held has been given back, or is about to be
            self._hold(_size(message))
        self._notify()

    # -- bounds and waking ---------------------------------------------------------------

    def _has_room(self) -> bool:
        if self.complete or (self._waiting_reads and not self._messages):
            return True
        return self._held < self._read_ahead.per_request and not self._read_ahead.is_full

    async def _wait_for_room(self) -> None:
        """Wait until the application has taken something, or wants to.

        Room in total is made by requests in other tasks and other loops, so that is looked for.
        """
        self._room = anyio.Event()
        limit = RETRY if self._held < self._read_ahead.per_request else None
        with anyio.move_on_after(limit):
            await self._room.wait()
        self._room = None

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _hold(self, size: int) -> None:
        self._held += size
        self._read_ahead.hold(size)

    async def _wait_for_news(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        self._waiting_reads += 1
        self._make_room()
        try:
            await self._news.wait()
        finally:
            self._waiting_reads -= 1

    def _notify(self) -> None:
        if self.reading_has_begun and self._news is not None:
            self._news.set()
            self._news = None


def _size(message: Message) -> int:
    data = message.get("body") or message.get("bytes") or message.get("text") or b""
    return len(data) + PER_MESSAGE
