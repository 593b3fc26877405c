"""Time that moves only when everything waits, on asyncio and on Trio.

A module whose tests wait for deadlines overrides the fixture of the event loop::

    @pytest.fixture(scope="module")
    def anyio_backend(request: pytest.FixtureRequest) -> object:
        return in_virtual_time(request.param)

From then on an hour passes at once, and `advance` makes time pass while the code of the test
holds the loop, as a slow computation does. Threads do not count as something to wait for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

from anyio.lowlevel import current_token


class VirtualSelector(selectors.DefaultSelector):
    """Jump to the next timer instead of waiting for it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        events = super().select(0)
        if not events and timeout > 0:
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = VirtualSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def in_virtual_time(backend: tuple[str, dict[str, object]]) -> tuple[str, dict[str, object]]:
    """Return a backend of the tests, with a clock that jumps."""
    name, options = backend
    if name == "trio":
        from trio.testing import MockClock

        return name, {**options, "clock": MockClock(autojump_threshold=0)}
    options = {key: value for key, value in options.items() if key != "use_uvloop"}
    factory = options.get("loop_factory", asyncio.new_event_loop)
    assert callable(factory)
    return name, {**options, "loop_factory": lambda: like(factory)}


def like(factory: Callable[[], asyncio.AbstractEventLoop]) -> VirtualLoop:
    """Return a virtual loop that makes tasks as the loops of *factory* do."""
    given = factory()
    loop = VirtualLoop()
    loop.set_task_factory(given.get_task_factory())
    given.close()
    return loop


def advance(seconds: float) -> None:
    """Let time pass while the caller holds the loop, which notices nothing."""
    loop = current_token().native_token
    if isinstance(loop, VirtualLoop):
        loop.now += seconds
        return
    import trio
    from trio.testing import MockClock

    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)
