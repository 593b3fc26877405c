"""What the core costs beside what a program would use instead.

Run it with ``nox -s bench``. Times depend on the machine; the ratios are what to look at.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from harness import compare, show

from cancelable import Cancelable, CancelationToken, OperationRegistry

STEPS = 3000


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


async def measure_blocks(backend: str) -> None:
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
    show(f"Entering and leaving a block, {backend}", await compare(candidates, STEPS))
    show(
        f"Three blocks inside one another, {backend}",
        await compare({"anyio scopes": nested_fail_after, "Cancelables": nested}, STEPS),
    )
    make_original = original()
    if make_original is not None:
        theirs = blocks(lambda: make_original(30.0))
        ours = candidates["Cancelable.with_timeout(30)"]
        rows = await compare(
            {"Cancelable.with_timeout(30)": ours, "hother-cancelable": theirs}, 500
        )
        show(f"Beside the library that this one follows, {backend}", rows)


async def measure_wake_up(backend: str) -> None:
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
        except Exception:
            timer.join()
    print(f"\nA token cancelled in a thread wakes a sleeper, {backend}")
    print(f"  median {statistics.median(delays):.3f} ms, worst {max(delays):.3f} ms of 200")


async def measure_registry() -> None:
    """Memory and time for many live operations, on asyncio."""
    count = 100_000
    registry = OperationRegistry()
    token = CancelationToken()
    with registry.as_default():
        gate = anyio.Event()

        async def live() -> None:
            operation = Cancelable.with_timeout(3600, name="live", register_globally=True)
            try:
                async with operation.add_token(token):
                    await gate.wait()
            except Exception:
                return

        async def bare() -> None:
            with anyio.move_on_after(3600):
                await gate.wait()

        async def memory_of(work: Callable[[], Awaitable[None]], number: int) -> float:
            nonlocal gate
            gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tracemalloc.start()
                for _ in range(number):
                    tasks.start_soon(work)
                await anyio.wait_all_tasks_blocked()
                used = tracemalloc.get_traced_memory()[0] / number
                tracemalloc.stop()
                gate.set()
            return used

        without, with_ours = await memory_of(bare, 20_000), await memory_of(live, 20_000)
        print("\nLive operations, named, registered, with token and timeout (asyncio)")
        print(f"  {with_ours - without:.0f} bytes each beyond a task under anyio.move_on_after")

        gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(live)
            await anyio.wait_all_tasks_blocked()
            start = time.perf_counter()
            listed = registry.list_operations()
            listing = (time.perf_counter() - start) / len(listed) * 1e6
            start = time.perf_counter()
            cancelled = registry.cancel_all()
            asking = (time.perf_counter() - start) / cancelled * 1e6
        ending = (time.perf_counter() - start) / cancelled * 1e6
        print(f"  {count:,} of them: listing {listing:.1f} µs each, asking all to stop")
        print(f"  {asking:.1f} µs each, until all have ended {ending:.1f} µs each")


async def measure_token() -> None:
    """One token that serves a million operations, one after another."""
    token = CancelationToken()
    await blocks(lambda: Cancelable.with_token(token))(1000)
    tracemalloc.start()
    await blocks(lambda: Cancelable.with_token(token))(1000)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    await blocks(lambda: Cancelable.with_token(token))(1_000_000)
    tracemalloc.start()
    await blocks(lambda: Cancelable.with_token(token))(1000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print("\nOne token, 1,000,000 operations in sequence")
    print(f"  {after - before:+d} bytes, {len(token._listeners)} listeners left")


def measure_threads() -> None:
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
    print("\n1,000 threads cancel one token at once")
    print(f"  {first.count(True)} of them was first; callbacks ran {len(called)} time(s)")


def measure_import() -> None:
    """What an import costs beyond anyio's."""

    def median_of(code: str) -> float:
        program = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        # Compiled files are used, and left by the first run, whatever the environment says.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        command = [sys.executable, "-c", program]
        times = [float(subprocess.check_output(command, env=environment)) for _ in range(16)]
        return statistics.median(times[1:]) * 1e3

    with tempfile.TemporaryDirectory() as cache:
        anyio_alone = median_of("import anyio")
        both = median_of("import anyio, cancelable")
    print("\nImport")
    print(f"  anyio {anyio_alone:.1f} ms, cancelable beyond that {both - anyio_alone:.1f} ms")
    print(f"  ×{(both - anyio_alone) / anyio_alone:.2f} of anyio's own")


def main() -> None:
    """Run all measurements."""
    print(f"Python {sys.version.split()[0]}")
    for backend in ("asyncio", "trio"):
        anyio.run(measure_blocks, backend, backend=backend)
        anyio.run(measure_wake_up, backend, backend=backend)
    anyio.run(measure_registry)
    anyio.run(measure_token)
    measure_threads()
    measure_import()


if __name__ == "__main__":
    main()
