"""Operations that are to be found before they begin."""

from __future__ import annotations

import weakref
from functools import partial

from ._operation import Operation


class Pending:
    """Hold operations that have not begun, as long as somebody else holds them.

    One that never begins goes away by itself, with whoever was to begin it. Safe from any thread:
    each step is one of a dictionary, and what is iterated is a copy that is made in one step.
    Several may wait with one id, since they may begin one after the other; the first is found.
    """

    __slots__ = ("_by_id", "_has_namesakes", "_known")

    def __init__(self) -> None:
        """Hold nothing."""
        self._known: dict[weakref.ref[Operation], None] = {}
        self._by_id: dict[str, weakref.ref[Operation]] = {}
        self._has_namesakes = False

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, operation: Operation) -> None:
        """Take an operation in."""
        self._known[weakref.ref(operation, self._gone)] = None
        known = operation.known_id
        if known is not None:
            self.note_id(operation, known)

    def note_id(self, operation: Operation, operation_id: str) -> None:
        """Let an operation be found by an id that was made after it was taken in."""
        if self.find(operation_id) not in (None, operation):
            self._has_namesakes = True
            return
        gone = partial(self._gone_with_id, operation_id)
        self._by_id[operation_id] = weakref.ref(operation, gone)

    def find(self, operation_id: str) -> Operation | None:
        """Return the operation with this id; it may have begun just now, and has not ended."""
        known = self._by_id.get(operation_id)
        operation = None if known is None else known()
        if operation is not None and not operation.status.is_terminal:
            return operation
        if self._has_namesakes:
            return next((each for each in self.all() if each.known_id == operation_id), None)
        return None

    def all(self) -> list[Operation]:
        """Return the operations that have neither begun nor ended."""
        found = [known() for known in list(self._known)]
        return [each for each in found if each is not None and each.is_pending]

    def discard(self, operation: Operation) -> bool:
        """Let an operation go; return whether it was here."""
        known = operation.known_id
        if known is not None and self.find(known) is operation:
            self._by_id.pop(known, None)
        missing = object()
        return self._known.pop(weakref.ref(operation), missing) is not missing

    def clear(self) -> None:
        """Let all of them go."""
        self._known.clear()
        self._by_id.clear()

    def _gone(self, known: weakref.ref[Operation]) -> None:
        self._known.pop(known, None)

    def _gone_with_id(self, operation_id: str, known: weakref.ref[Operation]) -> None:
        if self._by_id.get(operation_id) is known:
            self._by_id.pop(operation_id, None)
