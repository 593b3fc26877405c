"""Cancelation for async Python: blocks that can be asked to stop, and that say why they did.

General layout, from the ground up; a room imports only from rooms below it:

- ``_reason``, ``_status``, ``_outcome``, ``_answers``, ``_seconds``, ``_ids``, ``_log``: words
- ``_cause``, ``_context``, ``exceptions``: what was asked, what is known, what is raised
- ``_loop``: the one room that knows event loops
- ``_token``: a request from anywhere
- ``_callbacks``, ``_progress``: whom an operation tells
- ``_operation``: requests, deadlines and the tree of operations
- ``sources``: the things that can stop an operation
- ``_registry``: operations by id
- ``_block``: entering and leaving, and how a block ends
- ``_iterator``: one step after another through a source of items
- ``_cancelable``: the operation as its users see it
- ``_latent``: a block whose operation is made when somebody asks for it
- ``_streams``, ``_decorators``: the same where there is no block
"""

from ._callbacks import ErrorCallback, ErrorCallbackType, StatusCallback, StatusCallbackType
from ._cancelable import Cancelable, current_operation
from ._context import OperationContext
from ._decorators import (
    cancelable,
    cancelable_combine,
    cancelable_method,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    ensure_cancelable,
    with_cancelable,
    with_current_operation,
    with_timeout,
)
from ._iterator import CancelableAsyncIterator
from ._latent import LatentOperation
from ._outcome import CancelOutcome
from ._progress import ProgressCallback, ProgressCallbackType
from ._reason import CancelationReason
from ._registry import OperationRegistry, ThreadSafeRegistry
from ._status import OperationStatus
from ._streams import cancelable_stream, chunked_cancelable_stream
from ._token import CancelationToken
from ._update import ProgressUpdate
from .exceptions import (
    CancelationError,
    ConditionCancelation,
    DisconnectCancelation,
    ManualCancelation,
    ParentCancelation,
    SignalCancelation,
    TimeoutCancelation,
)
from .sources import (
    AllOfSource,
    AnyOfSource,
    CancelationSource,
    CompositeSource,
    ConditionSource,
    ResourceConditionSource,
    SignalSource,
    TimeoutSource,
)

__all__ = [
    "AllOfSource",
    "AnyOfSource",
    "CancelOutcome",
    "Cancelable",
    "CancelableAsyncIterator",
    "CancelationError",
    "CancelationReason",
    "CancelationSource",
    "CancelationToken",
    "CompositeSource",
    "ConditionCancelation",
    "ConditionSource",
    "DisconnectCancelation",
    "ErrorCallback",
    "ErrorCallbackType",
    "LatentOperation",
    "ManualCancelation",
    "OperationContext",
    "OperationRegistry",
    "OperationStatus",
    "ParentCancelation",
    "ProgressCallback",
    "ProgressCallbackType",
    "ProgressUpdate",
    "ResourceConditionSource",
    "SignalCancelation",
    "SignalSource",
    "StatusCallback",
    "StatusCallbackType",
    "ThreadSafeRegistry",
    "TimeoutCancelation",
    "TimeoutSource",
    "cancelable",
    "cancelable_combine",
    "cancelable_method",
    "cancelable_stream",
    "cancelable_with_condition",
    "cancelable_with_signal",
    "cancelable_with_token",
    "chunked_cancelable_stream",
    "current_operation",
    "ensure_cancelable",
    "with_cancelable",
    "with_current_operation",
    "with_timeout",
]
