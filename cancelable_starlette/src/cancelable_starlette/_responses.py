"""A streamed response whose source is always closed, and that says why it was cut."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TypeAlias, TypeVarTuple, cast

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import ContentStream, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from cancelable import CancelationReason

from ._chain import close_chain, is_over
from ._exchange import HTTPExchange
from ._pings import Pings
from ._policy import Policy
from ._raised import cancelation_in
from ._request import Exchange, exchange_of
from ._serving import Serving
from ._settings import duration, function
from ._sse import EVENT_STREAM, PING, ServerSentEvent, ends_an_event, last_event
from ._turns import Turns

logger = logging.getLogger("cancelable.starlette")

Chunk: TypeAlias = str | bytes | memoryview | ServerSentEvent
Content: TypeAlias = AsyncIterable[Chunk] | Iterable[Chunk]

Args = TypeVarTuple("Args")

CLOSE_TIMEOUT = 10.0
"""Seconds that the cleanup of a source may take unless it is said otherwise."""

LAST_EVENT_LIMIT = 1.0
"""Seconds that the event may take by which a cancelled stream says why it ends."""


class CancelableStreamingResponse(StreamingResponse):
    """Stream a response, and close its source in the task that iterated it, whatever happens.

    The source is cancelled as soon as the request is, also while it waits for something, and is
    closed with all that it iterates before the request ends. It may hold ``async with`` blocks
    across its ``yield``. Under the middleware the client is watched there; without it the response
    watches its own request.

    A stream of events ends with an event named ``cancelled`` that says why, if there is a client
    to tell and the stream stands between two events.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        content: Content,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        *,
        on_close: Callable[[], object] | None = None,
        send_timeout: float | timedelta | None = None,
        close_timeout: float | timedelta = CLOSE_TIMEOUT,
        ping: float | timedelta | None = None,
    ) -> None:
        """Make a response of what a source gives.

        Args:
            content: The source: an async iterator or iterable, or a plain one, which is then
                iterated in a worker thread and never closed while it runs. It gives texts, bytes,
                or events as a ``ServerSentEvent``.
            status_code: The status.
            headers: More headers.
            media_type: The media type; ``text/event-stream`` unless it is given.
            background: What to run after the response, if that was completed.
            on_close: Called when the stream is over, also if it never began; plain or async.
            send_timeout: Seconds that the client may take nothing.
            close_timeout: Seconds that the cleanup of the source may take.
            ping: Seconds without anything sent after which a comment keeps the connection alive,
                between two events and never within one. Only for an event stream.

        Raises:
            TypeError: If the content cannot be iterated, or a setting is of the wrong kind.
            ValueError: If a setting is not above zero, or not finite, or there are to be pings in
                what is no event stream.
        """
        if not isinstance(content, (AsyncIterable, Iterable)):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`content` must be an async or plain iterable, not {content!r}"
            raise TypeError(msg)
        function(on_close, "on_close")
        self._send_timeout = duration(send_timeout, "send_timeout")
        self._close_timeout = duration(close_timeout, "close_timeout")
        self._ping = duration(ping, "ping")
        self._on_close = on_close
        self._plain_source: object = None
        if not isinstance(content, AsyncIterable):
            # Starlette would iterate the iterable anew; here it has to be known to be closed.
            self._plain_source = content = iter(content)
        # Starlette only keeps it; the events in it are encoded where it is iterated, here.
        stream = cast(ContentStream, content)
        super().__init__(stream, status_code, headers, media_type, background)
        if self._ping != math.inf and not self.is_plain_event_stream:
            msg = f"`ping` needs an event stream that is not encoded, not {dict(self.headers)!r}"
            raise ValueError(msg)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if scope["type"] == "websocket":
            send = _as_denial(send)
        elif exchange_of(scope) is None:
            await Serving(self._respond, Policy())(scope, receive, send)
            return
        await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _Stream(self, exchange_of(scope), send).run()
        if self.background is not None:
            await self.background()

    # -- what a stream asks ----------------------------------------------------------------

    @property
    def limits(self) -> tuple[float, float]:
        """The seconds for one send and for the cleanup."""
        return self._send_timeout, self._close_timeout

    @property
    def is_plain_event_stream(self) -> bool:
        """Whether events of ours may be added: the stream is one of events, in plain text."""
        kind = self.headers.get("content-type", "")
        return kind.startswith(EVENT_STREAM) and "content-encoding" not in self.headers

    @property
    def pings_after(self) -> float:
        """The seconds without anything sent after which there is a ping."""
        return self._ping

    @property
    def has_cleanup(self) -> bool:
        """Whether there is anything to do at the end but to close an async source."""
        return self._on_close is not None or self._plain_source is not None

    async def close_plain_source(self) -> None:
        """Close a generator that is no async one; no thread is in it any more."""
        close = getattr(self._plain_source, "close", None)
        if close is not None:
            await run_in_threadpool(close)

    async def call_on_close(self) -> None:
        """Call the callback of the user."""
        if self._on_close is not None:
            answer = self._on_close()
            if inspect.isawaitable(answer):
                await answer


