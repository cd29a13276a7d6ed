"""HTTP without tensors: bodies with limits, replies, the one table from errors to status codes, vanished clients."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from modelyard_workloads.serve import errors
from modelyard_workloads.serve.errors import (
    BodyTimeout,
    InvalidInput,
    PayloadTooLarge,
    Saturated,
    UnsupportedMedia,
    shown,
)

T = TypeVar("T")

# Status and, where trying again helps, seconds for Retry-After.
STATUS: dict[type[errors.ServeError], tuple[int, int | None]] = {
    errors.InvalidInput: (400, None),
    errors.Unauthorized: (401, None),
    errors.NotFound: (404, None),
    errors.BodyTimeout: (408, None),
    errors.PayloadTooLarge: (413, None),
    errors.UnsupportedMedia: (415, None),
    errors.InferenceFailed: (500, None),
    errors.NotReady: (503, 1),
    errors.Saturated: (503, 1),
    errors.DeadlineExceeded: (504, None),
}
CLIENT_GONE = 499  # in metrics only: nobody is there to read it

COMPRESS_FROM = 4096  # bytes; below, compressing costs more than it saves
_PIECE = 1 << 20  # decompressed at a time, so that health checks are answered in between
_DISCARD_SECONDS = 2.0
_WATCH_AFTER = 0.02  # seconds; a quick answer is not worth watching the connection
_READABLE = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain")


def header_values(scope: Scope) -> dict[str, str]:
    """The headers by name in lower case, the first of each: quick to build and to ask."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


class ClientGone(Exception):
    """The client closed its connection before the answer was there."""


class JsonReply(Response):
    """A JSON body by orjson, numpy arrays included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def error_reply(error: errors.ServeError) -> Response:
    """`{"error": "…"}` with the status of the table."""
    status, retry_after = STATUS.get(type(error), (500, None))
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BodyTimeout | PayloadTooLarge):
        headers["Connection"] = "close"  # the rest of the body may still come
    return plain_error(status, str(error), headers)


def plain_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """`{"error": message}` with a status."""
    return JsonReply({"error": message}, status_code=status, headers=headers)


def compressed(reply: Response, accept_encoding: str | None) -> Response:
    """The reply, compressed when the client asks for it and it pays."""
    if not accept_encoding or len(reply.body) < COMPRESS_FROM:
        return reply
    accepted = accepted_codings(accept_encoding)
    if "gzip" in accepted:
        reply.body, encoding = gzip.compress(reply.body, compresslevel=1), "gzip"
    elif "deflate" in accepted:
        reply.body, encoding = zlib.compress(reply.body, level=1), "deflate"
    else:
        return reply
    reply.headers["Content-Encoding"] = encoding
    reply.headers["Content-Length"] = str(len(reply.body))
    reply.headers["Vary"] = "Accept-Encoding"
    return reply


def accepted_codings(accept_encoding: str) -> set[str]:
    """The names in an Accept-Encoding."""
    return {_coding(part) for part in accept_encoding.split(",")}


def _coding(part: str) -> str:
    """The name of one entry of Accept-Encoding; empty where its weight is 0: `gzip;q=0.5` is wanted, `gzip;q=0` not."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    unwanted = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return "" if unwanted else name


class Bodies:
    """Reads request bodies: each at most `max_bytes`, all that are held at a time at most `max_pending`."""

    def __init__(self, max_bytes: int, max_pending: int) -> None:
        self._max_bytes = min(max_bytes, max_pending)
        self._max_pending = max_pending
        self._pending = 0

    def open(self) -> Intake:
        """For one request; a context manager that gives the bytes back."""
        return Intake(self)

    def hold(self, count: int) -> None:
        """Count bytes that are kept in memory. Raises Saturated."""
        if self._pending + count > self._max_pending:
            raise Saturated("the server holds as many request bytes as it may; try again later")
        self._pending += count

    def release(self, count: int) -> None:
        """The bytes are gone."""
        self._pending -= count

    @property
    def max_bytes(self) -> int:
        """Of one body."""
        return self._max_bytes


