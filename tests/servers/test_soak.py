"""A short form of the soak, which ``nox -s soak`` does for minutes (W2, W11)."""

from __future__ import annotations

import subprocess
import sys

from tests.servers.support import ROOT

SOAK = [sys.executable, "benchmarks/soak.py"]


def start(*options: str) -> subprocess.Popen[str]:
    """Start a soak in a process of its own."""
    return subprocess.Popen(
        [*SOAK, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_clients_that_hang_up_at_random_leave_nothing() -> None:
    """Everything that began has ended, nothing is held, and nothing is logged.

    Both servers at the same time: most of it is waiting for what the last clients left unread.
    """
    options = ["--clients", "60", "--pause", "0.5", "--warm-up", "2", "--seconds", "2"]
    running = [start("--server", kind, *options) for kind in ("uvicorn", "hypercorn-trio")]
    told = [soak.communicate()[0] for soak in running]

    assert [soak.returncode for soak in running] == [0, 0], "\n".join(told)


def test_clients_that_come_all_at_once_are_answered() -> None:
    """W2: more of them than Hypercorn lets wait for it unless it is told otherwise."""
    soak = start("--server", "hypercorn-trio", "--pause", "0", "--warm-up", "1", "--seconds", "1")
    told = soak.communicate()[0]

    assert soak.returncode == 0, told
