"""The settings of a Redis bus, checked where they are given."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from ..._seconds import limit

if TYPE_CHECKING:
    import coredis

Factory: TypeAlias = "Callable[[], coredis.Redis[Any] | coredis.RedisCluster[Any]]"
"""Makes a new client each time; it is entered and left by the bus, and used by nobody else."""

SCHEMES = ("redis", "rediss", "unix")
NAMESPACE = re.compile(r"[A-Za-z0-9._~-]{1,64}")

DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the settings of one bus. Durations are seconds."""

    url: str | None
    factory: Factory | None
    namespace: str
    heartbeat: float
    timeout: float
    retention: float
    announce_timeout: float

    @classmethod
    def checked(
        cls,
        server: str | Factory,
        namespace: str,
        heartbeat: float,
        timeout: float,
        retention: float,
        announce_timeout: float,
    ) -> Settings:
        """Return the settings that a caller gives.

        Raises:
            TypeError: If one of them is of the wrong kind.
            ValueError: If one of them is out of bounds.
        """
        if isinstance(server, str):
            if urlsplit(server).scheme not in SCHEMES:
                msg = (
                    "`server` must be a URL that begins with redis://, rediss:// or unix://, "
                    f"not one that begins with {server.partition(':')[0]!r}"
                )
                raise ValueError(msg)
            tls_context(server)
        elif not callable(server):
            msg = (
                "`server` must be a URL, or a function that makes a new client each time, "
                f"not {server!r}"
            )
            raise TypeError(msg)
        if not isinstance(namespace, str) or NAMESPACE.fullmatch(namespace) is None:
            msg = (
                "`namespace` must have 1 to 64 letters, digits, dots, dashes, underscores or "
                f"tildes, not {namespace!r}"
            )
            raise ValueError(msg)
        return cls(
            url=server if isinstance(server, str) else None,
            factory=None if isinstance(server, str) else server,
            namespace=namespace,
            heartbeat=_bounded(heartbeat, "heartbeat"),
            timeout=_bounded(timeout, "timeout"),
            retention=_bounded(retention, "retention"),
            announce_timeout=_bounded(announce_timeout, "announce_timeout"),
        )

    @property
    def prefix(self) -> str:
        """How all keys and channels begin."""
        return f"cancelable:{{{self.namespace}}}:"

    @property
    def lease(self) -> float:
        """After how long without a heartbeat a worker counts as lost."""
        return 3 * self.heartbeat

    @property
    def lost_retention(self) -> float:
        """How long a lost operation is kept: so long that its worker may come back."""
        return max(self.retention, 3600.0)


def _bounded(value: float, name: str) -> float:
    number = limit(value, name)
    if number > DAY:
        msg = f"`{name}` must be at most a day, not {value!r}"
        raise ValueError(msg)
    return number


def tls_context(url: str) -> ssl.SSLContext | None:
    """Return how to check the certificate of a ``rediss://`` server; None for other URLs.

    The client library would not compare the name in the certificate with the host unless it is
    told to, so that whoever has any valid certificate could stand in for the broker.

    Args:
        url: The URL, with ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``,
            ``ssl_check_hostname`` (``true`` or ``false``) in its query where needed.

    Raises:
        ValueError: If ``ssl_check_hostname`` is neither, or ``ssl_cert_reqs`` is not
            ``required``.
        OSError: If a file cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return None
    query = {name: found[-1] for name, found in parse_qs(parts.query).items()}
    if query.get("ssl_cert_reqs", "required") != "required":
        msg = "`ssl_cert_reqs` must be `required`: without a certificate TLS proves nothing"
        raise ValueError(msg)
    check = query.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false"):
        msg = f"`ssl_check_hostname` must be true or false, not {check!r}"
        raise ValueError(msg)
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
    context.check_hostname = check == "true"
    if "ssl_certfile" in query:
        context.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"))
    return context
