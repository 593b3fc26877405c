"""One server of each kind for all tests of this folder."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
from collections.abc import Iterator

import pytest

from tests.servers.http2 import HTTP2Server
from tests.servers.support import RunningServer, assert_quiet

HTTP2_KINDS = ["hypercorn-asyncio-h2", "hypercorn-trio-h2"]
KINDS = [
    "uvicorn-h11",
    "uvicorn-httptools",
    "hypercorn-asyncio",
    "hypercorn-trio",
    *HTTP2_KINDS,
    "granian",
    "daphne",
]
if importlib.util.find_spec("uvloop") is not None:
    KINDS += ["uvicorn-httptools-uvloop", "hypercorn-uvloop"]
ALL_KINDS = [*KINDS, "hypercorn-worker-trio", "uvicorn-thread"]

_numbers = itertools.count(1)


@pytest.fixture(scope="package", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A running server, whose log is looked through at the end (W11)."""
    with running(request.param) as server:
        yield server


@pytest.fixture(params=ALL_KINDS)
def fresh_server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server for one test, which may end it."""
    with running(request.param) as server:
        yield server


@contextlib.contextmanager
def running(kind: str, *, is_quiet: bool = True) -> Iterator[RunningServer]:
    """Run a server, and look through its log (W11) unless it is known to be full."""
    server = HTTP2Server(kind) if kind.endswith("-h2") else RunningServer(kind)
    try:
        yield server
    finally:
        log = server.stop()
    if is_quiet:
        assert_quiet(log, server.expected)


@pytest.fixture
def number() -> int:
    """A number of its own for the paths of a test, since the server is shared."""
    return next(_numbers)
