"""Cancelation for Starlette and plain ASGI: requests that stop when their clients leave.

General layout, from the ground up; a room imports only from rooms above it in this list:

- ``_settings``, ``_status``, ``_head``, ``_deadline_header``, ``_read_ahead``: words and bounds
- ``_answers``: what the client of a cancelled request is told
- ``_inbox``: the one reader of a client's messages; knows ASGI and no operations
- ``_shutdown``: learning that the server shuts down
- ``_watchers``: who runs the reader's task
- ``_exchange``, ``_socket``: a request with its response and a WebSocket, tied to an operation
- ``_request``: the token and the operation of the current request
- ``_serving``: one request from its call to its answer
- ``_middleware``: the middleware
- ``_sse``, ``_chain``, ``_responses``: streamed responses
- ``_endpoints``, ``_routes``: endpoints and routes with settings of their own
- ``_websocket``, ``_background``: what handlers use
"""

from ._answers import ResponseHook
from ._background import CancelableBackgroundTask, cancelable_background
from ._endpoints import with_cancelation
from ._middleware import RequestCancelationMiddleware
from ._request import get_request_operation, get_request_token
from ._responses import CancelableStreamingResponse, cancelable_streaming_response
from ._routes import CancelableRoute, CancelableWebSocketRoute
from ._status import CLOSE_CODES, STATUSES, close_code_for, status_for
from ._websocket import CancelableWebSocket

__all__ = [
    "CLOSE_CODES",
    "STATUSES",
    "CancelableBackgroundTask",
    "CancelableRoute",
    "CancelableStreamingResponse",
    "CancelableWebSocket",
    "CancelableWebSocketRoute",
    "RequestCancelationMiddleware",
    "ResponseHook",
    "cancelable_background",
    "cancelable_streaming_response",
    "close_code_for",
    "get_request_operation",
    "get_request_token",
    "status_for",
    "with_cancelation",
]
