"""The demo keeps its promises, and ends when it is told to."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"

LIMIT = 60
"""Seconds after which the demo is taken to hang."""


def test_the_demo_goes_as_promised_on_both_servers() -> None:
    """Exit code 0, a readable account in 80 columns, and no traceback in it."""
    done = subprocess.run(
        [sys.executable, DEMO], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for server in ("uvicorn with asyncio", "hypercorn with Trio"):
        assert f"On {server}, all 7 went as promised" in told
    assert "Traceback" not in told
    assert [line for line in told.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_until_it_is_interrupted(by: signal.Signals) -> None:
    """``--serve`` prints addresses to try; Ctrl-C ends it, and its server, with exit code 0."""
    demo = subprocess.Popen(
        [sys.executable, DEMO, "--serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        told = ""
        while "Ctrl-C here" not in told:
            line = demo.stdout.readline()
            assert line, told
            told += line
        demo.send_signal(by)
        # The server writes into a pipe that ends with it: no worker of it is left behind.
        rest = demo.stdout.read()
    assert demo.returncode == 0
    assert "Traceback" not in told + rest
    assert re.search(r"curl http://127\.0\.0\.1:\d+/slow", told)
