"""One logger; lifecycle at DEBUG, one INFO per cause, nothing louder for an expected cancel.

Holds to: S18.
"""

from __future__ import annotations

import logging

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationToken,
    ManualCancelation,
    TimeoutCancelation,
)
from tests.support.clock import in_virtual_time


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


@pytest.fixture(autouse=True)
def everything_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cancelable")


def ours(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("cancelable") and record.levelno == level
    ]


async def test_a_completed_operation_is_heard_at_debug_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Entering and leaving are DEBUG records with id and name."""
    async with Cancelable("mine", name="report"):
        pass
    assert ours(caplog, logging.INFO) == []
    debug = ours(caplog, logging.DEBUG)
    assert len(debug) == 2
    assert all("mine" in text and "report" in text for text in debug)
    assert "completed" in debug[1]


async def test_a_block_is_heard_as_its_entry_was(caplog: pytest.LogCaptureFixture) -> None:
    """Each DEBUG record of an end has one of an entry, whenever the level changes."""
    caplog.set_level(logging.INFO, "cancelable")
    async with Cancelable("quiet"):
        caplog.set_level(logging.DEBUG, "cancelable")
        async with Cancelable("heard"):
            pass
    assert [text.split()[1] for text in ours(caplog, logging.DEBUG)] == ["heard", "heard"]

    async with Cancelable("silenced"):
        caplog.set_level(logging.INFO, "cancelable")
    assert "silenced" in ours(caplog, logging.DEBUG)[-1]
    assert len(ours(caplog, logging.DEBUG)) == 3


@pytest.mark.parametrize("reason", ["manual", "signal", "disconnect", "condition", "error"])
async def test_a_cause_is_one_info_record(caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Id, name, reason, message and duration; those below it stay at DEBUG."""
    with pytest.raises(CancelationError):
        async with Cancelable("mine", name="report") as operation:
            async with Cancelable("below"), anyio.create_task_group() as tasks:

                async def child() -> None:
                    async with Cancelable("child"):
                        await anyio.sleep(3600)

                tasks.start_soon(child)
                await anyio.wait_all_tasks_blocked()
                await operation.cancel(reason, "because")
                await anyio.sleep(3600)
    (text,) = ours(caplog, logging.INFO)
    assert "mine" in text
    assert "report" in text
    assert reason in text
    assert "because" in text
    assert " s" in text
    cancelled = [text for text in ours(caplog, logging.DEBUG) if "cancelled" in text]
    assert sorted(text.split()[1] for text in cancelled) == ["below", "child"]
    assert ours(caplog, logging.WARNING) == []
    assert ours(caplog, logging.ERROR) == []


async def test_a_timeout_of_many_is_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """The operation whose deadline passed is named, once."""
    with pytest.raises(CancelationError):
        async with Cancelable.with_timeout(1, "mine"), Cancelable("a"), Cancelable("b"):
            await anyio.sleep(3600)
    (text,) = ours(caplog, logging.INFO)
    assert "mine" in text
    assert "timeout" in text


async def test_each_operation_of_a_token_has_a_record(caplog: pytest.LogCaptureFixture) -> None:
    """Operations that a token stops side by side are told apart."""
    token = CancelationToken()
    token.cancel_sync()
    for name in ("a", "b"):
        with pytest.raises(CancelationError):
            async with Cancelable.with_token(token, name):
                await anyio.sleep(3600)
    assert [text.split()[1] for text in ours(caplog, logging.INFO)] == ["a", "b"]


async def test_a_cancelation_that_is_passed_on_is_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The operation that was asked is named at INFO, and in the facts of those it ended."""
    outer = Cancelable("outer")
    with pytest.raises(ManualCancelation) as caught:
        async with outer:
            with pytest.raises(TimeoutCancelation) as inner:
                async with Cancelable.with_timeout(1, "inner"):
                    await anyio.sleep(3600)
            async with Cancelable("beside"):
                await outer.cancel("manual", "too late", because=inner.value)
                await anyio.sleep(3600)
    (text,) = ours(caplog, logging.INFO)
    assert "inner" in text
    cancelled = [text for text in ours(caplog, logging.DEBUG) if "cancelled" in text]
    assert [text.split()[1] for text in cancelled] == ["beside", "outer"]
    assert caught.value.origin_id == outer.context.origin_id == "inner"
    assert caught.value.message == "too late"

    with pytest.raises(ManualCancelation):
        async with Cancelable("last") as last:
            await last.cancel(because=caught.value)
            await anyio.sleep(3600)
    assert last.context.origin_id == "inner"
    assert len(ours(caplog, logging.INFO)) == 1


async def test_an_error_of_no_operation_takes_no_record_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that a program has made itself has no record of its own."""
    with pytest.raises(ManualCancelation):
        async with Cancelable("mine") as operation:
            await operation.cancel(because=ManualCancelation())
            await anyio.sleep(3600)
    assert len(ours(caplog, logging.INFO)) == 1
    assert operation.context.origin_id is None


async def test_an_expected_cancel_is_never_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A cancel from outside, a swallowed one and a failure are quiet as well."""
    with anyio.move_on_after(1):
        async with Cancelable():
            await anyio.sleep(3600)
    async with Cancelable() as operation:
        await operation.cancel()
    with pytest.raises(ValueError, match="oops"):
        async with Cancelable():
            raise ValueError("oops")
    for level in (logging.WARNING, logging.ERROR, logging.CRITICAL):
        assert ours(caplog, level) == []


async def test_a_quiet_logger_costs_no_id(caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody listens no id is made for the records."""
    caplog.set_level(logging.WARNING, "cancelable")
    async with Cancelable() as operation:
        pass
    assert operation.known_id is None


async def test_what_a_client_chose_cannot_forge_a_record(caplog: pytest.LogCaptureFixture) -> None:
    """An id or a message may hold a line break, or what no handler can write."""
    forged = "1\nERROR all is lost \x1b[31m\ud800"
    with pytest.raises(CancelationError):
        async with Cancelable(forged, name="two\rlines") as operation:
            await operation.cancel(message=forged)
            await anyio.lowlevel.checkpoint()
    texts = ours(caplog, logging.DEBUG) + ours(caplog, logging.INFO)
    assert len(texts) == 2
    for text in texts:
        assert text.isprintable()
        assert r"1\nERROR all is lost \x1b[31m\ud800 (two\rlines)" in text
    assert repr(operation).isprintable()
    assert operation.operation_id == forged
    assert operation.cancel_message == forged
