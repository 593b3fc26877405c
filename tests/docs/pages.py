"""The Markdown pages of the repository, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("cancelable*/*.md"),
        *(ROOT / "docs").rglob("*.md"),
    )
)
"""All pages, by their paths below the root."""

FENCE = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The path of its page.
        line: The line of its first line of code, from 1 on.
        language: What stands behind the fence.
        text: The code.
        file: The file that the page says it shows, if it says so.
    """

    page: str
    line: int
    language: str
    text: str
    file: str | None

    @property
    def program(self) -> str:
        """The code that a reader ends up with; of a diff, the side that is kept and added."""
        if self.language != "diff":
            return self.text
        lines = self.text.splitlines()
        # A line that is taken out stays as an empty one, so that errors name the right line.
        return "\n".join("" if line.startswith("-") else line[1:] for line in lines)


def text_of(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text()


def blocks_of(page: str) -> Iterator[Block]:
    """Return the blocks of a page, in order."""
    text = text_of(page)
    for found in FENCE.finditer(text):
        indent = found["indent"]
        code = "".join(
            line.removeprefix(indent) for line in found["text"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, found.start("text")) + 1
        yield Block(page, line, found["language"], code, found["file"])


def programs_of(page: str) -> list[Block]:
    """Return the blocks of a page that are Python, or the difference between two Pythons."""
    return [block for block in blocks_of(page) if block.language in ("python", "diff")]
