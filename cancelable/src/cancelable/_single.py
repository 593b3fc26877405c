"""Things of which there is one only, as of a lock or a task."""

from __future__ import annotations

from typing import NoReturn, Self, SupportsIndex


class Single:
    """Stay the same one wherever it is held.

    A copy would be asked by nobody that asks the first one. A deep copy of what holds such a thing
    (a dataclass, a dictionary of settings) holds the same; a copy of itself and pickling are
    refused.
    """

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied and pickled.

        Raises:
            TypeError: Always.
        """
        kind = type(self).__name__
        msg = (
            f"a {kind} can be neither copied nor pickled: what is asked of the one would not reach "
            "the other. In this process hand on the object itself; to another one send the id of "
            "the operation, and cancel that by a registry or a bus"
        )
        raise TypeError(msg)
