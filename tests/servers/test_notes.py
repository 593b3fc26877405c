"""What the servers' handlers tell arrives whole, whatever else writes to the same output."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from tests.servers.support import ROOT

NOTES = 3000

HANDLER = f"""
from tests.servers.app import note
for number in range({NOTES}):
    note("/path", "told", number)
"""


def test_notes_stay_whole_beside_a_logger() -> None:
    """granian's main process logs to the output that its workers' handlers tell on."""
    readable, writable = os.pipe()
    handler = subprocess.Popen([sys.executable, "-c", HANDLER], cwd=ROOT, stdout=writable)

    def log_halves_of_lines() -> None:
        while handler.poll() is None:
            os.write(writable, b"[INFO] the beginning of a line")
            os.write(writable, b"\n")
        os.close(writable)

    logger = threading.Thread(target=log_halves_of_lines)
    logger.start()
    with os.fdopen(readable) as output:
        told = [line for line in output if line.startswith('["/')]
    logger.join()

    assert handler.returncode == 0
    assert told == [f'["/path", "told", {number}]\n' for number in range(NOTES)]
