"""The route class of a router whose requests can all be cancelled, and what that documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from cancelable import CancelationReason
from cancelable_starlette import RequestCancelationMiddleware, status_for

Responses: TypeAlias = dict[int | str, dict[str, Any]]
"""What FastAPI takes as ``responses=``."""


@dataclass(frozen=True, slots=True)
class CancelationAnswer:
    """The body of an answer that says why a request was cancelled.

    Attributes:
        detail: A sentence for people.
        reason: The reason: ``timeout``, ``manual``, ``signal``, ...
    """

    detail: str
    reason: str


_DESCRIPTIONS: Mapping[CancelationReason, str] = {
    CancelationReason.MANUAL: "The request was cancelled.",
    CancelationReason.SIGNAL: "The server is shutting down.",
    CancelationReason.TIMEOUT: "The request took too long.",
}

CANCELATION_RESPONSES: Final[Responses] = {
    status_for(reason): {"description": text, "model": CancelationAnswer}
    for reason, text in _DESCRIPTIONS.items()
}
"""The documented answers of cancelled requests, for ``responses=`` of plain routes."""


class CancelableAPIRoute(APIRoute):
    """An ``APIRoute`` whose requests can be cancelled.

    ::

        router = APIRouter(route_class=CancelableAPIRoute)

    Under the middleware it adds the documented answers. Without it, each request also watches
    itself from the call to the end of its response: the work of a client that left is cancelled,
    and a cancelation is answered with the status of its reason. A timeout of one endpoint is given
    with ``with_cancelation``.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        responses: Responses | None = None,
        **options: Any,
    ) -> None:
        """Make a route.

        Args:
            path: As for ``APIRoute``, like the others.
            endpoint: The function that answers.
            responses: More documented responses; they replace ours for the same status.
            options: What else the installed FastAPI takes.
        """
        documented = {**CANCELATION_RESPONSES, **(responses or {})}
        super().__init__(path, endpoint, responses=documented, **options)
        self._watched = RequestCancelationMiddleware(super().handle)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        await self._watched(scope, receive, send)
