"""A client that speaks HTTP/2 from its first byte, as those behind a proxy do (RFC 9113, 3.3)."""

from __future__ import annotations

from typing import cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.servers.support import Client, RunningServer


class HTTP2Client(Client):
    """One connection; each request is a stream, and the calls are about the latest one."""

    def __init__(self, port: int) -> None:
        """Connect to *port* on this machine."""
        super().__init__(port)
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._flush()
        self.stream = 0
        self.ended = set[int]()
        """The streams that the server has completed."""
        self.was_reset = set[int]()
        """The streams that the server has broken off."""
        self._statuses: dict[int, int] = {}
        self._unsent = 0
        self._opens_sockets = False

    def request(self, method: str, path: str, *headers: str, body: bytes = b"") -> None:
        """Send a request, or the beginning of one; a length that is not reached leaves it open."""
        fields = [(name.lower(), value) for name, value in (x.split(": ") for x in headers)]
        self._unsent = int(dict(fields).get("content-length", "0"))
        self._open([(":method", method), (":path", path), *fields], end=self._unsent == 0)
        if body:
            self.send(body)

    def _open(self, fields: list[tuple[str, str]], *, end: bool) -> None:
        self._received = b""
        self.stream = self._connection.get_next_available_stream_id()
        pseudo = [(":scheme", "http"), (":authority", "test")]
        self._connection.send_headers(self.stream, [*pseudo, *fields], end_stream=end)
        self._flush()

    def send(self, data: bytes) -> None:
        """Send more of the body, as fast as the server lets us.

        Raises:
            BrokenPipeError: If the server has answered and wants no more.
        """
        while data:
            while not (window := self._connection.local_flow_control_window(self.stream)):
                self._pump()
                if self.stream in self.ended | self.was_reset:
                    raise BrokenPipeError
            size = min(window, self._connection.max_outbound_frame_size, len(data))
            self._unsent -= size
            self._connection.send_data(self.stream, data[:size], end_stream=self._unsent == 0)
            self._flush()
            data = data[size:]

    def response(self, *, may_lack_end: bool = False) -> tuple[int, bytes]:
        """Read a whole response, and return status and body."""
        body, complete = self.rest()
        assert complete or may_lack_end, body
        return self._statuses[self.stream], body

    def rest(self) -> tuple[bytes, bool]:
        """Read to the end of the stream, and say whether it is complete."""
        try:
            while self.stream not in self.ended | self.was_reset:
                self._pump()
        except ConnectionError:
            pass
        return self._received, self.stream in self.ended

    def _read_head(self) -> bytes:
        while self.stream not in self._statuses:
            self._pump()
        return b"HTTP/2 %d" % self._statuses[self.stream]

    def _more(self) -> bytes:
        before = len(self._received)
        while len(self._received) == before:
            assert self.stream not in self.ended | self.was_reset, self._received
            self._pump()
        return self._received[before:]

    def _pump(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        for event in self._connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=stream, headers=headers):
                    fields = dict(cast("list[tuple[str, str]]", headers))
                    self._statuses[stream] = int(fields[":status"])
                case h2.events.DataReceived(stream_id=stream, data=body):
                    if stream == self.stream:
                        self._received += body
                    self._connection.acknowledge_received_data(event.flow_controlled_length, stream)
                case h2.events.StreamEnded(stream_id=stream):
                    self.ended.add(stream)
                case h2.events.StreamReset(stream_id=stream):
                    self.was_reset.add(stream)
                case h2.events.RemoteSettingsChanged():
                    self._opens_sockets = True
                case _:
                    pass
        self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self._connection.data_to_send())

    def open_websocket(self, path: str) -> None:
        """Open a WebSocket in a stream (RFC 8441)."""
        while not self._opens_sockets:
            self._pump()
        self._unsent = -1
        self._open(
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":path", path),
                ("sec-websocket-version", "13"),
            ],
            end=False,
        )

    def wait_until_open(self) -> int:
        """Read the answer; a stream says 200 where a connection says 101."""
        status = super().wait_until_open()
        return 101 if status == 200 else status

    def send_second_request(self, path: str) -> None:
        """Send a request in a stream of its own, and go on with the one before it."""
        stream = self.stream
        self.request("GET", path)
        self.stream = stream

    def send_noise(self) -> None:
        """Send what means nothing to the request."""
        self._connection.ping(bytes(8))
        self._flush()

    def hang_up(self, how: str) -> None:
        """Leave with the connection, or reset the stream and keep it."""
        if how != "reset":
            super().hang_up(how)
            return
        if self.stream not in self.ended | self.was_reset:
            self._connection.reset_stream(self.stream, h2.errors.ErrorCodes.CANCEL)
            self._flush()

    def reset_connection(self) -> None:
        """Leave with a reset of TCP, and with every stream."""
        super().hang_up("reset")


class HTTP2Server(RunningServer):
    """A server whose clients speak HTTP/2."""

    def connect(self) -> HTTP2Client:
        """Open a connection."""
        return HTTP2Client(self.port)
