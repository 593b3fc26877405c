"""The report of all families: the JSON of each becomes one Markdown page and one picture."""

from __future__ import annotations

import json
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from record import RESULTS, Row, Table, lines_of

FAMILIES = ("core", "registry", "imports", "middleware", "servers", "streams", "memory")

COMPARED = {"ratio": "beside the first", "beyond": "beyond the first", "value": ""}

OURS = ("cancelable", "Cancelable", "ours", "…")
OURS_COLOUR, OTHERS_COLOUR = "#2a6f97", "#b8c4cc"

matplotlib.use("svg")
# The same figures make the same file.
matplotlib.rcParams.update({"svg.hashsalt": "cancelable", "svg.fonttype": "none", "font.size": 9})


def load() -> dict[str, dict[str, Any]]:
    """Return what each family has found, as far as it has been measured."""
    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        path = RESULTS / f"{family}.json"
        if path.exists():
            found[family] = json.loads(path.read_text(encoding="utf-8"))
    return found


def tables_of(found: dict[str, Any]) -> list[Table]:
    return [
        Table(**{**table, "rows": [Row(**row) for row in table["rows"]]})
        for table in found["tables"]
    ]


def markdown(families: dict[str, dict[str, Any]]) -> str:
    """Return the page: what it was measured with, the goals, the tables."""
    lines = ["# What it costs", "", *_about(families), ""]
    lines += [
        "The candidates of a table were measured in turn, in one run. A figure is the median, with",
        "half the distance between the quartiles. A comparison is the median over the rounds of",
        "what was measured next to each other, so it holds also where the machine had other work.",
        "",
        "![Side by side](results.svg)",
        "",
        "## What was to be reached",
        "",
        "| | found | reached |",
        "| --- | ---: | --- |",
    ]
    for found in families.values():
        for goal in found["goals"]:
            lines.append(
                f"| {goal['text']} | {goal['found']} | {'yes' if goal['holds'] else '**no**'} |"
            )
    for found in families.values():
        lines += ["", *found["missing"]] if found["missing"] else []
        for table in tables_of(found):
            lines += ["", *_table(table)]
    return "\n".join(lines) + "\n"


def _about(families: dict[str, dict[str, Any]]) -> list[str]:
    known: dict[str, str] = {}
    for found in families.values():
        known |= found["about"]
    where = f"Measured on {known.pop('date')} with {known.pop('python')} ({known.pop('machine')}):"
    return [where, ", ".join(f"{name} {version}" for name, version in known.items()) + "."]


def _table(table: Table) -> list[str]:
    compared = COMPARED[table.how]
    lines = [f"## {table.title}", ""]
    lines.append(f"| | {table.unit} |" + (f" {compared} |" if compared else ""))
    lines.append("| --- | ---: |" + (" ---: |" if compared else ""))
    lines += ["| " + " | ".join(text for _, text in cells) + " |" for cells in lines_of(table)]
    return [*lines, "", table.note] if table.note else lines


def draw(families: dict[str, dict[str, Any]]) -> None:
    """Draw the tables that are pictures, one above the other."""
    tables = [t for found in families.values() for t in tables_of(found) if t.is_plotted]
    if not tables:
        return
    heights = [len(table.rows) + 1.6 for table in tables]
    figure, axes = pyplot.subplots(
        len(tables),
        figsize=(8, sum(heights) * 0.28),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis, table in zip(axes[:, 0], tables, strict=True):
        _draw(axis, table)
    figure.savefig(RESULTS / "results.svg", metadata={"Date": None})
    pyplot.close(figure)


def _draw(axis: Axes, table: Table) -> None:
    names = [row.name for row in table.rows]
    values = [row.median for row in table.rows]
    errors = [row.median * row.spread / 100 for row in table.rows]
    colours = [OURS_COLOUR if name.startswith(OURS) else OTHERS_COLOUR for name in names]
    bars = axis.barh(names, values, xerr=errors, color=colours, ecolor="#555555")
    axis.bar_label(bars, [cells[-1][1] for cells in lines_of(table)], padding=4, fontsize=8)
    axis.set_title(f"{table.title} ({table.unit})", loc="left", fontsize=9, fontweight="bold")
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def main() -> None:
    """Write the page, the picture and all figures in one file."""
    families = load()
    text = json.dumps(families, indent=1, ensure_ascii=False)
    (RESULTS / "results.json").write_text(text + "\n", encoding="utf-8")
    page = markdown(families)
    (RESULTS / "results.md").write_text(page, encoding="utf-8")
    draw(families)


if __name__ == "__main__":
    main()
