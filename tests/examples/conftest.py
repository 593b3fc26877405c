"""One server of each kind, with and without the middleware, for all tests of examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.examples.support import ExampleServer

KINDS = ["uvicorn", "hypercorn-asyncio", "hypercorn-trio"]
SETUPS = ["middleware", "alone"]


@pytest.fixture(
    scope="session",
    params=itertools.product(KINDS, SETUPS),
    ids=lambda each: f"{each[0]}, {each[1]}",
)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ExampleServer]:
    kind, setup = request.param
    folder = tmp_path_factory.mktemp("server")
    (folder / "uploads").mkdir()
    server = ExampleServer(kind, setup, folder)
    yield server
    server.stop()


@pytest.fixture
def server(running: ExampleServer) -> ExampleServer:
    """A running server, which has written nothing yet as far as this test is concerned."""
    running.begin()
    return running
