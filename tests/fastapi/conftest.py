"""Fixtures of the FastAPI tests."""

from __future__ import annotations

import pytest

from tests.fastapi.support import Setup


@pytest.fixture(params=["middleware", "alone"])
def setup(request: pytest.FixtureRequest) -> Setup:
    """With and without the middleware."""
    value: Setup = request.param
    return value
