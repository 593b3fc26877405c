"""Start on one worker, watch through another, cancel through whichever answers.

    nox -s demo-scale

This program starts a broker and two uvicorn workers on one port, plays the clients over real
sockets, kills the broker with ``kill -9`` in the middle, and prints what each client saw. It ends
with 0 if everything went as promised.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent / "scale"
sys.path.insert(0, str(HERE))

from broker import Broker  # noqa: E402 - the folder is known by now

PATIENCE = 10.0
"""Seconds after which something that should have come has not."""


class NotAsPromised(Exception):
    """The demo saw something else than it promises."""


FAILURES = (NotAsPromised, OSError, LookupError, ValueError, http.client.HTTPException)
"""What the tour fails with: a wrong answer, a broken connection, an answer of another form."""


def expect(seen: object, promised: object) -> None:
    if seen != promised:
        raise NotAsPromised(f"expected {promised!r}, saw {seen!r}")


def say(text: str) -> None:
    print(text, flush=True)


# -- the workers -----------------------------------------------------------------------------


class Workers:
    """Two uvicorn workers on one port."""

    def __init__(self, bus_url: str) -> None:
        self.lines: list[str] = []
        self._started = threading.Event()
        self.port = 0
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "app:app", "--workers", "2"),
                *("--host", "127.0.0.1", "--port", "0", "--no-access-log"),
            ],
            cwd=HERE,
            env={**os.environ, "BUS_URL": bus_url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._started.wait(30):
            self.stop()
            raise SystemExit("the workers did not start:\n" + "\n".join(self.lines))

    def _read(self) -> None:
        assert self._process.stdout is not None
        ready = 0
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
            ready += "startup complete" in line
            if ready == 2:
                self._started.set()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()

    # -- requests, each on a connection of its own ---------------------------------------------

    def request(
        self, method: str, path: str, user: str = "ann"
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path, headers={"Authorization": f"Bearer {user}"})
        return connection, connection.getresponse()

    def ask(self, method: str, path: str, user: str = "ann") -> tuple[int, dict[str, object], str]:
        """Return the status, the body and the worker of an answer."""
        connection, response = self.request(method, path, user)
        with contextlib.closing(connection):
            body: dict[str, object] = json.loads(response.read())
            return response.status, body, response.getheader("x-worker", "")

    def health(self, state: str) -> None:
        """Wait until both workers say that their bus is up, or down."""
        seen = set[str]()
        give_up = time.monotonic() + PATIENCE
        while len(seen) < 2:
            _status, body, worker = self.ask("GET", "/health")
            if body["bus"] == state:
                seen.add(worker)
            if time.monotonic() > give_up:
                raise NotAsPromised(f"the bus of a worker is not {state}")
            time.sleep(0.01)


class Watcher:
    """Follow an operation through a worker that does not run it."""

    def __init__(self, workers: Workers, operation_id: str, runner: str) -> None:
        while True:
            self._connection, self._response = workers.request(
                "GET", f"/operations/{operation_id}/events"
            )
            self.worker = self._response.getheader("x-worker", "")
            if self.worker != runner:
                break
            self._connection.close()
        expect(self._response.status, 200)

    def events(self) -> Iterator[tuple[str, dict[str, object]]]:
        kind = ""
        for line in self._response:
            text = line.decode().rstrip()
            if text.startswith("event: "):
                kind = text.removeprefix("event: ")
            elif text.startswith("data: "):
                yield kind, json.loads(text.removeprefix("data: "))

    def page(self, behind: int = 0) -> int:
        """Read until a page above *behind* has been reported."""
        for kind, record in self.events():
            expect(kind, "progress")
            progress = record["progress"]
            if isinstance(progress, dict) and progress["metadata"]["page"] > behind:
                say(f"     worker {self.worker} shows    {progress['message']}")
                return int(progress["metadata"]["page"])
        raise NotAsPromised("the stream ended")

    def close(self) -> None:
        self._response.close()
        self._connection.close()


# -- the tour --------------------------------------------------------------------------------


def tour(broker: Broker, workers: Workers) -> None:
    say("1. Ann starts a report. It runs in one of the two workers.")
    status, body, runner = workers.ask("POST", "/reports?title=2026")
    expect(status, 202)
    operation_id = str(body["id"])
    say(f"     worker {runner} runs     {operation_id}")

    say("2. She follows it through the other one.")
    watcher = Watcher(workers, operation_id, runner)
    watcher.page(watcher.page())

    say("3. Bob knows the id, and nobody tells him that there is such a report.")
    for method in ("GET", "DELETE"):
        status, body, worker = workers.ask(method, f"/operations/{operation_id}", user="bob")
        while status == 503:  # the broker is so new that it may not know everybody: ask again
            time.sleep(1)
            status, body, worker = workers.ask(method, f"/operations/{operation_id}", user="bob")
        expect(status, 404)
        say(f"     worker {worker} answers  {method} {status} {body['detail']}")

    outage(broker, workers, watcher, operation_id)

    say("5. She cancels it through whichever worker answers, and waits for its end.")
    began = time.monotonic()
    status, body, worker = workers.ask("DELETE", f"/operations/{operation_id}?wait=5")
    took = time.monotonic() - began
    expect((status, body["state"]), (200, "cancelled"))
    say(f"     worker {worker} answers  {status} {body['state']} after {took * 1000:.0f} ms")
    last = [(kind, record["state"]) for kind, record in watcher.events()][-1]
    expect(last, ("end", "cancelled"))
    say(f"     worker {watcher.worker} shows    {last[0]}: {last[1]}; the stream is over")
    watcher.close()


def page_of(workers: Workers, operation_id: str) -> int:
    """Return how far a report has come, by whichever worker answers."""
    status, body, _worker = workers.ask("GET", f"/operations/{operation_id}")
    expect(status, 200)
    progress = body["progress"]
    assert isinstance(progress, dict)
    return int(progress["metadata"]["page"])


def outage(broker: Broker, workers: Workers, watcher: Watcher, operation_id: str) -> None:
    say("4. kill -9 for the broker, in the middle of everything.")
    before = page_of(workers, operation_id)
    broker.kill()
    workers.health("down")
    for _ in range(200):
        status, body, worker = workers.ask("GET", f"/operations/{operation_id}")
        if worker == watcher.worker:
            break
    expect(status, 503)
    say(f"     worker {worker} answers  {status} {body['detail']}")
    time.sleep(0.3)  # the report goes on without it
    broker.start()
    began = time.monotonic()
    workers.health("up")
    say(f"     the broker is back; both workers after {time.monotonic() - began:.2f} s")
    after = page_of(workers, operation_id)
    if after < before + 4:
        raise NotAsPromised("the report has waited for the broker")
    say(f"     the report has gone on, from page {before} to page {after}, and so does the stream")
    watcher.page(after)


def main() -> int:
    broker = Broker()
    with contextlib.ExitStack() as stack:
        stack.callback(broker.close)
        broker.start()
        workers = Workers(broker.url)
        stack.callback(workers.stop)
        say(f"{broker.name} on port {broker.port}; two uvicorn workers on port {workers.port}\n")
        try:
            tour(broker, workers)
        except (
            NotAsPromised,
            OSError,
            LookupError,
            ValueError,
            http.client.HTTPException,
        ) as error:
            say(f"\nNOT AS PROMISED: {type(error).__name__}: {error}")
            say("\n".join(workers.lines))
            return 1
    complaints = [line for line in workers.lines if "Traceback" in line or "ERROR" in line]
    if complaints:
        say("NOT AS PROMISED: the workers complained:\n" + "\n".join(workers.lines))
        return 1
    say("\nEverything went as promised.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
