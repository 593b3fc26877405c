"""What one family of measurements has found: printed at once, and kept as JSON for the report."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from harness import Row

RESULTS = Path(__file__).parent / "results"

PACKAGES = (
    "anyio",
    "trio",
    "starlette",
    "fastapi",
    "uvicorn",
    "h11",
    "httptools",
    "uvloop",
    "hypercorn",
    "sse-starlette",
    "fastapi-disconnect",
    "aiofence",
    "hother-cancelable",
)
"""Whose versions are told beside the results."""

How = Literal["ratio", "beyond", "value"]


@dataclass(frozen=True, slots=True)
class Table:
    """Hold candidates side by side.

    Attributes:
        title: What was done.
        unit: The unit of the figures.
        how: How a candidate is compared with the first: by ratio, by what it takes beyond that,
            or not at all.
        rows: The results.
        note: What a reader should know.
        is_plotted: Whether it is a picture of the report, too.
    """

    title: str
    unit: str
    how: How
    rows: list[Row]
    note: str = ""
    is_plotted: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """Hold one figure that is to be reached.

    Attributes:
        text: What is to be reached.
        found: What was found, as text.
        holds: Whether it was reached.
    """

    text: str
    found: str
    holds: bool


@dataclass(slots=True)
class Record:
    """Collect the tables and goals of one family."""

    family: str
    tables: list[Table] = field(default_factory=list[Table])
    goals: list[Goal] = field(default_factory=list[Goal])
    missing: list[str] = field(default_factory=list[str])

    def table(
        self,
        title: str,
        unit: str,
        how: How,
        rows: list[Row],
        note: str = "",
        *,
        is_plotted: bool = False,
    ) -> None:
        """Print and keep a table."""
        table = Table(title, unit, how, rows, note, is_plotted)
        self.tables.append(table)
        print(f"\n{title} ({unit})")
        for line in lines_of(table):
            print("  " + "  ".join(cell.ljust(46) if n == 0 else cell for n, cell in line))
        if note:
            print(f"  {note}")

    def reach(self, text: str, found: float, at_most: float, form: str = "{:.2f}") -> None:
        """Print and keep a goal that is a greatest value."""
        self._goal(f"{text} ≤ {at_most:g}", form.format(found), found <= at_most)

    def reach_at_least(
        self, text: str, found: float, at_least: float, form: str = "{:.2f}"
    ) -> None:
        """Print and keep a goal that is a least value."""
        self._goal(f"{text} ≥ {at_least:g}", form.format(found), found >= at_least)

    def _goal(self, text: str, found: str, holds: bool) -> None:
        self.goals.append(Goal(text, found, holds))
        print(f"  {'reached' if holds else 'NOT REACHED'}: {text}: {found}")

    def lacks(self, what: str) -> None:
        """Print and keep that something could not be measured."""
        self.missing.append(what)
        print(f"\n{what}")

    def write(self) -> None:
        """Write the JSON of this family."""
        RESULTS.mkdir(exist_ok=True)
        found = {
            "about": about(),
            "tables": [asdict(table) for table in self.tables],
            "goals": [asdict(goal) for goal in self.goals],
            "missing": self.missing,
        }
        text = json.dumps(rounded(found), indent=1, ensure_ascii=False)
        (RESULTS / f"{self.family}.json").write_text(text + "\n", encoding="utf-8")


def lines_of(table: Table) -> list[list[tuple[int, str]]]:
    """Return the cells of each line: the name, the figure with its spread, the comparison."""
    lines: list[list[tuple[int, str]]] = []
    for number, row in enumerate(table.rows):
        cells = [row.name, f"{figure(row.median)} ±{row.spread:.0f} %"]
        if table.how == "ratio":
            cells.append("1" if number == 0 else f"×{row.ratio:.2f} ±{row.ratio_spread:.2f}")
        elif table.how == "beyond":
            own = f"{row.beyond:+.1f} ±{row.beyond_spread:.1f}"
            cells.append("0" if number == 0 else own)
        lines.append(list(enumerate(cells)))
    return lines


def figure(value: float) -> str:
    """Return a number with three or four digits that mean something."""
    for bound, digits in ((10, 2), (100, 1)):
        if abs(value) < bound:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def rounded(value: object) -> object:
    """Return the same with numbers of six digits: more of them mean nothing."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value


def about() -> dict[str, str]:
    """Return when, on what and with what it was measured."""
    found = {
        "date": date.today().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1


def alone(family: str, measure: Callable[[Record], None]) -> None:
    """Run one family as a program."""
    print(f"{family}: Python {sys.version.split()[0]}")
    record = Record(family)
    measure(record)
    record.write()
