"""Have hundreds of clients come, send, hang up, reset and half-close at random, and then count.

``nox -s soak`` takes two minutes for each server; ``nox -s soak -- --seconds 10 --server uvicorn``
is shorter. At the end memory, tasks, threads and sockets of the server have to be where they were
after a warm-up, its counters have to add up, and its log may have nothing above INFO. All traffic
is on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream

SERVERS = ["uvicorn", "hypercorn-trio"]

BACKLOG = 2048
"""Connections that may wait until the server accepts them.

All clients may come at once. Where they do not fit, Linux drops the end of their handshakes, and
what they have sent already: they take themselves for connected and are unknown to the server, for
seconds, or until it closes their connections as idle.
"""
SO_MEMINFO = 55
"""What tells of the memory of a socket on Linux, and of what it dropped; see sock_diag(7)."""

ROUNDS = 3
"""How often a server that holds more than before may be soaked again."""

MEMORY_SLACK = 16 * 2**20
"""Bytes by which the memory of a process may have grown: allocators give back late."""
OBJECTS_SLACK = 2000
"""Objects by which it may have grown: caches fill. A leak has tens of thousands of requests."""
OWN_SOCKETS = 2
"""What listens, and the connection that asks for the facts."""
PATIENCE = 15.0
"""Seconds that a server has for what is still in flight when the last client has gone.

Hypercorn on Trio holds the connection of a client that has left until its keep-alive timeout is
over, which is 5 s.
"""
ANSWER_LIMIT = 30.0
"""Seconds in which a healthy request has to be answered on a busy machine: a safety net."""

HEALTHY = {
    "/quick": b"quick",
    "/thread": b"summed",
    "/background": b"accepted",
    "/upload": b"30000",
}
"""What a request has to be answered with if its client stays."""
ENDLESS = ["/sleep", "/stream", "/timeout", "/echo", "/ticks"]
SOCKETS = ["/echo", "/ticks"]
BODY = b"x" * 30000


Facts: TypeAlias = dict[str, Any]
"""What the server says of itself."""


CHANGING = ("counters", "tasks", "sockets")
"""What changes as long as a server has something to do."""


class Clients:
    """Clients that come back until it is time to stop."""

    def __init__(self, port: int, seed: int, pause: float) -> None:
        """Make clients of the server at *port* whose choices follow from *seed*.

        Each of them comes back after at most *pause* seconds.
        """
        self.port = port
        self.pause = pause
        self.did: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._random = random.Random(seed)

    async def run(self, number: int, seconds: float) -> None:
        """Have *number* clients at a time for some seconds."""
        give_up = time.monotonic() + seconds
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(self._come_back, give_up)

    async def _come_back(self, give_up: float) -> None:
        while True:
            await anyio.sleep(self._random.random() * self.pause)
            if time.monotonic() > give_up:
                return
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                try:
                    await self._visit(stream)
                except (anyio.BrokenResourceError, anyio.EndOfStream):
                    # The server has said all that it had to say to this client.
                    self.did["closed by the server"] += 1

    async def _visit(self, stream: SocketStream) -> None:
        if self._random.random() < 0.4:
            await self._stay(stream, self._random.choice(list(HEALTHY)))
            return
        path = self._random.choice([*HEALTHY, *ENDLESS])
        await stream.send(head(path))
        if path == "/upload":
            await stream.send(BODY[: self._random.randrange(len(BODY))])
        elif path in SOCKETS:
            await stream.receive()
            if self._random.random() < 0.5:
                await stream.send(b"\x81\x82" + bytes(4) + b"hi")
        await anyio.sleep(self._random.choice([0, 0, 0.002, 0.01, 0.05]))
        await self._leave(stream)

    async def _stay(self, stream: SocketStream, path: str) -> None:
        """Send a whole request, wait for its answer, perhaps twice, and look at it."""
        for _ in range(self._random.randrange(1, 4)):
            await stream.send(head(path))
            if path == "/upload":
                middle = self._random.randrange(len(BODY))
                await stream.send(BODY[:middle])
                await anyio.sleep(self._random.choice([0, 0.002, 0.01]))
                await stream.send(BODY[middle:])
            answer = b""
            try:
                with anyio.fail_after(ANSWER_LIMIT):
                    while not answer.endswith(b"\r\n\r\n" + HEALTHY[path]):
                        answer += await stream.receive()
            except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as exc:
                self.wrong.append(f"{path}: {exc!r} after {answer[:200]!r}")
                return
            self.did["answered"] += 1

    async def _leave(self, stream: SocketStream) -> None:
        how = self._random.choice(["closed", "reset", "half-closed"])
        self.did[how] += 1
        raw = stream.extra(SocketAttribute.raw_socket)
        if how == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half-closed":
            await stream.send_eof()
            with anyio.move_on_after(0.1):
                while True:
                    await stream.receive()


def head(path: str) -> bytes:
    """Return the head of a request."""
    lines = ["Host: soak"]
    if path in SOCKETS:
        lines += [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
    elif path == "/upload":
        lines.append(f"Content-Length: {len(BODY)}")
    method = "POST" if path == "/upload" else "GET"
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


async def ask(port: int) -> Facts:
    """Ask the server for its facts, on a connection that it closes."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET /facts HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
        answer = b""
        with anyio.fail_after(ANSWER_LIMIT):
            try:
                while True:
                    answer += await stream.receive()
            except anyio.EndOfStream:
                pass
    facts: Facts = json.loads(answer.partition(b"\r\n\r\n")[2])
    return facts


