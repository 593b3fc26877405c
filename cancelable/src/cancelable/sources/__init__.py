"""The things that can stop an operation, and the base for writing one's own."""

from ._base import CancelationSource, stop_all
from ._composite import AllOfSource, AnyOfSource, CompositeSource
from ._condition import Condition, ConditionSource, SupportsWait
from ._resources import ResourceConditionSource
from ._signal import SignalSource
from ._timeout import TimeoutSource

__all__ = [
    "AllOfSource",
    "AnyOfSource",
    "CancelationSource",
    "CompositeSource",
    "Condition",
    "ConditionSource",
    "ResourceConditionSource",
    "SignalSource",
    "SupportsWait",
    "TimeoutSource",
    "stop_all",
]
