"""A small HTTP server of a test, in threads of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

Made = TypeVar("Made")


@contextlib.contextmanager
def listening(make: Callable[[str], Made], handler: Callable[[Made], type[BaseHTTPRequestHandler]]) -> Iterator[Made]:
    """What `make` makes for the address HOST:PORT, asked over HTTP, without TLS, on this machine."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    made = make(f"127.0.0.1:{http.server_port}")
    http.RequestHandlerClass = handler(made)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        http.shutdown()
        http.server_close()
