"""How servers treat an application, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBehaviour:
    """Say how a server treats an application; the ready ones imitate real servers.

    Attributes:
        disconnect: How often ``receive()`` answers that the client is gone: ``"repeated"`` at
            every call, ``"once"`` and then never again, ``"never"`` at all.
        drops_body_on_disconnect: Whether body that nobody has read is thrown away when the client
            leaves.
        disconnects_at_completion: Whether a complete response is answered with a disconnect, as
            servers do, although the client is there.
        loses_message_when_cancelled: Whether a ``receive()`` that is cancelled while it waits
            takes the next message with it. Real servers do so only when data arrives in the same
            moment; here it is certain.
        queue_limit: How many unread body messages may wait while the last ``send()`` of a response
            returns; with more it waits until they are read. None for no such limit.
        send_after_leave: What ``send()`` does when the client is gone: ``"silent"`` accepts,
            ``"os_error"`` and ``"runtime_error"`` raise.
        spec_version: The version in ``scope["asgi"]``; None for no such key.
    """

    disconnect: Literal["repeated", "once", "never"] = "repeated"
    drops_body_on_disconnect: bool = False
    disconnects_at_completion: bool = True
    loses_message_when_cancelled: bool = False
    queue_limit: int | None = None
    send_after_leave: Literal["silent", "os_error", "runtime_error"] = "silent"
    spec_version: str | None = "2.3"


UVICORN = ServerBehaviour(drops_body_on_disconnect=True)
"""Repeats the disconnect; throws unread body away."""

HYPERCORN = ServerBehaviour(disconnect="once", queue_limit=10, spec_version="2.1")
"""Says it once; the last ``send()`` waits for a full queue of unread body."""

GRANIAN = ServerBehaviour(loses_message_when_cancelled=True)
"""Loses data when a read is cancelled."""

DAPHNE = ServerBehaviour(disconnect="once", spec_version=None)
"""Says it once and names no version."""

SILENT = ServerBehaviour(disconnect="never", disconnects_at_completion=False)
"""Never says anything: no cancelation is possible, and nothing may hang."""
