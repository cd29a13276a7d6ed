"""Copies of requests for a revision under test. Nobody waits for their answers; they are compared and counted."""

from __future__ import annotations

import asyncio
import zlib
from time import monotonic

from modelyard_operator.router.compare import alike
from modelyard_operator.router.config import RouterConfig
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.upstream import Upstream
from modelyard_operator.router.wire import BadMessage, Head, body_pieces, forwarded, read_head, unchunked

MAX_IN_FLIGHT = 8
"""Copies at a time; what comes meanwhile is not copied: a slow revision under test costs nobody anything."""
_BODY_LIMIT = 4 << 20


class Mirror:
    """Sends copies to one revision."""

    def __init__(self, config: RouterConfig, counts: Counts, upstream: Upstream) -> None:
        assert config.mirror is not None
        self._revision = config.mirror.revision
        self._counted = all(backend.revision != self._revision for backend in config.backends)
        self._tolerance = config.tolerance
        self._timeout = config.timeout_seconds
        self._counts = counts
        self._pool = upstream.pools[self._revision]
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, head: Head, body: bytes, answer: Head, answer_body: bytes) -> None:
        """Copy a request that was answered."""
        if len(self._tasks) >= MAX_IN_FLIGHT:
            return
        task = asyncio.create_task(self._copy(head, body, answer, answer_body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _copy(self, head: Head, body: bytes, answer: Head, answer_body: bytes) -> None:
        started = monotonic()
        status, other = 0, b""
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._pool.take()
                try:
                    connection.writer.write(forwarded(head) + body)
                    reply = await read_head(connection.reader)
                    if reply is None:
                        raise BadMessage("no answer")
                    async for piece in body_pieces(connection.reader, reply):
                        other += piece
                        if len(other) > _BODY_LIMIT:
                            raise BadMessage("too large to compare")
                    status = reply.status
                finally:
                    connection.close()
        except (OSError, EOFError, TimeoutError, BadMessage):
            reply = None
        if self._counted:
            self._counts.answered(self._revision, status, monotonic() - started)
        if answer.status == 200:
            self._counts.compare(reply is not None and status == 200 and self._same(answer, answer_body, reply, other))

    def _same(self, one: Head, one_body: bytes, other: Head, other_body: bytes) -> bool:
        try:
            first, second = _content(one, one_body), _content(other, other_body)
        except (ValueError, zlib.error):
            return False
        return alike(first, _json_length(one), second, _json_length(other), self._tolerance)


def _content(head: Head, wire: bytes) -> bytes:
    """The body as it was before chunks and compression."""
    body = unchunked(wire) if head.chunked else wire
    if head.value(b"content-encoding").lower() in (b"gzip", b"deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, _BODY_LIMIT)
    return body


def _json_length(head: Head) -> int | None:
    text = head.value(b"inference-header-content-length")
    return int(text) if text.isdigit() else None
