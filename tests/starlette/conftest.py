"""Fixtures of the Starlette tests."""

from __future__ import annotations

import pytest
import starlette

from tests.starlette.support import Watch
from tests.support.clock import in_virtual_time


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The event loop, in virtual time.

    So no timeout that is not meant to pass does, however busy the machine is. A module that
    says ``USES_THREADS = True`` has real time: the virtual clock does not wait for threads.
    """
    has_threads = getattr(request.module, "USES_THREADS", False)
    return request.param if has_threads else in_virtual_time(request.param)


@pytest.fixture(params=["service", "alone"])
def watch(request: pytest.FixtureRequest) -> Watch:
    """Both ways of watching a request pass the same tests."""
    value: Watch = request.param
    return value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Starlettes before 1.8 leave streams and files to the collector, as they do."""
    if tuple(int(part) for part in starlette.__version__.split(".")[:2]) < (1, 8):
        for left in ("Request.stream", "SpooledTemporaryFile"):
            mark = pytest.mark.filterwarnings(
                f"ignore:.*{left}:pytest.PytestUnraisableExceptionWarning"
            )
            for item in items:
                item.add_marker(mark)
