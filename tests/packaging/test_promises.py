"""Each promise that the documentation numbers is named by a test, and no other number is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMISED = set(re.findall(r"\*\*([SWF]\d+)\.\*\*", (ROOT / "docs/promises.md").read_text()))


def named_in_tests() -> dict[str, set[str]]:
    named: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL):
            for number in re.findall(r"\b[SWF]\d+\b", docstring):
                named.setdefault(number, set()).add(path.name)
    return named


def test_each_promise_is_named_by_a_test() -> None:
    """A promise without a test is a wish."""
    assert sorted(PROMISED - set(named_in_tests())) == []


def test_the_readme_names_only_promises_that_stand_in_the_documentation() -> None:
    """A reader who looks a number up finds it."""
    named = set(re.findall(r"\(([SWF]\d+)\)", (ROOT / "README.md").read_text()))
    assert named
    assert named - PROMISED == set()


def test_tests_name_only_promises_that_stand_in_the_documentation() -> None:
    """A number that nobody can look up tells the reader nothing."""
    assert {n: f for n, f in named_in_tests().items() if n not in PROMISED} == {}
