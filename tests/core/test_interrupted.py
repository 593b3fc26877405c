"""A cancel in the middle of any line: of listening, linking, entering, leaving, of asking an id.

Threads and signal handlers cancel when they like. Here a cancel comes at each line of ours in
turn, which is what a race in a thread comes to, and is the same at every run. So does an
exception, as Python's own handler of Ctrl-C raises one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    OperationRegistry,
    OperationStatus,
)
from tests.core.test_tokens import OURS


class AtLine:
    """Call a function once, at the n-th line of some files that runs inside a ``with``.

    The files are ours unless it is said otherwise.
    """

    def __init__(self, line: int, interrupt: Callable[[], object], files: str = OURS) -> None:
        self.line = line
        self.interrupt = interrupt
        self.files = files
        self.seen = 0
        self.before: Any = None

    @property
    def came(self) -> bool:
        return self.seen >= self.line

    def trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                sys.settrace(None)
                self.interrupt()
                sys.settrace(self.trace)
        return self.trace

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)


def run_by_hand(step: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that awaits nothing."""
    with pytest.raises(StopIteration):
        step.send(None)


def test_a_callback_given_while_a_cancel_comes_runs_once() -> None:
    """At whatever line of `on_cancel` the cancel comes: neither lost nor twice."""
    line, came = 0, True
    while came:
        line += 1
        token = CancelationToken()
        calls: list[CancelationToken] = []
        at_line = AtLine(line, token.cancel_sync)
        with at_line:
            token.on_cancel(calls.append)
        came = at_line.came
        assert calls == ([token] if came else [])
    assert line > 5


def note(ends: list[str], ending: str, _context: object) -> None:
    ends.append(ending)


def test_a_link_made_while_a_cancel_comes_follows_it() -> None:
    """At whatever line of `any` the cancel comes, the linked token has it."""
    line, came = 0, True
    while came:
        line += 1
        first, second = CancelationToken(), CancelationToken()
        at_line = AtLine(line, partial(second.cancel_sync, "signal"))
        with at_line:
            linked = CancelationToken.any(first, second)
        came = at_line.came
        assert linked.reason is (CancelationReason.SIGNAL if came else None)
    assert line > 10


async def test_the_token_of_an_operation_made_while_a_cancel_comes_has_it() -> None:
    """At whatever line of `operation.token` the cancel comes, the token has it."""
    line, came = 0, True
    while came:
        line += 1
        operation = Cancelable()
        at_line = AtLine(line, partial(operation.cancel_sync, "signal"))
        with at_line:
            token = operation.token
        came = at_line.came
        assert token.is_cancelled is came
        calls: list[CancelationToken] = []
        token.on_cancel(calls.append)
        assert calls == [token] * came


@pytest.mark.parametrize("kind", [AnyOfSource, AllOfSource])
def test_a_source_that_fires_while_another_one_does_is_neither_lost_nor_told_twice(
    kind: type[AnyOfSource | AllOfSource],
) -> None:
    """At whatever line of a part of a composition: one cause, and the part that it came from."""
    line, came = 0, True
    while came:
        line += 1
        first, second = CancelationSource("signal", "first"), CancelationSource("signal", "second")
        whole = kind([first, second])
        told: list[str | None] = []
        whole.set_cancel_callback(lambda cause, told=told: told.append(cause.source))  # type: ignore[misc]
        at_line = AtLine(line, second.trigger)
        with at_line:
            first.trigger()
        came = at_line.came
        assert len(told) == (1 if came or kind is AnyOfSource else 0)
        if isinstance(whole, AnyOfSource):
            assert whole.triggered_source is not None
            assert [whole.triggered_source.name] == told
    assert line > 10


def ctrl_c() -> None:
    raise KeyboardInterrupt


def ask_token(token: CancelationToken, _operation: Cancelable) -> object:
    run_by_hand(token.cancel("signal"))
    return None


def ask_operation(_token: CancelationToken, operation: Cancelable) -> object:
    return operation.cancel_sync("signal")


