"""The records that a watcher of one operation takes from a bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .._doorbell import Doorbell
from .._watch import Watch
from ._info import OperationInfo


def watching(
    first: OperationInfo, bell: Doorbell, look: Callable[[], Awaitable[OperationInfo]]
) -> Watch[OperationInfo]:
    """Return the iterator of one watcher; its last record tells of the end, or of the loss.

    Args:
        first: How the operation stands.
        bell: What rings when something may have changed.
        look: Tells how the operation stands by then.
    """
    return Watch(first, bell, look, _marks, _is_last)


def ended_watch(info: OperationInfo) -> Watch[OperationInfo]:
    """Return the watcher of an operation of which no more will be heard."""

    async def look() -> OperationInfo:
        return info

    return watching(info, Doorbell(), look)


def _marks(info: OperationInfo) -> object:
    return info.state, info.progress, info.cancel, info.worker


def _is_last(info: OperationInfo) -> bool:
    return not info.state.is_live
