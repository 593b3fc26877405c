"""One server of each kind for a module of tests."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator

import pytest

from tests.servers.support import RunningServer, assert_quiet

KINDS = [
    "uvicorn-h11",
    "uvicorn-httptools",
    "hypercorn-asyncio",
    "hypercorn-trio",
    "granian",
    "daphne",
]
if importlib.util.find_spec("uvloop") is not None:
    KINDS += ["uvicorn-httptools-uvloop", "hypercorn-uvloop"]

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A running server, whose log is looked through at the end (W11)."""
    running = RunningServer(request.param)
    yield running
    assert_quiet(running.stop())


@pytest.fixture(params=[*KINDS, "hypercorn-worker-trio"])
def fresh_server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server for one test, which ends it."""
    running = RunningServer(request.param)
    yield running
    if running.returncode is None:
        running.stop()


@pytest.fixture
def number() -> int:
    """A number of its own for the paths of a test, since the server is shared."""
    return next(_numbers)
