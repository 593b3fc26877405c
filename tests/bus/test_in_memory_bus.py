"""The bus of one process apart from what it shares with others."""

from __future__ import annotations

import pickle

import anyio
import pytest

from cancelable import (
    Cancelable,
    CancelOutcome,
    LatentOperation,
    ManualCancelation,
    OperationRegistry,
)
from cancelable.bus import DuplicateOperation, InMemoryBus
from tests.bus.work import running


async def test_it_tells_of_the_registry_that_is_the_default_where_it_is_made() -> None:
    registry = OperationRegistry()
    with registry.as_default():
        bus = InMemoryBus()
    assert bus.registry is registry
    assert bus.status.up
    async with running(bus, "job"):
        assert await bus.get("job") is not None
        assert await InMemoryBus(OperationRegistry()).get("job") is None


async def test_it_follows_the_registry_only_while_somebody_watches() -> None:
    """An operation pays nothing for a bus that nobody uses."""
    bus = InMemoryBus(OperationRegistry())
    async with running(bus, "job"):
        assert bus.registry._observers == ()
        async with bus.watch("job"), bus.watch("job"):
            assert len(bus.registry._observers) == 1
        assert bus.registry._observers == ()


async def test_how_it_ended_is_told_without_any_time_to_wait() -> None:
    """S16: `wait_stopped` with a timeout of zero is a look, as that of a registry is."""
    bus = InMemoryBus(OperationRegistry())
    async with running(bus, "job"):
        assert await bus.wait_stopped("job", 0) is None
    ended = await bus.wait_stopped("job", 0)
    assert ended is not None
    assert not ended.state.is_live


class Visit(LatentOperation):
    def make_operation(self) -> Cancelable:
        return Cancelable(name="visit")


async def test_it_lists_those_whose_operation_nobody_has_asked_for() -> None:
    """S16: a listing is one who asks."""
    with OperationRegistry().as_default():
        bus = InMemoryBus()
        with pytest.raises(ManualCancelation):
            async with Visit():
                (info,) = (await bus.list_operations()).operations
                assert info.name == "visit"
                assert (await bus.cancel(info.id)).outcome is CancelOutcome.REQUESTED
                await anyio.sleep_forever()


async def test_remembered_requests_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes when there are too many, and each when its time is over."""
    monkeypatch.setattr("cancelable.bus._memory.MOST_REMEMBERED", 3)
    bus = InMemoryBus(OperationRegistry())
    for number in range(5):
        await bus.cancel(f"job-{number}", remember_for=60)
    assert (await bus.cancel("short", remember_for=1e-9)).outcome is CancelOutcome.REMEMBERED
    stopped: list[str] = []
    for operation_id in (*(f"job-{number}" for number in range(5)), "short"):
        operation = Cancelable(operation_id)
        bus.registry.register(operation)
        try:
            async with operation:
                await operation.check_cancelation()
        except ManualCancelation:
            stopped.append(operation_id)
    assert stopped == ["job-3", "job-4"]


def test_the_error_of_a_taken_id_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(DuplicateOperation("job")))
    assert isinstance(error, DuplicateOperation)
    assert error.operation_id == "job"
