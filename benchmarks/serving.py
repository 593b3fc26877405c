"""A real server in a process of its own, around one candidate."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

HERE = Path(__file__).parent


def backend_of(kind: str) -> str:
    """Return the event loop library of a kind of server."""
    return "trio" if kind.endswith("trio") else "asyncio"


@contextmanager
def on_one_core() -> Generator[None]:
    """Have the servers and clients that are started inside share one core, where that can be set.

    A client on another core falls asleep between two answers, and to wake it is computed by the
    server: the longer it sleeps the more, above all on a virtual machine. A candidate that takes a
    little longer for an answer would seem to take a lot longer.
    """
    if sys.platform != "linux":
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Serving:
    """Run a server around a candidate while the block lasts."""

    def __init__(self, kind: str, application: str, middleware: str) -> None:
        """Start it on a port of its own.

        Args:
            kind: The server, its parser and its loop: ``uvicorn-h11``,
                ``uvicorn-httptools-uvloop``, ``hypercorn-trio``.
            application: Which application.
            middleware: Which candidate.
        """
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self.port: int = listener.getsockname()[1]
            listener.set_inheritable(True)
            self.process = subprocess.Popen(
                [
                    *(sys.executable, __file__),
                    *(kind, str(listener.fileno()), application, middleware),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                pass_fds=[listener.fileno()],
            )
        self._known = psutil.Process(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def wait_for(self, event: str) -> float:
        """Wait for a line of a handler, and return the time that it tells."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("["):
                name, when = json.loads(line)
                if name == event:
                    return float(when)
        raise EOFError("the server has ended")

    @property
    def processor(self) -> float:
        """Seconds that its process has computed; what other programs take is not in it."""
        try:
            tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
            return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e9
        except OSError:
            times = self._known.cpu_times()
            return times.user + times.system

    @property
    def memory(self) -> int:
        """Bytes that its process holds."""
        return self._known.memory_info().rss

    def get(self, path: str) -> bytes:
        """Read the whole answer to one request, on a connection of its own."""
        with self.connect() as client:
            head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            pieces: list[bytes] = []
            while piece := client.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


def run_uvicorn(listener: socket.socket, app: object, http: str, loop: str) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=http,  # type: ignore[arg-type]
        loop=loop,  # type: ignore[arg-type]
        access_log=False,
        log_level="warning",
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listener])


def run_hypercorn(listener: socket.socket, app: object, backend: str) -> None:
    import anyio
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "warning"
    if backend == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve

    async def main() -> None:
        await serve(app, config, shutdown_trigger=anyio.sleep_forever)  # type: ignore[arg-type]

    anyio.run(main, backend=backend)


def main() -> None:
    """Serve until the process is ended."""
    from applications import build

    kind, number, application, middleware = sys.argv[1:]
    logging.disable(logging.INFO)  # one record for each cancel is not what is measured here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(fileno=int(number))
    app = build(application, middleware, backend_of(kind))
    server, _, rest = kind.partition("-")
    if server == "uvicorn":
        http, _, loop = rest.partition("-")
        run_uvicorn(listener, app, http, loop or "asyncio")
    else:
        run_hypercorn(listener, app, rest)


if __name__ == "__main__":
    main()
