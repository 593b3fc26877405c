"""Links in the pages lead to files and headings that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import FENCE, PAGES, ROOT, text_of

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors_of(page: str) -> set[str]:
    text = FENCE.sub("", text_of(page))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_each_example_is_listed() -> None:
    """But for the rooms of the demo, which are read with it."""
    programs = {path.name for path in (ROOT / "examples").glob("*.py")}
    rooms = {"demo_app.py", "demo_guest_book.py", "demo_server.py"}
    assert {*LINK.findall(text_of("examples/README.md"))} & programs == programs - rooms


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    """A reader who follows one is not left alone."""
    broken: list[str] = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = ROOT / page if not path else (ROOT / page).parent / path
        if not file.exists():
            broken.append(target)
        elif fragment and fragment not in anchors_of(str(file.resolve().relative_to(ROOT))):
            broken.append(target)
    assert broken == []
