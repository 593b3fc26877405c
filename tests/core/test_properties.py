"""Random trees of operations and random causes, against a small model.

Each example is a tree of blocks, some in the task of their parent and some in tasks of their
own, and a script: requests from tasks and threads, several before the event loop gets a turn;
deadlines that pass; blocks that end by themselves or with an error. The model knows nothing of
scopes and tasks. It says who was asked by whom first, and therefore who must end how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelOutcome,
    OperationRegistry,
    OperationStatus,
)
from tests.conftest import BACKENDS
from tests.support.clock import in_virtual_time
from tests.support.native import in_thread

TICK = 1000.0
"""Seconds of virtual time between two moments at which deadlines pass."""

QUIET = 1.0
"""Seconds of virtual time to wait until all is quiet: time moves only when everything waits."""

REASONS = [CancelationReason.MANUAL, CancelationReason.SIGNAL, CancelationReason.DISCONNECT]


@dataclass(frozen=True)
class Node:
    """One operation of the tree."""

    number: int
    parent: int | None
    in_parents_task: bool = True
    is_listed: bool = True
    """Whether it is listed under the operation around it, or under nobody."""
    is_shielded: bool = False
    """Whether it waits in a shielded section; only where nothing is underneath."""
    timeout: int | None = None
    """Ticks."""


@dataclass(frozen=True)
class Ask:
    """Ask an operation to stop."""

    number: int
    reason: CancelationReason
    way: str


@dataclass(frozen=True)
class Script:
    """A tree, and what happens to it."""

    nodes: list[Node]
    steps: list[tuple[str, object]]
    looks: bool = True
    """Whether everything is compared after each step, or only at the end: to look is to notice
    deadlines that the event loop has not noticed."""


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Make a tree of up to seven operations and a script of up to six steps."""
    size = draw(st.integers(1, 7))
    parents = [None, *(draw(st.integers(0, number - 1)) for number in range(1, size))]
    has_inline: set[int | None] = set()
    nodes: list[Node] = []
    for number, parent in enumerate(parents):
        inline = parent is None or (parent not in has_inline and draw(st.booleans()))
        if inline:
            has_inline.add(parent)
        nodes.append(
            Node(
                number,
                parent,
                in_parents_task=inline,
                is_listed=draw(st.sampled_from([True, True, True, False])),
                is_shielded=number not in parents and draw(st.sampled_from([False, False, True])),
                timeout=draw(st.sampled_from([None, None, 1, 2, 3])),
            )
        )
    numbers = st.integers(0, size - 1)
    leaves = [number for number in range(size) if number not in parents]
    ask = st.builds(
        Ask,
        numbers,
        st.sampled_from(REASONS),
        st.sampled_from(["task", "plain", "thread", "token"]),
    )
    step = st.one_of(
        st.tuples(st.just("ask"), st.lists(ask, min_size=1, max_size=3)),
        st.tuples(st.just("release"), numbers),
        st.tuples(st.just("fail"), st.sampled_from(leaves)),
        st.tuples(st.just("wait"), st.integers(1, 2)),
    )
    return Script(nodes, draw(st.lists(step, min_size=1, max_size=6)), draw(st.booleans()))


# -- the model -------------------------------------------------------------------------------


@dataclass
class Expected:
    """What must be true of one operation."""

    cause: CancelationReason | None = None
    origin: int | None = None
    """The operation that was asked, where that is one above."""
    is_cut_from_around: bool = False
    is_released: bool = False
    is_failing: bool = False
    status: OperationStatus | None = None


