"""A short form of the soak, which ``nox -s soak`` does for minutes (W2, W11)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers.support import ROOT


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-trio"])
def test_clients_that_hang_up_at_random_leave_nothing(kind: str) -> None:
    """Everything that began has ended, nothing is held, and nothing is logged."""
    soak = [sys.executable, "benchmarks/soak.py", "--server", kind, "--clients", "60"]
    done = subprocess.run(
        [*soak, "--seconds", "2", "--warm-up", "2"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
