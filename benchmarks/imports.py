"""What an import costs, and what it brings along."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from harness import alternate
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


def milliseconds_of(code: str, cache: str) -> Callable[[], float]:
    """Return a function that runs some imports in an interpreter of their own."""
    # Compiled files are used, and left by the first run, whatever the environment says.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
    program = (
        f"import time; t = time.process_time(); {code}; print((time.process_time() - t) * 1e3)"
    )

    def measure() -> float:
        command = [sys.executable, "-c", program]
        return float(subprocess.check_output(command, env=environment))

    return measure


def measure(record: Record) -> None:
    """Measure the three packages."""
    with tempfile.TemporaryDirectory() as cache:
        for below, package, at_most in CASES:
            candidates = {
                f"import {below}": milliseconds_of(f"import {below}", cache),
                f"and {package}": milliseconds_of(f"import {below}, {package}", cache),
            }
            rows = alternate(candidates, ROUNDS)
            record.table(f"Importing {package}", "ms", "beyond", rows)
            if at_most is not None:
                text = f"import {package} beyond {below}, of {below}'s own"
                record.reach(text, rows[1].ratio - 1, at_most)
    code = f"import sys, cancelable; print(*[n for n in {ABSENT} if n in sys.modules])"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    record.reach(f"of {', '.join(ABSENT)}: brought by import cancelable", len(brought), 0, "{:.0f}")


if __name__ == "__main__":
    alone("imports", measure)
