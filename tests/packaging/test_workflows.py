"""The workflows of the repository are the ones that its pages speak of."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASE = (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_to_a_version(workflow: Path) -> None:
    """A branch would be whatever somebody pushes to it."""
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@v\d+(\.\d+)*", each)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_nothing_unless_it_says_so(workflow: Path) -> None:
    """Each job names the rights that it needs."""
    text = workflow.read_text()
    assert "\npermissions: {}\n" in text or "\npermissions:\n  contents: read\n" in text


def jobs() -> dict[str, str]:
    """Return the text of each job of the release, by its name."""
    _, _, text = RELEASE.partition("\njobs:\n")
    parts = re.split(r"^  (\S+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_packages_are_published_in_the_order_of_their_dependencies() -> None:
    """So that none is ever on the index before what it needs."""
    order = ["build", "core", "starlette", "fastapi"]
    assert list(jobs()) == order
    for before, job in itertools.pairwise(order):
        assert f"needs: [{before}]" in jobs()[job]
        assert f"environment: pypi-{job}" in jobs()[job]
        assert f"cancelable_{job}-" in jobs()[job]


def test_only_publishing_may_ask_for_an_identity() -> None:
    """What builds runs code of others, and must not be able to publish."""
    asking = [name for name, text in jobs().items() if "id-token: write" in text]
    assert asking == ["core", "starlette", "fastapi"]