def cancelable_streaming_response(
    generator: Content,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = EVENT_STREAM,
    background: BackgroundTask | None = None,
    on_close: Callable[[], object] | None = None,
    send_timeout: float | timedelta | None = None,
    close_timeout: float | timedelta = CLOSE_TIMEOUT,
    ping: float | timedelta | None = None,
) -> CancelableStreamingResponse:
    """Stream what a generator yields until it ends or the request is cancelled.

    Args:
        generator: The source; see ``CancelableStreamingResponse``, as for the others.
        status_code: The status.
        headers: More headers.
        media_type: The media type.
        background: What to run after a completed response.
        on_close: Called when the stream is over, also if it never began; plain or async.
        send_timeout: Seconds that the client may take nothing.
        close_timeout: Seconds that the cleanup of the source may take.
        ping: Seconds without anything sent after which a comment keeps an event stream alive.

    Raises:
        TypeError: If the generator cannot be iterated, or a setting is of the wrong kind.
        ValueError: If a setting is not above zero, or not finite, or there are to be pings in what
            is no event stream.
    """
    return CancelableStreamingResponse(
        generator,
        status_code,
        headers,
        media_type,
        background,
        on_close=on_close,
        send_timeout=send_timeout,
        close_timeout=close_timeout,
        ping=ping,
    )


def _as_denial(send: Send) -> Send:
    """Send a response as the refusal of a WebSocket, whose messages carry another prefix.

    The ASGI extension is "WebSocket Denial Response".
    """

    async def send_denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_denial


