"""A wire between a client and a server of this machine that counts what the server sends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Takes connections at `address`."""

    def __init__(self, listener: socket.socket, server: str) -> None:
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._lock = threading.Lock()
        self._count = 0

    def take(self) -> int:
        """Bytes that the server has sent since the last time."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def serve(self) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server, timeout=60)
                for source, target, counted in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(source, target, counted), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if counted:
                    with self._lock:
                        self._count += len(piece)
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relayed(server: str) -> Iterator[Relay]:
    """In front of `HOST:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Relay(listener, server)
        threading.Thread(target=made.serve, daemon=True).start()
        try:
            yield made
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
