"""Signals: the first one cancels, the second one is the interpreter's. (S11)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import anyio
import pytest

from cancelable import Cancelable, SignalCancelation, SignalSource

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def handler() -> Iterator[list[int]]:
    """A handler of the program for SIGUSR1, and the calls that it got."""
    calls: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGUSR1, note)
    yield calls
    signal.signal(signal.SIGUSR1, before)


def kill(number: int = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)


async def test_a_signal_stops_the_block_and_names_itself(handler: list[int]) -> None:
    """The error has the number; the program's handler is called as well."""
    with anyio.fail_after(5), pytest.raises(SignalCancelation, match="SIGUSR1") as caught:
        async with Cancelable.with_signal(signal.SIGUSR1):
            kill()
            await anyio.sleep_forever()
    assert caught.value.signal_number == signal.SIGUSR1
    assert handler == [signal.SIGUSR1]
    kill()
    assert handler == [signal.SIGUSR1] * 2


async def test_one_signal_stops_all_that_listen(handler: list[int]) -> None:
    """Sources share one handler, and the last one gives it back."""
    before = signal.getsignal(signal.SIGUSR1)
    stopped: list[str] = []

    async def listen(name: str) -> None:
        try:
            async with Cancelable.with_signal(signal.SIGUSR1, name=name):
                await anyio.sleep_forever()
        except SignalCancelation:
            stopped.append(name)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, "one")
            tasks.start_soon(listen, "two")
            await anyio.wait_all_tasks_blocked()
            assert signal.getsignal(signal.SIGUSR1) is not before
            kill()
    assert sorted(stopped) == ["one", "two"]
    assert handler == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


async def test_a_handler_that_was_put_on_top_stays(handler: list[int]) -> None:
    """Only our own handler is taken away."""

    def on_top(number: int, frame: FrameType | None) -> None: ...

    async with Cancelable.with_signal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, on_top)
    assert signal.getsignal(signal.SIGUSR1) is on_top


async def test_off_the_main_thread_the_error_says_what_to_do(
    anyio_backend_name: str,
) -> None:
    """Python runs handlers in the main thread only."""
    errors: list[BaseException] = []

    async def enter() -> None:
        async with Cancelable.with_signal(signal.SIGUSR1):
            pass

    def run() -> None:
        try:
            anyio.run(enter, backend=anyio_backend_name)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread only" in str(errors[0])


def test_what_is_no_signal_is_refused() -> None:
    """A text, a truth value and an unknown number."""
    for wrong in ("SIGTERM", True):
        with pytest.raises(TypeError, match="signals"):
            SignalSource(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no signal"):
        SignalSource(9999)


PROGRAM = """
import anyio, os, signal, sys
from cancelable import Cancelable, SignalCancelation

async def main():
    try:
        async with Cancelable.with_signal(signal.{first}):
            print("ready", flush=True)
            try:
                await anyio.sleep(20)
            finally:
                print("cancelled", flush=True)
                with anyio.CancelScope(shield=True):
                    if {stays}:
                        await anyio.sleep(20)
    except SignalCancelation:
        print("left", flush=True)

anyio.run(main, backend="{backend}")
print("end", flush=True)
"""


def run_program(backend: str, number: signal.Signals, *, stays: bool) -> tuple[list[str], int]:
    """Run a program, send it signals as it asks for them, and return its lines and its code."""
    program = PROGRAM.format(backend=backend, first=number.name, stays=stays)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines: list[str] = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] == "ready" or (stays and lines[-1] == "cancelled"):
                process.send_signal(number)
    return lines, process.returncode


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_a_program_end_by_itself(
    backend: str, number: signal.Signals
) -> None:
    """Neither the interpreter's nor the event loop's handler ends it."""
    assert run_program(backend, number, stays=False) == (["ready", "cancelled", "left", "end"], 0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_program_that_stays(backend: str, number: signal.Signals) -> None:
    """As it would have without us: Ctrl-C twice, and SIGTERM twice."""
    lines, code = run_program(backend, number, stays=True)
    assert lines[:2] == ["ready", "cancelled"]
    assert "end" not in lines
    assert code != 0
    if number is signal.SIGTERM:
        assert code == -signal.SIGTERM
