"""A scripted client of a WebSocket, for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import anyio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Scope

from ._scripted_server import UVICORN, ServerBehaviour


class ScriptedSocket:
    """Play one WebSocket of a client that does what the test says.

    A socket is run once. What the application did can be read while it runs and afterwards.

    Attributes:
        scope: The ASGI scope, which a test may change before ``run``.
        sent: The messages that the server took from the application, in order.
        discarded: The messages that the application sent after the client had left.
        cancelled_reads: How many calls of ``receive()`` were cancelled while they waited.
        overlapping_reads: How many calls of ``receive()`` began while another one waited; more
            than 0 is a mistake on every server.
    """

    def __init__(
        self,
        path: str = "/",
        *,
        server: ServerBehaviour = UVICORN,
        messages: Sequence[str | bytes] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        leaves_before_accept: bool = False,
        can_be_denied: bool = False,
    ) -> None:
        """Write the script.

        Args:
            path: The path of the socket.
            server: The server to imitate.
            messages: What the client sends as soon as it can; more with ``say``.
            headers: The headers of its request.
            leaves_before_accept: Whether the client is gone before the application is called.
            can_be_denied: Whether the server takes a response in place of an accept.
        """
        self._server = server
        self._arrived: deque[Message] = deque([{"type": "websocket.connect"}])
        self._farewell: Message | None = None
        self._told = False
        self._waiting_reads = 0
        self._lose_next = False
        self._changed: anyio.Event | None = None
        self.sent: list[Message] = []
        self.discarded: list[Message] = []
        self.cancelled_reads: int = 0
        self.overlapping_reads: int = 0
        self.scope: Scope = _scope_of(path, list(headers), server.spec_version, can_be_denied)
        for message in messages:
            self.say(message)
        if leaves_before_accept:
            self.leave(1006)

    # -- the client ----------------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Open the socket and wait until *app* has returned.

        Args:
            app: The application. What it raises comes out of this call as it was raised.
        """
        await app(self.scope, self.receive, self.send)

    def say(self, data: str | bytes) -> None:
        """Have the client send a text or bytes now.

        Args:
            data: What it sends.
        """
        key = "text" if isinstance(data, str) else "bytes"
        self._arrived.append({"type": "websocket.receive", key: data})
        self._notify()

    def leave(self, code: int = 1000, reason: str = "") -> None:
        """Have the client close the socket now.

        Args:
            code: The close code that the server tells the application.
            reason: The text that goes with it.
        """
        if self._farewell is None:
            self._farewell = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._notify()

    async def wait_for_messages(self, count: int) -> None:
        """Wait until the client has got *count* texts or bytes."""
        while len(self.received) < count:
            await self._wait_for_change()

    async def wait_for_accept(self) -> None:
        """Wait until the application has accepted the socket."""
        while not self.accepted:
            await self._wait_for_change()

    @property
    def accepted(self) -> bool:
        """Whether the application has accepted the socket."""
        return any(message["type"] == "websocket.accept" for message in self.sent)

    @property
    def received(self) -> list[str | bytes]:
        """The texts and bytes that the client got."""
        messages = [each for each in self.sent if each["type"] == "websocket.send"]
        return [each.get("text") or each.get("bytes") or b"" for each in messages]

    @property
    def close_code(self) -> int | None:
        """The code with which the application closed the socket; None if it did not."""
        for message in self.sent:
            if message["type"] == "websocket.close":
                return int(message.get("code", 1000))
        return None

    @property
    def status(self) -> int | None:
        """The status of the response by which the socket was refused; None if there is none."""
        for message in self.sent:
            if message["type"] == "websocket.http.response.start":
                return int(message["status"])
        return None

    # -- the server ----------------------------------------------------------------------

    async def receive(self) -> Message:
        """Give the application the next message of the client."""
        if self._waiting_reads:
            self.overlapping_reads += 1
        while True:
            message = self._next_message()
            if message is not None:
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
        """Take a message of the application."""
        if self._farewell is not None:
            self.discarded.append(message)
            if self._server.send_after_leave == "os_error":
                msg = "the client is gone"
                raise OSError(msg)
            if self._server.send_after_leave == "runtime_error":
                msg = "Unexpected ASGI message after the client is gone."
                raise RuntimeError(msg)
            await checkpoint()
            return
        await checkpoint()
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.leave(int(message.get("code", 1000)))
        self._notify()

    def _next_message(self) -> Message | None:
        if self._arrived:
            message = self._arrived.popleft()
            if self._lose_next:
                self._lose_next = False
                return self._next_message()
            return message
        if self._farewell is None or self._server.disconnect == "never":
            return None
        if self._told and self._server.disconnect == "once":
            return None
        self._told = True
        return dict(self._farewell)

    async def _wait_for_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


def _scope_of(
    path: str,
    headers: list[tuple[bytes, bytes]],
    spec_version: str | None,
    can_be_denied: bool,
) -> Scope:
    asgi = {"version": "3.0"}
    if spec_version is not None:
        asgi["spec_version"] = spec_version
    return {
        "type": "websocket",
        "asgi": asgi,
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if can_be_denied else {},
    }
