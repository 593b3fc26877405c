"""Operations that run until they are told to end, and waiting for what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio

from cancelable import Cancelable, CancelationError
from cancelable.bus import CancelBus

PATIENCE = 10.0
"""Seconds after which a test that waits for something has failed."""


class Work:
    """One operation in a task of its own."""

    def __init__(self, bus: CancelBus, operation: Cancelable) -> None:
        self.bus = bus
        self.operation = operation
        self.id = operation.operation_id
        self.entered = anyio.Event()
        self.finish = anyio.Event()
        self.ended = anyio.Event()
        self.failure: Exception | None = None
        self.error: BaseException | None = None

    async def run(self) -> None:
        try:
            self.bus.registry.register(self.operation)
            async with self.operation:
                self.entered.set()
                await self.finish.wait()
                if self.failure is not None:
                    raise self.failure
        except CancelationError as error:
            self.error = error
        except Exception as error:
            if error is not self.failure:
                raise
        finally:
            self.ended.set()


@asynccontextmanager
async def running(
    bus: CancelBus,
    operation_id: str | None = None,
    *,
    name: str | None = None,
    metadata: Mapping[str, object] | None = None,
    grace: float | None = None,
    announce: bool = True,
) -> AsyncIterator[Work]:
    """Run an operation for the time of a block; others can find it in there."""
    operation = Cancelable(operation_id, name, metadata=metadata, grace=grace)
    work = Work(bus, operation)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.run)
        with anyio.fail_after(PATIENCE):
            await work.entered.wait()
        if announce:
            await until(lambda: bus.announce(operation))
        try:
            yield work
        finally:
            work.finish.set()


async def until(look: Callable[[], Awaitable[object] | object], patience: float = PATIENCE) -> None:
    """Look again and again until it is so, for the things that no event tells."""
    with anyio.fail_after(patience):
        while True:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await anyio.sleep(0.01)