@pytest.mark.parametrize("ask", [ask_token, ask_operation])
async def test_a_cancel_that_is_interrupted_is_completed_by_the_next_one(
    ask: Callable[[CancelationToken, Cancelable], object],
) -> None:
    """At whatever line of a cancel Ctrl-C comes: asked again, all have heard.

    Once each, but for a callback that had just returned as Ctrl-C came.
    """
    line, came, twice = 0, True, 0
    while came:
        line += 1
        token = CancelationToken()
        operation, child = Cancelable.with_token(token), Cancelable()
        grandchild = Cancelable(parent=operation)
        followed = [operation.token, child.token, grandchild.token]
        if ask is ask_token:
            followed += [token, CancelationToken.any(token)]
        calls: list[CancelationToken] = []
        for each in followed:
            each.on_cancel(calls.append)
        entered = anyio.Event()

        async def elsewhere(inner: Cancelable = grandchild, entered: anyio.Event = entered) -> None:
            async with inner.move_on():
                entered.set()
                await anyio.sleep_forever()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks, operation.move_on():
                async with child:
                    tasks.start_soon(elsewhere)
                    await entered.wait()
                    at_line = AtLine(line, ctrl_c)
                    with suppress(KeyboardInterrupt), at_line:
                        ask(token, operation)
                    came = at_line.came
                    ask(token, operation)
                    assert operation.cancel_requested
                    assert set(calls) == set(followed)
                    twice += len(calls) - len(followed)
                    await anyio.sleep_forever()
        assert operation.cancel_reason is CancelationReason.SIGNAL
        assert [each.is_cancelled for each in (operation, child, grandchild)] == [True] * 3
        assert token._listeners == {}
    assert line > 40
    assert twice <= len(followed)  # one line for each of them


class Leave(BaseException):
    """What a callback raises that is no error."""


def leave(_: object) -> None:
    raise Leave


async def test_what_a_callback_of_a_token_raises_keeps_nobody_from_hearing() -> None:
    """Not an error: it leaves the cancel, once, when all others have been told."""
    token = CancelationToken()
    calls: list[CancelationToken] = []
    token.on_cancel(leave)
    token.on_cancel(calls.append)
    linked = CancelationToken.any(token)
    linked.on_cancel(leave)
    async with Cancelable.with_token(token).move_on() as operation:
        operation.token.on_cancel(leave)
        async with Cancelable() as child:
            of_child = child.token
            of_child.on_cancel(leave)
            of_child.on_cancel(calls.append)
            with pytest.raises(Leave):
                token.cancel_sync("signal")
            assert calls == [token, of_child]
            assert linked.is_cancelled
            assert not token.cancel_sync()
            assert operation.cancel_sync().value == "already_requested"
            await anyio.sleep_forever()
    assert child.is_cancelled
    assert calls == [token, of_child]
    with pytest.raises(Leave):  # one that comes late, too
        token.on_cancel(leave)
    assert token._listeners == {}


async def test_requests_that_were_held_are_made_whatever_one_of_them_meets() -> None:
    """The end of a section makes them all, and raises what a callback did."""
    async with Cancelable().move_on() as operation:
        async with Cancelable() as inner:
            inner.token.on_cancel(leave)
            with pytest.raises(Leave):
                async with inner.shield(reasons={"manual"}):
                    inner.cancel_sync()
                    operation.cancel_sync()
            assert operation.cancel_requested
            await anyio.sleep_forever()
    assert operation.cancel_reason is CancelationReason.MANUAL


@pytest.mark.parametrize("kind", [AnyOfSource, AllOfSource])
def test_a_source_that_is_interrupted_tells_when_it_fires_again(
    kind: type[AnyOfSource | AllOfSource],
) -> None:
    """At whatever line of a part of a composition Ctrl-C comes: fired again, it tells, once."""
    line, came = 0, True
    while came:
        line += 1
        part = CancelationSource("signal", "part")
        told: list[str | None] = []
        whole = kind([part])
        whole.set_cancel_callback(lambda cause, told=told: told.append(cause.source))  # type: ignore[misc]
        at_line = AtLine(line, ctrl_c)
        with suppress(KeyboardInterrupt), at_line:
            part.trigger()
        came = at_line.came
        part.trigger()
        assert told == ["part"]
        assert whole.triggered
        assert whole.reason is CancelationReason.SIGNAL
    assert line > 10


def test_an_error_of_who_is_told_does_not_make_a_source_tell_again() -> None:
    """It leaves the call that fires; the source has fired."""
    source = CancelationSource("signal")
    told: list[object] = []

    def fail(cause: object) -> None:
        told.append(cause)
        raise RuntimeError("mine")

    source.set_cancel_callback(fail)
    with pytest.raises(RuntimeError, match="mine"):
        source.trigger()
    source.trigger()
    assert len(told) == 1


By = Callable[[CancelationToken, Cancelable, Cancelable], object]


def by_token(token: CancelationToken, _parent: Cancelable, _operation: Cancelable) -> object:
    return token.cancel_sync("signal")


def by_parent(_token: CancelationToken, parent: Cancelable, _operation: Cancelable) -> object:
    return parent.cancel_sync("signal")


