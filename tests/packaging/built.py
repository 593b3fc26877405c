"""What the archives of a release must and must not contain.

``python -m tests.packaging.built FOLDER [TAG]`` looks at the archives in a folder, and complains;
with the tag of a release also where that and the changelogs do not agree with them.
"""

from __future__ import annotations

import email
import email.message
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "cancelable": "cancelable_core",
    "cancelable_starlette": "cancelable_starlette",
    "cancelable_fastapi": "cancelable_fastapi",
}
"""The names of the archives, by the packages in them."""

BESIDE_THE_CODE = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
"""What a source distribution has at its top."""


def complaints(folder: Path, tag: str | None = None) -> list[str]:
    """Return what is wrong with the archives in a folder.

    Args:
        folder: Where they are; nothing else may be there.
        tag: The tag of the release, such as ``v0.1.0``.
    """
    versions = {version_of(path) for path in folder.iterdir()}
    if len(versions) != 1:
        return [f"the archives have the versions {sorted(versions)}, and not one"]
    (version,) = versions
    found: list[str] = []
    expected: set[str] = set()
    for package, name in DISTRIBUTIONS.items():
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        source = folder / f"{name}-{version}.tar.gz"
        expected |= {wheel.name, source.name}
        if wheel.exists() and source.exists():
            found += [f"{wheel.name}: {each}" for each in of_wheel(wheel, package)]
            found += [f"{source.name}: {each}" for each in of_source(source, package)]
        if tag is not None:
            found += of_changelog(package, version)
    if {path.name for path in folder.iterdir()} != expected:
        found.append(f"the folder holds something else than {sorted(expected)}")
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag} and the version {version}")
    return found


def version_of(path: Path) -> str:
    found = re.fullmatch(r"[a-z_]+-([^-]+?)(-py3-none-any\.whl|\.tar\.gz)", path.name)
    return found[1] if found else f"unknown ({path.name})"


def of_wheel(path: Path, package: str) -> Iterator[str]:
    """Complain about a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = {each for each in archive.namelist() if not each.endswith("/")}
        (folder,) = {each.split("/")[0] for each in names if ".dist-info/" in each}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
    beside = {f"{folder}/{each}" for each in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    yield from of_code({each for each in names if each not in beside}, package, "")
    for name in sorted(beside - names):
        yield f"{name} is missing"
    yield from of_metadata(metadata)


def of_source(path: Path, package: str) -> Iterator[str]:
    """Complain about a source distribution."""
    with tarfile.open(path) as archive:
        names = {each.name.partition("/")[2] for each in archive if each.isfile()}
        found = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert found is not None
        metadata = email.message_from_bytes(found.read())
    # Hatchling takes the list of what git ignores along, so that a build from it is the same.
    code = names - BESIDE_THE_CODE - {".gitignore"}
    yield from of_code(code, package, "src/")
    for name in sorted(BESIDE_THE_CODE - names):
        yield f"{name} is missing"
    yield from of_metadata(metadata)


def of_code(names: set[str], package: str, prefix: str) -> Iterator[str]:
    """Complain about what is not the code that lies in the repository."""
    source = ROOT / package / "src"
    wanted = {
        prefix + path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for name in sorted(wanted - names):
        yield f"{name} is missing"
    for name in sorted(names - wanted):
        yield f"{name} does not belong there"
    if f"{prefix}{package}/py.typed" not in names:
        yield "it does not say that it is typed"


def of_metadata(metadata: email.message.Message) -> Iterator[str]:
    """Complain about what the package index and pip are told."""
    wanted = {
        "License-Expression": "MIT",
        "License-File": "LICENSE",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }
    for name, value in wanted.items():
        if metadata[name] != value:
            yield f"{name} is {metadata[name]!r} and not {value!r}"
    if not metadata["Summary"]:
        yield "there is no summary"
    description = metadata.get_payload()
    assert isinstance(description, str)
    if re.search(r"\]\((?!https?:)", description):
        yield "the README has a link that leads nowhere on the package index"
    if "Typing :: Typed" not in metadata.get_all("Classifier", []):
        yield "the classifiers do not say that it is typed"


def of_changelog(package: str, version: str) -> Iterator[str]:
    """Complain about a changelog that does not begin with the release and its date."""
    heading = re.search(r"^## .*$", (ROOT / package / "CHANGELOG.md").read_text(), re.MULTILINE)
    wanted = rf"## {re.escape(version)} - \d{{4}}-\d\d-\d\d"
    if heading is None or not re.fullmatch(wanted, heading[0]):
        yield f"{package}/CHANGELOG.md does not begin with `## {version} - ` and the date"


def main(arguments: list[str]) -> int:
    """Print the complaints, and say by the exit status whether there are any."""
    found = complaints(Path(arguments[0]), *arguments[1:2])
    print("\n".join(found) or "the archives are what they should be")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
