"""One connection to the broker, from its making to its first failure.

The only room that knows the client library. What that gets wrong stays in here: a link is made
anew for each connection, with a pool of its own, and thrown away whole at the first error, so
that no slot of a pool and no half-read answer outlives it. Nothing is retried, nothing blocks on
the broker's side, everything has a time limit, and no task of a user ever waits in here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from ._commands import Command
from ._scripts import ALL
from ._settings import Settings, tls_context

if TYPE_CHECKING:
    pass

MOST_CONNECTIONS = 4
"""One subscriber and one for commands; the rest is for an exit that meets a broken one."""

ATTEMPTS = 3
"""How often the broker is taught the scripts that it has forgotten before one is run."""

_is_ours: ContextVar[bool] = ContextVar("cancelable_link", default=False)
"""Whether the code runs in a task of a link, or in one that the library started for it."""


class Link:
    """Run scripts and hear messages over one connection."""

    def __init__(self, client: Any, pubsub: Any) -> None:
        """Use an entered client and its entered subscriber."""
        self._client = client
        self._pubsub = pubsub

    async def prepare(self) -> str:
        """Teach the broker the scripts.

        Returns:
            Which run of the broker this is; empty if it does not say.
        """
        from coredis.exceptions import RedisError

        for script in ALL:
            await self._client.script_load(script.text)
        try:
            server = await self._client.info("server")
        except (RedisError, TypeError):
            # It may forbid INFO, and a cluster has as many runs as nodes. Then a broker that
            # came back with less than it had is only noticed by what is missing.
            return ""
        found = cast("dict[object, object]", server) if isinstance(server, dict) else {}
        return str(found.get("run_id", ""))

    async def run(self, commands: Sequence[Command]) -> list[object]:
        """Run scripts in order, in one round trip.

        Returns:
            For each its answer, or the error that the broker gave.

        Raises:
            Exception: If the connection failed: which of them were run is not known.
        """
        from coredis.exceptions import NoScriptError

        answers = await self._send(commands)
        for _ in range(ATTEMPTS):
            forgotten = [i for i, each in enumerate(answers) if isinstance(each, NoScriptError)]
            if not forgotten:
                break
            # Somebody made the broker forget its scripts. What ran in between is safe to have
            # run first: scripts may run twice, and what they depend on stands in the keys.
            for script in ALL:
                await self._client.script_load(script.text)
            again = await self._send([commands[i] for i in forgotten])
            for i, answer in zip(forgotten, again, strict=True):
                answers[i] = answer
        return answers

    async def _send(self, commands: Sequence[Command]) -> list[object]:
        from coredis.exceptions import RedisError, ResponseError

        pipe: Any
        async with self._client.pipeline(transaction=False, raise_on_error=False) as pipe:
            for command in commands:
                pipe.evalsha(command.script.sha, keys=[command.key], args=command.args)
        answers: list[object] = list(pipe.results or ())
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer
        if len(answers) != len(commands):
            msg = f"{len(commands)} scripts gave {len(answers)} answers"
            raise RedisError(msg)
        return answers

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Listen to channels; returns when the broker has said that it will send."""
        await self._pubsub.subscribe(*channels)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Listen to channels no more."""
        await self._pubsub.unsubscribe(*channels)

    async def messages(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield channel and content of each message; raises when the connection is lost."""
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True)
            if message is None:
                continue
            channel, data = message["channel"], message["data"]
            if isinstance(channel, bytes) and isinstance(data, bytes):
                yield channel, data


@asynccontextmanager
async def open_link(settings: Settings, channel: str) -> AsyncGenerator[Link]:
    """Connect to the broker and subscribe to a channel.

    Args:
        settings: Where and how.
        channel: The first channel to listen to.

    Yields:
        The link, when the broker has said that it will send.
    """
    client = _client(settings)
    _is_ours.set(True)
    quiet = _Quiet()
    library = logging.getLogger("coredis")
    library.addFilter(quiet)
    try:
        async with _entered(client, settings, channel) as pubsub:
            yield Link(client, pubsub)
    finally:
        library.removeFilter(quiet)


class _Quiet(logging.Filter):
    """Keep the library's own log of our connections out: one record for an outage is enough.

    It would write a traceback for each attempt that fails while the broker is frozen.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return not _is_ours.get()


@asynccontextmanager
async def _entered(client: Any, settings: Settings, channel: str) -> AsyncGenerator[Any]:
    async with (
        client,
        client.pubsub(
            channels=[channel],
            retry_policy=None,
            subscription_timeout=settings.timeout,
            max_idle_seconds=settings.lease,
        ) as pubsub,
    ):
        yield pubsub


def _client(settings: Settings) -> Any:
    """Make a new client."""
    import coredis
    from coredis.retry import NoRetryPolicy

    if settings.factory is not None:
        return settings.factory()
    assert settings.url is not None
    tls = tls_context(settings.url)
    more: dict[str, Any] = {} if tls is None else {"ssl_context": tls}
    connect = cast("Callable[..., Any]", coredis.Redis.from_url)
    return connect(
        settings.url,
        decode_components=True,
        retry_policy=NoRetryPolicy(),
        stream_timeout=settings.timeout,
        connect_timeout=settings.timeout,
        pool_timeout=settings.timeout,
        max_connections=MOST_CONNECTIONS,
        **more,
    )
