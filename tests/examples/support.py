"""A real server with all examples on it, and what it writes."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.servers.support import Client

ROOT = Path(__file__).parents[2]

LIMIT = 20.0
"""Seconds after which a test that waits for a server fails: a safety net, never a measurement."""


class ExampleServer:
    """A server in a process of its own."""

    def __init__(self, kind: str, setup: str, folder: Path) -> None:
        """Start a server.

        Args:
            kind: Which one, as ``tests/examples/launch.py`` spells it.
            setup: ``middleware`` or ``alone``.
            folder: Where it works.
        """
        self.kind = kind
        self.setup = setup
        self.folder = folder
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._seen: list[str] = []
        # The server behind the server, played by a test.
        self.upstream = socket.create_server(("127.0.0.1", 0))
        self.upstream.settimeout(LIMIT)
        upstream = f"http://127.0.0.1:{self.upstream.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            self.port: int = listener.getsockname()[1]
            listener.set_inheritable(True)
            arguments = [kind, setup, str(listener.fileno()), str(folder)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.examples.launch", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONUNBUFFERED": "1", "UPSTREAM": upstream},
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def has_middleware(self) -> bool:
        return self.setup == "middleware"

    def begin(self) -> None:
        """Forget what was written before; a test sees to it that its own lines have come."""
        self.read()
        self._seen.clear()

    def read(self) -> list[str]:
        """Return what has been written since the test began."""
        while not self._lines.empty():
            self._seen.append(self._lines.get())
        return self._seen

    def wait_for(self, pattern: str) -> str:
        """Wait until a line has been written that matches, and return it."""
        give_up = time.monotonic() + LIMIT
        while True:
            for line in self.read():
                if re.search(pattern, line):
                    return line
            try:
                line = self._lines.get(timeout=max(give_up - time.monotonic(), 0.01))
            except queue.Empty:
                written = "\n".join(self._seen)
                msg = f"{self.kind}, {self.setup}: no line like {pattern!r} in\n{written}"
                raise AssertionError(msg) from None
            self._seen.append(line)

    def assert_quiet(self) -> None:
        """Fail if anything above INFO, or a traceback, was written since the test began."""
        text = "\n".join(self.read())
        for word in ("ERROR", "WARNING", "CRITICAL", "Traceback"):
            assert word not in text, text

    def assert_quiet_but_for(self, error: str) -> None:
        """Fail if a cancelation was logged as an error, which it is without the middleware only.

        Args:
            error: What is logged then.
        """
        if self.has_middleware:
            self.assert_quiet()
        else:
            self.wait_for(rf"^[\w.]*{error}: ")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=LIMIT)

    def post(self, path: str, data: Mapping[str, object] | None = None) -> httpx.Response:
        return httpx.post(self.url + path, json=data, timeout=LIMIT)

    def client(self) -> Client:
        """Open a connection of a client that hangs up as it likes."""
        return Client(self.port)

    def stop(self) -> None:
        """End the server."""
        self.upstream.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
