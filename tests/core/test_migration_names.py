"""The calls of the library that people come from exist here, with their arguments.

People who come from it change the root of their imports. Each line is a call as they wrote it:
the parameters by name, and as many of them by position as the original took.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

import cancelable
import cancelable.exceptions
import cancelable.sources
import cancelable.testing
from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelableAsyncIterator,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    CompositeSource,
    ConditionCancelation,
    ConditionSource,
    ManualCancelation,
    OperationContext,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    ResourceConditionSource,
    SignalCancelation,
    SignalSource,
    ThreadSafeRegistry,
    TimeoutCancelation,
    TimeoutSource,
    cancelable_combine,
    cancelable_method,
    cancelable_stream,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    chunked_cancelable_stream,
    current_operation,
    ensure_cancelable,
    with_cancelable,
    with_current_operation,
    with_timeout,
)
from cancelable.testing import (
    CancelationScenario,
    MockCancelationToken,
    OperationRecorder,
    assert_cancelation_within,
    create_slow_stream,
    run_with_timeout_test,
    sample_async_operation,
)

NAMES = """
    OperationStatus CancelationReason OperationContext CancelationToken Cancelable
    OperationRegistry ThreadSafeRegistry current_operation CancelationError TimeoutCancelation
    ManualCancelation SignalCancelation ConditionCancelation ParentCancelation CompositeSource
    AnyOfSource AllOfSource ProgressCallback StatusCallback ErrorCallback ensure_cancelable
    ProgressCallbackType StatusCallbackType ErrorCallbackType cancelable
    cancelable_with_token cancelable_with_signal cancelable_with_condition
    cancelable_combine with_cancelable with_timeout cancelable_stream CancelationSource
    TimeoutSource SignalSource ConditionSource ResourceConditionSource cancelable_method
    with_current_operation CancelableAsyncIterator chunked_cancelable_stream
