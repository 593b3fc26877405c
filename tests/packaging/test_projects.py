"""The three projects agree with each other and with what their files say."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
QUICK_STARTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/start").glob("*.md"))
FOLDERS = {
    "cancelable": "cancelable-core",
    "cancelable_starlette": "cancelable-starlette",
    "cancelable_fastapi": "cancelable-fastapi",
}
each_folder = pytest.mark.parametrize("folder", FOLDERS)


def project(folder: str) -> dict[str, object]:
    with (ROOT / folder / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


def dependencies(folder: str) -> list[Requirement]:
    lines = project(folder)["dependencies"]
    assert isinstance(lines, list)
    return [Requirement(line) for line in lines]


def version() -> Version:
    return Version(str(project("cancelable")["version"]))


@each_folder
def test_a_project_has_the_name_and_the_version_that_all_share(folder: str) -> None:
    """The same number means tested together."""
    assert project(folder)["name"] == FOLDERS[folder]
    assert project(folder)["version"] == str(version())


@each_folder
def test_what_is_installed_is_this_version(folder: str) -> None:
    """The tests ran against these files, not against a stale installation."""
    try:
        found = metadata.version(FOLDERS[folder])
    except metadata.PackageNotFoundError:
        pytest.skip("not installed here")
    assert found == str(version())


@each_folder
def test_siblings_are_accepted_within_a_minor_version(folder: str) -> None:
    """A patch of the core reaches users without new adapters, a minor version does not."""
    now = version()
    range_ = f"<{now.major}.{now.minor + 1},>={now}"
    siblings = [each for each in dependencies(folder) if each.name.startswith("cancelable")]
    assert len(siblings) == (folder != "cancelable")
    for sibling in siblings:
        assert sibling.name in FOLDERS.values()
        assert str(sibling.specifier) == range_


@each_folder
def test_a_dependency_has_a_floor(folder: str) -> None:
    """The session that tests the floors needs one of each."""
    for requirement in dependencies(folder):
        assert [each.operator for each in requirement.specifier].count(">=") == 1


def test_the_core_needs_anyio_alone() -> None:
    """Whoever installs the core gets no web framework and no event loop library."""
    assert [each.name for each in dependencies("cancelable")] == ["anyio"]


@each_folder
def test_the_changelog_begins_with_this_version(folder: str) -> None:
    """A release has its notes."""
    headings = re.findall(r"^## (\S+)", (ROOT / folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == str(version())


@pytest.mark.parametrize("page", ["README.md", *QUICK_STARTS])
def test_a_page_speaks_of_a_clone_until_there_is_a_release(page: str) -> None:
    """The changelog gets its date with the release, and then nobody needs a clone any more."""
    changelog = (ROOT / "cancelable/CHANGELOG.md").read_text()
    is_released = re.search(rf"^## {re.escape(str(version()))} - ", changelog, re.MULTILINE)
    text = " ".join((ROOT / page).read_text().split())
    speaks = re.search(r"Until there is a release .*`pip install \./cancelable", text)
    assert (speaks is None) is (is_released is not None)


@each_folder
def test_the_licence_is_the_one_of_the_repository(folder: str) -> None:
    """Each project is built from its own folder and carries a copy."""
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_folder
def test_the_readme_says_what_to_install(folder: str) -> None:
    """The short name belongs to somebody else, and its files would overwrite ours."""
    text = (ROOT / folder / "README.md").read_text()
    installs = re.findall(r"pip install (\S+)", text)
    assert installs[0] == FOLDERS[folder]
    assert "cancelable" not in installs
    assert "belongs to somebody else" in " ".join(text.split())


@each_folder
def test_a_project_folder_is_no_package(folder: str) -> None:
    """An __init__.py there would hide the installed package from whoever stands at the root."""
    assert not (ROOT / folder / "__init__.py").exists()


@each_folder
def test_a_wheel_carries_its_licence_and_says_that_it_is_typed(folder: str) -> None:
    """Type checkers believe only who says so."""
    try:
        files = [str(file) for file in metadata.files(FOLDERS[folder]) or []]
    except metadata.PackageNotFoundError:
        pytest.skip("not installed here")
    if f"{folder}/__init__.py" not in files:
        pytest.skip("installed as editable")
    assert f"{folder}/py.typed" in files
    assert [file for file in files if file.endswith("licenses/LICENSE")]


@pytest.mark.parametrize("name", ["tests", "demo"])
def test_the_readme_has_each_command_in_one_line_that_ci_runs(name: str) -> None:
    """CI reads its commands out of the README, so that they cannot rot."""
    readme = (ROOT / "README.md").read_text()
    found = re.findall(rf"<!-- command: {name} -->\n```sh\n([^\n]+)\n```\n", readme)
    assert len(found) == 1
    try:
        shown = subprocess.run(
            ["bash", ".ci/run", "show"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("no bash here")
    assert found[0] in shown.stdout.splitlines()
