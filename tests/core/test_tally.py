"""A count without a lock loses nothing."""

from __future__ import annotations

import sys
import threading

from cancelable._tally import Tally


def test_what_threads_count_at_once_adds_up() -> None:
    """Also while somebody looks, who sees it grow."""
    tally, seen = Tally(), [0]
    threads = [threading.Thread(target=count, args=(tally, 20_000)) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen.append(tally.total)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert tally.total == 80_000
    assert seen == sorted(seen)


def count(tally: Tally, number: int) -> None:
    """Count one by one."""
    for _ in range(number):
        tally.add()
