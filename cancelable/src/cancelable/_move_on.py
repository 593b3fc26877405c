"""The block of an operation whose own cancelation ends it and goes no further."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar

from ._block import Block
from .exceptions import CancelationError

BlockT = TypeVar("BlockT", bound=Block)


class MoveOn(Generic[BlockT]):
    """Run the block of an operation, and go on behind it where it was cancelled.

    Made by ``Cancelable.move_on()``. It is a context manager of its own, since a type checker
    takes the code behind one that may swallow for reachable, and that behind ``async with
    Cancelable()``, which never does, for what it is.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: BlockT) -> None:
        """Take the operation."""
        self._operation = operation

    async def __aenter__(self) -> BlockT:
        """Enter the block.

        Raises:
            CancelationError: If the operation was cancelled while a source took its time to
                start: there is no block to move on from.
        """
        return await self._operation.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        """Leave the block; True if only its own cancelation is left."""
        leaving = exc
        try:
            await self._operation.__aexit__(exc_type, exc, tb)
        except CancelationError as error:
            if not self._is_own(error):
                raise
            leaving = error
        return self._is_own(leaving)

    def _is_own(self, error: BaseException | None) -> bool:
        return (
            isinstance(error, CancelationError)
            and self._operation.is_cancelled
            and error.operation_id == self._operation.operation_id
        )