class _Stream:
    """One run of a response.

    Two scopes are open from before the first step to after the last. A source may hold scopes of
    its own across its ``yield``; a scope that were opened later would lie on top of those, and
    leaving them first would break the stack. So closing the source turns the inner scope into a
    shield with a deadline. The outer one bounds a send: a scope that is cancelled shields nothing.
    """

    def __init__(
        self, response: CancelableStreamingResponse, exchange: Exchange | None, send: Send
    ) -> None:
        self._response = response
        self._exchange = exchange
        self._send = send
        self._send_timeout, self._close_timeout = response.limits
        self._source = aiter(cast(AsyncIterable[Chunk], response.body_iterator))
        self._pings: Pings | None = None
        self._send_limit = anyio.CancelScope()
        self._shield = anyio.CancelScope()
        self._tail = b""
        self._has_begun = False  # whoever takes the messages has the start
        self._has_events = response.is_plain_event_stream

    async def run(self) -> None:
        """Send all of it, or as much as there is time for.

        Raises:
            BaseException: What the source raised, or the native cancelation.
        """
        with self._send_limit:
            with self._shield:
                try:
                    await self._send_all()
                except BaseException as exc:
                    await self._break_off(exc)
                    raise
                await self._close(None)
        if self._send_limit.cancelled_caught and self._exchange is not None:
            message = f"the client took nothing for {self._send_timeout} s"
            await self._exchange.operation.cancel(CancelationReason.TIMEOUT, message, grace=0)
            await checkpoint()

    async def _send_all(self) -> None:
        response, send = self._response, self._send
        start = {"status": response.status_code, "headers": response.raw_headers}
        await send({"type": "http.response.start", **start})
        self._has_begun = True
        self._start_pings()
        if self._pings is None and self._send_timeout == math.inf:
            await self._send_plain_chunks()
        else:
            await self._send_guarded_chunks()
        # A source may have asked to stop itself, and not have waited since. The end would be
        # dropped, as what is sent after a cancel is, and nobody told why.
        await checkpoint_if_cancelled()
        await self._send_body(b"", more=False)

    async def _send_plain_chunks(self) -> None:
        """Send what the source gives, with as little as possible done for each chunk."""
        exchange, send = self._exchange, self._send
        direct = exchange if isinstance(exchange, HTTPExchange) and send == exchange.send else None
        tail = b""
        turns, until_look = Turns(), 1
        try:
            async for chunk in self._source:
                if type(chunk) is bytes and len(chunk) > 3:
                    data: bytes | memoryview = chunk
                    tail = chunk
                else:  # a view may be released, or its buffer filled anew, when this is looked at
                    data = self._encoded(chunk)
                    tail = tail[-4:] + bytes(data[-4:])
                message = {"type": "http.response.body", "body": data, "more_body": True}
                if (
                    direct is not None
                    and direct.passes_freely
                    and (direct.latent.is_untouched or not direct.latent.cancel_requested)
                ):
                    try:
                        await direct.server_send(message)
                    except BaseException as exc:
                        if not await direct.forgives(exc):
                            raise
                else:
                    await send(message)
                until_look -= 1
                if not until_look:
                    until_look = turns.look() or await turns.give()
        finally:
            self._note_tail(tail)

    async def _send_guarded_chunks(self) -> None:
        """Send what the source gives, with pings between, or a time limit for each send."""
        turns = Turns()
        async for chunk in self._source:
            await self._send_body(self._encoded(chunk), more=True)
            if not turns.look():
                await turns.give()

    def _encoded(self, chunk: Chunk) -> bytes | memoryview:
        if isinstance(chunk, ServerSentEvent):
            return chunk.encode()
        return chunk.encode(self._response.charset) if isinstance(chunk, str) else chunk

    def _start_pings(self) -> None:
        exchange, interval = self._exchange, self._response.pings_after
        if interval != math.inf and exchange is not None and exchange.watcher is not None:
            self._pings = Pings(interval, self._send_ping)
            self._pings.start(exchange.watcher)

    async def _send_ping(self) -> None:
        if ends_an_event(self._tail[-4:]):
            await self._send({"type": "http.response.body", "body": PING, "more_body": True})

    async def _send_body(self, data: bytes | memoryview, *, more: bool) -> None:
        if self._send_timeout != math.inf:
            self._send_limit.deadline = anyio.current_time() + self._send_timeout
        if self._pings is None:
            await self._pass_on(data, more)
        else:
            async with self._pings.turn:
                await self._pass_on(data, more)
                self._pings.note_sent()
        if self._send_timeout != math.inf:
            self._send_limit.deadline = math.inf

    async def _pass_on(self, data: bytes | memoryview, more: bool) -> None:
        self._note_tail(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def _note_tail(self, data: bytes | memoryview) -> None:
        """Keep how the stream ends; whoever asks looks at the last four bytes.

        That is as of the beginning of a send: of one that is cancelled nobody knows what was sent.
        """
        self._tail = self._tail[-4:] + bytes(data[-4:])

    async def _break_off(self, failure: BaseException) -> None:
        """Close the source of a stream that cannot go on, and say why if that can be said."""
        self._send_limit.deadline = math.inf
        await self._close(failure)
        reason = self._reason_of(failure)
        if reason is None or self._send_limit.cancel_called or self._shield.cancel_called:
            return
        if self._has_begun and self._has_events and self._is_between_events():
            await self._in_shield(self._send_last_event, reason)

    def _is_between_events(self) -> bool:
        has_broken_ping = self._pings is not None and self._pings.broke_off
        return ends_an_event(self._tail[-4:]) and not has_broken_ping

    def _reason_of(self, failure: BaseException) -> CancelationReason | None:
        """Return why the stream was cancelled, if there is a client to tell."""
        error = cancelation_in(failure)
        if error is not None:
            reason: CancelationReason | None = error.reason
        elif isinstance(failure, anyio.get_cancelled_exc_class()) and self._exchange is not None:
            reason = self._exchange.operation.cancel_reason
        else:
            return None
        is_gone = self._exchange is not None and self._exchange.is_deserted
        return None if is_gone or reason is CancelationReason.DISCONNECT else reason

    async def _send_last_event(self, reason: CancelationReason) -> None:
        # A BaseHTTPMiddleware around us was cancelled as well, and takes nothing any more.
        with anyio.move_on_after(LAST_EVENT_LIMIT):
            await self._send_body(last_event(reason), more=True)
            await self._send_body(b"", more=False)

    async def _close(self, failure: BaseException | None) -> None:
        """Close what was streamed, and tell the user, each within the time for a cleanup."""
        if self._pings is None and is_over(self._source) and not self._response.has_cleanup:
            return  # as most streams end; each step in a shield costs microseconds
        is_cancel = isinstance(failure, anyio.get_cancelled_exc_class())
        # Run from the last to the first, each also if one before it has failed.
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self._in_shield, self._response.call_on_close)
            steps.push_async_callback(self._in_shield, self._response.close_plain_source)
            thrown = failure if is_cancel else None
            steps.push_async_callback(self._in_shield, close_chain, self._source, thrown)
            if self._pings is not None:
                self._pings.end()
                steps.push_async_callback(self._in_shield, self._pings.wait_ended)

    async def _in_shield(self, cleanup: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
        shield = self._shield
        shield.deadline = anyio.current_time() + self._close_timeout
        shield.shield = True
        try:
            await cleanup(*args)
        except anyio.get_cancelled_exc_class():
            if not shield.cancel_called:
                raise  # asyncio's own task.cancel(), which cuts through every shield
            logger.warning(
                "the cleanup of a streamed response did not end within %s s, and was cut: %r",
                self._close_timeout,
                self._source,
            )
        finally:
            shield.shield = False
            shield.deadline = math.inf
