"""The middleware that cancels the work of a request whose client has left or whose time is up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta

from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import CancelationReason, CancelationToken, StatusCallback

from ._answers import Answers, ResponseHook
from ._exchange import HTTPExchange
from ._overrun import WARN_AFTER
from ._policy import Policy
from ._read_ahead import IN_TOTAL, PER_REQUEST, ReadAhead
from ._request import Exchange
from ._serving import Serving
from ._settings import (
    OnDisconnect,
    close_codes_of,
    duration,
    function,
    methods_of,
    one_of,
    plain_function,
    size,
    statuses_of,
    token,
)
from ._shutdown import GRACE, Shutdown, wait_of_server
from ._status import CLOSE_CODES, STATUSES
from ._watchers import WatcherService, run_beside


class RequestCancelationMiddleware(Serving):
    """Cancel the handler of a request when its client leaves or its time is up.

    Handlers need no change and poll nothing: what they await is cancelled, their ``finally``
    blocks run, and a ``Cancelable`` that they enter becomes a child of the request's operation.
    A healthy request passes unchanged.

    The middleware is pure ASGI and may stand anywhere in a stack. Around it, a
    ``BaseHTTPMiddleware`` hides nothing from it; under it, none hides anything from a handler.
    An application that is cancelled ends without an exception for the server.
    """

    def __init__(
        self,
        app: ASGIApp,
        default_timeout: float | timedelta | None = None,
        *,
        on_disconnect: OnDisconnect = "cancel",
        predicate: Callable[[Scope], bool] | None = None,
        methods: Collection[str] | None = None,
        grace: float | timedelta | None = None,
        send_timeout: float | timedelta | None = None,
        deadline_header: str | None = None,
        response_hook: ResponseHook | None = None,
        statuses: Mapping[CancelationReason, int] | None = None,
        on_cancel: StatusCallback | None = None,
        read_ahead_per_request: int = PER_REQUEST,
        read_ahead_in_total: int = IN_TOTAL,
        close_codes: Mapping[CancelationReason, int] | None = None,
        shutdown: CancelationToken | None = None,
        shutdown_grace: float | timedelta = GRACE,
        socket_idle_timeout: float | timedelta | None = None,
        warn_after: float | timedelta | None = WARN_AFTER,
    ) -> None:
        """Wrap an application.

        Args:
            app: The ASGI application.
            default_timeout: Seconds from the call of the server to the start of the response; then
                the answer is a 504. A route's own ``timeout=`` replaces it.
            on_disconnect: ``"cancel"`` cancels the work of a client that left; ``"continue"`` lets
                it end, and hides the disconnect from reads until the response is complete.
            predicate: A plain function, called with the scope of a request; a request for which
                it is false passes untouched.
            methods: The methods of requests that are watched; None for all.
            grace: Seconds that a handler may run on after it was asked to stop.
            send_timeout: Seconds that one ``send()`` may wait for a client that does not read.
            deadline_header: The name of a request header with the seconds that the client will
                wait (``ms`` behind the number: milliseconds). It may shorten a timeout and never
                extends it. It is untrusted input, so it is off by default.
            response_hook: Makes the response of a cancelled request from the reason and the
                request; plain or async.
            statuses: The status of each reason instead of ``STATUSES``; a missing one is a 500.
            on_cancel: Called with the facts of each request that was cancelled, for metrics; plain
                or async.
            read_ahead_per_request: Bytes of an unread body that may be held for one request. Behind
                more than that, a client that leaves is not seen until the handler reads.
            read_ahead_in_total: The same for all requests of this middleware together.
            close_codes: The close code of a WebSocket for each reason instead of ``CLOSE_CODES``; a
                missing one is 1011.
            shutdown: A token that you cancel when the server shuts down, from any thread, for
                servers that do not let an application know. The middleware cancels it itself at
                the server's stop signal. Streams and sockets are then told, new requests are
                answered with 503.
            shutdown_grace: Seconds after which streams and sockets that were told are cut.
            socket_idle_timeout: Seconds after which a WebSocket is closed whose client has sent no
                message; None for no limit. Pings and pongs are the server's and do not count.
            warn_after: Seconds after which a handler that goes on although it was cancelled is
                reported, once, with a warning that names it; None for never. That also meets plain
                functions that take so long: their threads cannot be interrupted.

        Raises:
            TypeError: If the application or a callback cannot be called, or a setting or the token
                is of the wrong kind.
            ValueError: If a setting is not above zero, not finite, or not among what can be said.
        """
        if not callable(app):
            msg = f"`app` must be an ASGI application, not {app!r}"
            raise TypeError(msg)
        one_of(on_disconnect, "on_disconnect", ("cancel", "continue"))
        plain_function(predicate, "predicate")
        function(response_hook, "response_hook")
        function(on_cancel, "on_cancel")
        if shutdown is not None and not isinstance(shutdown, CancelationToken):
            msg = f"`shutdown` must be a CancelationToken or None, not {shutdown!r}"
            raise TypeError(msg)
        self._predicate = predicate
        self._methods = methods_of(methods, "methods")
        self._applies_to_all = predicate is None and methods is None
        self._shutdown = Shutdown(
            CancelationToken() if shutdown is None else shutdown,
            duration(shutdown_grace, "shutdown_grace"),
        )
        policy = Policy(
            timeout=duration(default_timeout, "default_timeout"),
            on_disconnect=on_disconnect,
            grace=0.0 if grace is None else duration(grace, "grace"),
            send_timeout=duration(send_timeout, "send_timeout"),
            deadline_header=(
                None
                if deadline_header is None
                else token(deadline_header, "deadline_header").lower().encode()
            ),
            answers=Answers(
                STATUSES if statuses is None else statuses_of(statuses, "statuses"), response_hook
            ),
            on_cancel=on_cancel,
            read_ahead=ReadAhead(
                size(read_ahead_per_request, "read_ahead_per_request"),
                size(read_ahead_in_total, "read_ahead_in_total"),
            ),
            close_codes=(
                CLOSE_CODES if close_codes is None else close_codes_of(close_codes, "close_codes")
            ),
            shutdown=self._shutdown,
            socket_idle_timeout=duration(socket_idle_timeout, "socket_idle_timeout"),
            warn_after=duration(warn_after, "warn_after"),
        )
        super().__init__(app, policy)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        else:
            await super()._pass(scope, receive, send)

    def _add_to(self, outer: Exchange) -> None:
        """Add to a middleware of this kind around this one: nothing but the timeout."""
        if isinstance(outer, HTTPExchange):
            outer.shorten_timeout(self._policy.timeout)
        else:
            outer.shorten_idle_timeout(self._policy.socket_idle_timeout)

    def _applies_to(self, scope: Scope) -> bool:
        if self._methods is not None and scope.get("method", "GET") not in self._methods:
            return False
        return self._predicate is None or bool(self._predicate(scope))

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep the service of this loop open for as long as the application's lifespan."""
        loop = current_token().native_token
        if loop in self._services:
            await self.app(scope, receive, send)
            return

        def start(tasks: TaskGroup) -> Callable[[], object]:
            service = WatcherService(tasks)
            self._services[loop] = service
            service.start(self._policy.warn_after)
            tasks.start_soon(self._tell_of_shutdown, service)
            return tasks.cancel_scope.cancel

        # The last word of the lifespan goes out when our own tasks have ended. One server cancels
        # the lifespan's task as soon as it has heard it, and would end with that cancel.
        last_words: list[Message] = []

        async def hold_last_word(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                last_words.append(message)
            else:
                await send(message)

        async def serve() -> None:
            try:
                await self.app(scope, receive, hold_last_word)
            finally:
                # Before the tasks end: a request that comes now watches itself.
                del self._services[loop]

        async def say_last_word() -> None:
            for message in last_words:
                await send(message)

        try:
            async with self._shutdown.heed_signals():
                await run_beside(start, serve)
        except Exception:
            # Starlette reports a failure at its end, and raises it as well. One server says nothing
            # at all of what has been raised and not reported.
            await say_last_word()
            raise
        await say_last_word()

    async def _tell_of_shutdown(self, service: WatcherService) -> None:
        await self._shutdown.token.wait()
        await service.shut_down(self._shutdown.grace)

    def _ask_server(self, service: WatcherService, send: Send) -> None:
        """Have a server that sends no signal tell of its end, at the first request of a loop."""
        service.knows_server = True
        wait = wait_of_server(send)
        if wait is not None:
            service.spawn(functools.partial(self._shutdown.heed, wait))
