"""Routes with settings of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from types import EllipsisType
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from cancelable import CancelationReason

from ._answers import ResponseHook
from ._endpoints import EndpointSettings
from ._settings import OnDisconnect, Until


class CancelableRoute(Route):
    """A ``Route`` whose requests can be cancelled.

    Under the middleware it changes what that says; without it, each request watches itself from
    the call to the end of its response.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., object],
        *,
        methods: Collection[str] | None = None,
        name: str | None = None,
        include_in_schema: bool = True,
        middleware: Sequence[Middleware] | None = None,
        timeout: float | timedelta | EllipsisType | None = ...,
        until: Until = "end",
        on_disconnect: OnDisconnect | None = None,
        response_hook: ResponseHook | None = None,
        statuses: Mapping[CancelationReason, int] | None = None,
        **options: Any,
    ) -> None:
        """Make a route.

        Args:
            path: As for ``Route``, like the others up to ``middleware``.
            endpoint: The function or class that answers.
            methods: The methods that it answers.
            name: The name for reverse look-ups.
            include_in_schema: Whether a schema lists it.
            middleware: Middleware of this route; it runs inside what this class adds.
            timeout: As for ``with_cancelation``, like the others.
            until: Whether the timeout counts to the start or the end of the response.
            on_disconnect: What becomes of the work of a client that left.
            response_hook: Makes the response of a cancelled request.
            statuses: The status of each reason.
            options: What else the installed Starlette takes.

        Raises:
            TypeError: If a setting is of the wrong kind.
            ValueError: If a setting is not above zero, or not among what can be chosen.
        """
        settings = EndpointSettings.checked(timeout, until, on_disconnect, response_hook, statuses)
        super().__init__(
            path,
            endpoint,
            methods=methods,
            name=name,
            include_in_schema=include_in_schema,
            middleware=middleware,
            **options,
        )
        self.app: ASGIApp = functools.partial(settings.serve, self.app)


class CancelableWebSocketRoute(WebSocketRoute):
    """A ``WebSocketRoute`` whose handler is cancelled when its client leaves or its time is up.

    Under the middleware it changes what that says; without it, each socket watches itself. A
    handler that waits for a message is told of the close as ever; one that waits for something
    else is cancelled. The socket is closed with the code of the reason.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., object],
        *,
        name: str | None = None,
        middleware: Sequence[Middleware] | None = None,
        timeout: float | timedelta | EllipsisType | None = ...,
        until: Until = "end",
        on_disconnect: OnDisconnect | None = None,
        statuses: Mapping[CancelationReason, int] | None = None,
        close_codes: Mapping[CancelationReason, int] | None = None,
        idle_timeout: float | timedelta | EllipsisType | None = ...,
    ) -> None:
        """Make a route.

        Args:
            path: As for ``WebSocketRoute``, like the others up to ``middleware``.
            endpoint: The function or class that handles the socket.
            name: The name for reverse look-ups.
            middleware: Middleware of this route; it runs inside what this class adds.
            timeout: Seconds that the socket may take; None, as if it were not given: no limit.
            until: ``"start"`` counts only to the moment in which the socket is accepted.
            on_disconnect: What becomes of the work of a client that left.
            statuses: The status by which a socket is refused, for each reason.
            close_codes: The close code for each reason; a missing one is 1011.
            idle_timeout: Seconds for which the client may send no message, instead of what the
                middleware says; None for no limit. The close code is that of a timeout.

        Raises:
            TypeError: If a setting is of the wrong kind.
            ValueError: If a setting is not above zero, or not among what can be chosen.
        """
        settings = EndpointSettings.checked(
            timeout, until, on_disconnect, None, statuses, close_codes, idle_timeout
        )
        super().__init__(path, endpoint, name=name, middleware=middleware)
        self.app: ASGIApp = functools.partial(settings.serve, self.app)
