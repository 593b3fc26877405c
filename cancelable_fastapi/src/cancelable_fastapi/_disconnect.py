"""Noticing that a client has left where no middleware does: for the block of one endpoint."""

from __future__ import annotations

import functools
import math
from collections import deque
from contextlib import AsyncExitStack

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from starlette.requests import Request
from starlette.types import Message

from cancelable import CancelationReason, CancelationSource
from cancelable_starlette import get_request_operation, get_request_token

DISCONNECT: Message = {"type": "http.disconnect"}

ENDPOINT_STACK = "fastapi_function_astack"
"""Where FastAPI keeps what it closes when the endpoint has returned, before it sends the response.

A dependency with ``yield`` and ``scope="function"`` is closed there, too. As one of those ours
would cost more than all the rest of it.
"""

STOP_LIMIT = 1.0
"""Seconds that the return of an endpoint waits for a server's ``receive()`` to take a cancel."""

CLIENT_LEFT = "the client left"
"""The message of a cancel that a disconnect caused."""


class DisconnectSource(CancelationSource):
    """Stop an operation when the client of a request leaves, while its block runs.

    It reads from the server once the body has been read by the endpoint, or at once where there is
    none. One reader at a time goes to the server: the endpoint's request reads through here, and
    what the watching task meets on its way is kept for it.

    It watches only until the endpoint has returned. A streamed body runs beside the response's own
    watch for the client, which is then the one reader. And every server answers a finished response
    with a disconnect, while background tasks and what stands behind a ``yield`` still run.

    Where FastAPI does not tell of the return, as in an endpoint of Starlette, it watches only in
    the task that made it: most streamed bodies run in another one.
    """

    def __init__(self, request: Request) -> None:
        """Stand in front of a request.

        Args:
            request: A request that nothing else watches. Make the source in the endpoint's task.
        """
        super().__init__(CancelationReason.DISCONNECT, "client")
        self._request = request
        self._watches = False
        self._left = False
        self._has_returned = False
        self._limit: anyio.CancelScope | None = None  # there while the watching task watches
        self._body_is_read: bool = request._stream_consumed  # pyright: ignore[reportPrivateUsage]
        self._server_receive = request.receive
        # Whatever the endpoint reads, it reads through its request.
        request._receive = self.receive  # pyright: ignore[reportPrivateUsage]
        self._task: int | None = None
        stack = request.scope.get(ENDPOINT_STACK)
        if isinstance(stack, AsyncExitStack):
            stack.push_async_callback(self._end_watch)
        else:
            self._task = anyio.get_current_task().id

    # Most blocks end before anybody reads: these are made when they are needed.

    @functools.cached_property
    def _kept(self) -> deque[Message]:
        return deque()

    @functools.cached_property
    def _reader(self) -> anyio.Lock:
        return anyio.Lock(fast_acquire=True)

    @functools.cached_property
    def _end_of_body(self) -> anyio.Event:
        return anyio.Event()

    @functools.cached_property
    def _end_of_watch(self) -> anyio.Event:
        return anyio.Event()

    @property
    def needs_task(self) -> bool:
        """Whether there is something to watch; known when the block has been entered."""
        return self._watches

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Look who watches: a decorator of the endpoint or a response may do so by now."""
        self._watches = (
            not self._has_returned
            and get_request_operation(self._request) is None
            and (self._task is None or self._task == anyio.get_current_task().id)
        )

    async def watch(self) -> None:
        """Read until the client has left, or the endpoint has returned."""
        if not self._has_returned:  # it may have before this task has begun
            with anyio.CancelScope() as self._limit:
                try:
                    await self._read_until_left()
                finally:
                    self._limit = None
                    self._end_of_watch.set()
        if not self._left:
            await anyio.sleep_forever()  # to return is to fire
        self.trigger(CLIENT_LEFT)

    async def _read_until_left(self) -> None:
        if not self._body_is_read and _has_body(self._request):
            await self._end_of_body.wait()
        while not self._left:
            async with self._reader:
                message = await self._next()
                if message["type"] == "http.request":
                    self._kept.append(message)

    async def _end_watch(self) -> None:
        """Leave the server to the response: the endpoint has returned."""
        self._has_returned = True
        if self._limit is not None:
            self._limit.cancel()
            deadline = anyio.current_time() + STOP_LIMIT
            with anyio.CancelScope(deadline=deadline, shield=True):
                await self._end_of_watch.wait()
        # From here on nobody asks for the request, which goes on reading through here. The two
        # would keep each other, with the body, until the collector comes by; and so would the
        # traceback of a watch that was cancelled.
        del self._request

    async def receive(self) -> Message:
        """Give the endpoint its next message, when the watching task does not read."""
        if anyio.current_effective_deadline() == -math.inf:
            return await self._look()
        if self._kept:
            return self._kept.popleft()
        async with self._reader:
            # Whoever had the lock may have met the message that this read is waiting for.
            message = self._kept.popleft() if self._kept else await self._next()
        if self._left:
            # The cancel goes first: the read would else fail with an error of its own.
            await checkpoint_if_cancelled()
        return message

    async def _look(self) -> Message:
        """Answer a read that does not wait: Starlette asks so whether the client is there.

        It happens in a scope that was cancelled before, and must not take what a read is to get.
        """
        if not self._reader.locked():
            self._reader.acquire_nowait()
            try:
                message = await self._next()
            finally:
                self._reader.release()
            if self._left:
                return DISCONNECT
            self._kept.append(message)
        await checkpoint()  # which raises: the look saw nothing
        return DISCONNECT

    async def _next(self) -> Message:
        if self._left:
            return DISCONNECT
        message = await self._server_receive()
        if message["type"] == "http.disconnect":
            # Kept, since some servers say it once and then never again. The operation listens to
            # the token of its request.
            self._left = True
            if not self._has_returned:
                await get_request_token(self._request).cancel(self.reason, CLIENT_LEFT)
        if not self._body_is_read and (self._left or not message.get("more_body", False)):
            self._body_is_read = True
            self._end_of_body.set()
        return message


def _has_body(request: Request) -> bool:
    """Return whether the head of a request announces a body, or leaves it open."""
    length = request.headers.get("content-length")
    if length is not None:
        return length.strip(" 0") != ""
    if "transfer-encoding" in request.headers:
        return True
    is_framed_by_headers = request.scope.get("http_version", "1.1").startswith("1")
    return not is_framed_by_headers and request.method not in ("GET", "HEAD", "OPTIONS")
