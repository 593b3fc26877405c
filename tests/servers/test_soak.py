"""A short form of the soak, which ``nox -s soak`` does for minutes (W2, W11)."""

from __future__ import annotations

import subprocess
import sys

from tests.servers.support import ROOT

SOAK = [
    *(sys.executable, "benchmarks/soak.py", "--clients", "60", "--pause", "0.5"),
    *("--warm-up", "2", "--seconds", "2"),
]


def test_clients_that_hang_up_at_random_leave_nothing() -> None:
    """Everything that began has ended, nothing is held, and nothing is logged.

    Both servers at the same time: most of it is waiting for what the last clients left unread.
    """
    running = [
        subprocess.Popen(
            [*SOAK, "--server", kind],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for kind in ("uvicorn", "hypercorn-trio")
    ]
    told = [soak.communicate()[0] for soak in running]

    assert [soak.returncode for soak in running] == [0, 0], "\n".join(told)
