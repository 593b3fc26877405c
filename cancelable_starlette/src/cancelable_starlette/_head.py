"""What the head of an HTTP request says about its body."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope


def expects_continue(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the client waits to be asked for the body (RFC 9110, section 10.1.1)."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def may_have_body(scope: Scope) -> bool:
    """Return whether a body may follow.

    In HTTP/1.1 one of two headers announces it (RFC 9112, section 6.3). Later versions need
    neither (RFC 9113, section 8.1); there only the methods that have no use for one say it.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bool(value.strip(b" 0"))
        if name == b"transfer-encoding":
            return True
    is_framed_by_headers = scope.get("http_version", "1.1").startswith("1")
    return not is_framed_by_headers and scope["method"] not in ("GET", "HEAD", "OPTIONS")
