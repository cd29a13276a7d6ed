"""A connection that sends what is written in one turn of the event loop as one piece.

A reply is written as head and body, and two calls of the kernel are a tenth of what a small request costs in all.
"""

from __future__ import annotations

import asyncio
from typing import Any

_JOINED = 65_536  # bytes; larger pieces are not copied


class Corked(asyncio.Transport):
    """In place of `transport`; what a turn writes first is held until the next piece, or the end of the turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held: bytes | bytearray | memoryview = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, soon."""
        if not self._held:
            self._held = data
            self._call_soon(self._flush)
            return
        held, self._held = self._held, b""
        if len(data) <= _JOINED:
            self._transport.write(b"".join((held, data)))
        else:
            self._transport.writelines((held, data))

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Close, after what is held is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport has it."""
        return self._transport.get_extra_info(name, default)