class Model:
    """Say who must end how."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.of = [Expected() for _ in nodes]
        self.now = 0

    def below(self, number: int) -> list[int]:
        return [node.number for node in self.nodes if node.parent == number]

    def ask(self, number: int, reason: CancelationReason) -> CancelOutcome:
        expected = self.of[number]
        if expected.status is not None:
            return CancelOutcome.FINISHED
        if expected.cause is not None:
            return CancelOutcome.ALREADY_REQUESTED
        expected.cause = reason
        self._tell_below(number, number)
        return CancelOutcome.REQUESTED

    def _tell_below(self, number: int, origin: int) -> None:
        for child in self.below(number):
            expected, node = self.of[child], self.nodes[child]
            if expected.status is not None or expected.cause is not None:
                continue
            if node.is_listed or node.in_parents_task:
                expected.cause, expected.origin = CancelationReason.PARENT, origin
                self._tell_below(child, origin)

    def settle(self) -> None:
        """Let everything end that can, from the leaves up."""
        for number in range(len(self.nodes)):
            parent = self.nodes[number].parent
            if parent is not None:
                around = self.of[parent]
                is_cut = around.cause is not None or around.is_cut_from_around
                self.of[number].is_cut_from_around |= is_cut
        for node in reversed(self.nodes):
            expected = self.of[node.number]
            if expected.status is not None:
                continue
            if any(self.of[child].status is None for child in self.below(node.number)):
                continue
            expected.status = self._ending(node, expected)

    def _ending(self, node: Node, expected: Expected) -> OperationStatus | None:
        if expected.is_failing and (
            node.is_shielded or not (expected.cause or expected.is_cut_from_around)
        ):
            return OperationStatus.FAILED
        if expected.cause is not None or expected.is_cut_from_around:
            if node.is_shielded and not expected.is_released:
                return None
            if expected.cause is None:
                expected.cause = CancelationReason.PARENT
            return OperationStatus.CANCELLED
        return OperationStatus.COMPLETED if expected.is_released else None

    def wait(self, ticks: int) -> None:
        """Let deadlines pass, the outermost of equal ones first."""
        for now in range(self.now + 1, self.now + ticks + 1):
            self.now = now
            for node in self.nodes:
                if node.timeout == now and self.of[node.number].cause is None:
                    self.ask(node.number, CancelationReason.TIMEOUT)
            self.settle()


# -- the real thing --------------------------------------------------------------------------


class Boom(Exception):
    """The error of a block that fails."""


@dataclass
class Play:
    """Run the tree, and do to it what the script says."""

    script: Script
    model: Model
    operations: list[Cancelable] = field(default_factory=list)
    endings: Counter[int] = field(default_factory=Counter)
    releases: list[anyio.Event] = field(default_factory=list)

    def prepare(self) -> None:
        for node in self.script.nodes:
            timeout = None if node.timeout is None else node.timeout * TICK
            operation = (
                Cancelable.with_timeout(timeout, name=str(node.number), register_globally=True)
                if node.is_listed
                else Cancelable.with_timeout(
                    timeout, name=str(node.number), register_globally=True, parent=None
                )
            )
            note = partial(self._ended, node.number)
            operation.on_complete(note).on_cancel(note).on_error(note)
            self.operations.append(operation)
            self.releases.append(anyio.Event())

    def _ended(self, number: int, *_: object) -> None:
        self.endings[number] += 1

    async def run(self, number: int) -> None:
        """Run one block and those underneath; take its own error, and no other."""
        operation = self.operations[number]
        try:
            async with operation:
                await self._fill(number)
        except CancelationError as error:
            assert error.operation_id == operation.operation_id
            assert error.reason is operation.cancel_reason
        except Boom:
            assert operation.status is OperationStatus.FAILED

    async def _fill(self, number: int) -> None:
        """Run the blocks underneath, then wait to be released; that is a checkpoint."""
        below = self.model.below(number)
        if below:
            async with anyio.create_task_group() as tasks:
                for child in below:
                    if not self.script.nodes[child].in_parents_task:
                        tasks.start_soon(self.run, child)
                for child in below:
                    if self.script.nodes[child].in_parents_task:
                        await self.run(child)
        if self.script.nodes[number].is_shielded:
            async with self.operations[number].shield():
                await self._until_released(number)
        else:
            await self._until_released(number)

    async def _until_released(self, number: int) -> None:
        await self.releases[number].wait()
        if self.model.of[number].is_failing:
            raise Boom

    async def main(self) -> None:
        self.prepare()
        start = anyio.current_time()
        with anyio.fail_after(100 * TICK):
            await self._follow(start)
        self.compare("at the end")

    async def _follow(self, start: float) -> None:
        """Run the tree and the script; then let all that is live come to its end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run, 0)
            await anyio.sleep(QUIET)
            try:
                for kind, what in self.script.steps:
                    await self._step(kind, what, start)
                    await anyio.sleep(QUIET)
                    if self.script.looks:
                        self.compare(f"after {kind} {what}")
            finally:
                for number, released in enumerate(self.releases):
                    self.model.of[number].is_released = True
                    released.set()
            self.model.settle()

    async def _step(self, kind: str, what: object, start: float) -> None:
        model = self.model
        match kind, what:
            case "ask", list(asked):
                for each in asked:
                    answer = await self._ask(each)
                    assert answer is model.ask(each.number, each.reason), each
                model.settle()
            case "wait", int(ticks):
                model.wait(ticks)
                await anyio.sleep_until(start + (model.now + 0.5) * TICK)
            case _, int(number):
                model.of[number].is_failing = kind == "fail"
                model.of[number].is_released = True
                self.releases[number].set()
                model.settle()

    async def _ask(self, ask: Ask) -> CancelOutcome:
        operation = self.operations[ask.number]
        match ask.way:
            case "task":
                return await operation.cancel(ask.reason)
            case "plain":
                return operation.cancel_sync(ask.reason)
            case "thread":
                answers: list[CancelOutcome] = []
                in_thread(lambda: answers.append(operation.cancel_sync(ask.reason)))
                return answers[0]
            case _:
                registry = OperationRegistry.current()
                return registry.cancel(operation.operation_id, ask.reason)

    def compare(self, when: str) -> None:
        for operation, expected, node in zip(
            self.operations, self.model.of, self.script.nodes, strict=True
        ):
            label = f"{when}: {node}, expected {expected}, is {operation.context}"
            if expected.status is None:
                asked = expected.cause is not None
                live = OperationStatus.CANCELLING if asked else OperationStatus.RUNNING
                assert operation.status is live, label
            else:
                assert operation.status is expected.status, label
            assert operation.cancel_reason is expected.cause, label
            assert self.endings[node.number] == (expected.status is not None), label
            if expected.origin is not None:
                origin = self.operations[expected.origin].operation_id
                assert operation.context.origin_id == origin, label
        listed = OperationRegistry.current().list_operations()
        names = {str(n) for n, expected in enumerate(self.model.of) if expected.status is None}
        assert {context.name for context in listed} == names, when


