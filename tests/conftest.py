"""What every test stands on: the event loops, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType

import anyio
import anyio.lowlevel
import pytest

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent

# --- Are the packages installed? -------------------------------------------------------------


def installed(package: str) -> bool:
    """Say whether a package of ours is installed.

    The project folders at the root have the names of the packages. Without an installed package
    Python takes such a folder for a namespace package, which has no origin: it imports, and
    tests nothing.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def pytest_configure() -> None:
    # A shell that starts something in the background lets it ignore Ctrl-C, and so would every
    # program that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not installed("cancelable"):
        raise pytest.UsageError(
            "cancelable is not installed here: the tests run through nox, or after"
            " `pip install -e ./cancelable -e ./cancelable_starlette -e ./cancelable_fastapi`"
        )


collect_ignore = ["typing"]  # for the type checkers, never run
if not installed("cancelable_starlette"):
    collect_ignore += ["starlette", "servers"]
if not installed("cancelable_fastapi"):
    collect_ignore += ["docs", "fastapi", "servers", "examples"]

# --- The event loops -------------------------------------------------------------------------

Backend = tuple[str, dict[str, object]]

BACKENDS: dict[str, Backend] = {"asyncio": ("asyncio", {"debug": True})}

if importlib.util.find_spec("uvloop") is not None:
    BACKENDS["asyncio+uvloop"] = ("asyncio", {"debug": True, "use_uvloop": True})

if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    BACKENDS["asyncio+eager"] = ("asyncio", {"debug": True, "loop_factory": eager_loop})

if importlib.util.find_spec("trio") is not None:
    BACKENDS["trio"] = ("trio", {})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="run the async tests on this event loop only; may be repeated (default: all)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" not in metafunc.fixturenames:
        return
    for marker in metafunc.definition.iter_markers("parametrize"):
        if "anyio_backend" in marker.args[0]:
            return  # a test that says itself where it runs
    names: list[str] = metafunc.config.getoption("--backend") or list(BACKENDS)
    metafunc.parametrize(
        "anyio_backend",
        [pytest.param(BACKENDS[name], id=name) for name in dict.fromkeys(names)],
        indirect=True,
        scope="module",
    )


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The event loop of this run of the test, as anyio's plugin wants it."""
    return request.param


# --- Nothing is left behind ------------------------------------------------------------------
#
# Three fixtures, since they must be taken down in this order: first the one that looks from
# inside the event loop, once the test and its own fixtures are done; then, when that loop is
# closed, the one that looks from outside. The one in between only ties them together.

PATIENCE = 2.0
"""Seconds that a thread or a socket may take to end after whoever owns it has let it go."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread, a socket or a running operation."""
    threads, sockets, operations = busy_threads(), open_sockets(), running()
    yield
    left = {
        "thread": patiently(lambda: {repr(each) for each in busy_threads() - threads}),
        "socket": patiently(lambda: {repr(each) for each in open_sockets() - sockets}),
        "operation": {repr(each) for each in running() - operations},
    }
    complain(left)


@pytest.fixture(autouse=True)
def _nothing_left_in_the_loop(_nothing_left: None, request: pytest.FixtureRequest) -> None:
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_no_task_left")


@pytest.fixture
async def _no_task_left(anyio_backend: object) -> AsyncIterator[None]:
    """Fail an async test that leaves a task, or a cancel of its own that nobody took back."""
    # Known by their coroutines, which are kept here: the id of a task that ends is soon another's.
    before = [task.coro for task in anyio.get_running_tasks()]
    be_patient_with_the_machine()
    known = {id(coroutine) for coroutine in before}
    cancels = cancels_of_this_task()
    yield
    # What has been cancelled or closed may need a few turns of the loop to unwind.
    for _ in range(20):
        left = [
            task
            for task in anyio.get_running_tasks()
            if id(task.coro) not in known and not belongs_to_the_runner(task)
        ]
        if not left:
            break
        await anyio.lowlevel.checkpoint()
    complain(
        {
            "task": {f"{task.name} ({task.coro})" for task in left},
            "cancel()": {str(more)} if (more := cancels_of_this_task() - cancels) else set(),
        }
    )


def be_patient_with_the_machine() -> None:
    """Keep asyncio's debug mode from a warning whenever the machine is busy with others.

    It would say that something took long, and a test that nothing is logged would believe it.
    """
    with contextlib.suppress(RuntimeError):  # Trio runs here
        asyncio.get_running_loop().slow_callback_duration = 60.0


def belongs_to_the_runner(task: anyio.TaskInfo) -> bool:
    """Say whether a task is the one in which anyio's plugin waits for this very fixture."""
    return getattr(task.coro, "__qualname__", "").startswith("TestRunner.")


def complain(left: dict[str, set[str]]) -> None:
    texts = [f"{kind}: {each}" for kind, names in left.items() for each in sorted(names)]
    if texts:
        pytest.fail("the test left behind\n  " + "\n  ".join(texts), pytrace=False)


def patiently(look: Callable[[], set[str]]) -> set[str]:
    """Look until nothing is left, for a while: threads and sockets end in their own time."""
    give_up = time.monotonic() + PATIENCE
    while (left := look()) and time.monotonic() < give_up:
        time.sleep(0.002)
    return left


def busy_threads() -> set[threading.Thread]:
    """Return the threads that run, but for those that Trio keeps for itself.

    Trio keeps an idle worker thread for ten seconds, in the hope of more work, and lets one wait
    for its events when it is another loop's guest, as it is in anyio's plugin. (anyio's own
    workers on asyncio end with their loop, so that a moment's patience is enough for them.)
    """
    frames = sys._current_frames()
    return {
        thread
        for thread in threading.enumerate()
        if not (thread.ident in frames and waits_for_trio(frames[thread.ident]))
    }


def waits_for_trio(innermost: FrameType) -> bool:
    """Say whether a thread of Trio's cache runs nothing but Trio's own code."""
    if Path(innermost.f_code.co_filename).parts[-3:-1] != ("trio", "_core"):
        return False
    frame: FrameType | None = innermost
    while frame is not None:
        if frame.f_code.co_filename.endswith("_thread_cache.py"):
            return True
        frame = frame.f_back
    return False


def open_sockets() -> set[tuple[int, int]]:
    """Return device and inode of each open socket (nothing, where descriptors have no folder)."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return set()
    sockets = set[tuple[int, int]]()
    for name in names:
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # closed since, such as the descriptor of the listing itself
        if stat.S_ISSOCK(status.st_mode):
            sockets.add((status.st_dev, status.st_ino))
    return sockets


def running() -> set[object]:
    """Return the ids of the operations in the default registry."""
    from cancelable import OperationRegistry

    return {each.id for each in OperationRegistry.get_instance().list_operations()}


def cancels_of_this_task() -> int:
    """Return how often this task has been asked to cancel; Trio does not count that."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task is not None else 0
