"""What the page for users says of the servers, and what the tests expect of them, are the same."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.servers.conftest import ALL_KINDS
from tests.servers.limits import LIMITS
from tests.servers.support import ROOT


def test_each_limit_stands_on_the_page_of_the_servers() -> None:
    """With its reason, in the same words."""
    page = " ".join((ROOT / "docs" / "servers.md").read_text().split())
    reasons = {reason for of_servers in LIMITS.values() for reason in of_servers.values()}

    assert {reason for reason in reasons if reason not in page} == set()


def test_each_limit_is_one_of_a_server_that_is_tried() -> None:
    """A pattern that matches nothing would excuse nobody."""
    patterns = {pattern for of_servers in LIMITS.values() for pattern in of_servers}

    unmatched = {p for p in patterns if not any(fnmatchcase(kind, p) for kind in ALL_KINDS)}
    assert unmatched == set()