MANUAL = CancelationReason.MANUAL

CHAIN = [
    Node(0, None),
    Node(1, 0, in_parents_task=False, timeout=1),
    Node(2, 1, is_listed=False),
    Node(3, 2, in_parents_task=False, is_shielded=True, timeout=1),
]
"""A block that is listed under nobody stands between two others, so that what is asked above
goes by it, and is noticed late by a section that hears of nothing."""

EQUAL_DEADLINES = Script(CHAIN, [("wait", 1)])
EARLIER_DEADLINE_BELOW = Script(
    [Node(0, None, timeout=2), Node(1, 0, is_listed=False, is_shielded=True, timeout=1)],
    [("wait", 2)],
)
REQUEST_THAT_IS_NOTICED_LATE = Script(
    [CHAIN[0], replace(CHAIN[1], timeout=None), *CHAIN[2:]],
    [("ask", [Ask(1, MANUAL, "task")]), ("wait", 1), ("ask", [Ask(2, MANUAL, "task")])],
    looks=False,
)
DEADLINE_BETWEEN_A_SECTION_AND_A_LATER_ONE = [
    Script(
        [
            Node(0, None, timeout=2),
            Node(1, 0, in_parents_task=False),
            Node(2, 1, is_listed=False, timeout=1),
            Node(3, 2, in_parents_task=False, is_shielded=True, timeout=own),
            Node(4, 0, in_parents_task=False),
        ],
        [("wait", 2)],
        looks=False,
    )
    for own in (None, 1)
]
"""When node 4 ends, the later deadline is noticed, and node 1 is told of it. Node 2 is listed under
nobody and has not noticed its own, which came first."""
DEADLINE_BEFORE_A_REQUEST_THAT_PASSES_BY = Script(
    [Node(0, None), Node(1, 0, is_listed=False, is_shielded=True, timeout=1)],
    [("wait", 1), ("ask", [Ask(0, MANUAL, "task")])],
    looks=False,
)


def play(script: Script, backend: str) -> None:
    name, options = in_virtual_time(BACKENDS[backend])
    options.pop("debug", None)
    with OperationRegistry().as_default():
        anyio.run(Play(script, Model(script.nodes)).main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "asyncio+uvloop"])
def test_each_operation_ends_as_its_first_cause_says(backend: str) -> None:
    """Status, reason, origin, one callback, and the place in the registry, for every script."""

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(scripts())
    @example(EQUAL_DEADLINES)
    @example(EARLIER_DEADLINE_BELOW)
    @example(REQUEST_THAT_IS_NOTICED_LATE)
    @example(DEADLINE_BEFORE_A_REQUEST_THAT_PASSES_BY)
    @example(DEADLINE_BETWEEN_A_SECTION_AND_A_LATER_ONE[0])
    @example(DEADLINE_BETWEEN_A_SECTION_AND_A_LATER_ONE[1])
    def check(script: Script) -> None:
        play(script, backend)

    checked: Callable[[], None] = check
    checked()
