"""The guest book of the demo's server: who came, what happened, when they were let go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from cancelable import current_operation


class Guest:
    """One visit, from the first line of a handler to its last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrived = anyio.Event()
        self.left = anyio.Event()
        self.arrived_at = self.left_at = 0.0
        self.how = ""
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def facts(self) -> dict[str, object]:
        return {
            "name": self.name,
            "how": self.how,
            "arrived_at": self.arrived_at,
            "left_at": self.left_at,
            "notes": self.notes,
        }


class GuestBook:
    """Remember the newest visit of each name; times are seconds on the machine's clock."""

    def __init__(self) -> None:
        self._guests: dict[str, Guest] = {}

    def _guest(self, name: str) -> Guest:
        return self._guests.setdefault(name, Guest(name))

    @contextmanager
    def visit(self, name: str) -> Iterator[Guest]:
        """Write down when the code inside began, when it stopped, and what stopped it."""
        if self._guest(name).left.is_set():
            del self._guests[name]
        guest = self._guest(name)
        guest.arrived_at = time.monotonic()
        guest.arrived.set()
        try:
            yield guest
        except BaseException as error:
            guest.left_at = time.monotonic()
            guest.how = f"was cancelled: {why(error)}"
            raise
        else:
            guest.left_at = time.monotonic()
            guest.how = "ended by itself"
        finally:
            took = guest.left_at - guest.arrived_at
            print(f"{name}: {guest.how}, after {took:.2f} s", flush=True)
            guest.left.set()

    async def wait_for_arrival(self, name: str) -> dict[str, object]:
        guest = self._guest(name)
        await guest.arrived.wait()
        return guest.facts()

    async def wait_for_departure(self, name: str) -> dict[str, object]:
        guest = self._guest(name)
        await guest.left.wait()
        return guest.facts()


def why(error: BaseException) -> str:
    """Say what stopped a handler, from inside it."""
    operation = current_operation()
    cause = None if operation is None else operation.cause
    if cause is None:
        return type(error).__name__
    # An operation inside a request was stopped by it: what stopped the request is of interest.
    return (cause.origin_reason or cause.reason).value
