"""One WebSocket, tied to the operation that can be cancelled."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from starlette.types import Message, Receive, Scope, Send

from cancelable import CancelationError, CancelationReason

from ._answers import Answers
from ._exchange import is_of_a_connection
from ._keys import EXCHANGE_KEY, TOKEN_KEY
from ._operation import RequestOperation
from ._policy import Policy
from ._settings import OnDisconnect, Until
from ._status import close_code_for
from ._watched import CLIENT_LEFT, Watched

logger = logging.getLogger("cancelable.starlette")

LAST_MESSAGES = 5.0
"""Seconds that a handler has for a message that came before the client closed the socket."""

DENIAL = "websocket.http.response"
"""The extension of the ASGI specification by which a socket is refused with a response."""


class SocketExchange(Watched):
    """Watch one WebSocket, and cancel its handler when the client leaves without being heard.

    A handler that waits for a message is told of the close and not cancelled: that is how it
    learns of it anyway. One that waits for something else is cancelled. Messages that came before
    the close are delivered first; the handler has a few seconds for each.

    Unlike the body of a request, messages are read ahead from the beginning. So no read of the
    application reaches the server, and a cancelled one loses nothing.
    """

    __slots__ = (
        "_ends_deadline_at_start",
        "_heard",
        "_idle_timeout",
        "_is_paused",
        "_own_deadline",
        "_timeout_at",
        "accepted",
        "answers",
        "close_codes",
        "on_disconnect",
    )

    answers: Answers
    """Which status refuses a socket that was not accepted."""
    close_codes: Mapping[CancelationReason, int]
    """The close code for each reason."""
    accepted: bool
    """Whether the server has been told to open the socket."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, policy: Policy) -> None:
        """Tie a WebSocket to its operation.

        Args:
            scope: The scope of a WebSocket that nothing watches yet; see ``HTTPExchange``.
            receive: The server's ``receive()``.
            send: The server's ``send()``.
            policy: What was said about it. The timeout is for requests.
        """
        super().__init__(scope, receive, policy.read_ahead)
        self._begin_to_read()
        self.latent = latent = RequestOperation(grace=policy.grace)
        latent.method = None
        latent.path = scope["path"]
        latent.client = scope.get("client")
        latent.on_cancel = policy.on_cancel
        self.server_send = send
        self.answers = policy.answers
        self.close_codes = policy.close_codes
        self.accepted = False
        self.on_disconnect: OnDisconnect = policy.on_disconnect
        self._ends_deadline_at_start = False
        self._heard = False  # somebody has been given the disconnect
        self._timeout_at = math.inf  # when the time of the socket is up, however busy it is
        self._idle_timeout = math.inf
        self._own_deadline = math.inf
        self._is_paused = False  # the client may have sent what nobody reads
        if policy.socket_idle_timeout != math.inf:
            self.set_idle_timeout(policy.socket_idle_timeout)
        scope[TOKEN_KEY] = latent.token
        scope[EXCHANGE_KEY] = self

    # -- policy --------------------------------------------------------------------------

    async def client_left(self) -> None:
        """Cancel the operation unless its handler is about to hear of the close."""
        self._set_deadline()
        if self._waiting_reads or self._reading or self._has_unread():
            return
        await self._stop_handler()

    async def _stop_handler(self) -> None:
        if self.on_disconnect == "cancel":
            await self.operation.cancel(CancelationReason.DISCONNECT, CLIENT_LEFT)

    async def follow(self, on_disconnect: OnDisconnect) -> None:
        """Change what becomes of the work when the client leaves.

        Args:
            on_disconnect: What becomes of it.
        """
        self.on_disconnect = on_disconnect
        if self.left and not self.complete:
            await self.client_left()

    def set_timeout(self, seconds: float, until: Until) -> None:
        """Replace the timeout; it counts from the call of the server.

        Args:
            seconds: Seconds from the start; infinity for none.
            until: ``"start"``: only to the moment in which the socket is accepted.
        """
        if until == "start" and self.accepted:
            seconds = math.inf
        self._ends_deadline_at_start = until == "start"
        self._timeout_at = self.latent.began_at + seconds
        self._set_deadline()

    def set_idle_timeout(self, seconds: float) -> None:
        """Replace the time for which the client of an open socket may send nothing.

        Args:
            seconds: Seconds from its last message; infinity for no limit.
        """
        self._idle_timeout = seconds
        self._set_deadline()

    def shorten_idle_timeout(self, seconds: float) -> None:
        """Make the client's time to be silent *seconds* if it was longer."""
        if seconds < self._idle_timeout:
            self.set_idle_timeout(seconds)

    def _set_deadline(self) -> None:
        """Set the deadline of the operation, for a client that has sent something just now.

        A deadline is all that an idle timeout costs: no task waits for it.
        """
        if self.latent.cancel_requested:
            return  # what was asked stands, and so does its grace
        is_due = self.accepted and not (self._is_paused or self.left or self.complete)
        idle_at = anyio.current_time() + self._idle_timeout if is_due else math.inf
        deadline = min(self._timeout_at, idle_at)
        if deadline != self._own_deadline:  # else it may be the handler's, which we leave alone
            self._own_deadline = self.latent.deadline = deadline

    async def shut_down(self, grace: float) -> None:
        """Tell the handler that the server shuts down.

        Args:
            grace: Seconds until it is cut.
        """
        await self._cancel_for_shutdown(grace)

    # -- for the application -------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Pass a message on to the server, or drop it when the client is gone."""
        if message["type"] == "websocket.close":
            # One server (granian 2.8) sends no close while somebody waits in its receive(). Another
            # waits until its queue has been read, so the reading goes on once send() has begun.
            await self._end_pump()
            self.watch()
        if self.left and not self.complete:
            if self._heard:
                # It knows, and goes on for nobody.
                await self._stop_handler()
            await checkpoint()
            return
        is_last_word = message["type"] in ("websocket.close", "websocket.http.response.start")
        if is_last_word:
            self.finish()
            self._set_deadline()
        try:
            await self.server_send(message)
        except anyio.get_cancelled_exc_class():
            if is_last_word and self.latent.cancel_requested:
                # The server may have it or not. If it has, it refuses the one that ``end`` sends.
                self.complete = False
            raise
        except OSError as exc:
            if not is_of_a_connection(exc):
                raise
            await self._leave({"type": "websocket.disconnect", "code": 1006, "reason": ""})
            await checkpoint()
        if message["type"] == "websocket.accept":
            self.accepted = True
            if self._ends_deadline_at_start:
                self._timeout_at = math.inf
            self._set_deadline()

    async def _look(self) -> Message:
        """Take nothing in a scope that is cancelled already: the read could not end."""
        while True:
            await checkpoint()

    async def _answer_left(self) -> Message:
        await checkpoint_if_cancelled()
        self._heard = True
        self._make_room()
        return self._disconnect

    # -- the watcher's task --------------------------------------------------------------

    async def _read_until_left(self) -> None:
        await super()._read_until_left()
        if self.left and not self.complete:
            await self._wait_for_last_reads()

    def _note(self, message: Message) -> None:
        if self._idle_timeout != math.inf:
            self._set_deadline()

    async def _wait_for_room(self) -> None:
        self._is_paused = True
        self._set_deadline()
        await super()._wait_for_room()
        self._is_paused = False
        self._set_deadline()

    async def _wait_for_last_reads(self) -> None:
        """Cancel a handler that does not come for what the client sent before it left."""
        while not self._heard and not self.latent.cancel_requested:
            self._room = anyio.Event()
            with anyio.move_on_after(LAST_MESSAGES) as limit:
                await self._room.wait()
            if limit.cancelled_caught:
                await self._stop_handler()
                return

    def _has_unread(self) -> bool:
        messages = self._messages
        return messages is not None and any(m["type"] == "websocket.receive" for m in messages)

    # -- the end -------------------------------------------------------------------------

    async def answer(self, scope: Scope, error: CancelationError) -> None:
        """Close the socket of an operation that was cancelled; see ``end``."""
        await self.end(scope, error.reason)

    async def end_after_handler(self, scope: Scope) -> None:
        """Close a socket whose handler was told to stop and returned by itself; see ``end``."""
        operation = self.latent.known_operation
        reason = None if operation is None else operation.cancel_reason
        if reason is not None:
            await self.end(scope, reason)

    async def end(self, scope: Scope, reason: CancelationReason) -> None:
        """Close the socket with the code of a reason, or refuse it if it is not open yet.

        Args:
            scope: The scope of the socket.
            reason: Why the operation was asked to stop.
        """
        if self.left or self.complete:
            return
        try:
            if self.accepted or DENIAL not in (self._scope.get("extensions") or {}):
                code = close_code_for(reason, self.close_codes)
                await self.send({"type": "websocket.close", "code": code, "reason": ""})
            else:
                # Starlette names the messages of a response by the kind of the scope.
                await self.answers.plain(reason)(scope, self.receive, self.send)
        except Exception:
            # Of a send that was cancelled nobody knows whether the server has it. And the client
            # may have left meanwhile.
            logger.debug("the server refused the close of a cancelled socket", exc_info=True)
