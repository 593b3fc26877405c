"""The first example of the README does what it says, and is the file that the README shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import anyio
import pytest
from fastapi import FastAPI

from cancelable_starlette.testing import ScriptedConnection, lifespan

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples" / "hello.py"


def load() -> FastAPI:
    spec = importlib.util.spec_from_file_location("hello", HELLO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: FastAPI = module.app
    return app


async def test_the_handler_ends_when_its_client_hangs_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a change to the handler, and without an answer to nobody."""
    app = load()
    connection = ScriptedConnection(path="/report", leave_after=0.02)
    with anyio.fail_after(5):
        async with lifespan(app):
            await connection.run(app)
    assert "the handler has ended" in capsys.readouterr().out
    assert connection.status in (None, 499)


@pytest.mark.parametrize("readme", ["README.md", "cancelable_fastapi/README.md"])
def test_the_readme_shows_the_file(readme: str) -> None:
    """So the reader copies what is tested."""
    text = (ROOT / readme).read_text()
    assert f"```python\n{HELLO.read_text()}```" in text
