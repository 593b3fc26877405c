"""Watch clients leave, and handlers stop.

    nox -s demo                the tour, on uvicorn (asyncio) and on hypercorn (Trio)
    nox -s demo -- --serve     the tour on uvicorn; then the server stays for your own clients

This program starts a real server with the app of ``demo_app.py``, plays its clients over real
sockets, and prints what each of them saw and what the server saw of it. It ends with 0 if
everything went as promised.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from demo_server import HYPERCORN_TRIO, UVICORN, Server, serving

PROMISE = 0.020
"""Seconds within which the handler of a client that left has to stop."""

PATIENCE = 0.2
"""Seconds that a client of the demo waits before it hangs up."""

UPLOAD = 8 * 1024 * 1024
"""Bytes of an upload."""


class NotAsPromised(Exception):
    """The demo saw something else than it promises."""


FAILURES = (NotAsPromised, OSError, ValueError, LookupError, http.client.HTTPException)
"""What a scene fails with: a wrong answer, a broken connection, an answer of another form."""


class Client:
    """One client: a socket that speaks HTTP, and that can be closed at any moment."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        self._response: http.client.HTTPResponse | None = None

    def begin(self, method: str, path: str, body: bytes = b"", announced: int = 0) -> None:
        """Send a request; with more bytes *announced*, only the beginning of its body."""
        self._connection.putrequest(method, path)
        if body:
            self._connection.putheader("Content-Length", str(announced or len(body)))
        self._connection.endheaders(body or None)

    def read_events(self) -> Iterator[str]:
        """Read a stream of events as it comes."""
        self._response = self._connection.getresponse()
        expect(self._response.status, 200)
        for line in self._response:
            if text := line.decode().rstrip():
                yield text

    def finish(self) -> tuple[int, str]:
        """Read the whole answer."""
        with self._connection.getresponse() as response:
            text = response.read().decode()
        self._connection.close()
        return response.status, text

    def hang_up(self) -> float:
        """Close the socket in the middle of everything; return when."""
        at = time.monotonic()
        if self._response is not None:
            self._response.close()
        self._connection.close()
        return at


@dataclass(frozen=True)
class Visit:
    """What the server saw of a client; times are seconds on the clock that all processes share."""

    name: str
    how: str
    arrived_at: float
    left_at: float
    notes: list[str]


