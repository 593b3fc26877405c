"""What the client of a cancelled request is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cancelable import CancelationReason

from ._status import STATUSES, status_for

ResponseHook: TypeAlias = Callable[[CancelationReason, Request], Response | Awaitable[Response]]
"""Makes the response of a cancelled request from the reason and the request."""

DETAILS: Mapping[CancelationReason, str] = MappingProxyType(
    {
        CancelationReason.TIMEOUT: "the request took too long",
        CancelationReason.MANUAL: "the request was cancelled",
        CancelationReason.SIGNAL: "the server is shutting down",
        CancelationReason.DISCONNECT: "the client left",
    }
)


@dataclass(frozen=True, slots=True)
class Answers:
    """Make responses for cancelled requests.

    Attributes:
        statuses: The status of each reason; a missing one is a 500.
        hook: Makes the response in place of ours.
    """

    statuses: Mapping[CancelationReason, int] = field(default_factory=lambda: STATUSES)
    hook: ResponseHook | None = None

    async def make(self, reason: CancelationReason, request: Request) -> Response:
        """Return the response that says why a request was cancelled.

        Args:
            reason: Why.
            request: The request.

        Raises:
            TypeError: If the hook returned no response.
        """
        if self.hook is None:
            return self.plain(reason)
        made: object = self.hook(reason, request)
        if isinstance(made, Awaitable):
            made = await made
        if not isinstance(made, Response):
            msg = f"`response_hook` must return a Response, not {made!r}: {self.hook!r}"
            raise TypeError(msg)
        return made

    def plain(self, reason: CancelationReason) -> Response:
        """Return the response that says why, without asking the hook.

        Args:
            reason: Why.
        """
        detail = DETAILS.get(reason, "the request could not be completed")
        content = {"detail": detail, "reason": reason.value}
        return JSONResponse(content, status_code=status_for(reason, self.statuses))
