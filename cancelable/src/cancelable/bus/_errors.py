"""What the calls of a bus raise."""

from __future__ import annotations


class BusUnavailable(Exception):
    """Report that the bus cannot be asked, or cannot know the answer yet.

    Nothing is claimed about the operation: ask again in a moment.
    """


class DuplicateOperation(ValueError):
    """Report that another operation with this id is live, here or in another process.

    Attributes:
        operation_id: The id.
    """

    def __init__(self, operation_id: str) -> None:
        """Make the error.

        Args:
            operation_id: The id that is taken.
        """
        self.operation_id = operation_id
        super().__init__(
            f"another operation with the id {operation_id!r} is live; `operation_id` must be unique"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.operation_id,)
