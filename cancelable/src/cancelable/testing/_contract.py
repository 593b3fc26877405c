"""What every source of cancelation must do, as a check that can be run on one's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from .._cancelable import Cancelable
from .._reason import CancelationReason
from .._status import OperationStatus
from ..exceptions import CancelationError
from ..sources import CancelationSource

LONGEST = 5.0
"""Seconds that anything in the contract may take."""


async def check_source_contract(
    make: Callable[[], CancelationSource],
    fire: Callable[[CancelationSource], Awaitable[object]],
    *,
    reason: CancelationReason | str,
) -> None:
    """Run the contract of sources against one kind of source.

    Args:
        make: Makes a source that will not fire by itself within a few seconds.
        fire: Makes the source fire: by the event that it watches, not by ``trigger``.
        reason: The reason that an operation stopped by it has.

    Raises:
        AssertionError: If the source breaks the contract; the message says where.
        ValueError: If there is no such reason.
    """
    await _stops_the_block(make(), fire, CancelationReason.of(reason))
    await _is_quiet_after_the_end(make())
    await _gives_way_to_a_scope_around(make())
    await _ends_with_an_error_inside(make())
    await _belongs_to_one_operation(make())


async def _stops_the_block(
    source: CancelationSource,
    fire: Callable[[CancelationSource], Awaitable[object]],
    reason: CancelationReason,
) -> None:
    operation = Cancelable(name="contract").add_source(source)
    error: CancelationError | None = None
    with anyio.move_on_after(LONGEST):
        try:
            async with operation:
                _expect(not operation.cancel_requested, "the source fired before its event")
                await fire(source)
                await anyio.sleep_forever()
        except CancelationError as left:
            error = left
    _expect(error is not None, "firing did not stop the block")
    assert error is not None
    _expect(error.reason is reason, f"the reason was {error.reason}, not {reason}")
    _expect(source.triggered, "a source that has fired must say so in `triggered`")


async def _is_quiet_after_the_end(source: CancelationSource) -> None:
    operation = Cancelable(name="contract").add_source(source)
    # Known by their coroutines, kept here: the id of a task that ends is soon another's.
    coroutines = [task.coro for task in anyio.get_running_tasks()]
    before = {id(coroutine) for coroutine in coroutines}
    with _in_time():
        async with operation:
            await anyio.lowlevel.checkpoint()
    _expect(operation.is_completed, f"a block nobody stopped ended {operation.status}")
    left = [task.name for task in anyio.get_running_tasks() if id(task.coro) not in before]
    _expect(not left, f"tasks run on after the block: {left}")
    source.trigger("late")
    _expect(not operation.cancel_requested, "a late event reached an operation that had ended")


async def _gives_way_to_a_scope_around(source: CancelationSource) -> None:
    operation = Cancelable(name="contract").add_source(source)
    with _in_time(), anyio.CancelScope() as scope:
        async with operation:
            scope.cancel()
            await anyio.sleep_forever()
    _expect(scope.cancelled_caught, "the cancelation of a scope around the block was lost")
    _expect(operation.status is OperationStatus.CANCELLED, f"the status was {operation.status}")


async def _ends_with_an_error_inside(source: CancelationSource) -> None:
    operation = Cancelable(name="contract").add_source(source)
    sent = LookupError("an error of the block")
    try:
        with _in_time():
            async with operation:
                raise sent
    except LookupError as error:
        _expect(error is sent, "the error of the block was replaced")
    except BaseExceptionGroup as group:
        msg = "the error of the block was wrapped in a group"
        raise AssertionError(msg) from group


async def _belongs_to_one_operation(source: CancelationSource) -> None:
    Cancelable(name="contract").add_source(source)
    try:
        Cancelable(name="contract").add_source(source)
    except RuntimeError:
        return
    msg = "a second operation could take the same source"
    raise AssertionError(msg)


@contextmanager
def _in_time() -> Generator[None]:
    with anyio.move_on_after(LONGEST) as limit:
        yield
    _expect(not limit.cancelled_caught, f"a block did not end within {LONGEST:g} s")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
