"""One process on the bus, from entering it to leaving it: its tasks, its sessions, its health.

All of it runs in tasks of its own. A task of a user only ever leaves a command here and waits
for an event, which it may stop doing at any moment. So cancelling a user's task can harm no
connection.

A session is one connection. It subscribes to its own channel, and only then tells everything and
reads the inbox: a request made meanwhile either stands in the inbox by then or rings the bell
afterwards. At the first error of any kind the session is thrown away and another one is made.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ..._doorbell import Doorbell
from ..._ids import new_id
from ..._log import logger
from ..._loop import call_soon, current_loop
from ..._operation import Operation
from ..._registry import Latent, OperationRegistry
from .._errors import BusUnavailable
from .._health import BusStatus
from .._here import Here
from .._info import Worker
from . import _records as records
from ._commands import Command, Commands, ignore
from ._desk import MOST_AT_ONCE, Desk
from ._link import Link, open_link
from ._reply import Reply
from ._settings import DAY, Settings

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

FIRST_DELAY = 0.02
"""Seconds before the first attempt to connect again; each further one waits twice as long."""
LONGEST_DELAY = 2.0
LEAVING = 1.0
"""Seconds that leaving the bus may take."""
BEATS_UNTIL_DEAF = 2.5
"""After so many heartbeats without hearing our own, the connection is taken for dead."""
BEATS_PER_SWEEP = 3
UNASKED = 1.0
"""Seconds that an operation has run when it is announced although nobody has asked for it. They
are looked for as often; most requests of a server are over before that, and cost the broker
nothing."""


class SessionEnded(Exception):
    """Report that a session is of no use any more."""


class Member:
    """Keep this process on the bus.

    It follows the registry: what is said to ``entered``, ``reported`` and ``left``, in any
    thread, is passed on to the desk in the loop of the bus. In a process that was forked from
    this one there is no such loop, and nothing is passed on. Latent operations that nobody asks
    for are asked for here, when they have run for a while.
    """

    def __init__(self, settings: Settings, registry: OperationRegistry) -> None:
        """Make a member of the bus; call this in the loop that is to run it."""
        self._settings = settings
        self._pid = os.getpid()
        self.worker = Worker(id=new_id(), host=socket.gethostname()[:256], pid=self._pid)
        self.here = Here(registry, self.worker)
        self.commands = Commands(settings, self.worker.id)
        self._loop = current_loop()
        self._calls: deque[Callable[[], object]] = deque()
        self._reports: dict[Operation, None] = {}
        self._is_rung = False
        self._bell = Doorbell()
        self._desk = Desk(self.commands, self.here, self.post, self._bell.ring)
        self._watchers: dict[str, dict[Doorbell, None]] = {}
        self._channels = Doorbell()
        self._farewell: Reply | None = None
        self._tasks: TaskGroup | None = None
        self._scope = anyio.CancelScope(shield=True)
        self._settled = anyio.Event()
        self._sessions = 0
        self._is_up = False
        self._is_failing = False
        self._last_error: str | None = None
        self._since = datetime.now(UTC)
        self._beats = 0
        self._heard = anyio.Event()

    # -- joining and leaving -------------------------------------------------------------

    async def join(self) -> None:
        """Follow the registry, and start to connect.

        Returns when the first attempt has come to an end, or is taking its time: a broker that
        is not there keeps nobody from starting.
        """
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._run, name="cancelable bus")
        for operation in self.here.registry.add_observer(self, latent=False):
            self.entered(operation)
        try:
            with anyio.move_on_after(self._settings.timeout):
                await self._settled.wait()
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Tell the last endings, for a second at most; then stop."""
        self.here.registry.remove_observer(self)
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + LEAVING):
            await self._say_goodbye()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.shield = True
            tasks.cancel_scope.cancel()
            self._scope.cancel()
            # What ended the block is not shown to the group, which would wrap it.
            await tasks.__aexit__(None, None, None)
        self._is_up = False
        self._desk.close()

    async def _say_goodbye(self) -> None:
        buried = 1
        while self._is_up and buried:
            self._farewell = reply = Reply()
            self.post(partial(self._desk.ask, self.commands.leave(reply.settle), reply))
            await reply.wait(LEAVING)
            buried = records.whole(reply.answer)

    # -- from any thread -----------------------------------------------------------------

    def entered(self, operation: Operation) -> None:
        """Announce an operation."""
        if os.getpid() == self._pid:
            self.post(partial(self._desk.entered, operation))

    def left(self, operation: Operation) -> None:
        """Tell how an operation ended."""
        if os.getpid() == self._pid:
            self.post(partial(self._desk.left, operation))

    def reported(self, operation: Operation) -> None:
        """Tell how far an operation has come."""
        # A table, not a queue: a loop that reports without ever giving way fills one place.
        if os.getpid() == self._pid:
            self._reports[operation] = None
            self._ring()

    def post(self, call: Callable[[], object]) -> None:
        """Run something in the loop of the bus; safe in any thread and in a signal handler."""
        self._calls.append(call)
        self._ring()

    def _ring(self) -> None:
        if not self._is_rung:
            self._is_rung = True
            call_soon(self._loop, self._take_in)

    def _take_in(self) -> None:
        # The flag is taken back first: whoever finds it set has left its call before that, so
        # that the call is among those that are taken here.
        self._is_rung = False
        while self._calls:
            self._calls.popleft()()
        while self._reports:
            self._desk.reported(self._reports.popitem()[0])

    # -- for callers ---------------------------------------------------------------------

    async def ask(
        self, make: Callable[[Callable[[object], object]], Command]
    ) -> tuple[object, bool]:
        """Have the broker run a script.

        Args:
            make: Makes the command, given what to do with its answer.

        Returns:
            The answer, and whether there is one. If there is none, the script may have run.

        Raises:
            BusUnavailable: If it has certainly not run.
            RuntimeError: If this process was forked from the one that entered the bus.
        """
        if os.getpid() != self._pid:
            msg = "the bus was entered before this process was forked; enter one in each process"
            raise RuntimeError(msg)
        if self._is_failing:
            raise self._unavailable()
        reply = Reply()
        self.post(partial(self._desk.ask, make(reply.settle), reply))
        if not await reply.wait(self._settings.timeout):
            if reply.was_sent:
                return None, False
            raise self._unavailable()
        if isinstance(reply.answer, Exception):
            msg = f"the broker refused: {reply.answer}"
            raise BusUnavailable(msg)
        return reply.answer, True

    def _unavailable(self) -> BusUnavailable:
        return BusUnavailable(f"the broker cannot be reached: {self._last_error or 'no answer'}")

    async def announce(self, operation: Operation) -> bool:
        """Wait until the broker has an operation; see ``CancelBus.announce``."""
        reply = Reply()
        self.post(partial(self._desk.entered, operation, reply))
        if self._is_failing or not await reply.wait(self._settings.announce_timeout):
            return False
        if isinstance(reply.answer, Exception):
            raise reply.answer
        return True

    def follow(self, operation_id: str, bell: Doorbell) -> None:
        """Ring *bell* when an operation may have changed, and once when that is sure to work."""
        self.post(partial(self._follow, operation_id, bell))

    def unfollow(self, operation_id: str, bell: Doorbell) -> None:
        """Do not ring this bell any more."""
        self.post(partial(self._unfollow, operation_id, bell))

    def _follow(self, operation_id: str, bell: Doorbell) -> None:
        watchers = self._watchers.setdefault(operation_id, {})
        if watchers:
            bell.ring()  # the channel is, or is about to be, subscribed to
        watchers[bell] = None
        self._channels.ring()

    def _unfollow(self, operation_id: str, bell: Doorbell) -> None:
        watchers = self._watchers.get(operation_id, {})
        watchers.pop(bell, None)
        if not watchers:
            self._watchers.pop(operation_id, None)
        self._channels.ring()

    @property
    def sessions(self) -> int:
        """How many sessions have come up."""
        return self._sessions

    @property
    def status(self) -> BusStatus:
        """How the bus is doing."""
        return BusStatus(
            up=self._is_up,
            since=self._since,
            worker=self.worker.id,
            sessions=self._sessions,
            last_error=self._last_error,
            live=self._desk.live,
            backlog=self._desk.backlog,
            dropped=self._desk.dropped,
        )

    # -- sessions ------------------------------------------------------------------------

    async def _run(self) -> None:
        # Where everything around is being cancelled, the endings of that are still to be told:
        # the tasks end when the bus is left, and not before.
        with self._scope:
            await self._supervise()

    async def _supervise(self) -> None:
        """Run one session after another, whatever ends them."""
        delay = FIRST_DELAY
        while True:
            before = self._sessions
            try:
                await self._session()
            except* Exception as errors:
                self._note_outage(errors)
            if self._sessions > before:
                delay = FIRST_DELAY
            await anyio.sleep(delay * random.uniform(0.5, 1))
            delay = min(delay * 2, LONGEST_DELAY)

    def _note_outage(self, errors: BaseExceptionGroup[Exception]) -> None:
        """Say once for each outage that there is one."""
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        cause = first.__cause__
        self._last_error = f"{type(first).__name__}: {first}" + (f" ({cause})" if cause else "")
        if self._scope.cancel_called:
            return  # the client library stumbles over being left
        logger.debug("a session on the bus ended", exc_info=errors)
        was_up, self._is_up = self._is_up, False
        if self._farewell is not None:
            self._farewell.settle(None)  # there is nobody to say goodbye to
        if was_up:
            self._since = datetime.now(UTC)
            logger.info("the connection to the broker ended: %s", self._last_error)
            return
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "the broker cannot be reached; operations run on, unlisted until it is back: %s",
                self._last_error,
            )
        self._settled.set()

    async def _session(self) -> None:
        async with open_link(self._settings, self.commands.doorbell) as link:
            run = await link.prepare()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, link)
                await self._catch_up(link, run)
                self._came_up()
                tasks.start_soon(self._follow_channels, link)
                tasks.start_soon(self._beat)
                tasks.start_soon(self._ask_for_old)
                tasks.start_soon(self._guard)
                await self._write(link)

    def _came_up(self) -> None:
        self._is_up = True
        self._sessions += 1
        self._since = datetime.now(UTC)
        if self._is_failing:
            logger.info("the broker is back")
        self._is_failing = False
        self._settled.set()
        self._ring_watchers()

    def _ring_watchers(self) -> None:
        for watchers in self._watchers.values():
            for bell in watchers:
                bell.ring()

    async def _catch_up(self, link: Link, run: str) -> None:
        """Tell everything, then read what was asked of us; we are subscribed by now."""
        self._desk.start_over()
        await self._send(link, [(self._make_beat(run, self._begun), None)])
        await self._send(link, [(self.commands.owned(self._took_owned), None)])
        while self._desk.has_entries:
            await self._send(link, self._desk.batch())
        await self._send(link, [(self.commands.take(self._desk.took), None)])

    def _begun(self, answer: object) -> None:
        if isinstance(answer, Exception):
            raise SessionEnded(str(answer)) from answer

    def _took_owned(self, answer: object) -> None:
        self._desk.stale(records.items(answer))

    async def _write(self, link: Link) -> None:
        """Send what the desk has, for ever."""
        while True:
            batch = self._desk.batch()
            if batch:
                await self._send(link, batch)
                continue
            with anyio.move_on_after(self._desk.patience):
                await self._bell.wait()

    async def _send(self, link: Link, batch: list[tuple[Command, Reply | None]]) -> None:
        for _command, reply in batch:
            if reply is not None:
                reply.was_sent = True
        try:
            answers = await link.run([command for command, _reply in batch])
        except BaseException:
            self._desk.unanswered(batch)
            raise
        for (command, _reply), answer in zip(batch, answers, strict=True):
            command.answered(answer)

    async def _listen(self, link: Link) -> None:
        """Hear the messages; what is not ours is counted and dropped."""
        ours = self.commands.doorbell.encode()
        prefix = self.commands.channel("").encode()
        async for channel, data in link.messages():
            if channel != ours:
                changed = records.text(channel.removeprefix(prefix)) or ""
                for bell in self._watchers.get(changed, ()):
                    bell.ring()
                continue
            ring = records.ring(data)
            if ring is None:
                self._desk.dropped += 1
            elif ring.operation_id:
                self._desk.rung(ring.operation_id, ring.asked)
            elif self._beats - BEATS_UNTIL_DEAF < ring.number <= self._beats:
                self._heard.set()

    async def _follow_channels(self, link: Link) -> None:
        """Subscribe to what is watched, and leave what no longer is."""
        subscribed = set[str]()
        while True:
            wanted = set(self._watchers)
            new, old = wanted - subscribed, subscribed - wanted
            if new:
                await link.subscribe([self.commands.channel(each) for each in new])
            if old:
                await link.unsubscribe([self.commands.channel(each) for each in old])
            subscribed = wanted
            for operation_id in new:
                for bell in self._watchers.get(operation_id, ()):
                    bell.ring()
            if not (new or old):
                await self._channels.wait()

    # -- what nobody asks for ------------------------------------------------------------

    def ask_for_all(self) -> None:
        """Announce also those of this process that nobody has asked for; safe in any thread."""
        _make(self.here.registry.latent_older_than(0))

    async def _ask_for_old(self) -> None:
        """Announce those that nobody has asked for when they have run for a while."""
        while True:
            await self._ask_for_those_of_now()
            await anyio.sleep(UNASKED)

    async def _ask_for_those_of_now(self) -> None:
        # Its own function, so that nothing holds on to what has ended while one sleeps.
        old = self.here.registry.latent_older_than(UNASKED)
        for place in range(0, len(old), MOST_AT_ONCE):
            _make(old[place : place + MOST_AT_ONCE])
            await checkpoint()  # what they tell of themselves is taken in before the next

    # -- the heartbeat -------------------------------------------------------------------

    def _make_beat(self, run: str, answered: Callable[[object], object]) -> Command:
        self._beats += 1
        worker = self.worker
        info = json.dumps({"host": worker.host, "pid": worker.pid})
        return self.commands.beat(self._beats, info, run, answered)

    async def _beat(self) -> None:
        """Renew the lease, see whether the broker still knows us, and look after others."""
        beat = self._settings.heartbeat
        told_at = anyio.current_time()
        for number in range(1, 2**62):
            await anyio.sleep(beat)
            self._desk.retry()
            self._desk.ask(self._make_beat("", self._beaten))
            if number % BEATS_PER_SWEEP == 0:
                self._desk.ask(self.commands.sweep(ignore))
            if anyio.current_time() - told_at > DAY / 4:
                # Records of live operations outlast a day at most.
                told_at = anyio.current_time()
                self._desk.start_over()

    def _beaten(self, answer: object) -> None:
        if isinstance(answer, Exception):
            # A broker that refuses heartbeats is read-only, full, or about to be another one.
            msg = f"the broker refuses heartbeats: {answer}"
            raise SessionEnded(msg) from answer
        parts = records.items(answer)
        listed, mail = (records.whole(part) for part in parts[:2])
        if listed != self._desk.listed:
            # It was flushed, is another one than before, or has declared us lost. Answers come
            # in the order of the commands, so that the numbers are those of one moment.
            self._desk.start_over()
            self._desk.ask(self.commands.owned(self._took_owned))
        if mail != self._desk.mail:
            self._desk.ask(self.commands.take(self._desk.took))
        # A change may have been told to nobody, or be that a lease has run out.
        self._ring_watchers()

    async def _guard(self) -> None:
        """End the session when our own heartbeats are not heard any more."""
        while True:
            self._heard = anyio.Event()
            with anyio.move_on_after(BEATS_UNTIL_DEAF * self._settings.heartbeat) as scope:
                await self._heard.wait()
            if scope.cancelled_caught:
                msg = "nothing was heard from the broker for 2.5 heartbeats"
                raise SessionEnded(msg)


def _make(latents: Iterable[Latent]) -> None:
    """Have operations list themselves, each as if somebody had asked for it.

    How they are made is the user's: one that cannot be made must not cost the others the bus.
    """
    for latent in latents:
        try:
            latent.make()
        except Exception:
            logger.exception("a latent operation cannot be made, and is not announced")
