"""The look at the archives of a release finds what must not be released."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.built import DISTRIBUTIONS, ROOT, complaints

VERSION = "9.8.7"
METADATA = """\
Metadata-Version: 2.4
Name: x
Version: 9.8.7
Summary: x
License-Expression: MIT
License-File: LICENSE
Classifier: Typing :: Typed
Requires-Python: >=3.11
Description-Content-Type: text/markdown

Hello.
"""

Files = dict[str, str]


def made(folder: Path, change: Callable[[str, Files], None] = lambda name, files: None) -> Path:
    """Write archives as they should be, but for what *change* does to their files."""
    for package, name in DISTRIBUTIONS.items():
        source = ROOT / package / "src"
        code = [
            path.relative_to(source).as_posix()
            for path in source.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        ]
        info = f"{name}-{VERSION}.dist-info"
        wheel = dict.fromkeys(code, "") | {
            f"{info}/METADATA": METADATA,
            f"{info}/WHEEL": "",
            f"{info}/RECORD": "",
            f"{info}/licenses/LICENSE": "",
        }
        change("wheel", wheel)
        with zipfile.ZipFile(folder / f"{name}-{VERSION}-py3-none-any.whl", "w") as archive:
            for path, text in wheel.items():
                archive.writestr(path, text)
        beside = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore")
        files = {f"src/{path}": "" for path in code} | dict.fromkeys(beside, "")
        files["PKG-INFO"] = METADATA
        change("sdist", files)
        with tarfile.open(folder / f"{name}-{VERSION}.tar.gz", "w:gz") as archive_:
            for path, text in files.items():
                member = tarfile.TarInfo(f"{name}-{VERSION}/{path}")
                member.size = len(text)
                archive_.addfile(member, io.BytesIO(text.encode()))
    return folder


def test_archives_as_they_should_be_pass(tmp_path: Path) -> None:
    """So that what the others find is what they put there."""
    assert complaints(made(tmp_path)) == []


def add_test(kind: str, files: Files) -> None:
    files["src/tests/test_x.py" if kind == "sdist" else "tests/test_x.py"] = ""


def forget_the_marker(_kind: str, files: Files) -> None:
    for path in [each for each in files if each.endswith("py.typed")]:
        del files[path]


def forget_the_licence(_kind: str, files: Files) -> None:
    for path in [each for each in files if each.endswith("LICENSE")]:
        del files[path]


def forget_a_module(_kind: str, files: Files) -> None:
    for path in [each for each in files if each.endswith("__init__.py")]:
        del files[path]


def spoil(line: str, other: str) -> Callable[[str, Files], None]:
    def change(_kind: str, files: Files) -> None:
        for path in [each for each in files if each.endswith(("METADATA", "PKG-INFO"))]:
            files[path] = files[path].replace(line, other)

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (add_test, "does not belong there"),
        (forget_the_marker, "does not say that it is typed"),
        (forget_the_licence, "LICENSE is missing"),
        (forget_a_module, "__init__.py is missing"),
        (spoil("MIT", "BSD"), "License-Expression is 'BSD'"),
        (spoil(">=3.11", ">=3.10"), "Requires-Python is '>=3.10'"),
        (spoil("Summary: x", "Summary: "), "there is no summary"),
        (spoil("Typing :: Typed", "Natural Language :: English"), "classifiers"),
        (spoil("Hello.", "[docs](docs/index.md)"), "leads nowhere"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_what_must_not_be_released_is_found_in_each_archive(
    tmp_path: Path, change: Callable[[str, Files], None], complaint: str
) -> None:
    """In the three wheels and the three source distributions."""
    found = [each for each in complaints(made(tmp_path, change)) if complaint in each]
    named = {each.partition(":")[0] for each in found}
    assert named == {path.name for path in tmp_path.iterdir()}


def test_a_stray_file_and_a_second_version_are_found(tmp_path: Path) -> None:
    """What lies in the folder is what is uploaded."""
    made(tmp_path)
    (tmp_path / f"other-{VERSION}.tar.gz").touch()
    assert any("something else" in each for each in complaints(tmp_path))
    (tmp_path / "other-1.0.tar.gz").touch()
    assert any("versions" in each for each in complaints(tmp_path))


def test_a_tag_that_differs_and_a_changelog_without_a_date_are_found(tmp_path: Path) -> None:
    """The three changelogs are those of the repository, which this version is not in."""
    found = complaints(made(tmp_path), "v9.8.6")
    assert sum("CHANGELOG.md does not begin" in each for each in found) == len(DISTRIBUTIONS)
    assert any("the tag is v9.8.6" in each for each in found)