async def settle(port: int, like: Facts | None = None) -> Facts:
    """Wait until all has ended that was in flight, and the process holds no more than it did.

    A server may have connections in its backlog when their clients have long gone, so that two
    looks have to see the same. After a while what is there is what is told.
    """
    give_up = time.monotonic() + PATIENCE
    before: Facts | None = None
    while True:
        facts = await ask(port)
        is_quiet = before is not None and not any(before[x] != facts[x] for x in CHANGING)
        if is_quiet and not imbalances(facts) and not (like and held_more(like, facts)):
            return facts
        if time.monotonic() > give_up:
            return facts
        before = facts
        await anyio.sleep(0.2)


def imbalances(facts: Facts) -> list[str]:
    """Return what does not add up in the counters."""
    count: Counter[str] = Counter(facts["counters"])
    found = []
    ended = count["completed"] + count["cancelled"] + count["failed"]
    if count["begun"] != ended:
        found.append(f"{count['begun']} requests began and {ended} ended")
    found += [
        f"{kind}: {count[f'{kind} begun']} began, {count[f'{kind} ended']} ended"
        for kind in ("generators", "background tasks")
        if count[f"{kind} begun"] != count[f"{kind} ended"]
    ]
    if count["failed"]:
        found.append(f"{count['failed']} requests failed")
    if facts["sockets"] > OWN_SOCKETS:
        found.append(f"{facts['sockets'] - OWN_SOCKETS} connections are still open")
    if facts["listed"]:
        found.append(f"{facts['listed']} operations are still listed")
    return found


def held_more(before: Facts, after: Facts) -> list[str]:
    """Return what the process holds more of than before, beyond the slack."""
    slack = {"memory": MEMORY_SLACK, "objects": OBJECTS_SLACK}
    return [
        f"{name}: {before[name]} before, {after[name]} after"
        for name in ("tasks", "threads", "sockets", "files", "objects", "memory")
        if after[name] > before[name] + slack.get(name, 0)
    ]


def complaints(log: str) -> list[str]:
    """Return the lines of a log above INFO."""
    words = ("WARNING", "ERROR", "CRITICAL", "Traceback", "Exception")
    return [line for line in log.splitlines() if any(word in line for word in words)]


def turned_away(listener: socket.socket) -> int:
    """Return how many connections did not fit in the queue of what listens, where that is told."""
    if sys.platform != "linux":
        return 0
    facts = struct.unpack("9I", listener.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return facts[8]


def start(kind: str, listener: socket.socket, log: IO[str]) -> subprocess.Popen[bytes]:
    """Start a server in a process of its own."""
    program = str(Path(__file__).with_name("soaked.py"))
    return subprocess.Popen(
        [sys.executable, program, kind, str(listener.fileno()), str(BACKLOG)],
        stdout=log,
        stderr=log,
        pass_fds=[listener.fileno()],
    )


async def soak(port: int, options: argparse.Namespace) -> tuple[Clients, Facts, Facts]:
    """Soak the server at *port*; return the clients, and its facts before and after them.

    What is made once, when a rare path is taken for the first time, looks like something left
    behind. What is left behind grows again: it has to show in each of three rounds.
    """
    clients = Clients(port, options.seed, options.pause)
    await clients.run(options.clients, options.warm_up)
    after = await settle(port)
    for _ in range(ROUNDS):
        before = after
        clients.did.clear()
        await clients.run(options.clients, options.seconds)
        after = await settle(port, before)
        if not held_more(before, after):
            break
    return clients, before, after


def try_server(kind: str, options: argparse.Namespace) -> list[str]:
    """Soak one server, print the figures, and return what was wrong."""
    with (
        tempfile.TemporaryFile("w+") as log,
        socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener,
    ):
        port: int = listener.getsockname()[1]
        process = start(kind, listener, log)
        try:
            clients, before, after = anyio.run(soak, port, options)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            log.seek(0)
            logged = complaints(log.read())
            print("\n".join(logged[:50]))
        unknown = turned_away(listener)
    report(kind, clients, before, after)
    wrong = [*clients.wrong, *imbalances(after), *held_more(before, after), *logged]
    if unknown:
        wrong.insert(0, f"{unknown} times the queue of what listens was full: fewer --clients")
    return [f"{kind}: {each}" for each in wrong[:20]]


def report(kind: str, clients: Clients, before: Facts, after: Facts) -> None:
    """Print what the clients did, what the server counted and what it held."""
    print(f"\n{kind}\n  clients: {listing(clients.did)}")
    counted: Counter[str] = Counter(after["counters"])
    counted.subtract(before["counters"])
    print(f"  server: {listing(counted)}")
    for name in ("tasks", "threads", "sockets", "files", "objects"):
        print(f"  {name:8} {before[name]:10}  →{after[name]:10}")
    megabytes = [facts["memory"] / 2**20 for facts in (before, after)]
    print(f"  memory   {megabytes[0]:6.1f} MiB  →{megabytes[1]:6.1f} MiB")


def listing(counter: Counter[str]) -> str:
    """Return counters as one line."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def main() -> None:
    """Soak the servers, one after the other; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--warm-up", type=float, default=20, help="seconds")
    parser.add_argument("--clients", type=int, default=300, help="at a time")
    parser.add_argument(
        "--pause", type=float, default=4, help="seconds between two visits, at most"
    )
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.clients} clients, {options.seconds:g} s a server")
    wrong: list[str] = []
    for kind in options.server or SERVERS:
        wrong += try_server(kind, options)
    print("\nwrong:\n  " + "\n  ".join(wrong) if wrong else "\nnothing was wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
