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


async def test_what_leaves_a_signal_handler_keeps_nobody_from_hearing(handler: list[int]) -> None:
    """Who is told by one source raises what is no error: the others fire, the program hears."""

    def leave(_: object) -> None:
        raise KeyboardInterrupt

    sources = [SignalSource(signal.SIGUSR1), SignalSource(signal.SIGUSR1)]
    sources[0].set_cancel_callback(leave)
    with anyio.CancelScope() as scope:
        for source in sources:
            await source.start_monitoring(scope)
        with pytest.raises(KeyboardInterrupt):
            kill()
        for source in sources:
            await source.stop_monitoring()
    assert [source.triggered for source in sources] == [True, True]
    assert handler == [signal.SIGUSR1]


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


# -- handlers that come and go ---------------------------------------------------------------


def listens(number: int = signal.SIGUSR1) -> bool:
    """Say whether a handler of ours is on top."""
    return type(getattr(signal.getsignal(number), "__self__", None)).__name__ == "_Chain"


async def test_signals_that_nobody_can_listen_to_leave_the_others_as_they_were(
    handler: list[int],
) -> None:
    """The error is the system's; handlers that were in place by then are given back."""
    with pytest.raises(OSError, match="Invalid argument"):
        async with Cancelable.with_signal(signal.SIGUSR1, signal.SIGKILL):
            pass
    assert not listens()
    kill()
    assert handler == [signal.SIGUSR1]


async def test_a_source_that_comes_after_a_programs_handler_is_told_as_well(
    handler: list[int],
) -> None:
    """Ours goes on top of it, although another of ours is underneath."""
    on_top: list[int] = []

    def take_over(number: int, frame: FrameType | None) -> None:
        on_top.append(number)

    with anyio.fail_after(5):
        async with Cancelable.with_signal(signal.SIGUSR1) as outer:
            signal.signal(signal.SIGUSR1, take_over)
            with pytest.raises(SignalCancelation):
                async with Cancelable.with_signal(signal.SIGUSR1):
                    kill()
                    await anyio.sleep_forever()
            assert signal.getsignal(signal.SIGUSR1) is take_over
            assert not outer.cancel_requested
    assert on_top == [signal.SIGUSR1]
    assert handler == []


async def test_a_handler_of_ours_that_a_server_puts_back_too_late_is_looked_through() -> None:
    """A server saves our handler and restores it when the operation has long ended.

    The next source must not take that for a handler of the program and call it: it would end
    the process at the first signal.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        async with Cancelable.with_signal(signal.SIGUSR1):
            saved = signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.signal(signal.SIGUSR1, saved)
        assert listens()
        with anyio.fail_after(5), pytest.raises(SignalCancelation):
            async with Cancelable.with_signal(signal.SIGUSR1):
                kill()
                await anyio.sleep_forever()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_an_ignored_signal_stops_the_block_and_is_ignored_afterwards() -> None:
    """The first one is ours, the second one is nobody's."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with anyio.fail_after(5), pytest.raises(SignalCancelation):
            async with Cancelable.with_signal(signal.SIGUSR1):
                kill()
                kill()
                await anyio.sleep_forever()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        kill()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_each_signal_of_a_source_is_listened_to_and_the_first_one_counts() -> None:
    """Two signals before the loop gets a turn: one cause."""
    calls: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: calls.append(number))
        for number in (signal.SIGUSR1, signal.SIGUSR2)
    }
    try:
        with anyio.fail_after(5), pytest.raises(SignalCancelation) as caught:
            async with Cancelable.with_signal(signal.SIGUSR1, signal.SIGUSR2):
                kill(signal.SIGUSR2)
                kill(signal.SIGUSR1)
                await anyio.sleep_forever()
        assert caught.value.signal_number == signal.SIGUSR2
        assert calls == [signal.SIGUSR2, signal.SIGUSR1]
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# -- real programs ---------------------------------------------------------------------------

SERVER = """
import anyio, signal, sys
from cancelable import Cancelable, SignalCancelation

class Server:
    '''Takes the handlers as uvicorn does, and gives them back.'''
    stopping = False

    def stop(self, number, frame):
        print("server told", flush=True)
        self.stopping = True

    async def serve(self):
        before = signal.signal(signal.SIGTERM, self.stop)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.handle_request)
                while not self.stopping:
                    await anyio.sleep(0.005)
            print("server stopped", flush=True)
        finally:
            signal.signal(signal.SIGTERM, before)

    async def handle_request(self):
        try:
            async with Cancelable.with_signal(signal.SIGTERM):
                print("ready", flush=True)
                await anyio.sleep(20)
        except SignalCancelation:
            print("request cancelled", flush=True)

anyio.run(Server().serve, backend=sys.argv[1])
print("end", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""

RUNNERS = {
    "asyncio.run": "import asyncio; asyncio.run(main())",
    "anyio on asyncio": "anyio.run(main, backend='asyncio')",
    "anyio on trio": "anyio.run(main, backend='trio')",
    "trio.run": "import trio; trio.run(main)",
    "a bare loop": "import asyncio; asyncio.new_event_loop().run_until_complete(main())",
}

CTRL_C = """
import anyio
from cancelable import Cancelable, SignalCancelation

async def main():
    try:
        async with Cancelable.with_signal():
            print("ready", flush=True)
            try:
                await anyio.sleep(20)
            finally:
                print("cleanup", flush=True)
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(20)
    except SignalCancelation:
        print("left", flush=True)

try:
    {runner}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def talk_to(arguments: list[str], replies: dict[str, signal.Signals]) -> tuple[list[str], int, str]:
    """Run a program, answer its lines with signals, and return lines, code and errors."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] in replies:
                process.send_signal(replies[lines[-1]])
        errors = process.stderr.read()
    return lines, process.returncode, errors


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_server_hears_the_signal_that_cancels_its_requests(backend: str) -> None:
    """Both stop, each in its own way, and the handlers are as they were."""
    lines, code, errors = talk_to(["-c", SERVER, backend], {"ready": signal.SIGTERM})
    assert sorted(lines) == sorted(
        ["ready", "server told", "request cancelled", "server stopped", "end True"]
    )
    assert (code, errors) == (0, "")


@pytest.mark.parametrize("runner", RUNNERS)
def test_ctrl_c_twice_ends_a_program_that_stays_in_its_cleanup(runner: str) -> None:
    """The second one is the runner's own: KeyboardInterrupt, as without us."""
    program = CTRL_C.format(runner=RUNNERS[runner])
    lines, code, errors = talk_to(
        ["-c", program], {"ready": signal.SIGINT, "cleanup": signal.SIGINT}
    )
    assert lines[:2] == ["ready", "cleanup"]
    assert lines[-1] == "interrupted"
    assert code == 0
    if runner != "a bare loop":  # which leaves its tasks to the interpreter
        assert errors == ""
