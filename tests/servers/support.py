"""Real servers as processes, and clients that hang up, as the tests of the servers need them."""

from __future__ import annotations

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

ROOT = Path(__file__).parent.parent.parent

LIMIT = 3.0
"""Seconds after which a test that waits for a server fails: a safety net, never a measurement."""


def assert_quiet(log: str, *expected: str) -> None:
    """Fail if the log of a server has a record above INFO, or a traceback.

    Args:
        log: The log.
        expected: Lines that belong there on this server, once each.
    """
    for line in expected:
        assert log.count(line) == 1, log
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
        self._log = tempfile.TemporaryFile("w+")
        self._events: queue.SimpleQueue[tuple[str, str, object]] = queue.SimpleQueue()
        self._seen: list[tuple[str, str, object]] = []
        self._printed: list[str] = []
        with open_port(listening=kind != "granian") as listener:
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
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        """Connect until somebody answers; where the test itself has begun to listen, that is now."""
        give_up = time.monotonic() + LIMIT
        while True:
            try:
                self.connect().socket.close()
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
            else:
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

    def events(self, path: str) -> list[str]:
        """Return what has been told of *path* so far, in order."""
        while not self._events.empty():
            self._seen.append(self._events.get())
        return [event for where, event, _ in self._seen if where == path]

    def log(self) -> str:
        """Return what the server has logged."""
        self._log.seek(0)
        return self._log.read() + "".join(self._printed)

    def terminate(self) -> None:
        """Tell the server to stop."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """End the server and return its log."""
        self.terminate()
        return self.wait()

    def wait(self) -> str:
        """Wait until the server has ended, and return its log."""
        try:
            self.returncode = self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
            log = self.log()
            self._log.close()
        return log

    def connect(self) -> Client:
        """Open a connection."""
        return Client(self.port)


class Client:
    """One connection of a client that does with it what it likes."""

    def __init__(self, port: int) -> None:
        """Connect to *port* on this machine."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self._received = b""

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

    def read_to_the_end(self) -> bytes:
        """Read until the server closes the connection, and return all of it."""
        try:
            while data := self.socket.recv(65536):
                self._received += data
        except ConnectionResetError:
            pass
        return self._received

    def response(self) -> tuple[int, bytes]:
        """Read a whole response with a known length, and return status and body."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(int(x.split(":")[1]) for x in lines if x.startswith("content-length"))
        while len(rest) < length:
            rest += self._more()
        self._received = rest[length:]
        return int(lines[0].split()[1]), rest[:length]

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
        head, _, self._received = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        return int(head.split()[1])

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

    def hang_up(self, how: str) -> None:
        """Leave, with a FIN or with a reset."""
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()
