"""HTTP/1.1 heads and bodies as far as a proxy must know them (RFC 9112): where a message ends, who may be kept.

What is ambiguous about the end of a message is refused: what two programs read differently, smuggles requests.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_HEAD = 65_536
PIECE = 65_536
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINES = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*\r\n)*")
_LINE = re.compile(rb"([^:]+):([^\r]*)\r\n")  # one of them
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"proxy-authenticate"}


class BadMessage(Exception):
    """What came is not HTTP/1.x, or could be read in two ways."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request's or an answer's head."""

    start: tuple[bytes, bytes, bytes]
    """The three parts of the first line."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    length: int | None
    """Bytes of the body; None where it is chunked, or ends with the connection."""
    chunked: bool
    keep_alive: bool
    raw: bytes = b""
    """As it came, where all of it may be sent on; empty where something in it is about one connection alone."""

    def value(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")

    @property
    def status(self) -> int:
        return int(self.start[1])

    @property
    def explains(self) -> bool:
        """Whether a request asks why a model answers so, which takes hundreds of times as long as the answer."""
        return self.start[1].partition(b"?")[0].endswith((b":explain", b"/explain"))


def parse_head(data: bytes) -> Head:
    """A head, up to and with its empty line. Raises BadMessage."""
    first, _, block = data[:-2].partition(b"\r\n")
    start = first.split(b" ", 2)
    if len(start) != 3 and not (len(start) == 2 and first.startswith(b"HTTP/")):
        raise BadMessage("the first line is not METHOD PATH HTTP/1.1")
    if _CONTROL.search(first):
        raise BadMessage("the first line has control characters")
    if not _LINES.fullmatch(block):
        raise BadMessage(_what_is_wrong(block))
    headers = tuple([(name.lower(), value.strip(b" \t")) for name, value in _LINE.findall(block)])
    named = dict(headers)
    lengths = {value for name, value in headers if name == b"content-length"}
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    connection = [value.lower() for name, value in headers if name == b"connection"]
    response = first.startswith(b"HTTP/")
    version = start[0] if response else start[2]
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage("only HTTP/1.1 and HTTP/1.0 are spoken", 505)
    options = {option.strip() for option in b",".join(connection).split(b",")} if connection else set()
    keep = b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
    length, chunked = _framing(lengths, codings)
    if not response and length is None and not chunked:
        length = 0
    parts = (start[0], start[1], start[2] if len(start) == 3 else b"")
    return Head(parts, headers, length, chunked, keep, data if _HOP_BY_HOP.isdisjoint(named) else b"")


def _what_is_wrong(block: bytes) -> str:
    """With header lines that do not match `_LINES`."""
    lines = block.split(b"\r\n")[:-1]
    named = all(colon and _TOKEN.fullmatch(name) for name, colon, _ in (line.partition(b":") for line in lines))
    return "a header has control characters" if named else "a header line is not NAME: VALUE"


def _framing(lengths: set[bytes], codings: list[bytes]) -> tuple[int | None, bool]:
    if lengths and codings:
        raise BadMessage("a message has both Content-Length and Transfer-Encoding")
    if codings:
        if codings != [b"chunked"]:
            raise BadMessage("only the transfer coding chunked is read", 501)
        return None, True
    if not lengths:
        return None, False
    (text,) = lengths if len(lengths) == 1 else (b"",)
    if not text.isdigit() or len(text) > 15:
        raise BadMessage("Content-Length is not a number")
    return int(text), False


def forwarded(head: Head, *, close: bool = False) -> bytes:
    """The head as it is sent on: without what is about one connection alone."""
    if head.raw:
        return head.raw[:-2] + b"connection: close\r\n\r\n" if close else head.raw
    named = {o.strip().lower() for key, v in head.headers if key == b"connection" for o in v.split(b",")}
    dropped = _HOP_BY_HOP | (named - {b"close", b"keep-alive", b"content-length", b"transfer-encoding"})
    lines = [b" ".join(part for part in head.start if part)]
    lines += [key + b": " + value for key, value in head.headers if key not in dropped]
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None where the connection ends before it begins. Raises BadMessage and OSError."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial.strip(b"\r\n"):
            return None
        raise BadMessage("the connection ended within a head") from None
    except asyncio.LimitOverrunError:
        raise BadMessage(f"the head has more than {MAX_HEAD} bytes", 431) from None
    return parse_head(data.lstrip(b"\r\n") if data[:1] in b"\r\n" else data)


async def body_pieces(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """The body as it is on the wire, chunk sizes included. Raises BadMessage, IncompleteReadError and OSError."""
    if head.chunked:
        async for piece in _chunks(reader):
            yield piece
    elif head.length is not None:
        left = head.length
        while left:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    else:
        while piece := await reader.read(PIECE):
            yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        line = await reader.readuntil(b"\r\n")
        text = line[:-2].partition(b";")[0].strip()
        try:
            size = int(text, 16) if re.fullmatch(rb"[0-9A-Fa-f]{1,15}", text) else -1
        except ValueError:
            size = -1
        if size < 0:
            raise BadMessage("a chunk's size is not a number")
        yield line
        if size == 0:
            break
        left = size + 2
        while left:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    while True:  # trailers, and the empty line
        line = await reader.readuntil(b"\r\n")
        yield line
        if line == b"\r\n":
            return


def unchunked(data: bytes) -> bytes:
    """The content of a whole chunked body as `body_pieces` gave it."""
    content = bytearray()
    position = 0
    while True:
        end = data.index(b"\r\n", position)
        size = int(data[position:end].partition(b";")[0], 16)
        if size == 0:
            return bytes(content)
        content += data[end + 2 : end + 2 + size]
        position = end + 2 + size + 2
