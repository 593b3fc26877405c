"""The buses that each test of the suite gets, and the broker behind some of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from cancelable import OperationRegistry
from cancelable.bus import CancelBus, InMemoryBus, RedisBus
from tests.bus.broker import Broker

Buses = Callable[[], AbstractAsyncContextManager[tuple[CancelBus, CancelBus]]]
"""Opens two buses: where operations run, and from where they are looked at."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A server that nobody harms."""
    server = Broker()
    server.start()
    yield server
    server.close()


@pytest.fixture
def namespace(broker: Broker) -> str:
    """A namespace of its own for each test, which the broker has known for long."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    broker.settle(name)
    return name


@pytest.fixture(params=["memory", "redis"])
def buses(request: pytest.FixtureRequest) -> Buses:
    """Both kinds of bus, in turn."""
    if request.param == "memory":
        return in_memory
    broker: Broker = request.getfixturevalue("broker")
    namespace: str = request.getfixturevalue("namespace")

    @asynccontextmanager
    async def through_a_broker() -> AsyncIterator[tuple[CancelBus, CancelBus]]:
        here, there = (
            RedisBus(broker.url, namespace=namespace, registry=OperationRegistry())
            for _ in range(2)
        )
        async with here, there:
            yield here, there

    return through_a_broker


@asynccontextmanager
async def in_memory() -> AsyncIterator[tuple[CancelBus, CancelBus]]:
    bus = InMemoryBus(OperationRegistry())
    async with bus:
        yield bus, bus
