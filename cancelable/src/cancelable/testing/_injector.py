"""Cancel a piece of async code at its first checkpoint, its second, its third, and so on.

Code that is safe to cancel is safe at each of them. The code runs again and again, each time
in the calling task under a scope that is cancelled at the next checkpoint, until a run gets
through without having been cancelled; after each run, what it left behind is looked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from .._cancelable import current_operation
from .._registry import OperationRegistry

MOST = 1000
"""The most checkpoints that are tried unless another number is given."""

LONGEST = 5.0
"""Seconds that one run may take after its cancelation, before it counts as hanging."""


@dataclass(slots=True)
class InjectionReport:
    """Say what the runs of an injection came to."""

    checkpoints: int = 0
    """How many checkpoints the code passes when nothing cancels it."""
    swallowed: list[int] = field(default_factory=list[int])
    """At which checkpoints the code was cancelled and ended as if it had not been."""
    leftovers: list[str] = field(default_factory=list[str])
    """What was left behind, and after a cancel at which checkpoint."""

    def assert_clean(self) -> None:
        """Check that nothing was left behind.

        Raises:
            AssertionError: If something was; the message lists it all.
        """
        if self.leftovers:
            msg = "left behind:\n  " + "\n  ".join(self.leftovers)
            raise AssertionError(msg)


async def cancel_at_each_checkpoint(
    function: Callable[[], Awaitable[object]],
    *,
    check: Callable[[], object] | None = None,
    most: int = MOST,
    longest: float = LONGEST,
) -> InjectionReport:
    """Run an async function again and again, cancelled at its 1st, 2nd, 3rd, … checkpoint.

    Each run has a registry of its own as the default. After a run these count as left behind:
    operations in that registry, a current operation that is not the one from before, tasks
    that run on, an error other than the cancelation, and whatever *check* raises.

    Args:
        function: Called for each run; it must set up all that it needs.
        check: Called after each run, to look at what the test knows of.
        most: How many checkpoints to try at the most.
        longest: Seconds that a run may take.

    Returns:
        What the runs came to.

    Raises:
        RuntimeError: If the code did not get through with that many checkpoints.
        Exception: What the code raises when nothing cancels it.
    """
    report = InjectionReport()
    for number in range(1, most + 1):
        run = _Run(function, number)
        await run.play(longest)
        # Tasks that were told to end get a turn or two to do so.
        for _ in range(3):
            await cancel_shielded_checkpoint()
        report.leftovers += run.look_around(check)
        if not run.was_cancelled:
            report.checkpoints = run.passed
            return report
        if run.got_through:
            report.swallowed.append(number)
    msg = f"the code did not get through with {most} checkpoints; give `most` a larger number"
    raise RuntimeError(msg)


class _Run:
    """One run, cancelled at one checkpoint."""

    def __init__(self, function: Callable[[], Awaitable[object]], number: int) -> None:
        self._function = function
        self._number = number
        self._registry = OperationRegistry()
        self._current = current_operation()
        # Known by their coroutines, kept here: the id of a task that ends is soon another's.
        self._before = [task.coro for task in anyio.get_running_tasks()]
        self._found: list[str] = []
        self.passed = 0
        self.was_cancelled = False
        self.got_through = False

    async def play(self, longest: float) -> None:
        with anyio.move_on_after(longest, shield=True) as limit, self._registry.as_default():
            with anyio.CancelScope() as scope:
                try:
                    await _Counted(self._function(), self._cancel_at(scope))
                    self.got_through = True
                except Exception as error:
                    if not self.was_cancelled:
                        raise
                    self._found.append(f"the error {error!r}")
        if limit.cancelled_caught:
            self._found.append(f"a run that did not end within {longest:g} s")

    def _cancel_at(self, scope: anyio.CancelScope) -> Callable[[], None]:
        def passing() -> None:
            self.passed += 1
            if self.passed == self._number:
                self.was_cancelled = True
                scope.cancel()

        return passing

    def look_around(self, check: Callable[[], object] | None) -> list[str]:
        for context in self._registry.list_operations():
            self._found.append(f"the operation {context.name or context.id}, {context.status}")
        if current_operation() is not self._current:
            self._found.append(f"the current operation {current_operation()!r}")
        before = {id(coroutine) for coroutine in self._before}
        for task in anyio.get_running_tasks():
            if id(task.coro) not in before:
                self._found.append(f"the task {task.name}")
        if check is not None:
            try:
                check()
            except Exception as error:
                self._found.append(f"what the check says: {error!r}")
        when = f"checkpoint {self._number}" if self.was_cancelled else "no cancel"
        return [f"{when}: {found}" for found in self._found]


class _Counted:
    """Await something and call a function each time it suspends the task.

    Both event loops run a task by sending into its coroutine; what the coroutine hands up when
    it suspends passes through here on its way, and what the loop answers on its way back.
    """

    def __init__(self, awaited: Awaitable[object], passing: Callable[[], None]) -> None:
        self._awaited = awaited
        self._passing = passing

    def __await__(self) -> Generator[object, object, object]:
        inner = self._awaited.__await__()
        step: Callable[[], object] = lambda: next(inner)  # noqa: E731
        while True:
            try:
                trap = step()
            except StopIteration as done:
                result: object = done.value
                return result
            self._passing()
            try:
                answer = yield trap
            except BaseException as error:
                step = _thrower(inner, error)
            else:
                step = _sender(inner, answer)


def _sender(inner: Generator[object, object, object], answer: object) -> Callable[[], object]:
    return lambda: inner.send(answer)


def _thrower(
    inner: Generator[object, object, object], error: BaseException
) -> Callable[[], object]:
    return lambda: inner.throw(error)
