"""What the head of an HTTP request says about its body."""

from __future__ import annotations

from collections.abc import Iterable

BODILESS = ("GET", "HEAD", "OPTIONS")
"""Methods that have no use for a body (RFC 9110, section 9.3); one may come all the same."""


def expects_continue(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the client waits to be asked for the body (RFC 9110, section 10.1.1)."""
    for name, value in headers:
        if name == b"expect" and value.lower() == b"100-continue":
            return True
    return False


def may_have_body(method: str, headers: Iterable[tuple[bytes, bytes]], http_version: str) -> bool:
    """Return whether a body may follow a head.

    In HTTP/1.1 one of two headers announces it (RFC 9112, section 6.3). Later versions need
    neither (RFC 9113, section 8.1); there only the methods that have no use for one say it.
    """
    for name, value in headers:
        if name == b"content-length":
            return bool(value.strip(b" 0"))
        if name == b"transfer-encoding":
            return True
    is_framed_by_headers = http_version.startswith("1")
    return not is_framed_by_headers and method not in BODILESS
