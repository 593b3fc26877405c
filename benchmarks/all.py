"""Run all families of measurements, or those that are named, and write the report.

``nox -s bench`` runs everything; ``nox -s bench -- middleware streams`` two of them, and the
report keeps what it knew of the others. Run it on a quiet machine, and look at the spread.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from report import FAMILIES, RESULTS, load, main as write_report

HERE = Path(__file__).parent


def main() -> None:
    """Run each family in a process of its own, where nothing is left of the one before."""
    chosen = sys.argv[1:] or list(FAMILIES)
    unknown = set(chosen) - set(FAMILIES)
    if unknown:
        sys.exit(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    failed = [
        family
        for family in chosen
        if subprocess.run([sys.executable, HERE / f"{family}.py"], check=False).returncode
    ]
    write_report()
    goals = [goal for found in load().values() for goal in found["goals"]]
    reached = [goal for goal in goals if goal["holds"]]
    print(f"\n{len(reached)} of {len(goals)} goals reached; see {RESULTS.name}/results.md")
    for goal in goals:
        if not goal["holds"]:
            print(f"  not reached: {goal['text']}: {goal['found']}")
    if failed:
        sys.exit(f"these did not run to their end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
