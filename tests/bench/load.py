"""A load generator that costs little: closed-loop connections that send one prepared request over and over.

Run in a process of its own: `python load.py PORT CONNECTIONS SECONDS [GRPC_PATH]` with the raw request on stdin; prints
a JSON line {"requests", "all_requests", "seconds", "errors", "p50", "p99"} (latencies in milliseconds). With GRPC_PATH
the request is one gRPC message with its prefix, sent over HTTP/2 to that path; see load_grpc.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import cast

import uvloop
from bench.load_grpc import GrpcConnection

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client: sends, waits for the whole reply, sends again until told to stop."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._buffer = b""
        self._need = 0
        self._chunked = False
        self._sent = 0.0
        self.errors = 0
        self.stopped = False
        self.closed = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._send()

    def _send(self) -> None:
        self._sent = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._need:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            start = head.find(b"content-length:") + 15
            self._chunked = start < 15
            self._need = end + 4 + (0 if self._chunked else int(head[start:].split(b"\r\n", 1)[0]))
            self.errors += head[9:12] != b"200"
        if self._buffer.endswith(_LAST_CHUNK) if self._chunked else len(self._buffer) >= self._need:
            self._latencies.append(perf_counter() - self._sent)
            self._buffer, self._need = b"", 0
            if self.stopped:
                self._transport.close()
            else:
                self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self.errors += not self.stopped
        if not self.closed.done():
            self.closed.set_result(None)


async def run(port: int, connections: int, seconds: float, request: bytes, grpc_path: str = "") -> dict[str, float]:
    """Load for `seconds` after a quarter of them as warm-up."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    clients: list[Connection | GrpcConnection] = []

    def connection() -> Connection | GrpcConnection:
        return GrpcConnection(grpc_path, request, latencies) if grpc_path else Connection(request, latencies)

    for _ in range(connections):
        _, connected = await loop.create_connection(connection, "127.0.0.1", port)
        clients.append(connected)
    await asyncio.sleep(seconds / 4)
    warm_up = len(latencies)
    latencies.clear()
    started = perf_counter()
    await asyncio.sleep(seconds)
    elapsed, measured = perf_counter() - started, sorted(latencies)
    for client in clients:
        client.stopped = True
    await asyncio.wait([client.closed for client in clients], timeout=10)
    return {
        "requests": len(measured),
        "all_requests": warm_up + len(latencies),
        "seconds": elapsed,
        "errors": sum(client.errors for client in clients),
        "p50": 1000 * measured[len(measured) // 2],
        "p99": 1000 * measured[int(len(measured) * 0.99)],
    }


if __name__ == "__main__":
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    grpc_path = sys.argv[4] if len(sys.argv) > 4 else ""
    print(json.dumps(uvloop.run(run(port, connections, seconds, sys.stdin.buffer.read(), grpc_path))))
