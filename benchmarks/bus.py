"""Measure the bus: what it costs an operation, and how long a cancel takes through a broker.

``python benchmarks/bus.py [--backend trio] [--quick]`` starts a broker and a second process by
itself. Latencies are between two processes of one machine: the caller's clock when it calls
``cancel``, the owner's when its block is left.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from harness import compare, show

from cancelable import Cancelable, CancelationError, CancelOutcome, OperationRegistry
from cancelable.bus import BusUnavailable, CancelBus, InMemoryBus, RedisBus

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.bus.broker import Broker

NAMESPACE = "bench"


def quantiles(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    half, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"  {name:44} p50 {half * 1e3:7.2f} ms   p99 {most * 1e3:7.2f} ms   n {len(ordered)}")


async def one(bus: CancelBus, operation_id: str | None = None) -> None:
    operation = Cancelable(operation_id)
    bus.registry.register(operation)
    async with operation:
        pass


async def cancelled(bus: CancelBus, operation_id: str) -> None:
    operation = Cancelable(operation_id)
    bus.registry.register(operation)
    try:
        async with operation:
            await bus.cancel(operation_id)
            await anyio.lowlevel.checkpoint()
    except CancelationError:
        pass


# -- one process -----------------------------------------------------------------------------


async def in_memory(steps: int) -> None:
    registry = OperationRegistry()
    bus, watched = InMemoryBus(registry), InMemoryBus(OperationRegistry())

    async def bare(count: int) -> None:
        for _ in range(count):
            operation = Cancelable()
            registry.register(operation)
            async with operation:
                pass

    async def with_bus(count: int) -> None:
        for _ in range(count):
            await one(bus)

    async def with_watcher(count: int) -> None:
        held = Cancelable("held")
        watched.registry.register(held)
        async with held, watched.watch("held"):
            for _ in range(count):
                await one(watched)

    async def by_registry(count: int) -> None:
        for number in range(count):
            operation = Cancelable(f"job-{number}")
            registry.register(operation)
            try:
                async with operation:
                    registry.cancel(f"job-{number}")
                    await anyio.lowlevel.checkpoint()
            except CancelationError:
                pass

    async def by_bus(count: int) -> None:
        for number in range(count):
            await cancelled(bus, f"job-{number}")

    show(
        "an operation in one process",
        await compare(
            {
                "registered": bare,
                "… a bus on the registry": with_bus,
                "… and a watcher": with_watcher,
            },
            steps,
        ),
    )
    show(
        "an operation that is cancelled by id",
        await compare({"registry.cancel": by_registry, "InMemoryBus.cancel": by_bus}, steps),
    )


# -- two processes ---------------------------------------------------------------------------


async def caller(url: str) -> None:
    """Cancel what is named on the input, and say when."""
    async with RedisBus(url, namespace=NAMESPACE, heartbeat=1) as bus:
        print("ready", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            began = time.perf_counter()
            while True:
                try:
                    result = await bus.cancel(line.strip())
                except BusUnavailable:
                    continue
                if result or result.outcome is CancelOutcome.FINISHED:  # by the try before
                    break
            print(json.dumps([began, result.delivered]), flush=True)


class Caller:
    def __init__(self, url: str, backend: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--caller", url, "--backend", backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def cancel(self, operation_id: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(operation_id + "\n")
        self.process.stdin.flush()

    def asked_at(self) -> float:
        assert self.process.stdout is not None
        began, _delivered = json.loads(self.process.stdout.readline())
        return float(began)


async def cancel_latency(
    bus: RedisBus, other: Caller, count: int, before: Callable[[], object]
) -> list[float]:
    found: list[float] = []
    for number in range(count):
        operation = Cancelable(f"job-{number}-{random.random()}")
        bus.registry.register(operation)
        try:
            async with operation:
                assert await bus.announce(operation)
                before()
                other.cancel(operation.operation_id)
                try:
                    await anyio.sleep(30)
                finally:
                    ended = time.perf_counter()
        except CancelationError:
            found.append(ended - await anyio.to_thread.run_sync(other.asked_at))
        await anyio.sleep(0.002)
    return found


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def idle(bus: RedisBus) -> None:
    while bus.status.backlog or bus.status.live:  # noqa: ASYNC110
        await anyio.sleep(0.001)


@asynccontextmanager
async def stalls(found: list[float]) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            found.append(await timed(lambda: anyio.sleep(0.001)) - 0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        yield
        tasks.cancel_scope.cancel()


async def through_a_broker(broker: Broker, backend: str, scale: int) -> None:
    print("\nthrough a broker")
    bus = RedisBus(broker.url, namespace=NAMESPACE, heartbeat=1, announce_timeout=5)
    other = await anyio.to_thread.run_sync(Caller, broker.url, backend)
    async with bus:
        latencies = await cancel_latency(bus, other, 5 * scale, lambda: None)
        quantiles("cancel there -> block left here", latencies)

        def cut() -> None:
            broker.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")

        quantiles(
            "… both subscribers cut just before", await cancel_latency(bus, other, scale, cut)
        )
        await announcing(bus, scale)
        await many(bus, broker, 100 * scale)
    other.process.terminate()
    other.process.wait()


async def announcing(bus: RedisBus, scale: int) -> None:
    found: list[float] = []
    for _ in range(5 * scale):
        operation = Cancelable()
        bus.registry.register(operation)
        async with operation:
            found.append(await timed(lambda: bus.announce(operation)))  # noqa: B023
    quantiles("announce", found)
    for tasks_at_once in (1, 100):

        async def work(count: int) -> None:
            for _ in range(count):
                operation = Cancelable()
                bus.registry.register(operation)
                async with operation:
                    await bus.announce(operation)

        count = 20 * scale // tasks_at_once
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(tasks_at_once):
                tasks.start_soon(work, count)
        await idle(bus)
        rate = count * tasks_at_once / (time.perf_counter() - began)
        print(f"  operations a second, {tasks_at_once:3} at once {rate:24,.0f}")


async def many(bus: RedisBus, broker: Broker, count: int) -> None:
    finish = anyio.Event()

    async def work() -> None:
        operation = Cancelable(metadata={"owner": "ann"})
        bus.registry.register(operation)
        async with operation:
            await finish.wait()

    async def listed() -> int:
        after, number = None, 0
        while True:
            try:
                page = await bus.list_operations(after=after, limit=1000)
            except BusUnavailable:
                await anyio.sleep(0.001)
                continue
            number += len(page.operations)
            after = page.after
            if after is None:
                return number

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(work)
        while await listed() < count:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        took = await timed(listed)
        print(f"  listing {count:,} in pages of 1,000 {took * 1e3:24.1f} ms")
        info = broker.command("INFO", "memory")
        used = next(int(x[12:]) for x in str(info).splitlines() if x.startswith("used_memory:"))
        print(f"  memory of the broker for each {used / count:24.0f} bytes")
        sessions = bus.status.sessions
        broker.kill()
        broker.start()
        began, found = time.perf_counter(), list[float]()
        async with stalls(found):
            while bus.status.sessions == sessions:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        print(
            f"  announced again to an empty broker {(time.perf_counter() - began) * 1e3:13.0f} ms,"
            f" longest stall {max(found) * 1e3:.0f} ms"
        )
        assert await listed() == count
        finish.set()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--caller")
    options = parser.parse_args()
    if options.caller:
        anyio.run(caller, options.caller, backend=options.backend)
        return
    scale = 20 if options.quick else 100
    print(f"{options.backend}, {sys.version.split()[0]}")
    anyio.run(in_memory, 20 * scale, backend=options.backend)
    broker = Broker()
    broker.start()
    try:
        anyio.run(through_a_broker, broker, options.backend, scale, backend=options.backend)
    finally:
        broker.close()


if __name__ == "__main__":
    main()
