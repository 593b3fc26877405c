"""Run one real server on a socket that the test has opened; started as a program of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading

from tests.servers.app import app, shutdown


def run_uvicorn(listener: socket.socket, http: str, loop: str) -> None:
    import uvicorn

    config = uvicorn.Config(app, http=http, loop=loop, lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


def run_uvicorn_in_a_thread(listener: socket.socket) -> None:
    """Run it as a program does that has a server beside its own work.

    It hears of no signal there: the program does, and tells the application and the server.
    """
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})

    def stop(signum: int, frame: object) -> None:
        shutdown.cancel_sync("signal")
        server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    thread.start()
    thread.join()


def run_hypercorn(listener: socket.socket, backend: str) -> None:
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = "-"
    if backend == "trio":
        run_hypercorn_on_trio(config)
        return
    from hypercorn.asyncio import serve

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await serve(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]

    if backend == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


def run_hypercorn_on_trio(config: object) -> None:
    import trio
    from hypercorn.trio import serve

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:

            async def stop() -> None:
                async for _ in signals:
                    return

            await serve(app, config, shutdown_trigger=stop)  # type: ignore[arg-type]

    trio.run(main)


def run_hypercorn_as_its_command_does(listener: socket.socket, backend: str) -> None:
    """Run it in a worker process, which gets no signal.

    Args:
        listener: Where it listens.
        backend: ``asyncio`` or ``trio``, with ``-inside`` behind it for the other application.
    """
    from hypercorn.config import Config
    from hypercorn.run import run

    worker, _, where = backend.partition("-")
    config = Config()
    config.application_path = f"tests.servers.app:{where or 'app'}"
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = "-"
    config.worker_class = worker
    run(config)


def run_granian(listener: socket.socket) -> None:
    """Run it in a worker process, as it always does, on whatever loop it prefers.

    It takes no open socket. Ours keeps the port for it, and does not listen.
    """
    from granian.constants import Interfaces
    from granian.server import Server

    host, port = listener.getsockname()
    Server("tests.servers.app:app", host, port, interface=Interfaces.ASGI).serve()


def run_daphne(listener: socket.socket) -> None:
    from daphne.server import Server  # type: ignore[import-untyped]

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    Server(app, endpoints=[f"fd:fileno={listener.fileno()}"]).run()


if __name__ == "__main__":
    kind, _, rest = sys.argv[1].partition("-")
    listener = socket.socket(fileno=int(sys.argv[2]))
    if rest == "thread":
        run_uvicorn_in_a_thread(listener)
    elif kind == "uvicorn":
        http, _, loop = rest.partition("-")
        run_uvicorn(listener, http, loop or "asyncio")
    elif kind == "granian":
        run_granian(listener)
    elif kind == "daphne":
        run_daphne(listener)
    elif rest.startswith("worker-"):
        run_hypercorn_as_its_command_does(listener, rest.removeprefix("worker-"))
    else:
        run_hypercorn(listener, rest.removesuffix("-h2"))
