"""Real servers as processes, and clients that hang up, as the tests of the servers need them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.servers.limits import limit

ROOT = Path(__file__).parent.parent.parent

LIMIT = 20.0
"""Seconds after which a test that waits for a server fails: a safety net, never a measurement."""


def assert_quiet(log: str, expected: list[str]) -> None:
    """Fail if the log of a server has a record above INFO, or a traceback.

    Args:
        log: The log.
        expected: Lines that belong there on this server, each as often as it has to be there.
    """
    for line in set(expected):
        assert log.count(line) == expected.count(line), log
        log = log.replace(line, "")
    for word in ("ERROR", "WARNING", "CRITICAL", "Traceback", "Exception"):
        assert word not in log, log


def open_port(*, listening: bool) -> socket.socket:
    """Return a socket with a free port of this machine.

    Args:
        listening: Whether connections queue up there at once, or somebody else is to listen.
    """
    opened = socket.socket()
    # Reuse of the port lets a server bind it too that takes no open socket.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("127.0.0.1", 0))
    if listening:
        opened.listen(128)
    return opened


class RunningServer:
    """A server in a process of its own, and what its handlers tell."""

    def __init__(self, kind: str) -> None:
        """Start a server.

        Args:
            kind: Which one, as ``tests/servers/launch.py`` spells it.
        """
        self.kind = kind
        self.returncode: int | None = None
        self.expected: list[str] = []
        """Lines above INFO that this server logs all the same."""
        self._log = tempfile.TemporaryFile("w+")
        self._events: queue.SimpleQueue[tuple[str, str, object]] = queue.SimpleQueue()
        self._seen: list[tuple[str, str, object]] = []
        self._printed: list[str] = []
        self._whole_log = ""
        takes_socket = kind != "granian"
        with open_port(listening=takes_socket) as listener:
            self.port: int = listener.getsockname()[1]
            listener.set_inheritable(True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.launch", kind, str(listener.fileno())],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._reader = threading.Thread(target=self._read_events)
        self._reader.start()
        if not takes_socket:
            self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        """Connect until somebody listens."""
        give_up = time.monotonic() + LIMIT
        while True:
            try:
                Client(self.port).socket.close()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up, self.log()
                time.sleep(0.01)
            else:
                return

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('["/'):
                path, event, detail = json.loads(line)
                self._events.put((path, event, detail))
            elif line != "\n":
                self._printed.append(line)

    def wait_for(self, path: str, event: str) -> object:
        """Wait until a handler has told of *event*, and return its detail."""
        give_up = time.monotonic() + LIMIT
        while True:
            for seen in self._seen:
                if seen[:2] == (path, event):
                    return seen[2]
            left = give_up - time.monotonic()
            try:
                self._seen.append(self._events.get(timeout=max(left, 0.01)))
            except queue.Empty:
                told = [each[1:] for each in self._seen if each[0] == path]
                msg = f"{self.kind}: no {event!r} for {path}, only {told}\n{self.log()}"
                raise AssertionError(msg) from None

    @property
    def has_ended(self) -> bool:
        """Whether the server's process is gone."""
        return self._process.poll() is not None

    def events(self, path: str) -> list[str]:
        """Return what has been told of *path* so far, in order."""
        while not self._events.empty():
            self._seen.append(self._events.get())
        return [event for where, event, _ in self._seen if where == path]

    def limit(self, promise: str) -> str | None:
        """Return why this server cannot keep *promise*; None: it has to."""
        return limit(self.kind, promise)

    def log(self) -> str:
        """Return what the server has logged."""
        if self._log.closed:
            return self._whole_log
        self._log.seek(0)
        return self._log.read() + "".join(self._printed)

    def terminate(self) -> None:
        """Tell the server to stop."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """End the server, if it has not ended yet, and return its log."""
        if self.returncode is None:
            self.terminate()
        return self.wait()

    def wait(self) -> str:
        """Wait until the server has ended, and return its log."""
        if self.returncode is None:
            try:
                self.returncode = self._process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self.returncode = self._process.wait()
                raise
            finally:
                self._reader.join()
                assert self._process.stdout is not None
                self._process.stdout.close()
                self._whole_log = self.log()
                self._log.close()
        return self._whole_log

    def connect(self) -> Client:
        """Open a connection."""
        return Client(self.port)


class Client:
    """One connection of a client that does with it what it likes."""

    def __init__(self, port: int) -> None:
        """Connect to *port* on this machine."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._head: bytes | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, method: str, path: str, *headers: str, body: bytes = b"") -> None:
        """Send a request, or the beginning of one."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def send(self, data: bytes) -> None:
        """Send more."""
        self.socket.sendall(data)

    def read_until(self, text: bytes) -> bytes:
        """Read until *text* has come; what was read is kept for ``response``."""
        while text not in self._received:
            self._more()
        return self._received

    def body_until(self, text: bytes) -> None:
        """Read until the body of the response has *text* in it."""
        self._read_head()
        self.read_until(text)

    def rest(self) -> tuple[bytes, bool]:
        """Read a chunked response to the end of the connection.

        Returns:
            The body, and whether the server said that it is complete.
        """
        self._read_head()
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                self._received += data
        body = b""
        while b"\r\n" in self._received:
            size, _, after = self._received.partition(b"\r\n")
            if int(size, 16) == 0:
                return body, True
            body += after[: int(size, 16)]
            self._received = after[int(size, 16) + 2 :]
        return body, False

    def response(self, *, may_lack_end: bool = False) -> tuple[int, bytes]:
        """Read a whole response with a known length, and return status and body.

        Args:
            may_lack_end: Whether the body is enough where the protocol has an end of its own.
        """
        head = self._read_head()
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(int(x.split(":")[1]) for x in lines if x.startswith("content-length"))
        while len(self._received) < length:
            self._more()
        body, self._received = self._received[:length], self._received[length:]
        self._head = None
        return int(lines[0].split()[1]), body

    def _read_head(self) -> bytes:
        """Read the head of the response once; what is behind it stays in ``_received``."""
        if self._head is None:
            head, _, self._received = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
            self._head = head
        return self._head

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            msg = f"the server closed the connection after {self._received!r}"
            raise AssertionError(msg)
        self._received += data
        return data

    def open_websocket(self, path: str) -> None:
        """Open a WebSocket (RFC 6455, section 4.1)."""
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key)
        self.request("GET", path, *upgrade)

    def wait_until_open(self) -> int:
        """Read the answer to the handshake, and return its status."""
        return int(self._read_head().split()[1])

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a short frame; a mask of zeros is one (RFC 6455, section 5.2)."""
        assert len(payload) < 126
        self.send(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def read_frame(self) -> tuple[int, bytes]:
        """Read a short frame, and return its opcode and payload."""
        while len(self._received) < 2 or len(self._received) < 2 + self._received[1]:
            self._more()
        opcode, length = self._received[0] & 0x0F, self._received[1]
        payload, self._received = self._received[2 : 2 + length], self._received[2 + length :]
        return opcode, payload

    def send_second_request(self, path: str) -> None:
        """Send a request while the answer to the first one is outstanding."""
        self.request("GET", path)

    def wait_until_invited(self) -> None:
        """Read ``100 Continue``."""
        head, _, self._received = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.split()[1] == b"100", head

    def send_noise(self) -> None:
        """Send bytes behind a request that mean nothing."""
        self.send(b"\r\n")

    def hang_up(self, how: str) -> None:
        """Leave, with a FIN or with a reset."""
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


def broken_off_lines(server: RunningServer) -> list[str]:
    """Return what a server logs of a stream that is broken off while its client is there.

    It has to look incomplete, so it cannot be completed for the sake of a log.
    """
    if server.kind.startswith("uvicorn"):
        return ["ERROR:    ASGI callable returned without completing response."]
    return []
