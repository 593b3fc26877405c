"""The demo with two workers: what it says is what its programs do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bus.test_strangers import LEAST

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    importlib.util.find_spec("cancelable_fastapi") is None, reason="the demo is a FastAPI app"
)
def test_the_demo_goes_as_promised() -> None:
    """Two workers on one port, one broker that is killed in the middle."""
    demo = subprocess.run(
        [sys.executable, "examples/demo_scale.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Everything went as promised." in demo.stdout


def test_the_documentation_names_the_rights_that_are_tested() -> None:
    """The list of rights in docs/bus.md is the one that the tests of the bus run with."""
    page = (ROOT / "docs" / "bus.md").read_text()
    begin = page.index("resetchannels")
    shown = page[begin : page.index("```", begin)].split()
    assert shown == LEAST.split()