def by_operation(_token: CancelationToken, _parent: Cancelable, operation: Cancelable) -> object:
    return operation.cancel_sync("signal")


@pytest.mark.parametrize("by", [by_token, by_parent, by_operation])
async def test_a_cancel_while_a_block_is_entered_is_never_lost(by: By) -> None:
    """At whatever line of the entry the cancel comes, the block stops at a checkpoint."""
    line, came = 0, True
    while came:
        line += 1
        token, parent = CancelationToken(), Cancelable()
        operation = Cancelable.with_token(token)
        at_line = AtLine(line, lambda: by(token, parent, operation))  # noqa: B023
        left: CancelationError | None = None
        try:
            with anyio.fail_after(5):
                async with parent:
                    with at_line:
                        await operation.__aenter__()
                    came = at_line.came
                    try:
                        if came:
                            await anyio.sleep_forever()
                    except BaseException as error:
                        await operation.__aexit__(type(error), error, error.__traceback__)
                        raise
                    await operation.__aexit__(None, None, None)
        except CancelationError as error:
            left = error
        assert operation.is_cancelled is came
        assert (left is not None) is came
        if came:
            reason = CancelationReason.PARENT if by is by_parent else CancelationReason.SIGNAL
            assert operation.cancel_reason is reason
    assert line > 20


@pytest.mark.parametrize("by", [by_token, by_parent, by_operation])
async def test_a_cancel_while_a_block_is_left_finds_it_running_or_ended(by: By) -> None:
    """At whatever line of a completion the cancel comes: one ending, one answer, no damage."""
    line, came = 0, True
    while came:
        line += 1
        token, parent = CancelationToken(), Cancelable(parent=None)
        operation = Cancelable.with_token(token, parent=parent)
        ends: list[str] = []
        operation.on_complete(partial(note, ends, "complete"))
        operation.on_cancel(partial(note, ends, "cancel"))
        at_line = AtLine(line, lambda: by(token, parent, operation))  # noqa: B023
        with anyio.CancelScope():
            try:
                async with parent:
                    await operation.__aenter__()
                    with at_line:
                        await operation.__aexit__(None, None, None)
                    await anyio.lowlevel.checkpoint()
            except CancelationError:
                assert by is by_parent
        came = at_line.came
        assert operation.is_completed
        assert ends == ["complete"]
        assert operation.context.cancel_requested is operation.cancel_requested
        assert not token._listeners
        assert parent.children == []
        for _ in range(3):
            await anyio.lowlevel.checkpoint()  # what was rung late finds nothing to cut
    assert line > 10


async def test_an_id_asked_for_while_its_operation_ends_leaves_nothing_listed() -> None:
    """At whatever line of either the other one runs: no id of an ended operation stays live."""
    line, came = 0, True
    while came:
        line += 1
        registry = OperationRegistry()
        operation = registry.register(Cancelable())
        await operation.__aenter__()
        at_line = AtLine(line, lambda: run_by_hand(operation.__aexit__(None, None, None)))  # noqa: B023
        with at_line:
            known = operation.operation_id
        came = at_line.came
        if not came:
            assert registry.get_operation(known) is operation
            await operation.__aexit__(None, None, None)
        assert registry.get_operation(known) is None
        assert registry.list_operations() == []
    line, came = 0, True
    while came:
        line += 1
        registry = OperationRegistry()
        operation = registry.register(Cancelable())
        await operation.__aenter__()
        at_line = AtLine(line, lambda: operation.operation_id)  # noqa: B023
        with at_line:
            await operation.__aexit__(None, None, None)
        came = at_line.came
        assert registry.get_operation(operation.operation_id) is None
        assert registry.list_operations() == []
        assert [each.id for each in registry.get_history()] == [operation.operation_id]
    assert line > 10


async def test_a_reader_made_while_its_operation_ends_is_let_go() -> None:
    """At whatever line of `progress()` the operation ends, the iteration ends as well."""
    line, came = 0, True
    while came:
        line += 1
        operation = Cancelable()
        await operation.__aenter__()
        at_line = AtLine(line, lambda: run_by_hand(operation.__aexit__(None, None, None)))  # noqa: B023
        with at_line:
            reader = operation.progress()
        came = at_line.came
        if not came:
            await operation.__aexit__(None, None, None)
        with anyio.fail_after(5):
            assert [update async for update in reader] == []
    assert line > 3


