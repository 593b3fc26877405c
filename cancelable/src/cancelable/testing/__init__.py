"""Help for testing code that can be cancelled, on either event loop.

::

    report = await cancel_at_each_checkpoint(save_order, check=pool_is_full_again)
    report.assert_clean()
"""

from ._contract import check_source_contract
from ._injector import InjectionReport, cancel_at_each_checkpoint
from ._recorder import OperationEvent, OperationRecorder
from ._scenario import CancelationScenario, ScenarioStep
from ._streams import create_slow_stream
from ._timing import assert_cancelation_within, run_with_timeout_test, sample_async_operation
from ._token import MockCancelationToken

__all__ = [
    "CancelationScenario",
    "InjectionReport",
    "MockCancelationToken",
    "OperationEvent",
    "OperationRecorder",
    "ScenarioStep",
    "assert_cancelation_within",
    "cancel_at_each_checkpoint",
    "check_source_contract",
    "create_slow_stream",
    "run_with_timeout_test",
    "sample_async_operation",
]
