"""Real servers: requests, and the time from a client's close to the cancel.

Requests are counted by wrk. Beside requests per second stands what the server's process computes
for one, which does not move when other programs take a core; it is what is compared. For that
reason wrk shares the server's core: see ``on_one_core``.

Two processes of the same server differ by a few percent for as long as they live: by where their
objects happen to lie. So each candidate is started several times, rather than measured for long.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from candidates import NONE, OURS, middlewares
from harness import Row, alternate, rows_of
from load import requests_per_second
from record import Record, alone
from serving import Serving, backend_of, on_one_core

KINDS = ("uvicorn-h11", "uvicorn-httptools-uvloop", "hypercorn-trio")
ALL_KINDS = (
    "uvicorn-h11",
    "uvicorn-httptools",
    "uvicorn-httptools-uvloop",
    "hypercorn-asyncio",
    "hypercorn-trio",
)
SECONDS = 0.6
"""How long each candidate is measured after each of its starts."""
STARTS = 6
CLIENTS = 16
OLD_ENOUGH = 0.03
"""Seconds of age of a request whose client leaves."""

REACH = {
    ("FastAPI", "uvicorn-h11"): 90,
    ("FastAPI", "uvicorn-httptools-uvloop"): 85,
    ("Starlette", "uvicorn-h11"): 85,
    ("Starlette", "uvicorn-httptools-uvloop"): 70,
}
"""Percent of the requests per second without any middleware."""

LATE_MS = 20
"""Milliseconds that the handler of ``/late`` waits, longer than requests are left unwatched."""

POST = 'wrk.method = "POST"\nwrk.body = string.rep("x", 10240)\n'


def measure_requests(
    record: Record, wrk: list[str], kind: str, application: str, path: str, what: str
) -> None:
    found: dict[str, list[float]] = {name: [] for name in middlewares(backend_of(kind))}
    for _ in range(STARTS):
        with on_one_core(), ExitStack() as stack:
            servers: dict[str, Serving] = {}
            for name in found:
                servers[name] = stack.enter_context(Serving(kind, application, name))
                servers[name].get("/json")
            for name, result in requests_per_second(servers, wrk, path, SECONDS).items():
                found[name].append(result)
    rows = rows_of(found)
    record.table(
        f"{what}, {application} under {kind}",
        "requests per second of the server's processor",
        "ratio",
        rows,
        is_plotted=path == "/json",
    )
    if path == "/json" and (application, kind) in REACH:
        reach(record, rows, f"{application} under {kind}", REACH[application, kind])


def reach(record: Record, rows: list[Row], where: str, at_least: float) -> None:
    shares = {row.name: row.ratio * 100 for row in rows if row.name != NONE}
    mine = shares.pop(OURS)
    record.reach_at_least(
        f"% of the requests without middleware, {where}", mine, at_least, "{:.0f}"
    )
    if shares:
        lead = mine - max(shares.values())
        record.reach_at_least(f"points above the best peer, {where}", lead, 5, "{:.1f}")


def leave(serving: Serving) -> float:
    """Return the milliseconds from a client's close to the handler's ``finally``."""
    with serving.connect() as client:
        client.sendall(b"GET /sleep HTTP/1.1\r\nHost: bench\r\n\r\n")
        serving.wait_for("begins")
        time.sleep(OLD_ENOUGH)
        left = time.monotonic()
    return (serving.wait_for("stopped") - left) * 1e3


def measure_disconnects(record: Record, kind: str) -> None:
    with ExitStack() as stack:
        candidates: dict[str, Callable[[], float]] = {}
        for name in (OURS, "fastapi-disconnect"):
            if name in middlewares(backend_of(kind)):
                serving = stack.enter_context(Serving(kind, "Starlette", name))
                serving.get("/json")
                candidates[name] = partial(leave, serving)
        rows = alternate(candidates, 25)
    record.table(f"A client closes until its handler is cancelled, {kind}", "ms", "ratio", rows)
    record.reach(f"ms from close to cancel, {kind}", rows[0].median, 3)


def measure(record: Record) -> None:
    """Measure all servers."""
    program = shutil.which("wrk")
    if program is None:
        record.lacks("Requests were not counted: wrk is missing (apt-get install wrk)")
    else:
        wrk = [program, "-t1", f"-c{CLIENTS}"]
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "post.lua"
            script.write_text(POST)
            for kind in KINDS:
                for application in ("Starlette", "FastAPI"):
                    measure_requests(record, wrk, kind, application, "/json", "JSON GET")
                if kind.endswith("uvloop"):
                    late = f"JSON GET that waits {LATE_MS} ms"
                    measure_requests(record, wrk, kind, "Starlette", "/late", late)
                post = [*wrk, "-s", str(script)]
                measure_requests(record, post, kind, "Starlette", "/post", "10 KB POST")
    for kind in ALL_KINDS:
        measure_disconnects(record, kind)


if __name__ == "__main__":
    alone("servers", measure)
