"""Where the scope of a request holds what is ours."""

from __future__ import annotations

TOKEN_KEY = "cancelation_token"
"""The token of a request."""

EXCHANGE_KEY = "cancelable_starlette.exchange"
"""What watches a running request."""
