"""Measure candidates side by side: alternated, warmed up, as median and spread, and as ratios.

Other programs may run on the machine. So a candidate is never compared with what another one took
some time ago: within a round all of them are measured one after another, in an order that moves on
from round to round, and what is compared are the results of one round. The median over the rounds
of these ratios (or differences) stays where it is when the machine is slow for a while.
"""

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
    """One candidate's result, compared with the first candidate's."""

    name: str
    median: float
    spread: float
    """Half the distance between the quartiles, in percent of the median."""
    ratio: float
    """The median over the rounds of this candidate's result divided by the first one's."""
    ratio_spread: float = 0.0
    """Half the distance between the quartiles of that ratio."""
    beyond: float = 0.0
    """The median over the rounds of this candidate's result minus the first one's."""
    beyond_spread: float = 0.0
    """Half the distance between the quartiles of that difference."""


async def compare(
    candidates: dict[str, Callable[[int], Awaitable[None]]],
    steps: int,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Measure the time of one step; the first candidate is what the others are compared with.

    Args:
        candidates: By name, functions that do a number of steps.
        steps: How many steps one measurement does.
        rounds: How often each is measured.
        clock: ``time.process_time`` for what only computes: what other programs take does not
            count there.

    Returns:
        Microseconds for one step.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for candidate in candidates.values():
        await candidate(max(steps // 5, 1))
    for number in range(rounds):
        for name in turned(list(candidates), number):
            gc.collect()
            start = clock()
            await candidates[name](steps)
            times[name].append((clock() - start) / steps * 1e6)
    return rows_of(times)


def alternate(candidates: dict[str, Callable[[], float]], rounds: int) -> list[Row]:
    """Measure what functions return, in turn, after one call of each that does not count.

    Args:
        candidates: By name, functions that measure once.
        rounds: How often each is called.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for measure in candidates.values():
        measure()
    for number in range(rounds):
        for name in turned(list(candidates), number):
            found[name].append(candidates[name]())
    return rows_of(found)


def turned(names: list[str], number: int) -> list[str]:
    """Return the order of one round: nobody is always the one behind the slowest."""
    number %= len(names)
    return names[number:] + names[:number]


def rows_of(found: dict[str, list[float]]) -> list[Row]:
    """Return the rows of results, those of one round at the same place in each list."""
    first = next(iter(found.values()))
    return [_row(name, own, first) for name, own in found.items()]


def _row(name: str, own: list[float], first: list[float]) -> Row:
    pairs = list(zip(own, first, strict=True))
    median, spread = middle(own)
    return Row(
        name,
        median,
        spread / median * 100 if median else 0.0,
        *middle([mine / other if other else 0.0 for mine, other in pairs]),
        *middle([mine - other for mine, other in pairs]),
    )


def middle(values: list[float]) -> tuple[float, float]:
    """Return the median, and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return median, (upper - lower) / 2


def show(title: str, rows: list[Row]) -> None:
    """Print a table of times."""
    print(f"\n{title}")
    for row in rows:
        print(f"  {row.name:44} {row.median:9.2f} µs  ±{row.spread:4.1f} %  ×{row.ratio:5.2f}")
