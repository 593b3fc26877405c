"""Cancelation for Starlette and plain ASGI: requests that stop when their clients leave.

General layout, from the ground up; a room imports only from rooms above it in this list:

- ``_settings``, ``_status``, ``_head``, ``_deadline_header``, ``_read_ahead``: words and bounds
- ``_keys``: where the scope of a request holds what is ours
- ``_callable``: whether a function of the user's is async
- ``_workers``: tasks that do one piece of work after another
- ``_overrun``: a handler that goes on although it was cancelled
- ``_answers``: what the client of a cancelled request is told
- ``_inbox``: the one reader of a client's messages; knows ASGI and no operations
- ``_shutdown``: learning that the server shuts down
- ``_watchers``: who runs the reader's task
- ``_policy``: what was said about requests and WebSockets
- ``_watched``: what both have in common that are watched for an operation
- ``_exchange``, ``_socket``: a request with its response and a WebSocket, tied to an operation
- ``_request``: the token and the operation of the current request
- ``_serving``: one request from its call to its answer
- ``_middleware``: the middleware
- ``_sse``, ``_chain``, ``_pings``, ``_responses``: streamed responses
- ``_endpoints``, ``_routes``: endpoints and routes with settings of their own
- ``_websocket``, ``_background``: what handlers use
- ``_records``, ``_desk``, ``_operation_routes``: looking at operations and cancelling them by id
"""

from ._answers import ResponseHook
from ._background import CancelableBackgroundTask, cancelable_background
from ._deadline_header import deadline_headers
from ._desk import EVERYBODY, LONGEST_WAIT, OperationDesk, Owner, checked_owner
from ._endpoints import with_cancelation
from ._middleware import RequestCancelationMiddleware
from ._operation_routes import OperationRoutes, operations_routes
from ._records import CancelRecord, OperationPage, OperationRecord
from ._request import get_request_operation, get_request_token
from ._responses import CancelableStreamingResponse, Content, cancelable_streaming_response
from ._routes import CancelableRoute, CancelableWebSocketRoute
from ._settings import OnDisconnect, Until
from ._sse import ServerSentEvent, get_last_event_id
from ._status import CLOSE_CODES, STATUSES, close_code_for, status_for
from ._websocket import CancelableWebSocket
from ._whole_answer import whole_answer

__all__ = [
    "CLOSE_CODES",
    "EVERYBODY",
    "LONGEST_WAIT",
    "STATUSES",
    "CancelRecord",
    "CancelableBackgroundTask",
    "CancelableRoute",
    "CancelableStreamingResponse",
    "CancelableWebSocket",
    "CancelableWebSocketRoute",
    "Content",
    "OnDisconnect",
    "OperationDesk",
    "OperationPage",
    "OperationRecord",
    "OperationRoutes",
    "Owner",
    "RequestCancelationMiddleware",
    "ResponseHook",
    "ServerSentEvent",
    "Until",
    "cancelable_background",
    "cancelable_streaming_response",
    "checked_owner",
    "close_code_for",
    "deadline_headers",
    "get_last_event_id",
    "get_request_operation",
    "get_request_token",
    "operations_routes",
    "status_for",
    "whole_answer",
    "with_cancelation",
]
