"""Each block of Python on each page runs as it stands, on every event loop.

The blocks of a page run in order, in one namespace, in virtual time: what one defines, the next
may use. Names that a page takes as given (``make_report``) are set by its stage, in ``stages.py``,
which also says what a reader may expect of the page, and looks.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks_of, programs_of
from tests.docs.stages import STAGES, Names, given
from tests.support.clock import in_virtual_time

WITH_PROGRAMS = [page for page in PAGES if programs_of(page)]


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The event loop, in virtual time: examples sleep and time out for as long as they like."""
    return in_virtual_time(request.param)


async def play(block: Block, names: Names) -> None:
    """Run one block; it may await at its top level."""
    code = compile(
        "\n" * (block.line - 1) + block.program,
        str(ROOT / block.page),
        "exec",
        ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    result = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        await result


@pytest.mark.parametrize("page", WITH_PROGRAMS)
async def test_the_programs_of_a_page_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And do what the page says, where its stage looks."""
    runs: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    # The loop that a program starts is the one that the test has.
    monkeypatch.setattr(anyio, "run", lambda function, *args: runs.append((function, args)))
    names: Names = {"__name__": "__main__"}
    async with STAGES.get(page, given)(names) as on_stage:
        for block in programs_of(page):
            names.update(on_stage)
            await play(block, names)
            while runs:
                function, args = runs.pop(0)
                await function(*args)  # type: ignore[misc]


def test_each_stage_is_for_a_page_that_is_there() -> None:
    """A stage for a page that was renamed would look at nothing."""
    assert set(STAGES) <= set(WITH_PROGRAMS)


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in programs_of(page) if block.file],
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_a_block_that_shows_a_file_is_that_file(block: Block) -> None:
    """So that a reader copies what is tested elsewhere."""
    assert block.file is not None
    assert block.text == (ROOT / block.file).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_a_block_says_what_it_is(page: str) -> None:
    """Code in a fence without a language would be run by nobody."""
    known = {"python", "diff", "sh", "text", "toml"}
    assert [block.line for block in blocks_of(page) if block.language not in known] == []


OURS = {"cancelable", "cancelable_starlette", "cancelable_fastapi"}
GIVEN = OURS | {"anyio", "starlette", "fastapi"}
"""What whoever serves an example has, beside a server."""

HIDDEN = {"UploadFile": "python-multipart", "Form": "python-multipart", "WebSocket": "websockets"}
"""What a name needs that is imported from what one has."""

EXAMPLES = sorted(path for path in ROOT.glob("examples/*.py") if not path.stem.startswith("demo"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_else_it_needs(path: Path) -> None:
    """In its first lines, as the list of the examples promises."""
    program = ast.parse(path.read_text())
    needed: set[str] = set()
    for node in ast.walk(program):
        if isinstance(node, ast.Import):
            needed.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            needed.add(str(node.module).partition(".")[0])
            needed.update(HIDDEN[alias.name] for alias in node.names if alias.name in HIDDEN)
    needed -= GIVEN | set(sys.stdlib_module_names)

    first_lines = ast.get_docstring(program) or ""
    assert [name for name in sorted(needed) if f"``{name}" not in first_lines] == []
