"""Load on several servers by turns: requests that wrk sends, for what a server computes.

Other programs share the machine, and for seconds at a time a request takes up to half as long
again. A server that was measured a second after another one would seem to differ by that. So all
are under load at the same time, but only one load generator runs at any moment: the others are
stopped, and take over after a twentieth of a second.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from serving import Serving

SLICE = 0.05
"""Seconds of one turn: long beside what the caches take to be the server's own again."""

WARM_UP = 1
"""Seconds of load on all servers together before anything is counted."""


def requests_per_second(
    servers: dict[str, Serving], wrk: list[str], path: str, seconds: float
) -> dict[str, float]:
    """Return by name how many requests each server answers in a second of its own computing.

    Args:
        servers: By name.
        wrk: The load generator with its options, but for the duration.
        path: What is asked for.
        seconds: How long each server is under load, if that is a whole number for all of them.
    """
    with ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(load(server, wrk, path, WARM_UP))
    before = {name: server.processor for name, server in servers.items()}
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(load(server, wrk, path, math.ceil(seconds * len(servers))))
            for name, server in servers.items()
        }
        run_in_turn(list(loads.values()))
        counted = {name: requests_of(each) for name, each in loads.items()}
    return {
        name: counted[name] / (server.processor - before[name]) for name, server in servers.items()
    }


@contextmanager
def load(
    server: Serving, wrk: list[str], path: str, seconds: int
) -> Generator[subprocess.Popen[str]]:
    """Run a load generator; at the end of the block it has ended, or is ended."""
    command = [*wrk, f"-d{seconds}s", server.url(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
        try:
            yield generator
            generator.wait()
        finally:
            generator.kill()


def run_in_turn(generators: list[subprocess.Popen[str]]) -> None:
    """Let one of them run at a time, in turn, until all have ended."""
    for each in generators:
        each.send_signal(signal.SIGSTOP)
    while generators:
        for each in generators:
            each.send_signal(signal.SIGCONT)
            time.sleep(SLICE)
            each.send_signal(signal.SIGSTOP)
        generators = [each for each in generators if each.poll() is None]


def requests_of(generator: subprocess.Popen[str]) -> int:
    """Return how many requests were answered, all of them well."""
    assert generator.stdout is not None
    told = generator.stdout.read()
    done = re.search(r"(\d+) requests in", told)
    if done is None or "Non-2xx" in told:
        raise RuntimeError(told)
    return int(done.group(1))
