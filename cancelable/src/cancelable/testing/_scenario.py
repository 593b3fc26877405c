"""A script of delays, cancels and checks, played against an operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import anyio

from .._cancelable import Cancelable
from .._decorators import INJECTED, _inject, _place_of
from .._reason import CancelationReason
from .._status import OperationStatus
from ..exceptions import CancelationError
from ._recorder import OperationRecorder
from ._token import MockCancelationToken


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One step of a scenario: what it is for people, and what it does."""

    description: str
    play: Callable[[Cancelable, MockCancelationToken, OperationRecorder], Awaitable[None]]
    is_check: bool = False


class CancelationScenario:
    """Play steps one after another while an operation runs.

    Attributes:
        name: A name for people, also of the operation.
        steps: The steps so far.
    """

    def __init__(self, name: str) -> None:
        """Make an empty scenario."""
        self.name = name
        self.steps: list[ScenarioStep] = []

    @property
    def assertions(self) -> list[ScenarioStep]:
        """The steps that check something."""
        return [step for step in self.steps if step.is_check]

    def add_delay(self, duration: float) -> Self:
        """Wait.

        Args:
            duration: Seconds.
        """

        async def play(*_: object) -> None:
            await anyio.sleep(duration)

        return self._add(f"wait {duration:g} s", play)

    def add_cancelation(
        self,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
    ) -> Self:
        """Cancel the operation's token.

        Args:
            reason: The kind of cause.
            message: A text.
        """

        async def play(_: Cancelable, token: MockCancelationToken, __: object) -> None:
            await token.cancel(reason, message)

        return self._add(f"cancel: {reason}", play)

    def add_progress_check(self, expected_message: str, timeout: float = 1.0) -> Self:
        """Wait for a progress report that contains a text.

        Args:
            expected_message: The text.
            timeout: Seconds to wait for it.
        """

        async def play(operation: Cancelable, *_: object) -> None:
            with anyio.move_on_after(timeout):
                async for update in operation.progress():
                    if expected_message in str(update.message):
                        return
            msg = f"no progress report with {expected_message!r} came"
            raise AssertionError(msg)

        return self._add(f"expect progress {expected_message!r}", play, is_check=True)

    def add_status_check(self, expected_status: OperationStatus | str) -> Self:
        """Check where the operation stands.

        Args:
            expected_status: The status.

        Raises:
            ValueError: If there is no such status.
        """
        expected = OperationStatus.of(expected_status)

        async def play(operation: Cancelable, *_: object) -> None:
            if operation.status is not expected:
                msg = f"the operation is {operation.status}, not {expected}"
                raise AssertionError(msg)

        return self._add(f"expect status {expected}", play, is_check=True)

    async def run(
        self, operation: Callable[..., Awaitable[object]], *args: object, **kwargs: object
    ) -> OperationRecorder:
        """Run an async function inside an operation, and the steps beside it.

        Args:
            operation: The function; a parameter called ``cancelable`` gets the operation, unless
                it is among the arguments.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The recorder, with everything that happened.

        Raises:
            AssertionError: If a check fails; the message names the step.
        """
        token, recorder = MockCancelationToken(), OperationRecorder()
        cancel = Cancelable.with_token(token, name=self.name)
        _inject(kwargs, args, _place_of(operation, INJECTED), cancel)
        recorder.attach(cancel)
        failures: list[AssertionError] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._play, cancel, token, recorder, failures)
            try:
                async with cancel:
                    await operation(*args, **kwargs)
            except CancelationError as error:
                if error.operation_id != cancel.operation_id:
                    raise
        if failures:
            raise failures[0]
        return recorder

    async def _play(
        self,
        operation: Cancelable,
        token: MockCancelationToken,
        recorder: OperationRecorder,
        failures: list[AssertionError],
    ) -> None:
        for number, step in enumerate(self.steps, 1):
            try:
                await step.play(operation, token, recorder)
            except AssertionError as error:
                error.add_note(f"scenario {self.name!r}, step {number}: {step.description}")
                failures.append(error)
                operation.cancel_sync(message=f"step {number} of the scenario failed")
                return

    def _add(
        self,
        description: str,
        play: Callable[[Cancelable, MockCancelationToken, OperationRecorder], Awaitable[None]],
        *,
        is_check: bool = False,
    ) -> Self:
        self.steps.append(ScenarioStep(description, play, is_check))
        return self
