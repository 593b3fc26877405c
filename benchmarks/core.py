"""What the core costs beside what a program would use instead.

Run it with ``nox -s bench``. Times depend on the machine; the ratios are what to look at.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from harness import compare, middle, rows_of
from record import Record, alone

from cancelable import Cancelable, CancelationError, CancelationToken, OperationRegistry

STEPS = 3000
LIVE = 20_000


def blocks(make: Callable[[], Any]) -> Callable[[int], Awaitable[None]]:
    """Return a candidate that enters and leaves a block."""

    async def run(steps: int) -> None:
        for _ in range(steps):
            async with make():
                pass

    return run


async def fail_after(steps: int) -> None:
    for _ in range(steps):
        with anyio.fail_after(30):
            pass


async def trio_fail_after(steps: int) -> None:
    import trio  # a program on asyncio seldom has it: nothing brings it in before its turn comes

    for _ in range(steps):
        with trio.fail_after(30):
            pass


async def nested(steps: int) -> None:
    for _ in range(steps):
        async with Cancelable.with_timeout(30), Cancelable.with_timeout(20), Cancelable():
            pass


async def nested_fail_after(steps: int) -> None:
    for _ in range(steps):
        with anyio.fail_after(30), anyio.fail_after(20), anyio.CancelScope():
            pass


def original() -> Callable[[], Any] | None:
    """Return the block of the library that this one follows, where it is installed."""
    try:
        return importlib.import_module("hother.cancelable").Cancelable.with_timeout
    except ImportError:
        return None


async def measure_blocks(backend: str, record: Record) -> None:
    token = CancelationToken()
    candidates: dict[str, Callable[[int], Awaitable[None]]] = {
        "anyio.fail_after(30)": fail_after,
        "Cancelable.with_timeout(30)": blocks(lambda: Cancelable.with_timeout(30)),
        "Cancelable()": blocks(Cancelable),
        "Cancelable.with_token(token)": blocks(lambda: Cancelable.with_token(token)),
        "… named, registered, token": blocks(
            lambda: Cancelable.with_token(token, name="bench", register_globally=True)
        ),
        "… and timeout": blocks(
            lambda: Cancelable.with_timeout(30, name="bench", register_globally=True).add_token(
                token
            )
        ),
    }
    if backend == "asyncio":
        candidates["asyncio.timeout(30)"] = blocks(lambda: asyncio.timeout(30))
    else:
        candidates["trio.fail_after(30)"] = trio_fail_after
    rows = await compare(candidates, STEPS, clock=time.process_time)
    title = f"Entering and leaving a block, {backend}"
    record.table(title, "µs", "ratio", rows, is_plotted=True)
    ratios = {row.name: row.ratio for row in rows}
    name = f"÷ anyio.fail_after, {backend}"
    record.reach(f"with_timeout {name}", ratios["Cancelable.with_timeout(30)"], 1.3)
    record.reach(f"registered and with a token {name}", ratios["… named, registered, token"], 1.6)
    three = {"anyio scopes": nested_fail_after, "Cancelables": nested}
    rows = await compare(three, STEPS, clock=time.process_time)
    record.table(f"Three blocks inside one another, {backend}", "µs", "ratio", rows)
    make_original = original()
    if make_original is not None:
        both = {
            "Cancelable.with_timeout(30)": candidates["Cancelable.with_timeout(30)"],
            "hother-cancelable": blocks(lambda: make_original(30.0)),
        }
        rows = await compare(both, 500, clock=time.process_time)
        record.table(f"Beside the library that this one follows, {backend}", "µs", "ratio", rows)
        least = 9 if backend == "asyncio" else 7
        record.reach_at_least(f"times faster than it, {backend}", rows[1].ratio, least, "{:.1f}")


async def measure_tokens(backend: str, record: Record) -> None:
    """Making and cancelling a token, with nobody and with one block behind it."""

    async def events(steps: int) -> None:
        for _ in range(steps):
            anyio.Event().set()

    async def tokens(steps: int) -> None:
        for _ in range(steps):
            await CancelationToken().cancel()

    async def scopes(steps: int) -> None:
        for _ in range(steps):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

    async def cancelled_blocks(steps: int) -> None:
        for _ in range(steps):
            token = CancelationToken()
            try:
                async with Cancelable.with_token(token):
                    await token.cancel()
                    await anyio.lowlevel.checkpoint()
            except CancelationError:
                pass

    candidates = {
        "anyio.Event, made and set": events,
        "CancelationToken, made and cancelled": tokens,
        "anyio.CancelScope, entered and cancelled": scopes,
        "a block cancelled by a token": cancelled_blocks,
    }
    # Each of these cancels makes a record, which nobody would see.
    logging.disable(logging.INFO)
    rows = await compare(candidates, 1000, clock=time.process_time)
    logging.disable(logging.NOTSET)
    record.table(f"Cancelling, {backend}", "µs", "ratio", rows)


async def measure_wake_up(backend: str, record: Record) -> None:
    """From a cancel in a thread to the ``finally`` of the sleeping task."""
    delays: list[float] = []
    for _ in range(200):
        token = CancelationToken()
        asked: list[float] = []

        def ask(token: CancelationToken = token, asked: list[float] = asked) -> None:
            asked.append(time.perf_counter())
            token.cancel_sync()

        timer = threading.Timer(0.002, ask)
        try:
            async with Cancelable.with_token(token):
                timer.start()
                try:
                    await anyio.sleep(10)
                finally:
                    delays.append((time.perf_counter() - asked[0]) * 1e3)
        except CancelationError:
            timer.join()
    rows = rows_of({"token.cancel_sync() in a thread": delays})
    record.table(f"A token cancelled in a thread wakes a sleeper, {backend}", "ms", "value", rows)
    record.reach(f"ms from a thread's cancel to the finally, {backend}", middle(delays)[0], 0.3)


async def measure_memory(record: Record) -> None:
    """What a live operation holds, on asyncio."""
    registry = OperationRegistry()
    token = CancelationToken()
    gate = anyio.Event()

    async def live() -> None:
        operation = Cancelable.with_timeout(3600, name="live", register_globally=True)
        async with operation.add_token(token):
            await gate.wait()

    async def bare() -> None:
        with anyio.move_on_after(3600):
            await gate.wait()

    async def memory_of(work: Callable[[], Awaitable[None]]) -> float:
        nonlocal gate
        gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tracemalloc.start()
            for _ in range(LIVE):
                tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            used = tracemalloc.get_traced_memory()[0] / LIVE
            tracemalloc.stop()
            gate.set()
        return used

    with registry.as_default():
        found = {
            "a task under anyio.move_on_after": [await memory_of(bare)],
            "an operation, named, registered, token, timeout": [await memory_of(live)],
        }
    rows = rows_of(found)
    record.table(f"A live operation, of {LIVE:,}", "bytes", "beyond", rows)
    record.reach("bytes of an operation beyond anyio's own scope", rows[1].beyond, 1024, "{:.0f}")


def measure_threads(record: Record) -> None:
    """A thousand threads that cancel one token."""
    token = CancelationToken()
    first: list[bool] = []
    called: list[object] = []
    token.on_cancel(called.append)
    barrier = threading.Barrier(1000)

    def ask() -> None:
        barrier.wait()
        first.append(token.cancel_sync())

    threads = [threading.Thread(target=ask) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = "callbacks that run when 1,000 threads cancel one token at once"
    record.reach(text, len(called), 1, "{:.0f}")
    record.reach(
        "of these threads, those that were told to be first", first.count(True), 1, "{:.0f}"
    )


def measure(record: Record) -> None:
    """Measure all of them."""
    for backend in ("asyncio", "trio"):
        anyio.run(measure_blocks, backend, record, backend=backend)
        anyio.run(measure_tokens, backend, record, backend=backend)
        anyio.run(measure_wake_up, backend, record, backend=backend)
    anyio.run(measure_memory, record)
    measure_threads(record)


if __name__ == "__main__":
    alone("core", measure)
