"""A scripted ASGI connection: the client that leaves, which no test client can play.

A test client hands the whole request to the application and waits for the whole answer; it
delivers no ``http.disconnect`` before the response is complete. The connection here is driven by
the test: it sends a body in slow chunks, leaves when it is told, and behaves towards the
application as one of the real servers would::

    async def test_the_report_stops_when_its_reader_leaves(anyio_backend: object) -> None:
        connection = ScriptedConnection(path="/report", leave_after=0.1)
        await connection.run(app)
        assert report.was_stopped

It runs on asyncio and on Trio, in the task that calls ``run``. The messages are those of the HTTP
part of the ASGI specification. ``ScriptedSocket`` is the same for a WebSocket, driven by the test
while the application runs::

    async with anyio.create_task_group() as tasks:
        socket = ScriptedSocket("/feed")
        tasks.start_soon(socket.run, app)
        await socket.wait_for_messages(3)
        socket.leave(1001)
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Scope

from ._scripted_server import DAPHNE, GRANIAN, HYPERCORN, SILENT, UVICORN, ServerBehaviour
from ._scripted_socket import ScriptedSocket

_logger = logging.getLogger("cancelable.starlette")

__all__ = [
    "DAPHNE",
    "GRANIAN",
    "HYPERCORN",
    "SILENT",
    "UVICORN",
    "ScriptedConnection",
    "ScriptedSocket",
    "ServerBehaviour",
    "lifespan",
]


class ScriptedConnection:
    """Play one HTTP request of a client that does what the test says.

    A connection is run once. What the application did can be read while it runs and afterwards.

    Attributes:
        scope: The ASGI scope, which a test may change before ``run``.
        sent: The messages that reached the client, in order.
        discarded: The messages that the application sent after the client had left.
        delivered: The messages that the application's side received from the server.
        cancelled_reads: How many calls of ``receive()`` were cancelled while they waited.
        overlapping_reads: How many calls of ``receive()`` began while another one waited; more
            than 0 is a mistake on every server.
    """

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        query: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | Sequence[bytes] = b"",
        pause: float = 0.0,
        server: ServerBehaviour = UVICORN,
        leave_after: float | None = None,
        leave_after_chunks: int | None = None,
        leave_after_messages: int | None = None,
        stop_reading_after_messages: int | None = None,
        send_errors: Sequence[Exception | None] = (),
    ) -> None:
        """Write the script.

        Args:
            method: The method of the request.
            path: Its path.
            query: Its query string.
            headers: Its headers; the length of a body is added unless a header says something
                about it.
            body: The body, in one piece or as the chunks in which it arrives.
            pause: Seconds before each chunk of the body.
            server: The server to imitate.
            leave_after: Seconds after which the client leaves.
            leave_after_chunks: The number of chunks of the body after which it leaves.
            leave_after_messages: The number of messages of the response after which it leaves.
            stop_reading_after_messages: The number of messages after which it reads no more, so
                that ``send()`` waits until it leaves.
            send_errors: What the first, second, ... ``send()`` raises; None for nothing.

        Raises:
            TypeError: If the body is of neither kind.
            ValueError: If a time is negative or no number.
        """
        for name, value in (("pause", pause), ("leave_after", leave_after)):
            if value is not None and not 0 <= value < math.inf:
                msg = f"`{name}` must be 0 or more seconds, not {value!r}"
                raise ValueError(msg)
        self._chunks = _chunks_of(body)
        self._pause = pause
        self._server = server
        self._leave_after = leave_after
        self._leave_after_chunks = leave_after_chunks
        self._leave_after_messages = leave_after_messages
        self._stop_reading_after_messages = stop_reading_after_messages
        self._send_errors = list(send_errors)
        self._arrived: deque[Message] = deque()
        self._changed: anyio.Event | None = None
        self._waiting_reads = 0
        self._lose_next = False
        self._told = False
        self._left = False
        self._complete = False
        self._trailers = False
        self.sent: list[Message] = []
        self.discarded: list[Message] = []
        self.delivered: list[Message] = []
        self.cancelled_reads: int = 0
        self.overlapping_reads: int = 0
        self.scope: Scope = self._make_scope(method, path, query, list(headers))

    # -- the client ----------------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Send the request to *app* and wait until it has returned.

        Args:
            app: The application. What it raises comes out of this call as it was raised.
        """
        failure: BaseException | None = None
        if not self._pause:
            # It is there before the application is called, as on a real server.
            await self._upload()
        async with anyio.create_task_group() as client:
            client.start_soon(self._play)
            try:
                await app(self.scope, self.receive, self.send)
            except Exception as exc:
                failure = exc
            client.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def leave(self) -> None:
        """Have the client close its connection now."""
        if not self._left:
            self._left = True
            if self._server.drops_body_on_disconnect:
                self._arrived.clear()
            self._notify()

    async def wait_for_start(self) -> None:
        """Wait until the response has begun."""
        await self._wait_until_sent(1)

    async def wait_for_chunks(self, count: int) -> None:
        """Wait until *count* body messages of the response have reached the client."""
        await self._wait_until_sent(count + 1)

    async def wait_for_reads(self, count: int) -> None:
        """Wait until the server has given *count* messages to the application's side."""
        while len(self.delivered) < count:
            await self._wait_for_change()

    @property
    def left(self) -> bool:
        """Whether the client has left."""
        return self._left

    @property
    def status(self) -> int | None:
        """The status of the response; None if none was begun."""
        starts = [m["status"] for m in self.sent if m["type"] == "http.response.start"]
        return int(starts[0]) if starts else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response by name in lower case."""
        for message in self.sent:
            if message["type"] == "http.response.start":
                pairs = message.get("headers", [])
                return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in pairs}
        return {}

    @property
    def body(self) -> bytes:
        """The body that reached the client."""
        bodies = [m.get("body", b"") for m in self.sent if m["type"] == "http.response.body"]
        return b"".join(bytes(body) for body in bodies)

    @property
    def complete(self) -> bool:
        """Whether the response reached its end."""
        return self._complete

    @property
    def starts(self) -> int:
        """How many times a response was begun, also for a client that had left."""
        messages = self.sent + self.discarded
        return sum(message["type"] == "http.response.start" for message in messages)

    # -- the server ----------------------------------------------------------------------

    async def receive(self) -> Message:
        """Give the application the next message of the client."""
        if self._waiting_reads:
            self.overlapping_reads += 1
        while True:
            message = self._next_message()
            if message is not None:
                self.delivered.append(message)
                self._notify()
                return message
            self._waiting_reads += 1
            try:
                await self._wait_for_change()
            except BaseException:
                self.cancelled_reads += 1
                self._lose_next = self._server.loses_message_when_cancelled
                raise
            finally:
                self._waiting_reads -= 1

    async def send(self, message: Message) -> None:
        """Take a message of the application's response."""
        error = self._send_errors.pop(0) if self._send_errors else None
        if error is not None:
            raise error
        if self._left:
            await self._discard(message)
            return
        await checkpoint()
        if isinstance(message.get("body"), memoryview):
            # What is sent is what it holds now.
            message = {**message, "body": bytes(message["body"])}
        self.sent.append(message)
        if self._ends(message):
            self._complete = True
        self._notify()
        if len(self.sent) == self._leave_after_messages:
            self.leave()
        await self._hold_back()

    async def _discard(self, message: Message) -> None:
        self.discarded.append(message)
        if self._server.send_after_leave == "os_error":
            msg = "the client is gone"
            raise OSError(msg)
        if self._server.send_after_leave == "runtime_error":
            msg = "Unexpected ASGI message after the client is gone."
            raise RuntimeError(msg)
        await checkpoint()

    async def _hold_back(self) -> None:
        """Wait as a server does whose client, or whose application, does not read."""
        limit = self._stop_reading_after_messages
        while limit is not None and len(self.sent) >= limit and not self._left:
            await self._wait_for_change()
        queue = self._server.queue_limit
        while self._complete and queue is not None and len(self._arrived) >= queue:
            await self._wait_for_change()

    def _next_message(self) -> Message | None:
        if self._arrived:
            message = self._arrived.popleft()
            self._notify()
            if self._lose_next:
                self._lose_next = False
                return self._next_message()
            return message
        over = self._left or (self._complete and self._server.disconnects_at_completion)
        if not over or self._server.disconnect == "never":
            return None
        if self._told and self._server.disconnect == "once":
            return None
        self._told = True
        return {"type": "http.disconnect"}

    def _ends(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "http.response.start":
            self._trailers = bool(message.get("trailers", False))
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        kinds = ("http.response.body", "http.response.zerocopysend", "http.response.pathsend")
        return kind in kinds and not message.get("more_body", False) and not self._trailers

    async def _play(self) -> None:
        async with anyio.create_task_group() as script:
            if self._pause:
                script.start_soon(self._upload)
            if self._leave_after is not None:
                script.start_soon(self._leave_later, self._leave_after)

    async def _leave_later(self, delay: float) -> None:
        await anyio.sleep(delay)
        self.leave()

    async def _upload(self) -> None:
        for number, chunk in enumerate(self._chunks):
            if self._leave_after_chunks == number:
                self.leave()
            if self._pause:
                await anyio.sleep(self._pause)
            if self._left:
                return
            more = number + 1 < len(self._chunks)
            self._arrived.append({"type": "http.request", "body": chunk, "more_body": more})
            self._notify()
        if self._leave_after_chunks == len(self._chunks):
            self.leave()

    async def _wait_until_sent(self, count: int) -> None:
        while len(self.sent) < count:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _make_scope(
        self, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]
    ) -> Scope:
        length = sum(map(len, self._chunks))
        described = {name.lower() for name, _ in headers}
        if length and not described & {b"content-length", b"transfer-encoding"}:
            headers.append((b"content-length", str(length).encode()))
        asgi = {"version": "3.0"}
        if self._server.spec_version is not None:
            asgi["spec_version"] = self._server.spec_version
        return {
            "type": "http",
            "asgi": asgi,
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("192.0.2.1", 50000),
            "server": ("192.0.2.2", 80),
        }


