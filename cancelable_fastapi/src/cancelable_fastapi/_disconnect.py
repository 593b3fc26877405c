"""Noticing that a client has left where no middleware does: for the block of one endpoint."""

from __future__ import annotations

import functools
import math
from collections import deque

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from starlette.requests import Request
from starlette.types import Message

from cancelable import CancelationReason, CancelationSource
from cancelable_starlette import get_request_operation, get_request_token

DISCONNECT: Message = {"type": "http.disconnect"}

CLIENT_LEFT = "the client left"
"""The message of a cancel that a disconnect caused."""


class DisconnectSource(CancelationSource):
    """Stop an operation when the client of a request leaves, while its block runs.

    It reads from the server once the body has been read by the endpoint, or at once where there is
    none. One reader at a time goes to the server: the endpoint's request reads through here, and
    what the watching task meets on its way is kept for it.

    It watches only in the task of the endpoint. A streamed body runs in another one, beside the
    response's own watch for the client, which is then the one reader.
    """

    def __init__(self, request: Request) -> None:
        """Stand in front of a request.

        Args:
            request: A request that nothing else watches. Make the source in the endpoint's task.
        """
        super().__init__(CancelationReason.DISCONNECT, "client")
        self._request = request
        self._task = anyio.get_current_task().id
        self._watches = False
        self._left = False
        self._body_is_read: bool = request._stream_consumed  # pyright: ignore[reportPrivateUsage]
        self._server_receive = request.receive
        # Whatever the endpoint reads, it reads through its request.
        request._receive = self.receive  # pyright: ignore[reportPrivateUsage]

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

    @property
    def needs_task(self) -> bool:
        """Whether there is something to watch; known when the block has been entered."""
        return self._watches

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Look who watches: a decorator of the endpoint or a response may do so by now."""
        self._watches = (
            get_request_operation(self._request) is None
            and anyio.get_current_task().id == self._task
        )

    async def watch(self) -> None:
        """Read until the client has left."""
        if not self._body_is_read and _has_body(self._request):
            await self._end_of_body.wait()
        while not self._left:
            async with self._reader:
                message = await self._next()
                if message["type"] == "http.request":
                    self._kept.append(message)
        self.trigger(CLIENT_LEFT)

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
