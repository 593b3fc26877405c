"""A wire between a bus and its broker that can be cut, or go dead without a word."""

from __future__ import annotations

import selectors
import socket
import threading


class Relay:
    """Pass bytes on between whoever connects and a port, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._is_dead = False
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_open = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def go_dead(self) -> None:
        """Pass nothing on from here on; nobody is told, connections stay."""
        with self._lock:
            self._is_dead = True
        self._wake.send(b"x")

    def heal(self) -> None:
        """Pass everything on again, what has waited as well."""
        with self._lock:
            self._is_dead = False
        self._wake.send(b"x")

    def cut(self) -> None:
        """Close all connections; new ones are taken."""
        with self._lock:
            for peer in list(self._peers):
                self._drop(peer)

    def close(self) -> None:
        self._is_open = False
        self._wake.send(b"x")
        self._thread.join(5)
        self.cut()
        for each in (self._listener, self._wake, self._woken):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while self._is_open:
            ready = self._selector.select()
            with self._lock:
                for key, _events in ready:
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if source is self._woken:
                        source.recv(64)
                    elif source is self._listener:
                        self._accept()
                    elif not self._is_dead:
                        self._pass_on(source)
            if self._is_dead:
                # Data that waits would wake the selector again and again.
                self._woken.recv(64)

    def _accept(self) -> None:
        near, _address = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=2)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        peer = self._peers.get(source)
        if peer is None:
            return
        try:
            data = source.recv(65536)
            if data:
                peer.sendall(data)
                return
        except OSError:
            pass
        self._drop(source)

    def _drop(self, source: socket.socket) -> None:
        peer = self._peers.pop(source, None)
        if peer is not None:
            self._peers.pop(peer, None)
            for each in (source, peer):
                self._selector.unregister(each)
                each.close()
