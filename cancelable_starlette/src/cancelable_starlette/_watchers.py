"""Who watches requests: one service for a loop, or where there is none, each request its own."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio.abc import TaskGroup

from ._inbox import Inbox
from ._overrun import LOOKS
from ._shutdown import Shutdown
from ._workers import Work, Workers, do_in

TICK = 0.005
"""Seconds of age at which a request is watched; the service may take one tick longer."""


class WatcherService:
    """Watch the requests of one event loop that live long enough to be worth it.

    A request costs one step into a set and one out of it. The service ticks as long as there are
    requests that are not watched or new ones come; one that is still there after a whole tick is
    watched from then on. To wake an idle loop takes far more than what a tick does, so the service
    does not tick longer than that.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        """Make a service that watches nothing yet.

        Args:
            tasks: The group in whose tasks it reads; it must stay open as long as the service.
        """
        self._tasks = tasks
        self._workers = Workers(tasks)
        self.knows_server: bool = False
        self._young: set[Inbox] = set()
        self._older: set[Inbox] = set()
        self._watched: set[Inbox] = set()
        self._is_asked = False  # a request has begun since the last tick
        self._woken_at = -math.inf
        self._work: anyio.Event | None = None
        self._has_watched: anyio.Event | None = None
        self._closed = False

    def start(self, warn_after: float) -> None:
        """Start the tasks of the service.

        Args:
            warn_after: Seconds after which a handler that does not end is reported; infinity for
                never.
        """
        self._tasks.start_soon(self._run)
        self._tasks.start_soon(self._workers.look_for_spare)
        if warn_after != math.inf:
            self._tasks.start_soon(self._look_after_all, warn_after)

    def enter(self, inbox: Inbox) -> None:
        """Take in a request that begins."""
        inbox.watcher = self
        self._young.add(inbox)
        self._is_asked = True
        if self._work is not None:
            self._work.set()
            self._work = None

    def leave(self, inbox: Inbox) -> None:
        """Let a request go."""
        if inbox in self._young:
            self._young.remove(inbox)
        else:
            self._older.discard(inbox)
            self._watched.discard(inbox)

    async def shut_down(self, grace: float) -> None:
        """Tell all that are in flight that the server shuts down.

        Args:
            grace: Seconds until what does not end by itself is cut.
        """
        for inbox in [*self._young, *self._older, *self._watched]:
            await inbox.shut_down(grace)

    def spawn(self, work: Work) -> anyio.CancelScope | None:
        """Have a task read, or do something else for a request; see ``Watcher``."""
        return None if self._closed else self._workers.start(work)

    async def _run(self) -> None:
        try:
            while True:
                await self._wait_for_requests()
                while self._is_asked or self._young or self._older:
                    self._is_asked = False
                    await anyio.sleep(TICK)
                    self._let_them_age()
        finally:
            self._closed = True

    async def _wait_for_requests(self) -> None:
        """Wait for one that does not end in its first turn of the loop, or comes upon another."""
        comes_upon_another = False
        while not (self._young or comes_upon_another):
            work = self._work = anyio.Event()
            await work.wait()
            now = anyio.current_time()
            comes_upon_another = now - self._woken_at < TICK
            self._woken_at = now
        # They have begun just now, so after the next tick they are of age.
        self._let_them_age()

    def _let_them_age(self) -> None:
        """Watch those that have been there for a whole tick; the young are older from now on."""
        of_age, self._older, self._young = self._older, self._young, set()
        self._watched |= of_age
        if self._has_watched is not None and of_age:
            self._has_watched.set()
            self._has_watched = None
        for inbox in of_age:
            inbox.watch()

    async def _look_after_all(self, warn_after: float) -> None:
        """Look now and then at the requests that are watched, while there are any."""
        while True:
            if not self._watched:
                self._has_watched = anyio.Event()
                await self._has_watched.wait()
            await anyio.sleep(warn_after / LOOKS)
            self._look_at_watched(warn_after)

    def _look_at_watched(self, warn_after: float) -> None:
        # In a function of its own, whose names do not outlive the look: a request is to be gone
        # when it has ended.
        for inbox in list(self._watched):
            inbox.look_after(warn_after)


