"""Is each step of a registry the same however many operations it lists?"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from harness import middle, rows_of
from record import Record, alone

from cancelable import Cancelable, CancelationToken, OperationRegistry, OperationStatus

SIZES = (100, 10_000, 1_000_000)
STEPS = 200
ROUNDS = 9


def begun(registry: OperationRegistry) -> Cancelable:
    operation = registry.register(Cancelable(name="live"))
    # Without a scope: a million scopes in one task, or a million tasks, are not what is measured.
    operation._list()
    operation._started_at = time.monotonic()
    return operation


def end(operation: Cancelable) -> None:
    operation._close(OperationStatus.COMPLETED, None)


def of_each(step: Callable[[], object], steps: int = STEPS) -> float:
    """Return the microseconds of one step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps * 1e6


def at(size: int) -> dict[str, float]:
    """Return what each step takes with so many operations listed."""
    registry = OperationRegistry()
    operations = [begun(registry) for _ in range(size)]
    ids = iter([operation.operation_id for operation in operations[-STEPS * (ROUNDS + 1) :]] * 99)

    def enter_and_leave() -> None:
        end(begun(registry))

    steps: dict[str, Callable[[], float]] = {
        "enter and leave": lambda: of_each(enter_and_leave),
        "find by id": lambda: of_each(lambda: registry.get_operation(next(ids))),
        "cancel by id": lambda: of_each(lambda: registry.cancel(next(ids))),
    }
    # A collection in between would look at all of them.
    gc.collect()
    gc.disable()
    try:
        found = {
            name: middle([measure() for _ in range(ROUNDS)])[0] for name, measure in steps.items()
        }
        found["list, for each"] = of_each(registry.list_operations, 1) / size
        found["cancel all, for each"] = of_each(registry.cancel_all, 1) / size
    finally:
        gc.enable()
    for operation in operations:
        end(operation)
    return found


def one_token(record: Record) -> None:
    """A token that has served a million operations serves the next as quickly."""
    import asyncio
    import tracemalloc

    token = CancelationToken()

    async def serve(count: int) -> None:
        for _ in range(count):
            async with Cancelable.with_token(token):
                pass

    async def measure() -> tuple[list[float], int]:
        await serve(1000)
        tracemalloc.start()
        held = tracemalloc.get_traced_memory()[0]
        await serve(1000)
        held = tracemalloc.get_traced_memory()[0] - held
        tracemalloc.stop()
        times: list[float] = []
        for _ in range(10):
            start = time.process_time()
            await serve(100_000)
            times.append((time.process_time() - start) / 100_000 * 1e6)
        return times, held

    times, held = asyncio.run(measure())
    rows = rows_of({"the first 100,000": times[:1], "the last of 1,000,000": times[-1:]})
    record.table("Operations of one token, one after another", "µs", "ratio", rows)
    record.reach("bytes that 1,000 more operations leave in their token", held, 1000, "{:.0f}")


def measure(record: Record) -> None:
    """Measure at each size."""
    found = {size: at(size) for size in SIZES}
    for step in found[SIZES[0]]:
        rows = rows_of({f"{size:,} operations": [found[size][step]] for size in SIZES})
        record.table(f"Registry: {step}", "µs", "ratio", rows)
    one_token(record)


if __name__ == "__main__":
    alone("registry", measure)
