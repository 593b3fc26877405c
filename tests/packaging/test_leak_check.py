"""The check that nothing is left behind notices each kind of thing that can be."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"

PROGRAM = """
    import socket
    import threading

    import anyio
    import anyio.lowlevel
    import anyio.to_thread
    import pytest
    from cancelable import Cancelable

    KEPT = []

    async def test_task(anyio_backend_name):
        if anyio_backend_name == "trio":
            import trio
            trio.lowlevel.spawn_system_task(trio.sleep_forever)
        else:
            import asyncio
            KEPT.append(asyncio.get_running_loop().create_task(asyncio.sleep(60)))

    async def test_thread():
        threading.Thread(target=threading.Event().wait, args=(3,), daemon=True).start()

    def test_thread_of_a_plain_test():
        threading.Thread(target=threading.Event().wait, args=(3,), daemon=True).start()

    async def test_worker_thread():
        started, stop = threading.Event(), threading.Event()

        def work():
            started.set()
            stop.wait(3)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: anyio.to_thread.run_sync(work, abandon_on_cancel=True))
            while not started.is_set():
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async def test_socket():
        KEPT.append(socket.socket())

    def test_socket_of_a_plain_test():
        KEPT.append(socket.socket())

    async def test_operation():
        KEPT.append(Cancelable("left", register_globally=True))
        await KEPT[-1].__aenter__()

    async def test_cancel(anyio_backend_name):
        if anyio_backend_name == "asyncio":
            import asyncio
            asyncio.current_task().cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(1)

    async def test_clean():
        assert await anyio.to_thread.run_sync(lambda: 1) == 1
        with socket.socket():
            pass
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        async with Cancelable(register_globally=True):
            pass

    def test_clean_too():
        anyio.run(anyio.sleep, 0)

"""
TESTS = 10
LEFT = {"task": 1, "thread": 3, "socket": 2, "operation": 1}
LEFT_ON = {"asyncio": LEFT | {"cancel()": 1}, "trio": LEFT}


@pytest.mark.parametrize("backend", LEFT_ON)
def test_what_a_test_leaves_behind_is_an_error_that_names_it(
    backend: str, pytester: pytest.Pytester
) -> None:
    """The test itself passes; what it left is an error of its own, and harms no later test."""
    pytest.importorskip(backend)
    pytester.makeconftest(CONFTEST.read_text().replace("PATIENCE = 2.0", "PATIENCE = 0.2"))
    pytester.makepyprojecttoml("[tool.pytest]\nanyio_mode = 'auto'\n")
    pytester.makepyfile(textwrap.dedent(PROGRAM))
    result = pytester.runpytest_subprocess("--backend", backend, "-p", "no:cacheprovider")
    left = LEFT_ON[backend]
    result.assert_outcomes(passed=TESTS, errors=sum(left.values()))
    lines = "\n".join(result.outlines).split("short test summary")[0].splitlines()
    named = [line.split(":")[0].strip() for line in lines if line.startswith("  ")]
    assert {kind: named.count(kind) for kind in left} == left
