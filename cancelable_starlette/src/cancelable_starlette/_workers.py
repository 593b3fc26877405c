"""Tasks of one task group that do one piece of work after another.

To start and end a task costs more than what the reader of a request does in it; most readers are
needed for milliseconds. So a task that is done waits for the next piece of work. Design note
``0004`` has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

IDLE_LIMIT = 100
"""How many tasks wait for work at most; each takes a few kilobytes."""

SPARE_AFTER = 2.0
"""Seconds that a task waits for work before it ends, or up to twice as long."""

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""What a task does."""


class Workers:
    """Do work in tasks of a task group; all calls belong to its loop."""

    def __init__(self, tasks: TaskGroup) -> None:
        """Take the group in which the tasks run, in the context that they are to have."""
        self._tasks = tasks
        self._context = copy_context()
        # The class that the backend makes of it: anyio.Event() asks first which loop runs.
        self._event_class = type(anyio.Event())
        self._idle: list[_Worker] = []
        self._spare = 0  # how many have waited all the time since the last look
        self._has_idle: anyio.Event | None = None

    async def look_for_spare(self) -> None:
        """End, now and then, the tasks that nobody has needed; until this is cancelled."""
        while True:
            if not self._idle:
                self._has_idle = anyio.Event()
                await self._has_idle.wait()
            await anyio.sleep(SPARE_AFTER)
            self.end_spare()

    def end_spare(self) -> None:
        """End the tasks that nobody has needed since this was last called."""
        # The end of the list works first, so its beginning has waited longest.
        spare, self._idle = self._idle[: self._spare], self._idle[self._spare :]
        self._spare = len(self._idle)
        for worker in spare:
            worker.called.set()

    def start(self, work: Work) -> anyio.CancelScope:
        """Have a task do a piece of work.

        Args:
            work: What it does. It is cancelled with the group; an error of it ends the group.

        Returns:
            A scope around the work, to cancel it while it has not ended; never afterwards, when
            the scope may be around the work of somebody else.
        """
        # Work has the context of whoever starts it: a ping of a stream is sent as its request.
        if self._idle and self._is_in_own_context():
            worker = self._idle.pop()
            if len(self._idle) < self._spare:
                self._spare = len(self._idle)
            worker.work = work
            worker.called.set()
        else:
            worker = _Worker(work)
            self._tasks.start_soon(self._run, worker)
        return worker.scope

    async def _run(self, worker: _Worker) -> None:
        await do_in(worker.scope, partial(self._do_all, worker))

    async def _do_all(self, worker: _Worker) -> None:
        """Do one piece of work after another, as long as the task is as good as a new one."""
        while worker.work is not None:
            await worker.do()
            if worker.scope.cancel_called or worker.is_spent or not self._has_use_for_more():
                return
            await self._wait_for_work(worker)

    def _has_use_for_more(self) -> bool:
        return len(self._idle) < IDLE_LIMIT and self._is_in_own_context()

    def _is_in_own_context(self) -> bool:
        """Return whether the calling task has nothing of one request in its context.

        The next one would see it. It is there if a request has started the task, or a middleware
        around ours has set a variable in a ``receive()`` of its own.
        """
        here, new = copy_context(), self._context
        if len(here) != len(new):
            return False
        for var in new:
            # By identity: to compare foreign values could run foreign code.
            if here.get(var, _nothing) is not new[var]:
                return False
        return True

    async def _wait_for_work(self, worker: _Worker) -> None:
        worker.called = self._event_class()
        self._idle.append(worker)
        if self._has_idle is not None:
            self._has_idle.set()
            self._has_idle = None
        try:
            await worker.called.wait()
        except anyio.get_cancelled_exc_class():
            if worker.work is None:
                if worker in self._idle:  # else it has just been let go
                    self._idle.remove(worker)
                raise
            # Whoever gave the work waits for its end, so it begins. A scope's cancel meets it at
            # its first checkpoint. asyncio's own ``task.cancel()`` was meant for a task without
            # work, and does not come again.
            worker.is_spent = True


async def do_in(scope: anyio.CancelScope, work: Work) -> None:
    """Do work in a scope of its own, of which nobody outside hears when it is cancelled.

    A scope lets a cancel out that is not all its own: on asyncio if somebody has called
    ``task.cancel()`` before and nobody ``uncancel()``, or if what was cancelled answers with a new
    CancelledError. A task group that hears of it cancels all that is in it.

    Args:
        scope: A scope that has not been entered.
        work: What is done in it.
    """
    try:
        with scope:
            await work()
    except anyio.get_cancelled_exc_class():
        if anyio.current_effective_deadline() == -math.inf:
            raise


class _Worker:
    """One task, and what it has to do."""

    __slots__ = ("called", "is_spent", "scope", "work")

    called: anyio.Event
    """Set when a task that waits has work, or is to end; there when it waits."""

    def __init__(self, work: Work) -> None:
        self.work: Work | None = work
        self.scope = anyio.CancelScope()
        self.is_spent = False  # whether what it does now is the last

    async def do(self) -> None:
        """Do the work, and forget it: it is part of a request that is about to end."""
        work, self.work = self.work, None
        assert work is not None
        await work()


_nothing = object()