class OwnWatcher:
    """Watch one request from a task group of its own.

    To cancel that group costs more than all the rest. So it is only done where something is left
    in it that does not end otherwise; the task that waits for the end is told of it.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        """Make a watcher in *tasks*."""
        self._tasks = tasks
        self._to_be_cancelled = 0
        self._has_ended = False
        self._end: anyio.Event | None = None

    def spawn(self, work: Work) -> anyio.CancelScope:
        """Start a task that reads, or does something else for the request; see ``Watcher``."""
        scope = anyio.CancelScope()
        self._to_be_cancelled += 1
        self._tasks.start_soon(self._run, partial(do_in, scope, work))
        return scope

    async def _run(self, work: Work) -> None:
        try:
            await work()
        finally:
            self._to_be_cancelled -= 1

    def end(self) -> None:
        """Have the tasks end: the request has."""
        self._has_ended = True
        if self._to_be_cancelled:
            self._tasks.cancel_scope.cancel()
        elif self._end is not None:
            self._end.set()

    async def watch(self, inbox: Inbox, warn_after: float, shutdown: Shutdown | None) -> None:
        """Watch a request once it is older, until it ends; see ``watch_alone``."""
        if await self._ends_within(TICK):
            return
        inbox.watch()
        if shutdown is not None:
            self._to_be_cancelled += 1
            await self._run(partial(_tell_of_shutdown, inbox, warn_after, shutdown))
        while not await self._ends_within(warn_after / LOOKS):
            inbox.look_after(warn_after)

    async def _ends_within(self, seconds: float) -> bool:
        if not self._has_ended:
            self._end = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._end.wait()
        return self._has_ended


async def _tell_of_shutdown(inbox: Inbox, warn_after: float, shutdown: Shutdown) -> None:
    """Wait for a shutdown, and meanwhile look after a request that may take no end."""
    while shutdown.token.cause is None:
        with anyio.move_on_after(warn_after / LOOKS):
            await shutdown.token.wait()
        inbox.look_after(warn_after)
    await inbox.shut_down(shutdown.grace)


async def watch_alone(
    inbox: Inbox,
    body: Callable[[], Awaitable[None]],
    warn_after: float,
    shutdown: Shutdown | None = None,
) -> None:
    """Run *body* and meanwhile watch its request, without any service.

    Args:
        inbox: The messages of the request.
        body: What handles the request. What it raises leaves as it was raised.
        warn_after: Seconds after which a handler that does not end is reported.
        shutdown: What tells of a shutdown of the server.
    """

    def start(tasks: TaskGroup) -> Callable[[], None]:
        inbox.watcher = watcher = OwnWatcher(tasks)
        tasks.start_soon(watcher.watch, inbox, warn_after, shutdown)
        return watcher.end

    await run_beside(start, body)


async def run_beside(
    start: Callable[[TaskGroup], Callable[[], object]], body: Callable[[], Awaitable[None]]
) -> None:
    """Run *body* in this task, beside tasks that end with it.

    Args:
        start: Starts the tasks in the group that it is given; returns what has them end.
        body: What it is about. What it raises is carried around the group, which would wrap it.
    """
    cancelled = anyio.get_cancelled_exc_class()
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            end = start(tasks)
            try:
                await body()
            except cancelled:
                raise
            except BaseException as exc:
                failure = exc
            end()
    except cancelled:
        # On Trio the end of a group is a checkpoint. An error goes before a cancel that meets it
        # there: a scope around would keep that to itself, and nobody would hear of the error.
        if failure is None:
            raise
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # the frame is part of its traceback
