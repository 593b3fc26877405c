"""Look whether the reference of a built site has each public name.

``python -m tests.docs.reference FOLDER``
"""

from __future__ import annotations

import importlib
import sys
import zlib
from pathlib import Path

PACKAGES = [
    "cancelable",
    "cancelable.bus",
    "cancelable.testing",
    "cancelable_starlette",
    "cancelable_starlette.testing",
    "cancelable_fastapi",
]


def missing(site: Path) -> list[str]:
    """Return the public names that the inventory of the site does not have."""
    # Four lines of comments, and the rest compressed: the form that Sphinx gave it.
    compressed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(compressed).decode().splitlines()
    found = {line.split(" ")[0] for line in lines}
    public = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
    ]
    return sorted({*public} - found)


if __name__ == "__main__":
    if absent := missing(Path(sys.argv[1])):
        sys.exit(f"the reference has no {', '.join(absent)}")
