"""Measure candidates side by side: alternated, warmed up, as median and spread, and as ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

ROUNDS = 15
"""How often each candidate is measured, in turn with the others."""


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate's result."""

    name: str
    median: float
    """Microseconds for one step."""
    spread: float
    """Half the distance between the quartiles, in percent of the median."""
    ratio: float
    """The median over the rounds of this candidate's time divided by the first one's."""


async def compare(candidates: dict[str, Callable[[int], Awaitable[None]]], steps: int) -> list[Row]:
    """Measure candidates in turn; the first one is what the others are compared with.

    Args:
        candidates: By name, functions that do a number of steps.
        steps: How many steps one measurement does.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for candidate in candidates.values():
        await candidate(steps // 5)
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            gc.collect()
            start = time.perf_counter()
            await candidate(steps)
            times[name].append((time.perf_counter() - start) / steps * 1e6)
    first = next(iter(times.values()))
    return [_row(name, measured, first) for name, measured in times.items()]


def _row(name: str, measured: list[float], first: list[float]) -> Row:
    lower, median, upper = statistics.quantiles(measured, n=4)
    ratio = statistics.median(own / other for own, other in zip(measured, first, strict=True))
    return Row(name, median, (upper - lower) / 2 / median * 100, ratio)


def show(title: str, rows: list[Row]) -> None:
    """Print a table of results."""
    print(f"\n{title}")
    for row in rows:
        print(f"  {row.name:44} {row.median:9.2f} µs  ±{row.spread:4.1f} %  ×{row.ratio:5.2f}")
