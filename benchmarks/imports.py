"""What an import costs, and what it brings along."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from harness import rows_of
from record import Record, alone

ROUNDS = 15

CASES = (
    ("anyio", "cancelable", 1.0),
    ("starlette.applications, starlette.responses", "cancelable_starlette", None),
    ("fastapi", "cancelable_fastapi", None),
)
"""What a program has imported anyway, what comes on top, and how much that may be of the first."""

ABSENT = ("starlette", "fastapi", "pydantic", "psutil", "anyio.from_thread", "secrets", "asyncio")
"""What ``import cancelable`` does not bring."""


def milliseconds_of(below: str, package: str, cache: str) -> tuple[float, float]:
    """Return what the first import takes in a new interpreter, and what both take.

    One after the other in one interpreter: two of them would differ by what else the machine does.
    """
    # Compiled files are used, and left by the first run, whatever the environment says.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
    program = (
        "from time import process_time as now; start = now(); "
        f"import {below}; first = now(); import {package}; second = now(); "
        "print((first - start) * 1e3, (second - start) * 1e3)"
    )
    told = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    first, both = map(float, told.split())
    return first, both


def measure(record: Record) -> None:
    """Measure the three packages."""
    with tempfile.TemporaryDirectory() as cache:
        for below, package, at_most in CASES:
            milliseconds_of(below, package, cache)
            found = [milliseconds_of(below, package, cache) for _ in range(ROUNDS)]
            first, both = map(list, zip(*found, strict=True))
            rows = rows_of({f"import {below}": first, f"and {package}": both})
            record.table(f"Importing {package}", "ms", "beyond", rows)
            if at_most is not None:
                text = f"import {package} beyond {below}, of {below}'s own"
                record.reach(text, rows[1].ratio - 1, at_most)
    code = f"import sys, cancelable; print(*[n for n in {ABSENT} if n in sys.modules])"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    record.reach(f"of {', '.join(ABSENT)}: brought by import cancelable", len(brought), 0, "{:.0f}")


if __name__ == "__main__":
    alone("imports", measure)