READS: dict[str, Callable[[Cancelable], object]] = {
    "status": lambda operation: operation.status,
    "context": lambda operation: operation.context,
    "remaining": lambda operation: operation.remaining,
    "reason": lambda operation: operation.cancel_reason,
    "token": lambda operation: operation.token.is_cancelled,
    "children": lambda operation: operation.children,
    "running": lambda operation: operation.is_running,
    "cancelling": lambda operation: operation.is_cancelling,
    "check": lambda operation: operation.check_cancelation_sync(),
    "report": lambda operation: operation.report_progress_sync("one"),
    "repr": repr,
}


@pytest.mark.parametrize("read", READS)
async def test_an_operation_may_be_read_while_it_ends(read: str) -> None:
    """Threads read what they like: at whatever line the block is left, nothing breaks."""
    line, came = 0, True
    while came:
        line += 1
        operation = Cancelable.with_timeout(60)
        await operation.__aenter__()
        at_line = AtLine(line, lambda: run_by_hand(operation.__aexit__(None, None, None)))  # noqa: B023
        with at_line:
            READS[read](operation)
        came = at_line.came
        if not came:
            await operation.__aexit__(None, None, None)
        assert operation.is_completed


@pytest.mark.parametrize("read", [*READS, "cancel"])
async def test_a_child_may_be_read_while_its_parent_ends(read: str) -> None:
    """The same for an operation whose parent, with the nearer deadline, is left meanwhile."""
    line, came = 0, True
    while came:
        line += 1
        parent, grandparent = Cancelable.with_timeout(30), Cancelable.with_timeout(40)
        child = Cancelable.with_timeout(60)
        go_on = anyio.Event()

        async def work(child: Cancelable = child, go_on: anyio.Event = go_on) -> None:
            try:
                async with child:
                    await go_on.wait()
            except CancelationError:
                assert read == "cancel"

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks, grandparent:
                await parent.__aenter__()
                tasks.start_soon(work)
                await anyio.wait_all_tasks_blocked()
                assert child.parent is parent
                at_line = AtLine(line, lambda: run_by_hand(parent.__aexit__(None, None, None)))  # noqa: B023
                with at_line:
                    if read == "cancel":
                        child.cancel_sync()
                    else:
                        READS[read](child)
                came = at_line.came
                if not came:
                    await parent.__aexit__(None, None, None)
                if read != "cancel":
                    assert not child.cancel_requested
                    go_on.set()
        assert parent.is_completed
        assert child.is_cancelled is (read == "cancel")


async def test_the_registry_may_be_read_while_an_operation_ends() -> None:
    """Lists, trees and counts at whatever line of a list the block is left."""
    for read in ("list_operations", "tree", "get_statistics", "cancel_all", "get_history"):
        line, came = 0, True
        while came:
            line += 1
            registry = OperationRegistry()
            operation = registry.register(Cancelable.with_timeout(60, name="mine"))
            await operation.__aenter__()
            at_line = AtLine(line, lambda: run_by_hand(operation.__aexit__(None, None, None)))  # noqa: B023
            with at_line:
                getattr(registry, read)()
            came = at_line.came
            if not came:
                await operation.__aexit__(None, None, None)
            assert operation.is_completed
            assert registry.list_operations() == []
            assert len(registry.get_history()) == 1


# --- An interrupt inside of anyio ------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_leaves_a_block_whatever_scope_it_has_left_open(
    backend: str, interrupt: BaseException
) -> None:
    """Ctrl-C while a scope inside is being entered: that one stays open for good."""
    operations: list[Cancelable] = []

    async def main() -> None:
        with pytest.raises(type(interrupt)) as told:
            async with Cancelable() as operation:
                operations.append(operation)
                anyio.CancelScope().__enter__()
                raise interrupt
        assert told.value is interrupt

    anyio.run(main, backend=backend)
    assert operations[0].status is OperationStatus.FAILED
    assert operations[0].context.error == f"{type(interrupt).__name__}: {interrupt}"


def test_an_interrupt_at_any_line_of_an_inner_scope_leaves_the_block() -> None:
    """At each line in which anyio enters a scope of the program, and leaves it.

    Trio keeps Ctrl-C out of its own lines.
    """
    line, came = 0, True
    while came:
        line += 1
        at_line = AtLine(line, ctrl_c, anyio.__path__[0])
        reached: list[str] = []

        async def main(at_line: AtLine = at_line, reached: list[str] = reached) -> None:
            try:
                async with Cancelable():
                    with at_line, anyio.CancelScope(shield=True):
                        pass
            except KeyboardInterrupt:
                reached.append("interrupted")

        asyncio.run(main())
        came = at_line.came
        assert reached == ["interrupted"] * came, f"at line {line}"
    assert line > 20