def _chunks_of(body: bytes | Iterable[object]) -> list[bytes]:
    chunks = [body] if isinstance(body, bytes) else list(body)
    if not all(isinstance(chunk, bytes) for chunk in chunks):
        msg = f"`body` must be bytes, or a sequence of bytes, not {body!r}"
        raise TypeError(msg)
    # A server has a message for an empty body as well.
    return cast(list[bytes], chunks) or [b""]


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncGenerator[None]:
    """Run the lifespan of *app* around a block, as a server does around its requests.

    An application that raises or returns before it has answered the startup knows no lifespan. The
    block is then run without one, as servers do unless they are told otherwise.

    Args:
        app: The application. What it raises after its startup, without a report of a failure,
            comes out of the block as it was raised, unless the block itself raises.

    Raises:
        RuntimeError: If the application reports that its start or its end failed. What it raised
            as well is the cause.
    """
    asked: deque[Message] = deque([{"type": "lifespan.startup"}])
    shutdown, answered = anyio.Event(), anyio.Event()
    reports: list[str] = []
    crash: Exception | None = None
    has_lifespan = False

    async def receive() -> Message:
        if asked:
            return asked.popleft()
        await shutdown.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        nonlocal has_lifespan
        if message["type"].endswith(".failed"):
            reports.append(f"{message['type']}: {message.get('message', '')}")
        if message["type"].startswith("lifespan.startup"):
            has_lifespan = True
            answered.set()
        await checkpoint()

    async def serve() -> None:
        nonlocal crash
        try:
            await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        except Exception as exc:
            # Carried around the group, which would wrap it and cancel the block, as no server does.
            if has_lifespan:
                crash = exc
            else:
                _logger.info("the application knows no lifespan and runs without one: %r", exc)
        finally:
            answered.set()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await answered.wait()
        try:
            if not reports:
                yield
        except Exception as exc:
            failure = exc
        shutdown.set()
    if failure is not None:
        raise failure
    if reports:
        raise RuntimeError(reports[0]) from crash
    if crash is not None:
        raise crash
