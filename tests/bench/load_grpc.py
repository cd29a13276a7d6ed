"""One gRPC client for load.py, straight over HTTP/2 (RFC 9113): a grpcio client costs more than the server it measures.

Every stream sends the same header block, of static-table and unindexed literals (RFC 7541), and the same message. A
stream that ends without a message has failed: its status is not decoded further.
"""

from __future__ import annotations

import asyncio
import struct
from time import perf_counter
from typing import cast

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST_WINDOW = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    assert len(name) < 127 and len(value) < 127  # longer ones need HPACK's continuation bytes
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


class GrpcConnection(asyncio.Protocol):
    """One client: a unary call, then the next one, on one connection."""

    def __init__(self, path: str, message: bytes, latencies: list[float]) -> None:
        # 0x83 and 0x86: `:method POST` and `:scheme http` of the static table
        self._head = b"\x83\x86" + b"".join(
            _literal(name, value)
            for name, value in (
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            )
        )
        self._message = message
        self._latencies = latencies
        self._buffer = b""
        self._stream = 1
        self._answered = False
        self._sent = 0.0
        self.errors = 0
        self.stopped = False
        self.closed = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        windows = struct.pack(">HI", 4, _LARGEST_WINDOW)  # SETTINGS_INITIAL_WINDOW_SIZE: nothing here is ever paused
        more = struct.pack(">I", _LARGEST_WINDOW - 65_535)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self._transport.write(preface + _frame(_SETTINGS, 0, 0, windows) + _frame(_WINDOW, 0, 0, more))
        self._send()

    def _send(self) -> None:
        self._sent, self._answered = perf_counter(), False
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, self._stream, self._head)
            + _frame(_DATA, _END_STREAM, self._stream, self._message)
        )

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        position = 0
        while len(buffer) - position >= 9:
            word, flags, stream = struct.unpack_from(">IBI", buffer, position)
            end = position + 9 + (word >> 8)
            if end > len(buffer):
                break
            self._frame_received(word & 255, flags, stream, buffer[position + 9 : end])
            position = end
        self._buffer = buffer[position:]

    def _frame_received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._transport.close()
        elif stream == self._stream:
            self._answered |= kind == _DATA and len(payload) > 5
            if kind == _RST or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._ended()

    def _ended(self) -> None:
        self._latencies.append(perf_counter() - self._sent)
        self.errors += not self._answered
        self._stream += 2
        if self.stopped:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self.errors += not self.stopped
        if not self.closed.done():
            self.closed.set_result(None)
