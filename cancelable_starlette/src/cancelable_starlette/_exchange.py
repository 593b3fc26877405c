"""One HTTP request and its response, tied to the operation that can be cancelled."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import CancelationError, CancelationReason

from ._answers import Answers
from ._keys import EXCHANGE_KEY, TOKEN_KEY
from ._operation import RequestOperation
from ._policy import Policy
from ._settings import OnDisconnect, Until
from ._status import CLIENT_CLOSED_REQUEST
from ._watched import CLIENT_LEFT, Watched

logger = logging.getLogger("cancelable.starlette")

END_LIMIT = 1.0
"""Seconds that a server may take to note the end of a response for a client that is gone."""

BODY_TYPES = ("http.response.body", "http.response.zerocopysend", "http.response.pathsend")
"""The types of the messages that carry a body, of which the last ends a response."""

_NEVER = math.inf


class HTTPExchange(Watched):
    """Watch one request, and let its response through as long as that makes sense.

    ``receive`` and ``send`` are what the application gets instead of the server's.
    """

    __slots__ = ("answers", "attempted", "passes_freely")

    attempted: bool
    """Whether the start was given to the server, who may have it or not."""
    answers: Answers
    """What the client is told if the request is cancelled."""
    passes_freely: bool
    """Whether the server gets a chunk as it is: nobody has left, and there is neither a time limit
    for a send nor a shutdown.

    As long as the operation was not asked to stop, a source of many chunks that has ``send`` itself
    may then call ``server_send`` instead, which is a coroutine less for each. It has to show
    ``forgives`` what that raises. Whoever has what somebody else has made of ``send`` must not: a
    middleware, or Starlette itself, which does so for each route. So a response has this lane where
    it watches its own request, or is the application itself.
    """
    on_disconnect: OnDisconnect = "cancel"
    on_left: Callable[[], object] | None = None
    """Called when the client left before the response was complete."""
    _cap: float = _NEVER
    _ends_deadline_at_start: bool = True
    _has_trailers: bool = False
    _released: bool = False
    _send_timeout: float = _NEVER
    _shutdown_grace: float | None = None
    """Seconds; a number once the server shuts down."""
    _left_by_shutdown: bool = False
    """Whether the server has told of a disconnect when it shut down, as some releases do.

    The client is still there then: what is sent is for the server to deliver, or to throw away.
    Those servers speak HTTP/1.1 alone. With HTTP/2, Hypercorn 0.18 would be held up by what is sent
    to nobody.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, policy: Policy) -> None:
        """Tie a request to its operation.

        Args:
            scope: The scope of a request that nothing watches yet. It gets this exchange, and
                the token, by which middlewares around this one can ask for the reason.
            receive: The server's ``receive()``.
            send: The server's ``send()``.
            policy: What was said about the request.
        """
        super().__init__(scope, receive, policy.read_ahead)
        self.latent = latent = RequestOperation(policy.timeout, policy.grace)
        latent.method = self._method
        latent.path = scope["path"]
        latent.client = scope.get("client")
        latent.on_cancel = policy.on_cancel
        self.server_send = send
        self.answers = policy.answers
        self.attempted = False
        self.passes_freely = True
        if policy.changes_exchange:
            self.on_disconnect = policy.on_disconnect
            self.hides_disconnect = policy.on_disconnect == "continue"
            self.limit_sends(policy.send_timeout)
        scope[TOKEN_KEY] = latent.token
        scope[EXCHANGE_KEY] = self

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is there to be told anything."""
        return self.left and not self._left_by_shutdown

    async def client_left(self) -> None:
        """Cancel the operation, or only tell, as the policy says."""
        self.passes_freely = False
        if self.on_left is not None:
            self.on_left()
        if self.on_disconnect == "cancel":
            if self._shutdown_grace is None or not self._has_connection_of_its_own:
                await self.operation.cancel(CancelationReason.DISCONNECT, CLIENT_LEFT)
            else:
                self._left_by_shutdown = True
                await self._cancel_for_shutdown(self._shutdown_grace)

    async def follow(self, on_disconnect: OnDisconnect) -> None:
        """Change what becomes of the work when the client leaves, or has left.

        Args:
            on_disconnect: What becomes of it.
        """
        self.on_disconnect = on_disconnect
        self.hides_disconnect = on_disconnect == "continue"
        if on_disconnect == "cancel" and self.left and not self.complete:
            await self.operation.cancel(CancelationReason.DISCONNECT, CLIENT_LEFT)

    def set_timeout(self, seconds: float, until: Until) -> None:
        """Replace the timeout; it counts from the call of the server.

        Args:
            seconds: Seconds from the start of the request; infinity for none.
            until: Whether it counts to the start or the end of the response.
        """
        if until == "start" and self.started:
            seconds = math.inf
        self._ends_deadline_at_start = until == "start"
        self.latent.deadline = self.latent.began_at + min(seconds, self._cap)

    def cap_timeout(self, seconds: float) -> None:
        """Let no timeout, also none that is set later, be longer than *seconds*."""
        self._cap = seconds
        self.shorten_timeout(seconds)

    def shorten_timeout(self, seconds: float) -> None:
        """Make the timeout *seconds* from the start of the request if it was longer."""
        if seconds != math.inf and not self.started:
            deadline = self.latent.began_at + seconds
            self.latent.deadline = min(self.latent.deadline, deadline)

    def limit_sends(self, seconds: float) -> None:
        """Cancel the request when one ``send()`` takes longer than *seconds*."""
        self._send_timeout = seconds
        self.passes_freely = self.passes_freely and seconds == math.inf

    async def shut_down(self, grace: float) -> None:
        """Tell a response that is being streamed; let any other request finish.

        Args:
            grace: Seconds until a stream is cut.
        """
        self._shutdown_grace = grace
        self.passes_freely = False
        if self.started and not self.complete:
            await self._cancel_for_shutdown(grace)

    # -- for the application -------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Pass a message of the response on to the server, or drop it.

        When the operation has been cut, the first send of a response that has started returns
        at once, and later ones are checkpoints. So the cancel does not surface here, where a
        generator that is being streamed would stay suspended at its ``yield`` until it is
        collected, but in the generator itself. The last message is always a checkpoint: nothing
        is streamed any more, and an application that returned now would count as completed.
        """
        if not (self.passes_freely and self.latent.is_untouched):
            if (self.left or self.latent.cancel_requested) and not await self._may_pass(message):
                return
            if not self.passes_freely:
                await self._send_with_care(message)
                return
        try:
            # As pass_on, which would be one more coroutine for each message, and with the books of
            # most responses kept here, where _note_start and _note_end would say the same. Chunks
            # come first, since there may be many of them.
            if message.get("more_body", False):
                await self.server_send(message)
            elif message["type"] == "http.response.start":
                self.attempted = True
                if "trailers" in message or not self.latent.is_untouched:
                    self._note_start(message)
                await self.server_send(message)
                self.started = True
                if self.reading_has_begun:
                    self.invite()
            else:
                if (
                    message["type"] == "http.response.body"
                    and self.attempted
                    and self.latent.is_untouched
                    and not self._has_trailers
                ):
                    self.finish()
                else:
                    self._note_end(message)
                await self.server_send(message)
        except BaseException as exc:
            if not await self.forgives(exc):
                raise

    async def _send_with_care(self, message: Message) -> None:
        try:
            if self._send_timeout != _NEVER:
                await self._pass_on_in_time(message)
            else:
                await self.pass_on(message)
        except BaseException as exc:
            if not await self.forgives(exc):
                raise

    async def forgives(self, failure: BaseException) -> bool:
        """Take note of a failed ``send()`` of the server; return whether that is all.

        If it is not, the application is to be told.

        Args:
            failure: What was raised.
        """
        if isinstance(failure, anyio.get_cancelled_exc_class()):
            # Of the last message nobody knows then whether the server has it.
            is_between = self.started and not self.complete
            return is_between and self._is_cut() and self._release()
        if not (isinstance(failure, OSError) and is_of_a_connection(failure)):
            return False
        await self._leave({"type": "http.disconnect"})
        self._left_by_shutdown = False
        return True

    async def _may_pass(self, message: Message) -> bool:
        if self.complete:
            return True
        is_last = not message.get("more_body", False) and self._ends_response(message)
        if self.is_deserted:
            if is_last and self.hides_disconnect:
                # Complete for whoever made it, who may wait to hear of that.
                self.hides_disconnect = False
                self._notify()
            # Nobody reads this any more. A loop that only sends still has to give way.
            if is_last or not self._is_cut() or not self._release():
                await checkpoint()
            return False
        if self._is_cut():
            if is_last or not self._release():
                await checkpoint()
            return False
        if not self.attempted:
            # A deadline that has passed while the handler held the loop is not noticed yet. A
            # response that began now would be broken off.
            await self.operation.check_cancelation()
        return True

    def _is_cut(self) -> bool:
        """Return whether the operation's cancel has reached the calling task.

        It has not in a time of grace or in a shield; there a handler may still say something.
        """
        return self.latent.cancel_requested and self._is_cut_here()

    def _release(self) -> bool:
        """Return True the first time after the start of the response."""
        is_first = self.started and not self._released
        self._released = self._released or is_first
        return is_first

    async def _pass_on_in_time(self, message: Message) -> None:
        with anyio.move_on_after(self._send_timeout) as scope:
            await self.pass_on(message)
        if scope.cancelled_caught and not self.complete:
            text = f"the client took nothing for {self._send_timeout} s"
            await self.operation.cancel(CancelationReason.TIMEOUT, text)

    async def pass_on(self, message: Message) -> None:
        """Give a message to the server and keep the books of the response.

        Args:
            message: A message of the ASGI specification's HTTP part; others pass untouched.
        """
        if message["type"] == "http.response.start":
            self.attempted = True
            self._note_start(message)
            await self.server_send(message)
            self.started = True
            self.invite()
        else:
            if not message.get("more_body", False):
                self._note_end(message)
            grace = self._shutdown_grace
            if grace is not None and not (self.complete or self.latent.cancel_requested):
                await self.shut_down(grace)  # only now it has turned out to be a stream
            await self.server_send(message)

    def _note_start(self, message: Message) -> None:
        """Note what a start says before the server sees it, which has been attempted by then."""
        if not self.latent.is_untouched and self._ends_deadline_at_start:
            self._end_deadline()
        if message.get("trailers", False):
            self._has_trailers = True

    def _note_end(self, message: Message) -> None:
        """Keep the books before the server sees a message that may be the last one."""
        # Without a start it ends nothing: a mistake of the application.
        if self.attempted and self._ends_response(message):
            self._end_deadline()
            self.finish()

    def _end_deadline(self) -> None:
        if self.latent.deadline != math.inf:
            self.latent.deadline = math.inf

    def _ends_response(self, message: Message) -> bool:
        """Return whether nothing comes after a message that has not said that there is more."""
        kind = message["type"]
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind in BODY_TYPES and not self._has_trailers

    # -- the end -------------------------------------------------------------------------

    async def answer(self, scope: Scope, error: CancelationError) -> None:
        """End the response of a request whose operation was cancelled.

        A response that has started is left as it is, so that it does not look complete to
        anybody who is there: the server breaks it off.

        Args:
            scope: The scope of the request.
            error: Why it was cancelled.
        """
        if self.complete or (self.started and not self.is_deserted):
            return
        response: ASGIApp = self._end_for_nobody
        if not self.is_deserted:
            response = await self.answers.make(error.reason, Request(scope, self.receive))
        await self._answer_with(response, scope)

    async def end_after_handler(self, scope: Scope) -> None:
        """End the response of an application that ended by itself, if its client had left.

        What it sent was dropped, with the last message. See ``_end_for_nobody`` for who needs one.
        A server that refused the start of the response needs none.

        Args:
            scope: The scope of the request.
        """
        if self.complete or not self.is_deserted:
            return
        if self.started or not self.attempted:
            await self._answer_with(self._end_for_nobody, scope)

    async def _answer_with(self, response: ASGIApp, scope: Scope) -> None:
        refusals: list[Exception] = []

        async def send(message: Message) -> None:
            try:
                await self._send_answer(message)
            except Exception as exc:
                refusals.append(exc)
                raise

        try:
            await response(scope, self.receive, send)
        except Exception:
            if not refusals:
                raise  # an error of the hook's response
            # The server may have a start already: of a send that was cancelled nobody knows. And
            # the client may have left meanwhile.
            logger.debug("the server refused the response of a cancelled request", exc_info=True)

    async def _end_for_nobody(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a client that is gone, for the sake of those in between.

        A BaseHTTPMiddleware around us would raise without a start, since its application has
        returned no response. With HTTP/2, Hypercorn 0.18 takes a connection whose stream was reset
        for busy until the application ends the response; and if the connection is closed as well,
        it waits in that ``send()`` for ever. With HTTP/1.1 no end is sent: somebody may still read
        from a connection that is half closed, to whom the response must not look complete. Nor is
        there one before the body has come whole: what the server has read of its rest and not yet
        handled would end that Hypercorn, since it forgets a stream whose response has ended.
        """
        if not self.started:
            status = CLIENT_CLOSED_REQUEST
            await send({"type": "http.response.start", "status": status, "headers": []})
        if not self._has_connection_of_its_own and not self._may_have_more_body():
            with anyio.move_on_after(END_LIMIT):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def _has_connection_of_its_own(self) -> bool:
        """Whether the response is all that its connection is for meanwhile, as with HTTP/1.1."""
        version: str = self._scope.get("http_version", "1.1")
        return version.startswith("1")

    async def _send_answer(self, message: Message) -> None:
        if self._method == "HEAD" and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self.pass_on(message)


def is_of_a_connection(error: OSError) -> bool:
    """Return whether an error of ``send()`` says that the client is gone.

    The ASGI specification (from version 2.4) lets a server say it so. An error of the file
    system, which a middleware may meet, has a number; a timeout of an operation is an OSError
    as well.

    Args:
        error: What ``send()`` raised.
    """
    if isinstance(error, TimeoutError):
        return False
    return isinstance(error, ConnectionError) or error.errno is None