"""

COMMON = "operation_id name register_globally inject_param"
LIST = "status parent_id name_pattern"
CANCEL_ONE = "operation_id reason message"
CANCEL_ALL = "status reason message"
HISTORY = "limit status since"
FACTS = (
    "id name status start_time end_time cancel_reason cancel_message error partial_result"
    " metadata parent_id"
)

CALLS: list[tuple[Callable[..., object], str, str]] = [
    # what is called, the parameters that may be given by position, and those by name
    (Cancelable, "operation_id name parent metadata register_globally", ""),
    (Cancelable.with_timeout, "timeout operation_id name", "parent metadata register_globally"),
    (Cancelable.with_token, "token operation_id name", "parent metadata register_globally"),
    (Cancelable.with_signal, "*", "operation_id name parent metadata register_globally"),
    (
        Cancelable.with_condition,
        "condition check_interval condition_name operation_id name",
        "parent metadata register_globally",
    ),
    (Cancelable.add_source, "self source", ""),
    (Cancelable.combine, "self *", ""),
    (Cancelable.on_start, "self callback", ""),
    (Cancelable.on_complete, "self callback", ""),
    (Cancelable.on_cancel, "self callback", ""),
    (Cancelable.on_error, "self callback", ""),
    (Cancelable.on_progress, "self callback", ""),
    (Cancelable.report_progress, "self message metadata", ""),
    (Cancelable.check_cancelation, "self", ""),
    (Cancelable.run_in_thread, "self func *", "anything"),
    (Cancelable.stream, "self async_iter report_interval buffer_partial", ""),
    (Cancelable.wrap, "self operation", ""),
    (Cancelable.wrapping, "self", ""),
    (Cancelable.shield, "self", ""),
    (Cancelable.cancel, "self reason message propagate_to_children", ""),
    (current_operation, "", ""),
    (CancelationError, "reason message context", ""),
    (ConditionCancelation, "condition_name message context", ""),
    (ManualCancelation, "message context", ""),
    (ParentCancelation, "parent_id parent_reason message context", ""),
    (SignalCancelation, "signal_number message context", ""),
    (TimeoutCancelation, "timeout_seconds message context", ""),
    (
        OperationContext,
        "",
        FACTS,
    ),
    (OperationContext.log_context, "self", ""),
    (OperationRegistry.get_instance, "", ""),
    (OperationRegistry.register, "self operation", ""),
    (OperationRegistry.unregister, "self operation_id", ""),
    (OperationRegistry.get_operation, "self operation_id", ""),
    (OperationRegistry.get_operation_sync, "self operation_id", ""),
    (OperationRegistry.list_operations, f"self {LIST}", ""),
    (OperationRegistry.list_operations_sync, f"self {LIST}", ""),
    (OperationRegistry.cancel_operation, f"self {CANCEL_ONE}", ""),
    (OperationRegistry.cancel_operation_sync, f"self {CANCEL_ONE}", ""),
    (OperationRegistry.cancel_all, f"self {CANCEL_ALL}", ""),
    (OperationRegistry.cancel_all_sync, f"self {CANCEL_ALL}", ""),
    (OperationRegistry.get_history, f"self {HISTORY}", ""),
    (OperationRegistry.get_history_sync, f"self {HISTORY}", ""),
    (OperationRegistry.get_statistics, "self", ""),
    (OperationRegistry.get_statistics_sync, "self", ""),
    (OperationRegistry.cleanup_completed, "self older_than keep_failed", ""),
    (OperationRegistry.clear_all, "self", ""),
    (ThreadSafeRegistry.get_instance, "", ""),
    (ThreadSafeRegistry, "", ""),
    (CancelationToken, "", ""),
    (CancelationToken.cancel, "self reason message", ""),
    (CancelationToken.cancel_sync, "self reason message", ""),
    (CancelationToken.wait_for_cancel, "self", ""),
    (CancelationToken.check, "self", ""),
    (CancelationToken.check_async, "self", ""),
    (CancelationToken.is_cancelation_requested, "self", ""),
    (CancelationSource, "reason name", ""),
    (CancelationSource.start_monitoring, "self scope", ""),
    (CancelationSource.stop_monitoring, "self", ""),
    (CancelationSource.set_cancel_callback, "self callback", ""),
    (CancelationSource.trigger_cancelation, "self message", ""),
    (CompositeSource, "sources name", ""),
    (AnyOfSource, "sources name", ""),
    (AllOfSource, "sources name", ""),
    (ConditionSource, "condition check_interval condition_name name", ""),
    (
        ResourceConditionSource,
        "memory_threshold cpu_threshold disk_threshold check_interval name",
        "",
    ),
    (SignalSource, "*", "name"),
    (TimeoutSource, "timeout name", ""),
    (ensure_cancelable, "cancelable", ""),
    (cancelable.cancelable, f"timeout {COMMON}", ""),
    (cancelable_combine, "*", COMMON),
    (cancelable_method, "timeout name register_globally", ""),
    (cancelable_with_condition, f"condition check_interval condition_name {COMMON}", ""),
    (cancelable_with_signal, "*", COMMON),
    (cancelable_with_token, f"token {COMMON}", ""),
    (with_cancelable, "cancel inject inject_param", ""),
    (with_current_operation, "", ""),
    (with_timeout, "timeout coro operation_id name", ""),
    (CancelableAsyncIterator, "iterator cancelable report_interval buffer_partial", ""),
    (
        cancelable_stream,
        "stream timeout token report_interval on_progress buffer_partial operation_id name",
        "",
    ),
    (chunked_cancelable_stream, "stream chunk_size cancelable", ""),
    (CancelationScenario, "name", ""),
    (CancelationScenario.add_delay, "self duration", ""),
    (CancelationScenario.add_cancelation, "self reason message", ""),
    (CancelationScenario.add_progress_check, "self expected_message timeout", ""),
    (CancelationScenario.add_status_check, "self expected_status", ""),
    (CancelationScenario.run, "self operation *", "anything"),
    (MockCancelationToken, "", ""),
    (MockCancelationToken.cancel, "self reason message", ""),
    (MockCancelationToken.schedule_cancel, "self delay reason message", ""),
    (MockCancelationToken.get_cancel_count, "self", ""),
    (OperationRecorder, "", ""),
    (OperationRecorder.record_event, "self operation_id event_type data", ""),
    (OperationRecorder.attach_to_cancellable, "self cancelable", ""),
    (OperationRecorder.get_events_for_operation, "self operation_id", ""),
    (OperationRecorder.get_events_by_type, "self event_type", ""),
    (OperationRecorder.assert_event_occurred, "self operation_id event_type timeout", ""),
    (OperationRecorder.assert_final_status, "self operation_id expected_status", ""),
    (assert_cancelation_within, "min_time max_time", ""),
    (create_slow_stream, "items delay cancelable", ""),
    (run_with_timeout_test, "coro expected_timeout tolerance", ""),
    (sample_async_operation, "duration cancelable", ""),
]

ATTRIBUTES: list[tuple[Callable[[], object], str]] = [
    (Cancelable, "context token parent operation_id is_cancelled is_running is_completed"),
    (CancelationToken, "id is_cancelled reason message cancelled_at"),
    (lambda: CancelationSource("manual"), "reason name scope triggered"),
    (lambda: TimeoutSource(1), "timeout"),
    (SignalSource, "signals"),
    (lambda: ConditionSource(bool), "condition check_interval condition_name"),
    (lambda: ResourceConditionSource(50), "memory_threshold cpu_threshold disk_threshold"),
    (lambda: AnyOfSource([TimeoutSource(1)]), "sources triggered_source"),
    (lambda: AllOfSource([TimeoutSource(1)]), "sources triggered_sources"),
    (lambda: MockCancelationToken(), "cancel_history"),
    (OperationRecorder, "events operations"),
    (lambda: CancelationScenario("x"), "name steps assertions"),
    (lambda: CancelationError(CancelationReason.MANUAL), "reason message context"),
    (TimeoutCancelation, "timeout_seconds"),
    (SignalCancelation, "signal_number"),
    (ConditionCancelation, "condition_name"),
    (ParentCancelation, "parent_id parent_reason"),
    (
        OperationContext,
        f"{FACTS} duration duration_seconds is_terminal is_success is_cancelled",
    ),
]


@pytest.mark.parametrize("name", NAMES.split())
def test_the_name_can_be_imported_from_the_root(name: str) -> None:
    """And is part of what the package offers."""
    assert hasattr(cancelable, name)
    assert name in cancelable.__all__


@pytest.mark.parametrize(
    ("function", "by_position", "by_name"),
    CALLS,
    ids=[f"{number}-{call[0].__qualname__}" for number, call in enumerate(CALLS)],
)
def test_the_call_takes_the_arguments_that_it_took(
    function: Callable[..., object], by_position: str, by_name: str
) -> None:
    """In their order and under their names; what the call has beside them has a default."""
    signature = inspect.signature(function)
    parameters = signature.parameters
    names = by_position.split()
    if "*" in names:
        assert any(each.kind is each.VAR_POSITIONAL for each in parameters.values())
        names.remove("*")
        signature.bind(*names, "more", "and more", **dict.fromkeys(by_name.split()))
        return
    signature.bind(*names, **dict.fromkeys(by_name.split()))
    given = [each for each in names if each != "self"]
    bound = ["self"] if "self" in names else []
    signature.bind(*bound, **dict.fromkeys([*given, *by_name.split()]))
    assert [name for name in parameters if name != "self"][: len(given)] == given or not given


@pytest.mark.parametrize(
    ("make", "names"),
    ATTRIBUTES,
    ids=[f"{number}-{names.split()[0]}" for number, (_, names) in enumerate(ATTRIBUTES)],
)
def test_the_attributes_are_there(make: Callable[[], object], names: str) -> None:
    """Right after construction, too."""
    made = make()
    for name in names.split():
        getattr(made, name)


def test_the_words_have_the_values_that_they_had() -> None:
    """In messages, databases and dashboards."""
    for reason in ("timeout", "manual", "signal", "condition", "parent", "error"):
        assert CancelationReason(reason) == reason
        assert CancelationReason[reason.upper()] == reason
    for status in ("pending", "running", "completed", "cancelled", "failed"):
        assert OperationStatus(status) == status


async def test_registry_calls_may_still_be_awaited() -> None:
    """The answer is the same as that of the plain call."""
    registry = OperationRegistry()
    operation = await registry.register(Cancelable(name="work"))
    async with operation:
        operation_id = operation.operation_id
        assert [each.id for each in await registry.list_operations()] == [operation_id]
        found = registry.get_operation(operation_id)
        assert found is not None
        assert await found is operation
        assert await registry.cancel_operation("nobody") is registry.cancel_operation("nobody")
        assert await registry.cancel_all(OperationStatus.PENDING) == 0
        assert (await registry.get_statistics())["active_operations"] == 1
    assert [context.id for context in await registry.get_history()] == [operation_id]
    assert await registry.cleanup_completed() == 1
    assert await registry.clear_all() == 0
