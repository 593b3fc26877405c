"""What VERSIONING.md calls public is what the packages say they offer."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tests.conftest import installed

ROOT = Path(__file__).parents[2]


def public_modules() -> list[str]:
    """Return the modules that VERSIONING.md names as public."""
    text = (ROOT / "VERSIONING.md").read_text()
    listed = re.search(r"^- The names in `__all__` of (.*?);", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    return re.findall(r"`([\w.]+)`", listed[1])


def test_a_module_is_public_if_it_lists_its_names_and_only_then() -> None:
    """So that a reader can tell by one look what will not change under him."""
    listing: set[str] = set()
    for package in ("cancelable", "cancelable_starlette", "cancelable_fastapi"):
        source = ROOT / package / "src"
        for path in (source / package).rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            if "._" not in name and "\n__all__ = " in path.read_text():
                listing.add(name)
    assert listing - {"cancelable.bus.redis"} == set(public_modules())


def test_the_public_modules_can_be_imported() -> None:
    """Under the names that stand there."""
    for name in public_modules():
        if installed(name.partition(".")[0]):
            assert importlib.import_module(name).__all__
