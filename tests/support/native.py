"""What the tests know of the event loops themselves."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.conftest import BACKENDS

on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(backend, id=name)
        for name, backend in BACKENDS.items()
        if name.startswith("asyncio")
    ],
    indirect=True,
)
"""Marks a test of what only asyncio has: tasks that anybody may cancel, and that nobody owns."""

on_trio = pytest.mark.parametrize(
    "anyio_backend",
    [pytest.param(backend, id=name) for name, backend in BACKENDS.items() if name == "trio"],
    indirect=True,
)
"""Marks a test of what only Trio has: errors of any kind that go from task to task."""


@asynccontextmanager
async def open_nursery(backend: str) -> AsyncIterator[Callable[..., object]]:
    """Open the event loop's own group of tasks and give the function that starts one."""
    if backend == "trio":
        import trio

        async with trio.open_nursery() as nursery:
            yield nursery.start_soon
    else:
        import asyncio

        async with asyncio.TaskGroup() as group:
            yield lambda func, *args: group.create_task(func(*args))


def native_cancel() -> type[BaseException]:
    """Return the exception by which the running loop cancels."""
    return anyio.get_cancelled_exc_class()


async def wait_for_what_was_cancelled() -> bool:
    """Await a future of asyncio's that somebody else has cancelled, as anybody may."""
    import asyncio

    gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(gone.cancel)
    return await gone


def in_thread(func: Callable[[], object]) -> None:
    """Run a function in a thread while the caller holds the loop."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            func()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    if failed:
        raise failed[0]
