"""Cancelation for FastAPI: endpoints that stop when their clients leave.

What FastAPI needs beyond Starlette, and the names of the package below that its users need:

- ``_disconnect``: noticing that a client has left where no middleware does
- ``_dependency``: the Cancelable and the token of a request, as dependencies
- ``_callable``: what an endpoint is, behind decorators and in objects
- ``_endpoints``: the decorator that answers a cancelation with the status of its reason
- ``_routes``: the route class of a router whose requests can all be cancelled
- ``_operations``: routes to look at operations and to cancel them
"""

from cancelable_starlette import (
    CLOSE_CODES,
    STATUSES,
    CancelableBackgroundTask,
    CancelableStreamingResponse,
    CancelableWebSocket,
    CancelableWebSocketRoute,
    CancelRecord,
    OperationDesk,
    OperationPage,
    OperationRecord,
    RequestCancelationMiddleware,
    ResponseHook,
    ServerSentEvent,
    cancelable_background,
    cancelable_streaming_response,
    close_code_for,
    deadline_headers,
    get_last_event_id,
    get_request_operation,
    get_request_token,
    status_for,
)

from ._dependency import CancelableDep, TokenDep, cancelable_dependency
from ._endpoints import with_cancelation
from ._operations import OperationsRouter, OperationStarter, operations_router
from ._routes import CANCELATION_RESPONSES, CancelableAPIRoute, CancelationAnswer

__all__ = [
    "CANCELATION_RESPONSES",
    "CLOSE_CODES",
    "STATUSES",
    "CancelRecord",
    "CancelableAPIRoute",
    "CancelableBackgroundTask",
    "CancelableDep",
    "CancelableStreamingResponse",
    "CancelableWebSocket",
    "CancelableWebSocketRoute",
    "CancelationAnswer",
    "OperationDesk",
    "OperationPage",
    "OperationRecord",
    "OperationStarter",
    "OperationsRouter",
    "RequestCancelationMiddleware",
    "ResponseHook",
    "ServerSentEvent",
    "TokenDep",
    "cancelable_background",
    "cancelable_dependency",
    "cancelable_streaming_response",
    "close_code_for",
    "deadline_headers",
    "get_last_event_id",
    "get_request_operation",
    "get_request_token",
    "operations_router",
    "status_for",
    "with_cancelation",
]
