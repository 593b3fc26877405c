"""What a server makes impossible: the tests expect exactly that there, and the page says why."""

from __future__ import annotations

from fnmatch import fnmatchcase

LIMITS: dict[str, dict[str, str]] = {
    "an upload is handled while it arrives": {
        "daphne": "daphne calls the application when the body is whole",
    },
    "a client that closes in the middle of an upload ends nothing else": {
        "hypercorn-trio-h2": "what it has sent and the server has not read yet may end the whole"
        " server",
    },
    "a client that leaves is seen behind a second request": {
        "uvicorn-httptools*": "a request that waits behind the running one hides the end of the"
        " connection",
        "hypercorn-*[!2]": "bytes behind a request hide the end of the connection",
        "granian": "bytes behind a request hide the end of the connection",
    },
    "a client that leaves is seen behind stray bytes": {
        "hypercorn-*[!2]": "bytes behind a request hide the end of the connection",
        "granian": "bytes behind a request hide the end of the connection",
    },
    "an answer to a client that left unseen is quiet": {
        "uvicorn-httptools-uvloop": "with uvloop the answer then fails, and uvicorn logs that it"
        " was not completed",
    },
    "a half-closed connection is answered where nobody watches": dict.fromkeys(
        ("uvicorn-*", "granian", "daphne"),
        "uvicorn, granian and daphne close a connection that its client has half closed",
    ),
    "a request that is left alone ends": {
        "*-h2": "On a connection that the client has closed, the last `send()` of a response never"
        " returns.",
    },
    "a stream that is broken off ends for its client": {
        "*-h2": "Hypercorn neither ends nor resets an HTTP/2 stream that was not completed",
        "daphne": "daphne neither ends a response that was not completed nor closes its connection",
    },
    "a body goes on behind its answer": {
        "*-h2": "the rest of a body that comes behind the answer ends the connection on asyncio,"
        " and the whole server on Trio",
    },
    "no body is asked for before somebody reads": {
        "hypercorn-*[!2]": "Hypercorn and daphne invite it by themselves",
        "daphne": "Hypercorn and daphne invite it by themselves",
    },
    "a socket is stopped whose client is gone before the accept": {
        "granian": "granian tells of it only after the accept",
    },
    "a handler learns the close code of its client": {
        "hypercorn-*": "Hypercorn says 1006 for every close",
    },
    "a socket is refused with a status": {
        "daphne": "daphne lacks the response extension and answers 403",
    },
    "a shutdown is told first": {
        "daphne": "daphne cancels its handlers at once, and with a socket open it ends without"
        " that",
    },
    "a shutdown closes sockets with a code": {
        "granian": "granian drops its sockets at once, without a close frame",
    },
    "a stream that ends during a shutdown ends for its client": {
        "hypercorn-trio-h2": "Hypercorn on Trio may say goodbye before the end of the last stream",
    },
}
"""By the promise, the servers (as patterns) that do not let it be kept, with the reason."""


def limit(kind: str, promise: str) -> str | None:
    """Return why a server of this kind cannot keep *promise*; None: it has to.

    Args:
        kind: Which server, as ``tests/servers/launch.py`` spells it.
        promise: A key of ``LIMITS``.
    """
    reasons = [why for pattern, why in LIMITS[promise].items() if fnmatchcase(kind, pattern)]
    assert len(reasons) < 2, f"{kind}: {reasons}"
    return reasons[0] if reasons else None
