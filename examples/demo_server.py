"""A real server for the demo: a process of its own on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

HERE = Path(__file__).parent

ADDRESS = r"running on http://127\.0\.0\.1:(\d+)"
"""What both servers say when they can be reached, one with a capital."""
UVICORN = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log"]
HYPERCORN_TRIO = ["hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:{port}"]

START_LIMIT = 30.0
"""Seconds that a server may take to start, on a slow machine."""

STOP_LIMIT = 0.5
"""Seconds that it may take to stop when it is asked to."""


class Server:
    """A running server, and what it writes."""

    def __init__(self, command: list[str], app: str, port: int = 0) -> None:
        """Start it; with port 0 it finds a free one itself."""
        arguments = [argument.format(port=port) for argument in command]
        self.lines: list[str] = []
        self.shows_lines = False
        self._port: SimpleQueue[int | None] = SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments, app],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for the demo, which then stops the server; not for both at once.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            started = self._port.get(timeout=START_LIMIT)
        except BaseException as error:
            self.stop()
            if not isinstance(error, Empty):
                raise
            started = None
        if started is None:
            self.stop()
            raise SystemExit("the server did not start:\n" + "\n".join(self.lines))
        self.port = started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        """Read what the server writes, so that it never waits for us."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if self.shows_lines:
                print("  " + line.rstrip(), flush=True)
            if found := re.search(ADDRESS, line, re.IGNORECASE):
                self._port.put(int(found[1]))
        self._port.put(None)

    def complained(self) -> bool:
        """Say whether it has written of an error."""
        words = ("Traceback", "ERROR", "Exception", "Warning")
        return any(word in line for line in self.lines for word in words)

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        self._process.wait()

    def stop(self) -> None:
        """Ask the server to end, and see to it that it does."""
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT)
        finally:
            # Open streams keep some servers waiting, and one leaves workers behind.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
            self._process.wait()
            self._reader.join()


@contextlib.contextmanager
def serving(command: list[str], app: str, port: int = 0) -> Iterator[Server]:
    server = Server(command, app, port)
    try:
        yield server
    finally:
        server.stop()
