"""What the packages export, and what importing the core brings along."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from tests.conftest import installed

PACKAGES = ["cancelable", "cancelable_starlette", "cancelable_fastapi"]

WEB = {"fastapi", "httpx", "hypercorn", "psutil", "pydantic", "starlette", "uvicorn"}
LOOPS = {"asyncio", "anyio.from_thread", "anyio.to_thread", "secrets", "trio"}


def public_names(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and name != "annotations"  # of the import from __future__
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_the_exports_are_the_public_names(package: str) -> None:
    """What a user sees in an editor is what we promise."""
    if not installed(package):
        pytest.skip("not installed here")
    module = importlib.import_module(package)
    assert sorted(module.__all__) == public_names(module)


def newly_imported(module: str, after: str) -> set[str]:
    """Return what is imported for *module*, beyond what *after* has imported already."""
    program = (
        f"import sys, {after}\n"
        "before = set(sys.modules)\n"
        f"import {module}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    # -I keeps the folder of this run, with its project folders, off the path.
    shown = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    return set(shown.stdout.split())


def test_the_core_imports_no_web_framework() -> None:
    """A program that serves nothing pays for nothing of it."""
    imported = newly_imported("cancelable", after="sys")
    assert "cancelable" in imported
    assert not imported & WEB


def test_the_core_imports_no_event_loop_that_anyio_does_not() -> None:
    """Only the loop that runs is imported, by whoever runs it."""
    imported = newly_imported("cancelable", after="anyio")
    assert "cancelable" in imported
    assert not imported & (WEB | LOOPS)
