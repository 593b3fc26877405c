"""The contract that every source of cancelation keeps, ours and users' own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from cancelable import (
    AllOfSource,
    AnyOfSource,
    CancelationReason,
    CancelationSource,
    ConditionSource,
    ResourceConditionSource,
    SignalSource,
    TimeoutSource,
)
from cancelable.sources import CompositeSource
from cancelable.testing import check_source_contract

Fire = Callable[[CancelationSource], Awaitable[object]]

CONDITION, TIMEOUT, SIGNAL = (
    CancelationReason.CONDITION,
    CancelationReason.TIMEOUT,
    CancelationReason.SIGNAL,
)


class Door(CancelationSource):
    """A user's source with a task that watches."""

    def __init__(self) -> None:
        super().__init__(CONDITION, "door")
        self.opened = anyio.Event()

    async def watch(self) -> None:
        await self.opened.wait()


class Feed(CancelationSource):
    """A user's source that subscribes to something in another thread, and needs no task."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.DISCONNECT, "feed")
        self.subscribers: list[Callable[[str], object]] = []

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()
        self.subscribers.append(self.trigger)

    async def stop_monitoring(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.subscribers.clear()


@dataclass
class Flag:
    """Something to ask, and what is answered."""

    up: bool = False
    asked: threading.Event = field(default_factory=threading.Event)

    def is_up(self) -> bool:
        self.asked.set()
        return self.up

    async def is_up_async(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.is_up()


# -- what makes them fire --------------------------------------------------------------------


async def open_it(source: CancelationSource) -> None:
    assert isinstance(source, Door)
    source.opened.set()


async def publish(source: CancelationSource) -> None:
    assert isinstance(source, Feed)
    threads = [threading.Thread(target=tell, args=("gone",)) for tell in source.subscribers]
    for thread in threads:
        thread.start()
        thread.join(5)


async def raise_the_flag(source: CancelationSource) -> None:
    assert isinstance(source, ConditionSource)
    flag = getattr(source.condition, "__self__", None)
    assert isinstance(flag, Flag)
    while not flag.asked.is_set():
        await anyio.sleep(0.001)
    flag.up = True


async def set_the_event(source: CancelationSource) -> None:
    assert isinstance(source, ConditionSource)
    assert isinstance(source.condition, anyio.Event)
    source.condition.set()


async def send_a_signal(source: CancelationSource) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)


async def use_up_memory(source: CancelationSource) -> None:
    assert isinstance(source, ResourceConditionSource)
    source.memory_threshold = 0.0


async def let_time_pass(source: CancelationSource) -> None:
    """Nothing to do: the source fires by itself within a moment."""


async def open_the_last(source: CancelationSource) -> None:
    assert isinstance(source, CompositeSource)
    await open_it(source.sources[-1])


async def open_all(source: CancelationSource) -> None:
    assert isinstance(source, CompositeSource)
    for part in source.sources:
        await (publish if isinstance(part, Feed) else open_it)(part)


KEPT: dict[str, tuple[Callable[[], CancelationSource], Fire, CancelationReason]] = {
    "timeout": (lambda: TimeoutSource(0.2), let_time_pass, TIMEOUT),
    "condition": (lambda: ConditionSource(Flag().is_up, 0.001), raise_the_flag, CONDITION),
    "async condition": (
        lambda: ConditionSource(Flag().is_up_async, 0.001),
        raise_the_flag,
        CONDITION,
    ),
    "condition in a thread": (
        lambda: ConditionSource(Flag().is_up, 0.001, in_thread=True),
        raise_the_flag,
        CONDITION,
    ),
    "event": (lambda: ConditionSource(anyio.Event()), set_the_event, CONDITION),
    "resources": (
        lambda: ResourceConditionSource(memory_threshold=100, check_interval=0.001),
        use_up_memory,
        CONDITION,
    ),
    "signal": (lambda: SignalSource(signal.SIGUSR2), send_a_signal, SIGNAL),
    "any of": (lambda: AnyOfSource([Feed(), Door()]), open_the_last, CONDITION),
    "all of": (lambda: AllOfSource([Feed(), Door()]), open_all, CONDITION),
    "any of all of": (
        lambda: AnyOfSource([AllOfSource([Door(), TimeoutSource(60)]), Door()]),
        open_the_last,
        CONDITION,
    ),
    "a timeout in any of": (lambda: AnyOfSource([TimeoutSource(0.2)]), let_time_pass, TIMEOUT),
    "a user's with a task": (Door, open_it, CONDITION),
    "a user's without a task": (Feed, publish, CancelationReason.DISCONNECT),
}


@pytest.mark.parametrize("kind", KEPT)
async def test_a_source_keeps_the_contract(kind: str) -> None:
    """It stops the block for its reason, gives way to everything else, and leaves nothing."""
    make, fire, reason = KEPT[kind]
    await check_source_contract(make, fire, reason=reason)


# -- the contract goes red -------------------------------------------------------------------


class Deaf(Door):
    """Never fires."""

    async def watch(self) -> None:
        await anyio.sleep_forever()


class Hasty(Door):
    """Fires before its event."""

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        self.trigger("at once")


class Mistaken(Door):
    """Has another reason than it should."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = CancelationReason.MANUAL


class Rough(Door):
    """Cancels the scope, and does not say why."""

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        self.scope = scope

    async def watch(self) -> None:
        await self.opened.wait()
        assert self.scope is not None
        self.scope.cancel()
        await anyio.sleep_forever()


class Secretive(Door):
    """Does not say that it has fired."""

    @property
    def triggered(self) -> bool:
        return False


class Shared(Door):
    """Lets any number of operations have it."""

    def set_cancel_callback(self, callback: Callable[..., object] | None) -> None:
        self._callback = callback


class Busy(Door):
    """Leaves a task behind."""

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        Busy.tasks.start_soon(anyio.sleep_forever)

    tasks: TaskGroup


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Deaf, "firing did not stop the block"),
        (Hasty, "fired before its event"),
        (Mistaken, "the reason was manual, not condition"),
        (Rough, "the reason was external, not condition"),
        (Secretive, "must say so in `triggered`"),
        (Shared, "a second operation could take the same source"),
        (Busy, "tasks run on after the block"),
    ],
)
async def test_the_contract_goes_red_for_a_source_that_breaks_it(
    broken: type[Door], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its sentences has a source that it finds, and says what is wrong."""
    if broken is Deaf:
        monkeypatch.setattr("cancelable.testing._contract.LONGEST", 0.1)
    async with anyio.create_task_group() as tasks:
        Busy.tasks = tasks
        with pytest.raises(AssertionError, match=complaint):
            await check_source_contract(broken, open_it, reason="condition")
        tasks.cancel_scope.cancel()
