"""Cancel, list and watch operations by id across tasks, workers and hosts.

``InMemoryBus`` serves one process and needs nothing; ``RedisBus`` serves many, through a
server that speaks the Redis protocol (``cancelable-core[redis]``). Both read the same.
"""

from ._bus import CancelBus
from ._errors import BusUnavailable, DuplicateOperation
from ._health import BusStatus
from ._info import CancelInfo, OperationInfo, Page, ProgressInfo, Worker
from ._memory import InMemoryBus
from ._result import CancelResult
from ._state import OperationState
from .redis import RedisBus

__all__ = [
    "BusStatus",
    "BusUnavailable",
    "CancelBus",
    "CancelInfo",
    "CancelResult",
    "DuplicateOperation",
    "InMemoryBus",
    "OperationInfo",
    "OperationState",
    "Page",
    "ProgressInfo",
    "RedisBus",
    "Worker",
]