class Tour:
    """One round of clients on one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.scenes = 0
        self.broken: list[str] = []
        self.noticed_after: list[float] = []

    def run(self) -> None:
        """Play the scenes; the list of what was not as promised is ``broken``."""
        for scene in (
            self.a_request_that_completes,
            self.a_client_that_hangs_up,
            self.a_timeout,
            self.a_background_job_cancelled_by_its_id,
            self.a_stream_of_events_left_in_the_middle,
            self.an_upload_with_progress,
            self.an_upload_left_in_the_middle,
        ):
            self._play(scene)
        if self._server.complained():
            self.broken.append("the server's log")
            print("\n   NOT AS PROMISED: the server complained; the end of its log:")
            print("   " + "\n   ".join(self._server.lines[-25:]))

    def _play(self, scene: Callable[[], None]) -> None:
        title = scene.__name__.replace("_", " ")
        self.scenes += 1
        print(f"\n{self.scenes}. {title.capitalize()}", flush=True)
        try:
            scene()
        except FAILURES as error:
            self.broken.append(title)
            print(f"   NOT AS PROMISED: {str(error) or type(error).__name__}")

    # -- the scenes ----------------------------------------------------------------------

    def a_request_that_completes(self) -> None:
        client("GET /hello")
        status, text = self._ask("GET", "/hello")
        client(f"{status} {text}")
        expect(status, 200)
        self._departure("hello", "ended by itself")

    def a_client_that_hangs_up(self) -> None:
        client("GET /slow, whose handler works for half a minute")
        leaver = Client(self._server.port)
        leaver.begin("GET", "/slow")
        self._arrival("slow")
        time.sleep(PATIENCE)
        left_at = leaver.hang_up()
        client(f"hung up after {PATIENCE} s")
        self._departure("slow", "was cancelled: disconnect", left_at)

    def a_timeout(self) -> None:
        client("GET /report, whose handler may take 0.3 s")
        began = time.monotonic()
        status, text = self._ask("GET", "/report")
        client(f"{status} after {time.monotonic() - began:.2f} s: {json.loads(text)['detail']}")
        expect((status, json.loads(text)["reason"]), (504, "timeout"))
        self._departure("report", "was cancelled: timeout")

    def a_background_job_cancelled_by_its_id(self) -> None:
        status, text = self._ask("POST", "/jobs")
        expect(status, 202)
        job = json.loads(text)["job"]
        client(f"POST /jobs: {status}, the job is {job}")
        self._arrival("job")
        self._expect_job(job, "running")
        asked_at = time.monotonic()
        status, text = self._ask("DELETE", f"/jobs/{job}")
        client(f"DELETE /jobs/{job}: {status} {json.loads(text)['status']}")
        expect((status, json.loads(text)["outcome"]), (200, "requested"))
        self._departure("job", "was cancelled: manual", asked_at)
        self._expect_job(job, "cancelled")

    def a_stream_of_events_left_in_the_middle(self) -> None:
        client("GET /events, which never end")
        leaver = Client(self._server.port)
        leaver.begin("GET", "/events")
        events = leaver.read_events()
        client("got " + ", ".join(next(events) for _ in range(3)))
        left_at = leaver.hang_up()
        client("left")
        visit = self._departure("events", "was cancelled: disconnect", left_at)
        server(f"its generator had come to {visit.notes[-1]}")

    def an_upload_with_progress(self) -> None:
        client(f"POST /upload, {UPLOAD >> 20} MiB")
        status, text = self._ask("POST", "/upload", bytes(UPLOAD))
        client(f"{status} {text}")
        expect((status, json.loads(text)), (200, {"bytes": UPLOAD}))
        visit = self._departure("upload", "ended by itself")
        server("progress: " + ", ".join(visit.notes))

    def an_upload_left_in_the_middle(self) -> None:
        client(f"POST /upload, {UPLOAD >> 20} MiB, of which it sends only the half")
        leaver = Client(self._server.port)
        leaver.begin("POST", "/upload", bytes(UPLOAD // 2), announced=UPLOAD)
        self._arrival("upload")
        time.sleep(PATIENCE)
        left_at = leaver.hang_up()
        client("left")
        visit = self._departure("upload", "was cancelled: disconnect", left_at)
        server("progress: " + ", ".join(visit.notes))

    # -- what they are made of -----------------------------------------------------------

    def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
        other = Client(self._server.port)
        other.begin(method, path, body)
        return other.finish()

    def _expect_job(self, job: str, status: str) -> None:
        found = json.loads(self._ask("GET", f"/jobs/{job}")[1])
        client(f"GET /jobs/{job}: {found['status']}")
        expect(found["status"], status)

    def _arrival(self, name: str) -> None:
        """Wait until the server has begun with a request."""
        self._ask("GET", f"/guests/{name}/arrival")

    def _departure(self, name: str, how: str, left_at: float | None = None) -> Visit:
        """Wait until a handler is over; print and check how, and how long after *left_at*."""
        visit = Visit(**json.loads(self._ask("GET", f"/guests/{name}/departure")[1]))
        if left_at is None:
            server(f"the handler {visit.how}")
            expect(visit.how, how)
            return visit
        took = visit.left_at - left_at
        server(f"the handler {visit.how}, {took * 1000:.1f} ms later")
        expect(visit.how, how)
        self.noticed_after.append(took)
        if took > PROMISE:
            raise NotAsPromised(f"more than {PROMISE * 1000:.0f} ms")
        return visit


def client(text: str) -> None:
    print(f"   client  {text}", flush=True)


def server(text: str) -> None:
    print(f"   server  {text}", flush=True)


def expect(seen: object, promised: object) -> None:
    if seen != promised:
        raise NotAsPromised(f"{seen!r} instead of {promised!r}")


def tour(server: Server, name: str) -> bool:
    """Play all scenes on a server; return whether everything went as promised."""
    title = f"{name}, {server.url}"
    print(f"\n{title}\n{'=' * len(title)}", flush=True)
    round_trip = Tour(server)
    round_trip.run()
    if round_trip.broken:
        print(f"\nOn {name}, not as promised: {', '.join(round_trip.broken)}.", flush=True)
        return False
    latest = max(round_trip.noticed_after) * 1000
    print(
        f"\nOn {name}, all {round_trip.scenes} went as promised, and its log holds no complaint."
        f"\nWhoever was to stop had stopped after {latest:.1f} ms at most"
        f" (the promise: {PROMISE * 1000:.0f} ms).",
        flush=True,
    )
    return True


def stay(server: Server) -> None:
    """Keep a server for the reader's own clients, and show what it sees of them."""
    url = server.url
    text = f"""
The server stays, and tells here what it sees of you. Try in a browser or in
another terminal, and leave in the middle (Ctrl-C in curl, Stop in a browser):

    {url}/
    curl {url}/slow
    curl -N {url}/events
    curl -i {url}/report
    curl -X POST {url}/jobs
    curl -X DELETE {url}/jobs/PUT-THE-ID-HERE
    curl --limit-rate 1M -X POST -T A-BIG-FILE {url}/upload

Ctrl-C here ends it.
"""
    print(text, flush=True)
    server.shows_lines = True
    server.wait()


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="nox -s demo --", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="keep the server for your clients")
    parser.add_argument("--port", type=int, default=0, help="with --serve: where (default: any)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)  # whoever ends this program ends the server too
    try:
        with serving(UVICORN, "demo_app:app", options.port) as uvicorn:
            went_well = tour(uvicorn, "uvicorn with asyncio")
            if options.serve:
                stay(uvicorn)
        if not options.serve:
            with serving(HYPERCORN_TRIO, "demo_app:app", options.port) as hypercorn:
                went_well &= tour(hypercorn, "hypercorn with Trio")
    except KeyboardInterrupt:
        print("\nEnded.")
        return 0 if options.serve else 130
    return 0 if went_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