class Intake:
    """The body of one request."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held = 0
        self._size = 0

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.release(self._held)

    async def read(
        self, headers: Mapping[str, str], receive: Receive, on_partial: Callable[[], None], seconds: float
    ) -> bytes:
        """The whole body, decompressed. Names of `headers` are in lower case.

        `on_partial` is called once when the body does not come in one piece. Raises PayloadTooLarge, UnsupportedMedia,
        BodyTimeout after `seconds`, Saturated, InvalidInput (bad compression) and ClientGone.
        """
        inflater = self._inflater(headers)
        try:
            self._check_length(headers)
            message = _already_there(receive)
            if message and not inflater and message["type"] == "http.request" and not message.get("more_body"):
                return self._take(message.get("body", b""))
            async with asyncio.timeout(seconds):
                message = message or await receive()
                if not inflater and message["type"] == "http.request" and not message.get("more_body"):
                    return self._take(message.get("body", b""))
                on_partial()
                return await self._read_pieces(message, receive, inflater)
        except TimeoutError:
            raise BodyTimeout("the body did not arrive within the request's time") from None
        except PayloadTooLarge:
            await _discard(receive, self._bodies.max_bytes)
            raise

    def _check_length(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._bodies.max_bytes:
            raise PayloadTooLarge(f"the body has {int(length)} bytes, at most {self._bodies.max_bytes} are accepted")

    def _inflater(self, headers: Mapping[str, str]) -> Inflater | None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and kind not in _READABLE and not kind.endswith("+json"):
            raise UnsupportedMedia(
                f"Content-Type {shown(kind)} is not read; use application/json or application/octet-stream"
            )
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return None
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise UnsupportedMedia(f"Content-Encoding {shown(encoding)} is not read; use gzip, deflate or none")
        return Inflater()

    def _take(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > self._bodies.max_bytes:
            raise PayloadTooLarge(f"the body has more than the {self._bodies.max_bytes} bytes that are accepted")
        self._bodies.hold(len(data))
        self._held += len(data)
        return data

    async def _read_pieces(self, message: Message, receive: Receive, inflater: Inflater | None) -> bytes:
        pieces: list[bytes] = []
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            data = message.get("body", b"")
            if inflater is None:
                pieces.append(self._take(data))
            else:
                while (piece := inflater.feed(data)) or inflater.rest:
                    pieces.append(self._take(piece))
                    data = inflater.rest
                    await asyncio.sleep(0)
            if not message.get("more_body"):
                break
            message = await receive()
        if inflater is not None:
            inflater.finish()
        return b"".join(pieces)


class Inflater:
    """gzip or deflate (zlib format), in pieces of bounded size however well it was compressed."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """At most one piece of output; what input is left is in `rest`. Raises InvalidInput."""
        try:
            piece = self._stream.decompress(data, _PIECE)
        except zlib.error:
            raise InvalidInput("the body is not what its Content-Encoding says") from None
        if self._stream.unused_data:
            raise InvalidInput("the compressed body is followed by other data")
        self.rest = self._stream.unconsumed_tail
        return piece

    def finish(self) -> None:
        """Raise InvalidInput when the stream ended too early."""
        if not self._stream.eof:
            raise InvalidInput("the compressed body ends too early")


def _already_there(receive: Receive) -> Message | None:
    """What `receive` gives without waiting, None when it would wait: most bodies come with their heads.

    That spares them the timeout, which costs more than all else that is done to a small body. Giving up the first
    step of `receive` loses nothing: it is what a cancellation does.
    """
    step = receive().__await__()
    try:
        next(step)
    except StopIteration as given:
        message: Message = given.value
        return message
    step.close()
    return None


async def _discard(receive: Receive, most: int) -> None:
    """Read on for a moment, so that a client that sends before it reads sees the reply instead of a reset."""
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Await `work`; cancel it when the client closes the connection. Raises ClientGone then.

    The body must have been read: `receive` then only returns on a disconnect.
    """
    loop = asyncio.get_running_loop()
    waiter = asyncio.current_task()
    assert waiter is not None
    watchers: list[asyncio.Task[None]] = []
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        waiter.cancel()

    timer = loop.call_later(_WATCH_AFTER, lambda: watchers.append(loop.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if gone and waiter.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()
