"""Random nests of blocks and shielded sections, and random requests, against a small model.

All in one task, so that the model can say after each request whether the code that stands
innermost is to be cut, and of each block and section what must leave it. (S13)
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cancelable import Cancelable, CancelationError, current_operation
from tests.conftest import BACKENDS

REASONS = ["manual", "signal", "disconnect", "timeout"]
DEEPEST = 6


@dataclass
class Ask:
    """Ask an operation of the nest to stop, counted from the innermost one."""

    up: int
    reason: str


@dataclass
class Block:
    """Enter a block."""


@dataclass
class Section:
    """Begin a section of the innermost operation; it holds these reasons, or everything."""

    reasons: frozenset[str] | None


@dataclass
class Leave:
    """Leave the innermost block or section."""


@dataclass
class Settle:
    """Wait, for ever if the code is to be cut."""


SCRIPTS = st.lists(
    st.one_of(
        st.builds(Ask, st.integers(0, DEEPEST), st.sampled_from(REASONS)),
        st.builds(Block),
        st.builds(
            Section, st.none() | st.frozensets(st.sampled_from([*REASONS, "parent"]), min_size=1)
        ),
        st.builds(Leave),
        st.builds(Settle),
    ),
    min_size=3,
    max_size=25,
)


@dataclass
class Level:
    """One block or section, as the model knows it."""

    operation: Cancelable
    holds: frozenset[str] | None = frozenset()
    is_section: bool = False
    cause: str | None = None
    held: list[tuple[Level, str]] = field(default_factory=list["tuple[Level, str]"])
    was_cut: bool = False


class Play:
    """One run of a script, beside the model of it."""

    def __init__(self, script: list[object]) -> None:
        self.script = iter(script)
        self.nest: list[Level] = []

    def is_due(self, depth: int) -> bool:
        """Say whether code that stands inside so many levels is to be cut."""
        for level in reversed(self.nest[:depth]):
            if level.cause is not None:
                return True
            if level.holds is None:
                return False
        return False

    def ask(self, asked: Level, reason: str) -> None:
        """Let the outermost section that holds this request back hold it, else make it."""
        place = self.nest.index(asked)
        for number, level in enumerate(self.nest[place + 1 :], place + 1):
            is_owner = self.nest[number - 1] is asked
            if level.holds and (
                reason in level.holds or ("parent" in level.holds and not is_owner)
            ):
                level.held.append((asked, reason))
                return
        asked.cause = asked.cause or reason

    async def inside(self, level: Level) -> None:
        """Play the script inside a level, and take the level out of the model behind it."""
        self.nest.append(level)
        try:
            for step in self.script:
                match step:
                    case Ask(up, reason):
                        asked = self.nest[max(len(self.nest) - 1 - up, 0)]
                        await asked.operation.cancel(reason)
                        self.ask(asked, reason)
                    case Block() if len(self.nest) < DEEPEST:
                        await self.block()
                    case Section(reasons) if len(self.nest) < DEEPEST:
                        await self.section(reasons)
                    case Settle():
                        await self.settle()
                    case Leave() if len(self.nest) > 1:
                        return
                    case _:
                        pass
        except anyio.get_cancelled_exc_class():
            level.was_cut = True
            raise
        finally:
            self.nest.pop()
            for asked, reason in level.held:
                self.ask(asked, reason)

    async def settle(self) -> None:
        if self.is_due(len(self.nest)):
            await anyio.sleep_forever()
        for _ in range(4):
            await anyio.lowlevel.checkpoint()

    async def block(self) -> None:
        level, depth = Level(Cancelable()), len(self.nest)
        await self.left_rightly(level, depth, self.run_block(level))

    async def run_block(self, level: Level) -> None:
        async with level.operation:
            await self.inside(level)

    async def section(self, reasons: frozenset[str] | None) -> None:
        around, depth = self.nest[-1].operation, len(self.nest)
        level = Level(around, reasons, is_section=True)
        await self.left_rightly(level, depth, self.run_section(level, around))
        assert not self.is_due(depth), "the end of a section is a checkpoint"

    async def run_section(self, level: Level, around: Cancelable) -> None:
        async with around.shield(reasons=level.holds) as section:
            level.operation = section
            await self.inside(level)

    async def left_rightly(self, level: Level, depth: int, running: Awaitable[None]) -> None:
        """Compare what leaves a level with what the model says of it."""
        try:
            await running
        except CancelationError as error:
            assert level.was_cut
            assert not self.is_due(depth)
            assert error.operation_id == level.operation.operation_id
            assert error.reason == level.cause
        except anyio.get_cancelled_exc_class():
            assert self.is_due(depth)
            assert level.was_cut or level.is_section
            raise
        else:
            assert not level.was_cut, "the code behind a cut block or section ran on"
        finally:
            assert level.operation.status.is_terminal
            assert level.operation._holds == []

    async def main(self) -> None:
        with anyio.fail_after(5):
            await self.block()
        assert current_operation() is None


def play(script: list[object], backend: str) -> None:
    name, options = BACKENDS[backend]
    without_debug = {key: value for key, value in options.items() if key != "debug"}
    anyio.run(Play(script).main, backend=name, backend_options=without_debug)


@pytest.mark.parametrize("backend", [name for name in ("asyncio", "trio") if name in BACKENDS])
def test_each_section_is_cut_by_what_it_does_not_hold_back(backend: str) -> None:
    """No request is lost, no section cut by a held one, and no code runs on behind a cut."""

    @settings(
        max_examples=500,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SCRIPTS)
    def check(script: list[object]) -> None:
        play(script, backend)

    check()
