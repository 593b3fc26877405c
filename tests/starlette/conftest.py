"""Fixtures of the Starlette tests."""

from __future__ import annotations

import pytest

from tests.starlette.support import Watch


@pytest.fixture(params=["service", "alone"])
def watch(request: pytest.FixtureRequest) -> Watch:
    """Both ways of watching a request pass the same tests (W13)."""
    value: Watch = request.param
    return value
